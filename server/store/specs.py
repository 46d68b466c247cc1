"""What is asked: the whole of a job request, typed, on one page.

A request names a method; what it leaves out is filled in from that method's composition (`methods.py`), and
the completed specification is what the job row keeps and the worker reads.
"""

import json
from collections.abc import Mapping
from enum import StrEnum
from math import ceil
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError

from search_spaces import NAMED, find
from search_spaces.space import Architecture, Bound
from search_spaces.text import clean
from server.store.methods import check_search, check_training, complete_search, complete_training
from server.store.scale_methods import check_scale, complete_scale


class Spec(BaseModel):
    """Frozen, and closed: a field nobody knows is an error, not a silence."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _closed(cls, request: Any) -> Any:
        """Refuses unknown fields before pydantic does, to tell which there are."""
        if not isinstance(request, Mapping):
            return request
        known = ", ".join(cls.model_fields)
        error = PydanticCustomError("unknown_field", "no such field; choose from {known}", {"known": known})
        unknown = [
            InitErrorDetails(type=error, loc=(str(name),), input=value)
            for name, value in request.items()
            if name not in cls.model_fields
        ]
        if unknown:
            raise ValidationError.from_exception_data(cls.__name__, unknown)
        return request


Name = Annotated[str, Field(max_length=200), AfterValidator(lambda name: clean(name, 200))]
"""What a user calls a job, for people to read."""

# -------------------------------------------------------------------- what is wanted


class Goal(StrEnum):
    MINIMIZE = "minimize"
    MAXIMIZE = "maximize"


class Objective(Spec):
    metric: str = Field(min_length=1, max_length=64)
    goal: Goal = Goal.MAXIMIZE

    def score(self, value: float) -> float:
        """The value as a score: higher is better."""
        return value if self.goal is Goal.MAXIMIZE else -value


class Range(Spec):
    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("give min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}")
        return self

    def bound(self) -> Bound:
        return Bound(self.min, self.max)


class Constraints(Spec):
    params: Range | None = None
    """Trainable parameters, known before training."""
    macs: Range | None = None
    """Multiply-accumulates of one forward pass, known before training."""
    latency_ms: Range | None = None
    """Median of repeated forward passes on the worker's device, measured with the candidate."""

    def limits(self) -> dict[str, Bound]:
        """The constraints that can be checked before anything is spent."""
        known = {"params": self.params, "macs": self.macs}
        return {name: limit.bound() for name, limit in known.items() if limit is not None}

    def measured(self) -> dict[str, Bound]:
        """Those that only a measurement can check."""
        return {} if self.latency_ms is None else {"latency_ms": self.latency_ms.bound()}


class Budget(Spec):
    """A search stops at whichever limit it meets first."""

    evaluations: int = Field(20, ge=1, le=1_000_000, strict=True)
    """Candidates that are searched; what `config.confirm` measures again is not counted."""
    wall_time_s: float | None = Field(None, gt=0)
    """Seconds of running, pauses and queueing not counted. When they are over, trials that hold a device end
    as they would, `trials.timeout_s` at the latest; those that wait for one are put aside."""
    device_hours: float | None = Field(None, gt=0)
    """Hours that trials hold their devices, summed over them; trials in flight end as with `wall_time_s`."""
    llm_tokens: int | None = Field(None, ge=1)
    """Tokens of prompts and replies together: no call is made that might pass it. What follows then, the
    `when_spent` of the `llm` proposer says."""
    llm_cost_usd: float | None = Field(None, gt=0)
    """The same in US dollars, by the operator's prices."""
    target: float | None = None
    """Stop once the first objective has reached this value."""
    patience: int | None = Field(None, ge=1)
    """Stop after so many evaluations in a row without a new best; with several objectives, without one that
    no other dominates."""


# -------------------------------------------------------------------- who proposes


class RandomProposer(Spec):
    kind: Literal["random"] = "random"


