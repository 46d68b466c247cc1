"""Who proposes: one file each, all behind `Proposer.ask`."""

from server.store.specs import EvolutionProposer, RandomProposer
from workers.proposers.evolution import Evolution
from workers.proposers.proposer import Problem, Proposer
from workers.proposers.random import RandomSearch


def make_proposer(spec: RandomProposer | EvolutionProposer, problem: Problem) -> Proposer:
    match spec:
        case RandomProposer():
            return RandomSearch(spec, problem)
        case EvolutionProposer():
            return Evolution(spec, problem)
