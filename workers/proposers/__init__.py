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
from workers.proposers.proposer import Nobody, Problem, Proposer
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

    What follows the problem is for the language model: without one others propose in its place, without a
    journal its calls are kept as long as the proposer lives.
    """

    def speaking(spec: LLMProposer, fallback: Proposer) -> Proposer:
        kept = MemoryJournal() if journal is None else journal
        return LanguageModelProposer(
            spec, problem, model=model, journal=kept, budget=budget, fallback=fallback
        )

    match spec:
        case RandomProposer():
            return RandomSearch(spec, problem)
        case EvolutionProposer():
            return Evolution(spec, problem)
        case LocalProposer():
            return LocalSearch(spec, problem)
        case SurrogateProposer():
            return Surrogate(spec, problem)
        case PortfolioProposer(llm=llm):
            return Portfolio(
                {
                    "surrogate": Surrogate(SurrogateProposer(), problem),
                    **({} if llm is None else {"llm": speaking(llm, Nobody())}),
                    "local": LocalSearch(LocalProposer(), problem),
                    "evolution": Evolution(EvolutionProposer(), problem),
                },
                opening=spec.opening,
                guest=llm is not None,
            )
        case LLMProposer():
            return speaking(spec, Evolution(EvolutionProposer(), problem))