class EvolutionProposer(Spec):
    kind: Literal["evolution"] = "evolution"
    population: int = Field(10, ge=2, le=10_000)
    """Regularised evolution (Real et al. 2019): the youngest members that may be parents."""
    sample: int = Field(5, ge=1, le=10_000)
    """Tournament size; with several objectives it is two, as in NSGA-II."""
    crossover: float = Field(0.2, ge=0, le=1)
    """Share of children with two parents."""


class LocalProposer(Spec):
    kind: Literal["local"] = "local"
    warm: bool = True
    """Start at the space's largest network instead of a random one."""


class SurrogateProposer(Spec):
    kind: Literal["surrogate"] = "surrogate"
    random_starts: int = Field(1, ge=0, le=10_000)
    """Random architectures that follow the largest and the published baseline before the model proposes."""


class LLMProposer(Spec):
    kind: Literal["llm"] = "llm"
    batch: int = Field(4, ge=1, le=32)
    """Candidates asked for in one call."""
    share: float = Field(1.0, ge=0, le=1)
    """Share of the proposals that the model makes; evolution makes the rest."""
    repairs: int = Field(3, ge=0, le=10)
    """How often an unusable answer is told back before evolution proposes in its place."""
    prompt: Literal["ginas", "diffnas"] = "ginas"
    history: Literal["memory", "conversation", "none"] = "memory"
    """`memory` rebuilds one message from the search memory; `conversation` lets the dialogue grow; `none`
    hides all results, to measure what the memory is worth."""
    temperature: float = Field(0.0, ge=0, le=2)
    principles_every: int | None = Field(None, ge=0)
    """Let the model write design principles after the first result and revise them every so many; 0 never.
    Left out: 5 with the `diffnas` prompt, never with `ginas`."""
    when_spent: Literal["evolution", "stop"] = "evolution"
    """What follows when `budget.llm_tokens` or `budget.llm_cost_usd` allows no further call: `evolution`
    proposes in the model's place until another budget ends the search; `stop` ends it with what it has
    found."""
    prompt_tokens: int = Field(12_000, ge=1000, le=1_000_000)
    """About how long a prompt may be; a search that remembers more shows the model less of it."""

    @model_validator(mode="after")
    def _principles_need_the_memory(self) -> Self:
        if self.principles_every and self.history != "memory":
            raise ValueError(
                f"principles_every: with history {self.history!r} the model is shown no principles; "
                'leave it out, or ask for history "memory"'
            )
        return self


class PortfolioProposer(Spec):
    kind: Literal["portfolio"] = "portfolio"
    opening: int = Field(10, ge=1, le=10_000)
    """Evaluations that the surrogate has to itself before local search and evolution compete with it."""
    llm: LLMProposer | None = None
    """A language model as one more arm, which also makes every other proposal of the opening from the fourth
    on; its `share` is the bandit's to decide. `{}` for its defaults, null for none."""

    @model_validator(mode="after")
    def _shared_by_the_bandit(self) -> Self:
        if self.llm is not None and self.llm.share != 1:
            raise ValueError("llm.share: the portfolio itself decides what each arm gets; leave it out")
        return self


ProposerSpec = Annotated[
    RandomProposer | EvolutionProposer | LocalProposer | SurrogateProposer | PortfolioProposer | LLMProposer,
    Field(discriminator="kind"),
]


def speaker(spec: ProposerSpec) -> LLMProposer | None:
    """The part of a proposer that asks a language model; None where there is none."""
    match spec:
        case LLMProposer():
            return spec
        case PortfolioProposer():
            return spec.llm
    return None


# -------------------------------------------------------------------- who measures


class CostEvaluation(Spec):
    """Scores by parameters and MACs alone. Trains nothing; for trying things out."""

    kind: Literal["cost"] = "cost"


