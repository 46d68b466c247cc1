"""What the API says: the shapes of its answers."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from server.store.specs import Objective
from server.store.states import CandidateState, JobState, Request

T = TypeVar("T")


class View(BaseModel):
    model_config = ConfigDict(from_attributes=True, use_attribute_docstrings=True)


class Page(View, Generic[T]):
    items: list[T]
    next_cursor: str | None = None
    """Give it as `cursor` for the next page; null on the last."""


class JobView(View):
    id: str
    name: str
    kind: str
    method: str
    space: str | None
    dataset: str | None
    project: str
    state: JobState
    reason: str
    """Why it failed, or what ended it."""
    request: Request | None
    """What was asked of the running job and has not happened yet."""
    attempt: int
    worker: str | None
    spec: dict[str, Any]
    depends_on: str | None
    """The job whose result this one starts from; it waits until that one has ended."""
    result: dict[str, Any] | None
    running_seconds: float
    last_event: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class JobDetail(JobView):
    candidates: dict[str, int] = Field(default_factory=dict)
    """How many candidates are in each state."""
    evaluated: int = 0
    """How many have ended that stand against the budget of evaluations: of a scale job, those that its search
    has tried, and neither the super-supernet nor the family."""
    best: float | None = None
    """The best feasible value of the first objective so far."""
    step: int | None = None
    """The last step that a training has reported."""
    ahead: int | None = None
    """Of a queued job: how many others a worker will take before it; null while it waits for the result of
    the job that it `depends_on`."""


class ImportView(View):
    jobs: list[JobView]
    """What the attempts now belong to."""


class CandidateView(View):
    id: str
    job_id: str
    number: int
    key: str
    space: str
    architecture: dict[str, Any]
    origin: str
    """Who proposed it."""
    parents: list[str]
    note: str
    """The proposer's rationale."""
    params: int
    macs: int
    state: CandidateState
    reason: str
    metrics: dict[str, float]
    score: float | None
    """The first objective, higher is better."""
    violation: float
    """How far a measured constraint is broken; 0 when all hold."""
    reused_from: str | None
    """The candidate of an earlier job whose measurement was taken over."""
    confirms: str | None
    """The candidate that this measures again, with another seed."""
    tries: int
    device_seconds: float
    created_at: datetime
    finished_at: datetime | None


class CourseView(View):
    """One search among several."""

    id: str
    name: str
    method: str
    space: str | None
    dataset: str | None
    state: JobState
    evaluations: int
    numbers: list[int]
    """The candidates after which something below changed, and the last."""
    best: list[float | None]
    """The best feasible value of the first objective so far; null before there is one."""
    hypervolume: list[float] | None
    """With several objectives: the share that the front has of the box between the worst and the best values
    of all these searches."""
    front: list[CandidateView]


class ComparisonView(View):
    objectives: list[Objective]
    jobs: list[CourseView]


class PointView(View):
    step: int
    metrics: dict[str, float]
    at: datetime


class ArtifactView(View):
    id: str
    job_id: str
    candidate_id: str | None
    name: str
    media_type: str
    size_bytes: int
    sha256: str
    created_at: datetime


class TrialView(View):
    """One more measurement of a candidate, with a seed of its own; `id` is that of its record."""

    id: str
    seed: int
    state: CandidateState
    reason: str
    metrics: dict[str, float]
    reused_from: str | None
    device_seconds: float


class ConfirmationView(View):
    """What came of a candidate that was measured again."""

    candidate: str
    number: int
    key: str
    origin: str
    first: dict[str, float]
    """What the search had measured, and chosen by."""
    trials: list[TrialView]
    seeds: list[int]
    """The seeds that count: with a budget that ended early, those under which everything was measured."""
    mean: dict[str, float]
    sd: dict[str, float]
    """The sample deviation over the seeds; empty where there is one."""


class CandidateDetail(CandidateView):
    curve: list[PointView]
    artifacts: list[ArtifactView]
    confirmation: ConfirmationView | None
    """Where it was measured again."""


class EventView(View):
    number: int
    kind: str
    candidate_id: str | None
    data: dict[str, Any]
    at: datetime


class LLMCallView(View):
    id: str
    purpose: str
    model: str
    messages: list[Any]
    reply: str | None
    """With an `error`: the beginning of what was received instead of a reply."""
    error: str
    """Why there is no usable reply; empty while it is waited for."""
    outcome: dict[str, Any] | None
    """`accepted`: the architectures taken from the reply; `rejected`: what was refused, and why."""
    estimate: dict[str, Any]
    """`tokens` and `cost_usd` at most: what is counted where a call may have been charged for unanswered."""
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float
    latency_s: float
    created_at: datetime


class WorkerView(View):
    name: str
    host: str
    pid: int
    slots: int
    ray_address: str
    jobs: dict[str, int]
    """The jobs that it drives, and the process of each."""
    started_at: datetime
    seen_at: datetime


class MethodView(View):
    name: str
    kind: str
    about: str
    defaults: dict[str, Any]
    """The whole specification of a request that names only this method."""
    options: dict[str, Any]
    """JSON Schema of every option."""


class ChoiceView(View):
    name: str
    options: list[bool | int | float | str]
    about: str


class SpaceView(View):
    name: str
    about: str
    size: int
    """Number of codes."""
    inputs: tuple[int, int, int]
    """Channels, height and width of an image."""
    tags: list[str]
    choices: list[ChoiceView]
    baseline: dict[str, Any] | None


class DatasetView(View):
    name: str
    about: str
    shape: tuple[int, int, int]
    classes: int
    bundled: bool
    present: bool
    """Whether this server's data folder has it; workers on other hosts have folders of their own."""
    places: list[str]
    """The files and folders of the data folder that hold it; any one of them will do."""
    source: str | None
    """Where `archsmith data pull NAME` fetches it from."""
    size_bytes: int | None
    """Of that download, where it is known."""


class ArchitectureBody(View):
    """An architecture: an option for every choice, or its canonical key."""

    architecture: dict[str, Any] | str


class ArchitectureView(View):
    key: str
    architecture: dict[str, Any]
    params: int
    macs: int


class Problem(View):
    """RFC 9457 problem details."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    instance: str
    errors: list[dict[str, Any]] = Field(default_factory=list)
    """For a malformed request: the field, and what is wrong with it."""


def views(kind: type[T], rows: Sequence[Any]) -> list[T]:
    return [kind.model_validate(row) for row in rows]  # type: ignore[attr-defined]
