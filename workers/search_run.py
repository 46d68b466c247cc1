"""The run of a search job: the search, the confirmation of its best under new seeds, and the result.

The best score of a search is optimistic, as it was chosen for being the best. So the best candidates, and the
baseline beside them, are trained again with seeds that nothing was chosen by, and the winner is the best by
its mean over these. For every seed that is one more small search, over what was chosen: budgets, pauses,
crashes, retries and what other jobs have measured are the loop's business there as ever.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from search_spaces.space import Architecture
from server.store import views
from server.store.claim import Claim
from server.store.confirmations import Confirmation, confirmations
from server.store.specs import ConfirmSpec, DiffusionEvaluation, SearchSpec
from server.store.states import JobState
from workers.beat import Beat
from workers.executors import measured_as
from workers.loop import Search, SearchFailed, drive, incumbent, remembered
from workers.memory import SearchMemory, ranked
from workers.proposers.proposer import Proposal

CONFIRMATION = "confirmation"  # the origin of what is measured again


def run_search(claim: Claim, search: Search, beat: Beat) -> None:
    """Runs the job to its end, or until the user pauses or cancels it. Raises SearchFailed and LostClaim."""
    confirmed: list[Confirmation] = []
    try:
        state, reason = drive(claim, search, beat)
        confirm = search.spec.config.confirm
        if state is JobState.SUCCEEDED and confirm is not None:
            state, confirmed, words = _confirmed(claim, search, confirm, beat)
            reason = "; ".join(filter(None, (reason, words)))
    finally:
        search.executor.stop()
    if state is JobState.SUCCEEDED:
        claim.finish(state, reason=reason, result=_result(claim, search, confirmed))
    else:
        claim.release()


# -------------------------------------------------------------------- the confirmation


def _confirmed(
    claim: Claim, search: Search, confirm: ConfirmSpec, beat: Beat
) -> tuple[JobState, list[Confirmation], str]:
    """Measures the best again. Gives what came of it, the winner first, and why that is less than asked."""
    chosen = _chosen(claim, search, confirm.top)
    if not chosen:
        return JobState.SUCCEEDED, [], ""
    seeds = [(search.spec.seed + more) % 2**31 for more in range(1, confirm.seeds + 1)]
    _announce(claim, chosen, seeds)
    done, words = list[int](), ""
    for seed in seeds:
        again = _again(search, chosen, seed)
        try:
            state, why = drive(claim, again, beat)
        except SearchFailed as failure:
            state, why = JobState.SUCCEEDED, str(failure)
        if state is not JobState.SUCCEEDED:
            return state, [], why
        if len(remembered(claim, again).attempts) < len(chosen):
            words = f"the best were measured again with {len(done)} of {len(seeds)} seeds: {why}"
            break
        done.append(seed)
    found = confirmations(claim.store, claim.job, done) if done else []
    if found and not found[0].whole:
        return JobState.SUCCEEDED, [], "none of the best could be measured again"
    return JobState.SUCCEEDED, found, words


def _chosen(claim: Claim, search: Search, top: int) -> dict[Architecture, str]:
    """The candidates to measure again, and the baseline where there is one: their ids by architecture."""
    archs = dict.fromkeys(_best(claim, search)[:top])
    if archs and search.spec.config.baseline and search.space.baseline is not None:
        archs[search.space.baseline] = None
    ids = {row.key: row.id for row in claim.candidates() if row.confirms is None}
    return {arch: ids[arch.key] for arch in archs}


def _best(claim: Claim, search: Search) -> list[Architecture]:
    """From the best down by the first objective, as far as constraints are kept alike; with several
    objectives, those of the front.
    """
    front = views.pareto(claim.store, claim.job.id) if len(search.spec.objectives) > 1 else []
    if front:
        return [search.space.parse_key(row.key) for row in front]
    ranking = ranked(remembered(claim, search).scored)
    return [attempt.arch for attempt in ranking if attempt.violation == ranking[0].violation]


def _announce(claim: Claim, chosen: Mapping[Architecture, str], seeds: Sequence[int]) -> None:
    """Tells once, however often the job is taken up again."""
    rows = claim.candidates()
    if not any(row.confirms for row in rows):
        numbers = sorted(row.number for row in rows if row.id in set(chosen.values()))
        claim.event("search.confirming", {"candidates": numbers, "seeds": list(seeds)})


def _again(search: Search, chosen: Mapping[Architecture, str], seed: int) -> Search:
    """The search over what was chosen, with another seed.

    Networks start from their own first weights, also where the search let them inherit: what they inherited
    hung on what had been tried before.
    """
    assert isinstance(search.spec, SearchSpec)
    setup, evaluator = search.setup, search.spec.config.evaluator
    if isinstance(evaluator, DiffusionEvaluation) and evaluator.inherit:
        alone = evaluator.model_copy(update={"inherit": False})
        setup = replace(setup, evaluator=alone.model_dump_json())
    budget = {"evaluations": len(chosen), "target": None, "patience": None}
    changes = {"seed": seed, "budget": search.spec.budget.model_copy(update=budget)}
    return replace(
        search,
        spec=search.spec.model_copy(update=changes),
        proposer=_Listed(tuple(chosen)),
        setup=setup,
        signature=f"{measured_as(setup)}/seed{seed}",
        slow_proposer=False,
        earlier=(),
        inherits=False,
        confirms=chosen,
    )


@dataclass(frozen=True)
class _Listed:
    """Proposes what it was given, in order."""

    archs: Sequence[Architecture]

    def ask(self, memory: SearchMemory, count: int, rng: Random) -> list[Proposal]:
        left = [arch for arch in self.archs if not memory.seen(arch)]
        return [Proposal(arch, CONFIRMATION) for arch in left[:count]]


# -------------------------------------------------------------------- the result


def _result(claim: Claim, search: Search, confirmed: Sequence[Confirmation]) -> dict[str, Any]:
    """The winner, for the job's row: the first of those that were confirmed, else the best by its score."""
    found = _confirmed_winner(claim, search, confirmed) if confirmed else incumbent(claim)
    if search.held_out is None or found["best"] is None:
        return found
    return {**found, "held_out": dict(search.held_out(search.space.parse_key(found["key"])))}


def _confirmed_winner(claim: Claim, search: Search, confirmed: Sequence[Confirmation]) -> dict[str, Any]:
    metric, winner = search.spec.objectives[0].metric, confirmed[0].candidate
    figures = {"metric": metric, "seeds": list(confirmed[0].seeds), **_figures(confirmed[0], metric)}
    claim.event("search.confirmed", figures, winner.id)
    candidates = [
        {"candidate": each.candidate.id, "number": each.candidate.number, **_figures(each, metric)}
        for each in confirmed
    ]
    return {
        "best": winner.id,
        "metrics": winner.metrics,
        "key": winner.key,
        "confirmed": {**figures, "candidates": candidates},
    }


def _figures(confirmation: Confirmation, metric: str) -> dict[str, float | None]:
    """The value that the search had found, and the mean and the deviation over the new seeds."""
    whole = confirmation.whole
    return {
        "first": confirmation.candidate.metrics.get(metric),
        "mean": confirmation.mean().get(metric) if whole else None,
        "sd": confirmation.sd().get(metric) if whole else None,
    }