class TableEvaluation(Spec):
    """Looks the result up in a published table."""

    kind: Literal["table"] = "table"
    table: str = ""
    """Name of the table; empty for the one that belongs to the space and data set."""
    protocol: Literal["published", "split"] = "published"
    """Where a table holds nothing out: `published` searches on the mean over seeds and reports it; `split`
    searches on the first seed and reports the mean of the others."""


class DiffusionEvaluation(Spec):
    """Trains a UNet for a few steps and scores its samples by RFID."""

    kind: Literal["diffusion"] = "diffusion"
    steps: int = Field(150, ge=1, le=1_000_000)
    batch: int = Field(128, ge=1, le=4096)
    learning_rate: float = Field(3e-3, gt=0, le=1)
    weighting: Literal["uniform", "min-snr", "p2"] = "min-snr"
    draws: Literal["uniform", "loss-second-moment"] = "uniform"
    timesteps: int = Field(1000, ge=10, le=10_000)
    schedule: Literal["cosine", "linear"] = "cosine"
    ema: float = Field(0.99, ge=0, lt=1)
    ema_ramp: bool = True
    warmup: int = Field(0, ge=0)
    clip: float | None = Field(1.0, gt=0)
    inherit: bool = False
    """Start from the weights of the most similar network that the search has measured, where they overlap. A
    score then hangs on what was tried before it, so that no other search takes it over."""
    images: int = Field(512, ge=16, le=100_000)
    """Samples drawn for RFID."""
    sampling_steps: int = Field(10, ge=1, le=10_000)
    features: Literal["auto", "classifier", "inception"] = "auto"
    """Feature network: for colour images Inception, where the data folder holds its weights; else a small
    classifier, trained on the data set once."""

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.sampling_steps > self.timesteps:
            raise ValueError(f"sampling_steps {self.sampling_steps} is more than timesteps {self.timesteps}")
        stride = ceil(self.timesteps / self.sampling_steps)
        if (reached := ceil(self.timesteps / stride)) != self.sampling_steps:
            raise ValueError(
                f"sampling_steps: no whole stride leaves {self.sampling_steps} of the {self.timesteps} "
                f"timesteps, but one leaves {reached}"
            )
        return self


class TrainEvaluation(Spec):
    """Trains a classifier for a few epochs and scores its validation accuracy."""

    kind: Literal["train"] = "train"
    epochs: int = Field(3, ge=1, le=10_000)
    batch: int = Field(64, ge=1, le=4096)
    learning_rate: float = Field(0.1, gt=0, le=10)
    weight_decay: float = Field(5e-4, ge=0)
    train_images: int | None = Field(None, ge=10)
    """Use only so many training images; None for all."""
    augment: bool = True
    """Shift and mirror colour images at random: for trainings of many epochs; a few learn more without."""
    side: int | None = Field(None, ge=4)
    """Train and score on images averaged down to this height and width, at a cost that falls with its square
    (a proxy that keeps the order of networks well: EcoNAS, arXiv 2001.01233); None for their own."""


EvaluatorSpec = Annotated[
    CostEvaluation | TableEvaluation | DiffusionEvaluation | TrainEvaluation, Field(discriminator="kind")
]


class TrialsSpec(Spec):
    """How trials run."""

    parallel: int = Field(2, ge=1, le=1024)
    """Trials at a time; a table look-up runs them one after the other."""
    cpus: float = Field(1.0, gt=0)
    gpus: float = Field(0.0, ge=0)
    retries: int = Field(1, ge=0, le=10)
    """How often a trial that crashed is run again. A diverged one is not."""
    timeout_s: float | None = Field(None, gt=0)
    """Seconds that a trial may hold its device, whatever it does meanwhile. It then fails, within a few more;
    its device is free for the next."""
    early_stopping: Literal["none", "asha"] = "none"
    """`asha` stops trials that compare badly with others after a ninth and a third of their steps, by the
    first objective where it is reported on the way, else by the training's own measure. They count as failed,
    with what they had reached; the search's best is only ever one that ran to its end."""


