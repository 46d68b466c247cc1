"""Who proposes: one file each, all behind `Proposer.ask`."""

from server.store.specs import (
    EvolutionProposer,
    LLMProposer,
    LocalProposer,
    PortfolioProposer,
    ProposerSpec,
    RandomProposer,
    SurrogateProposer,
)
from workers.llm import Journal, LanguageModel, LLMBudget, MemoryJournal
from workers.proposers.evolution import Evolution
from workers.proposers.llm import LanguageModelProposer
from workers.proposers.local import LocalSearch
from workers.proposers.portfolio import Portfolio
from workers.proposers.proposer import Problem, Proposer
from workers.proposers.random import RandomSearch
from workers.proposers.surrogate import Surrogate

UNLIMITED = LLMBudget()


def make_proposer(
    spec: ProposerSpec,
    problem: Problem,
    *,
    model: LanguageModel | None = None,
    journal: Journal | None = None,
    budget: LLMBudget = UNLIMITED,
) -> Proposer:
    """The proposer of a specification.

    What follows the problem is for `LLMProposer`: without a model evolution proposes in its place, without a
    journal its calls are kept as long as the proposer lives.
    """
    match spec:
        case RandomProposer():
            return RandomSearch(spec, problem)
        case EvolutionProposer():
            return Evolution(spec, problem)
        case LocalProposer():
            return LocalSearch(spec, problem)
        case SurrogateProposer():
            return Surrogate(spec, problem)
        case PortfolioProposer():
            arms: dict[str, Proposer] = {
                "surrogate": Surrogate(SurrogateProposer(), problem),
                "local": LocalSearch(LocalProposer(), problem),
                "evolution": Evolution(EvolutionProposer(), problem),
            }
            return Portfolio(arms, opening=spec.opening)
        case LLMProposer():
            return LanguageModelProposer(
                spec,
                problem,
                model=model,
                journal=MemoryJournal() if journal is None else journal,
                budget=budget,
                fallback=Evolution(EvolutionProposer(), problem),
            )
