"""Who proposes: one file each, all behind `Proposer.ask`."""

from server.store.specs import EvolutionProposer, LLMProposer, RandomProposer
from workers.llm import Journal, LanguageModel, LLMBudget, MemoryJournal
from workers.proposers.evolution import Evolution
from workers.proposers.llm import LanguageModelProposer
from workers.proposers.proposer import Problem, Proposer
from workers.proposers.random import RandomSearch

UNLIMITED = LLMBudget()


def make_proposer(
    spec: RandomProposer | EvolutionProposer | LLMProposer,
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
        case LLMProposer():
            return LanguageModelProposer(
                spec,
                problem,
                model=model,
                journal=MemoryJournal() if journal is None else journal,
                budget=budget,
                fallback=Evolution(EvolutionProposer(), problem),
            )