class EarlierJobs(Spec):
    """What these jobs have measured."""

    jobs: tuple[str, ...] = Field(min_length=1, max_length=100)


WarmStart = Literal["space"] | EarlierJobs


class ConfirmSpec(Spec):
    """Measures the best of a search again, with seeds that they were not chosen by. The winner is the best by
    its mean over these; the baseline, where there is one, is measured beside them, so that what is relative
    is relative to the same seed.

    It takes device and wall time of the budget, as far as the search has left of them. Where they do not last
    for a seed, the seeds before it decide; where they last for none, the first score does, and the job's
    reason says so.
    """

    top: int = Field(3, ge=1, le=100)
    """The best so many by the first objective; with several objectives, of the Pareto front."""
    seeds: int = Field(2, ge=1, le=100)
    """So many new seeds: the search's own plus 1, 2, ..."""


class SearchConfig(Spec):
    proposer: ProposerSpec
    evaluator: EvaluatorSpec
    trials: TrialsSpec = TrialsSpec()
    baseline: bool = False
    """Evaluate the space's published baseline first; relative metrics refer to it."""
    warm_start: WarmStart | None = None
    """Show the proposer what earlier jobs of the project have measured in the same space, on the same data
    set and in the same way: those named by `jobs`, or all (`space`). It is evidence, and costs no budget."""
    confirm: ConfirmSpec | None = None
    """Measure the best again before one is called the winner. For searches whose trials train."""


# -------------------------------------------------------------------- what is trained


class KeyedArchitecture(Spec):
    """A point of a search space by its canonical key, as a candidate shows it."""

    space: str
    key: str

    def point(self) -> Architecture:
        return find(self.space).parse_key(self.key)


class ChosenArchitecture(Spec):
    """A point of a search space by an option for every choice."""

    space: str
    options: dict[str, bool | int | float | str]

    def point(self) -> Architecture:
        return find(self.space).encode(self.options)


class NamedArchitecture(Spec):
    """A published architecture."""

    named: Literal[tuple(NAMED)]  # type: ignore[valid-type]

    def point(self) -> Architecture:
        return NAMED[self.named]


class PickedArchitecture(Spec):
    """What another job has found. The job that asks for it waits until that one has succeeded."""

    job: str = Field(min_length=1, max_length=24)
    pick: str = Field("best", min_length=1, max_length=24)
    """`best`, the name of a member of a scale job's family (`S3`), or the id of a candidate of that job."""


def _way_of_naming(value: object) -> str | None:
    given = value if isinstance(value, Mapping) else vars(value) if isinstance(value, Spec) else {}
    return next((field for field in ("job", "named", "options", "key") if field in given), None)


ArchitectureSpec = Annotated[
    Annotated[PickedArchitecture, Tag("job")]
    | Annotated[NamedArchitecture, Tag("named")]
    | Annotated[ChosenArchitecture, Tag("options")]
    | Annotated[KeyedArchitecture, Tag("key")],
    Discriminator(
        _way_of_naming,
        custom_error_type="architecture",
        custom_error_message="name it by {job}, {named}, {space, options} or {space, key}",
    ),
]

# -------------------------------------------------------------------- how it is trained


