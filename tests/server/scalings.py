"""Scale jobs as workers leave them, written through the claim: for what shows their families."""

from datetime import timedelta
from typing import Any

from search_spaces.scaling import FAMILY_SPACES, SCALENET_8, base_strategy, scale, subnet_options
from server.store.claim import Claim, NewCandidate, Outcome
from server.store.specs import ScaleSpec
from server.store.states import CandidateState, JobState
from server.store.store import Store

LEASE = timedelta(hours=1)
SPACE = FAMILY_SPACES["scalenet-8"]
BASE = ((3,), (5, 7), (3,))
ARCH = SPACE.encode(subnet_options(SCALENET_8, scale(BASE, base_strategy(SCALENET_8))))


def member(name: str, stage: int, candidate: str) -> dict[str, Any]:
    return {
        **{"name": name, "stage": stage, "extrapolated": stage > 3, "candidate": candidate},
        **{"space": SPACE.name, "key": ARCH.key, "depth": 1.0, "width": 1.2, "resolution": 16},
        **{"layers": [1, 2, 1], "params": 1, "macs": 2, "counted_flops": 2, "ratio": 1.0},
        **{"inherited_accuracy": 50.0, "test_accuracy": None},
    }


def report(candidate: str) -> dict[str, Any]:
    histogram = {"bins": [1, 2], "mean": 1.5, "sd": 0.5, "p5": 1.0, "p50": 1.5, "p95": 2.0}
    strategy = {"depth": 1.0, "width": 1.2, "resolution": 16}
    return {
        "members": [member("S0", 0, candidate), member("S1", 1, candidate)],
        "counter": "executed",
        "base": [list(ops) for ops in BASE],
        "rounds": [{"round": 1, "fitness": 50.0, "base": [[3], [5, 7], [3]], "strategies": [strategy]}],
        "sampling": {
            **{"draws": 3, "edges": [1.0, 2.0, 3.0], "targets": [1, 2]},
            **{"hierarchical": histogram, "independent": histogram},
        },
        "correlation": {"pairs": [], "spearman": None, "kendall": None, "flops_spearman": None},
        "cost": [{"phase": "family", "evaluations": 2, "reused": 0, "device_seconds": 1.5}],
    }


def begin_scaling(store: Store, *, name: str = "") -> Claim:
    """A running scale job up to stage 4, held by a worker."""
    store.create_job(ScaleSpec.model_validate({"name": name, "config": {"family": {"stages": 4}}}))
    claim = store.claim("a worker", LEASE)
    assert claim is not None
    return claim


def finish(claim: Claim) -> str:
    """Ends the job with a family; gives the candidate that its members are."""
    cost = SPACE.cost_of(ARCH)
    candidate = NewCandidate(
        key=ARCH.key,
        space=SPACE.name,
        architecture=dict(SPACE.decode(ARCH)),
        params=cost.params,
        macs=cost.macs,
        origin="family",
        signature="",
    )
    claim.record([candidate], [Outcome(candidate.id, CandidateState.COMPLETED)], 1)
    claim.finish(JobState.SUCCEEDED, result={"best": None, "family": report(candidate.id)})
    return candidate.id
