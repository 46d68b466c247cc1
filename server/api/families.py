"""The family that a scale job hands back."""

from fastapi import APIRouter

from server.api.dependencies import StoreDep
from server.api.schemas import View
from server.store.families import family_of

router = APIRouter(tags=["jobs"])


class StrategyView(View):
    depth: float
    width: float
    resolution: int
    """Pixels."""


class MemberView(StrategyView):
    name: str
    """`S0` is the base. To train a member, name it: `{"architecture": {"job": "...", "pick": "S3"}}`."""
    stage: int
    extrapolated: bool
    """Beyond the stages that were searched."""
    candidate: str
    space: str
    key: str
    layers: list[int]
    """Of every stage of the network."""
    params: int
    macs: int
    """Multiply-accumulates that the network executes."""
    counted_flops: int
    """As the plan counts, see `counter`."""
    ratio: float
    """Of the base's counted FLOPs; 2^stage is meant."""
    inherited_accuracy: float | None
    """Percent of the held-out images, with weights of the super-supernet; null beyond it."""
    test_accuracy: float | None
    """In percent, of the network trained from scratch, shortly; null where it was not, or failed."""


class RoundView(View):
    round: int
    fitness: float | None
    """Mean held-out accuracy in percent over the scaled networks of the kept pair."""
    base: list[list[int]]
    """Kernel size of every layer, stage by stage."""
    strategies: list[StrategyView]


class HistogramView(View):
    bins: list[int]
    mean: float
    sd: float
    p5: float
    p50: float
    p95: float


class SamplingView(View):
    """Counted FLOPs of networks as training draws them, beside depth, width and resolution drawn apart."""

    draws: int
    edges: list[float]
    targets: list[int]
    hierarchical: HistogramView
    independent: HistogramView


class PairView(View):
    inherited: float
    trained: float
    counted_flops: int


class CorrelationView(View):
    """How well inherited scores order networks by what training makes of them; null with too few."""

    pairs: list[PairView]
    spearman: float | None
    kendall: float | None
    flops_spearman: float | None
    """How well their FLOPs alone would."""


class PhaseView(View):
    phase: str
    evaluations: int
    reused: int
    device_seconds: float


class FamilyView(View):
    members: list[MemberView]
    counter: str
    """`published`: FLOPs as the published code counts them; `executed`: as the networks run."""
    base: list[list[int]]
    rounds: list[RoundView]
    sampling: SamplingView
    correlation: CorrelationView
    cost: list[PhaseView]


@router.get("/jobs/{job_id}/family")
def family(job_id: str, store: StoreDep) -> FamilyView:
    """The members, and how they were found. 404 before the job has succeeded, and for jobs of other kinds."""
    return FamilyView.model_validate(family_of(store.job(job_id)))