class DiffusionRecipe(Spec):
    """Trains a UNet to predict noise, by Improved DDPM (arXiv 2102.09672); scores its samples by FID.

    The defaults are that paper's for CIFAR-10, but for the sampler of the FID, which draws 250 of the 4,000
    steps. Data sets that are much smaller have defaults of their own (`GET /v1/methods`).
    """

    kind: Literal["diffusion"] = "diffusion"
    steps: int = Field(500_000, ge=1, le=10_000_000)
    batch: int = Field(128, ge=1, le=65_536)
    """Images of one optimizer step, over all processes."""
    accumulate: int = Field(1, ge=1, le=1024)
    """Parts that every process cuts its share of a batch into, one after another, to need less memory."""
    learning_rate: float = Field(1e-4, gt=0, le=1)
    warmup: int = Field(0, ge=0)
    """Steps over which the learning rate rises."""
    anneal: bool = False
    """Let the learning rate fall evenly to 0."""
    clip: float | None = Field(None, gt=0)
    timesteps: int = Field(4000, ge=10, le=10_000)
    schedule: Literal["cosine", "linear"] = "cosine"
    weighting: Literal["uniform", "min-snr", "p2"] = "uniform"
    draws: Literal["uniform", "loss-second-moment"] = "uniform"
    """Which time-steps are trained: all alike, or in proportion to their loss (section 3.3)."""
    ema: float = Field(0.9999, ge=0, lt=1)
    ema_ramp: bool = True
    flip: bool = False
    """Mirror half of the images."""
    compile: bool = False
    """Compile the network: faster after a few minutes, on a GPU."""
    checkpoint_every: int = Field(5000, ge=1)
    """Steps between checkpoints: what a lost process costs at most."""
    preview_every: int = Field(10_000, ge=0)
    """Steps between grids of samples; 0 for none but the last."""
    sampler: Literal["ancestral", "ddim"] = "ancestral"
    sampling_steps: int = Field(250, ge=1, le=10_000)
    images: int = Field(50_000, ge=16, le=1_000_000)
    """Samples drawn for the FID."""
    features: Literal["auto", "classifier", "inception"] = "auto"
    """Feature network: for colour images Inception, where the data folder holds its weights; else a small
    classifier, trained on the data set once."""

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.sampling_steps > self.timesteps:
            raise ValueError(f"sampling_steps {self.sampling_steps} is more than timesteps {self.timesteps}")
        return self


