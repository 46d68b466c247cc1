"""What is asked: the whole of a job request, typed, on one page.

A request names a method; what it leaves out is filled in from that method's composition (`methods.py`), and
the completed specification is what the job row keeps and the worker reads.
"""

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from search_spaces.space import Bound
from server.store.methods import check_search, complete_search


class Spec(BaseModel):
    """Frozen, and closed: a field nobody knows is an error, not a silence."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


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


class Budget(Spec):
    """A search stops at whichever limit it meets first."""

    evaluations: int = Field(20, ge=1, le=1_000_000)
    wall_time_s: float | None = Field(None, gt=0)
    """Seconds of running, pauses and queueing not counted."""
    device_hours: float | None = Field(None, gt=0)
    llm_tokens: int | None = Field(None, ge=1)
    llm_cost_usd: float | None = Field(None, gt=0)
    target: float | None = None
    """Stop once the first objective has reached this value."""
    patience: int | None = Field(None, ge=1)
    """Stop after so many evaluations in a row without a new best."""


# -------------------------------------------------------------------- who proposes


class RandomProposer(Spec):
    kind: Literal["random"] = "random"


class EvolutionProposer(Spec):
    kind: Literal["evolution"] = "evolution"
    population: int = Field(10, ge=2, le=10_000)
    """Regularised evolution (Real et al. 2019): the youngest members that may be parents."""
    sample: int = Field(5, ge=1, le=10_000)
    """Tournament size."""
    crossover: float = Field(0.2, ge=0, le=1)
    """Share of children with two parents."""


class LocalProposer(Spec):
    kind: Literal["local"] = "local"
    warm: bool = True
    """Start at the space's largest network instead of a random one."""


class SurrogateProposer(Spec):
    kind: Literal["surrogate"] = "surrogate"


class PortfolioProposer(Spec):
    kind: Literal["portfolio"] = "portfolio"


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
    prompt_tokens: int = Field(12_000, ge=1000, le=1_000_000)
    """About how long a prompt may be; a search that remembers more shows the model less of it."""


ProposerSpec = Annotated[
    RandomProposer | EvolutionProposer | LocalProposer | SurrogateProposer | PortfolioProposer | LLMProposer,
    Field(discriminator="kind"),
]

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
    timesteps: int = Field(1000, ge=10, le=10_000)
    schedule: Literal["cosine", "linear"] = "cosine"
    ema: float = Field(0.99, ge=0, lt=1)
    ema_ramp: bool = True
    warmup: int = Field(0, ge=0)
    clip: float | None = Field(1.0, gt=0)
    images: int = Field(512, ge=16, le=100_000)
    """Samples drawn for RFID."""
    sampling_steps: int = Field(10, ge=1, le=10_000)
    features: Literal["auto", "classifier", "inception"] = "auto"
    """Feature network: Inception if the operator gave its weights file, else a classifier trained once."""


class TrainEvaluation(Spec):
    """Trains a classifier for a few epochs and scores its validation accuracy."""

    kind: Literal["train"] = "train"
    epochs: int = Field(3, ge=1, le=10_000)
    batch: int = Field(64, ge=1, le=4096)
    learning_rate: float = Field(0.1, gt=0, le=10)
    weight_decay: float = Field(5e-4, ge=0)
    train_images: int | None = Field(None, ge=10)
    """Use only so many training images; None for all."""


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
    early_stopping: Literal["none", "asha"] = "none"


class SearchConfig(Spec):
    proposer: ProposerSpec
    evaluator: EvaluatorSpec
    trials: TrialsSpec = TrialsSpec()
    baseline: bool = False
    """Evaluate the space's published baseline first; relative metrics refer to it."""


# -------------------------------------------------------------------- jobs


class SearchSpec(Spec):
    """Search a space for the best architecture."""

    kind: Literal["search"] = "search"
    name: str = Field("", max_length=200)
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


JobSpec = SearchSpec


def canonical_json(value: object) -> str:
    """Equal values give equal text: sorted keys, no spaces. For hashes and idempotency."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