class SupervisedRecipe(Spec):
    """Trains a classifier from scratch: SGD with Nesterov momentum on a cosine schedule.

    The defaults are those under which NAS-Bench-201 (arXiv 2001.00326, section 2.3) trains its networks.
    """

    kind: Literal["supervised"] = "supervised"
    epochs: int = Field(200, ge=1, le=100_000)
    batch: int = Field(256, ge=1, le=65_536)
    """Images of one optimizer step, over all processes."""
    accumulate: int = Field(1, ge=1, le=1024)
    """Parts that every process cuts its share of a batch into, one after another, to need less memory."""
    learning_rate: float = Field(0.1, gt=0, le=10)
    warmup: int = Field(0, ge=0)
    """Steps over which the learning rate rises."""
    weight_decay: float = Field(5e-4, ge=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    clip: float | None = Field(None, gt=0)
    augment: bool = True
    """Shift and mirror colour images at random."""
    train_images: int | None = Field(None, ge=10)
    """Use only so many training images; None for all."""
    checkpoint_every: int = Field(1, ge=1)
    """Epochs between checkpoints."""


RecipeSpec = Annotated[DiffusionRecipe | SupervisedRecipe, Field(discriminator="kind")]


class ResourcesSpec(Spec):
    """What a training is given."""

    workers: int = Field(1, ge=1, le=1024)
    """Processes that share every batch (data parallel), each with its own `cpus` and `gpus`."""
    cpus: float = Field(1.0, gt=0)
    gpus: float = Field(0.0, ge=0)
    retries: int = Field(3, ge=0, le=100)
    """How often in a row, without a new checkpoint in between, a training that crashed goes on from its
    last one. A training that diverged does not."""
    timeout_s: float | None = Field(None, gt=0)


class TrainConfig(Spec):
    recipe: RecipeSpec
    resources: ResourcesSpec = ResourcesSpec()

    @model_validator(mode="after")
    def _shared_evenly(self) -> Self:
        check_shared(self.recipe.batch, self.recipe.accumulate, self.resources, "recipe")
        return self


def check_shared(batch: int, accumulate: int, resources: ResourcesSpec, field: str) -> None:
    """Raises ValueError where the processes cannot get as many images each."""
    parts = accumulate * resources.workers
    if batch % parts:
        raise ValueError(
            f"{field}.batch {batch} is no multiple of {field}.accumulate x resources.workers "
            f"= {parts}: every process must get as many images"
        )


# -------------------------------------------------------------------- how a family is searched


class SupernetRecipe(Spec):
    """Trains the super-supernet by hierarchical sampling (ScaleNet, arXiv 2207.07267).

    The defaults are the released ones for ImageNet. Small data sets have defaults of their own
    (`GET /v1/methods`).
    """

    kind: Literal["supernet"] = "supernet"
    steps: int = Field(750_000, ge=1, le=10_000_000)
    batch: int = Field(256, ge=1, le=65_536)
    """Images of one optimizer step, over all processes."""
    accumulate: int = Field(1, ge=1, le=1024)
    """Parts that every process cuts its share of a batch into, one after another, to need less memory."""
    learning_rate: float = Field(0.12, gt=0, le=10)
    warmup: int = Field(375, ge=0)
    """Steps over which the learning rate rises."""
    weight_decay: float = Field(4e-5, ge=0)
    """Of the classifier; convolutions decay twice as fast."""
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    clip: float | None = Field(None, gt=0)
    sides: Literal["alternate", "both"] = "alternate"
    """Train the left and the right slices in turn, or both in every step."""
    crop_area: tuple[float, float] = (0.08, 1.0)
    """Share of the image that a random crop shows: least and most."""
    held_out: int | None = Field(None, ge=16)
    """Images kept from training, for the search to score networks on: the validation images, and as many of
    the training images as those are short of it. Left out: the validation images."""
    checkpoint_every: int = Field(1000, ge=1)
    """Steps between checkpoints: what a lost process costs at most."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        least, most = self.crop_area
        if not 0 < least <= most <= 1:
            raise ValueError(
                f"crop_area {self.crop_area} must be two shares above 0, up to 1, the least first"
            )
        return self


class SupernetEvaluation(Spec):
    """Scores a network by the weights it inherits. Made by a scale job for its own search."""

    kind: Literal["supernet"] = "supernet"
    weights: str
    """Path of the super-supernet in the artifact store."""
    sha256: str
    held_out: int | None
    batch: int
    zoom: float


class MarkovSearch(Spec):
    """Markov-chain evolution of the base and its scaling strategies, with the published sizes."""

    rounds: int = Field(8, ge=1, le=1000)
    initial_bases: int = Field(20, ge=1, le=10_000)
    """Random bases over which the first strategies are averaged."""
    population: int = Field(64, ge=2, le=10_000)
    generations: int = Field(40, ge=1, le=10_000)
    batch: int = Field(64, ge=2, le=4096)
    """Images whose statistics normalize a batch while a network is scored: scores belong to it."""
    zoom: float = Field(256 / 224, ge=1, le=2)
    """Held-out images are rendered so much larger than a network takes, and cut to their centre."""


class FamilyConfig(Spec):
    """What is made of the base and the strategies that were found."""

    stages: int = Field(5, ge=1, le=6)
    """The last scaling stage s, of 2^s times the base's FLOPs; those beyond the searched are extrapolated."""
    training: SupervisedRecipe | None
    """How members, and a sample of what was searched, are trained from scratch; null leaves that out."""
    sample: int = Field(10, ge=0, le=1000)
    """Networks of the search, from the worst to the best, that are trained too: to see how well inherited
    scores order networks."""


class ScaleConfig(Spec):
    supernet: SupernetRecipe
    search: MarkovSearch
    family: FamilyConfig
    trials: TrialsSpec = TrialsSpec()
    resources: ResourcesSpec = ResourcesSpec()
    """Of the training of the super-supernet."""

    @property
    def baseline(self) -> bool:
        """There is no published reference point to measure first."""
        return False

    @property
    def confirm(self) -> None:
        """Members of a family are trained to the end instead."""
        return None

    @model_validator(mode="after")
    def _shared_evenly(self) -> Self:
        check_shared(self.supernet.batch, self.supernet.accumulate, self.resources, "supernet")
        return self


# -------------------------------------------------------------------- jobs


class SearchSpec(Spec):
    """Search a space for the best architecture."""

    kind: Literal["search"] = "search"
    name: Name = ""
    method: str
    space: str
    dataset: str
    seed: int = Field(0, ge=0, lt=2**31)
    objectives: tuple[Objective, ...] = Field(min_length=1, max_length=4)
    constraints: Constraints = Constraints()
    budget: Budget = Budget()
    config: SearchConfig

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, request: Any) -> Any:
        return complete_search(request) if isinstance(request, Mapping) else request

    @model_validator(mode="after")
    def _fits(self) -> Self:
        check_search(self)
        return self

    @property
    def wants_latency(self) -> bool:
        """Whether candidates are judged by how fast they are."""
        asked = {objective.metric for objective in self.objectives}
        return "latency_ms" in asked or self.constraints.latency_ms is not None


class TrainSpec(Spec):
    """Train one architecture to the end, and keep its weights."""

    kind: Literal["train"] = "train"
    name: Name = ""
    method: str
    architecture: ArchitectureSpec
    dataset: str | None = None
    """Left out with another job's architecture: that job's data set."""
    seed: int = Field(0, ge=0, lt=2**31)
    objectives: tuple[Objective, ...] = Field(min_length=1, max_length=4)
    config: TrainConfig

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, request: Any) -> Any:
        return complete_training(request) if isinstance(request, Mapping) else request

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.space is not None:
            check_training(self, self.space)
        return self

    @property
    def space(self) -> str | None:
        """The search space of the architecture; None while another job is still to tell it."""
        if isinstance(self.architecture, PickedArchitecture):
            return None
        return self.architecture.point().space


class ScaleSpec(Spec):
    """Search a base network and how to scale it, and hand back the family."""

    kind: Literal["scale"] = "scale"
    name: Name = ""
    method: str
    space: str
    """A scaling plan: `scalenet-8`, `scalenet-32`, ..."""
    dataset: str
    seed: int = Field(0, ge=0, lt=2**31)
    objectives: tuple[Objective, ...]
    budget: Budget
    """`evaluations` left out: as many as the search takes at most. Time counts from the super-supernet on;
    members that it does not last for stay untrained."""
    config: ScaleConfig

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, request: Any) -> Any:
        return complete_scale(request) if isinstance(request, Mapping) else request

    @model_validator(mode="after")
    def _fits(self) -> Self:
        check_scale(self)
        return self

    @property
    def constraints(self) -> Constraints:
        """FLOPs are bound by the plan; there are no others."""
        return Constraints()


def _kind(request: Any) -> str | None:
    """A search, unless something else is said."""
    kind = request.get("kind", "search") if isinstance(request, Mapping) else getattr(request, "kind", None)
    return kind if isinstance(kind, str) else None


JobSpec = Annotated[
    Annotated[SearchSpec, Tag("search")]
    | Annotated[TrainSpec, Tag("train")]
    | Annotated[ScaleSpec, Tag("scale")],
    Discriminator(
        _kind,
        custom_error_type="kind",
        custom_error_message="kind: give an object with kind search, train or scale",
    ),
]


def trains(spec: JobSpec) -> bool:
    """Whether the job's evaluations hold a device; costs and table look-ups do not."""
    return not isinstance(spec, SearchSpec) or spec.config.evaluator.kind not in ("cost", "table")


def canonical_json(value: object) -> str:
    """Equal values give equal text: sorted keys, no spaces. For hashes and idempotency."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
