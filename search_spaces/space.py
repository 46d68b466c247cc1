"""What a search space is: choices, an identity for every architecture, and the operators over them.

A space is a value built from functions, not a class to inherit from: the random operators are written
once, over choices, and a paper's file is its table of options and two functions (network and cost).
Nothing here knows how a network is built or trained.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from random import Random
from typing import Any

Option = bool | int | float | str
Genes = tuple[int, ...]
Decoded = Mapping[str, Option]

MANY = 20  # options that a message still lists one by one
ENUMERABLE = 20_000  # codes; spaces up to this size can be listed
SAMPLE_TRIES = 1000  # draws before a space is declared (nearly) empty


class InvalidArchitecture(ValueError):
    """Not a point of this space."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """One point of a space: an option index per choice. Weights are no part of its identity."""

    space: str
    genes: Genes

    @property
    def key(self) -> str:
        """Canonical text, the primary key of memory: `space:g0-g1-...`."""
        return f"{self.space}:{'-'.join(map(str, self.genes))}"


@dataclass(frozen=True, slots=True)
class Choice:
    """One decision: a name and its options, ordered from small to large where they have an order."""

    name: str
    options: tuple[Option, ...]
    about: str = ""

    def index(self, option: object) -> int:
        for index, known in enumerate(self.options):
            if type(known) is type(option) and known == option:
                return index
        shown = ", ".join(map(repr, self.options[:MANY]))
        if len(self.options) > MANY:
            shown += f", ... {self.options[-1]!r} ({len(self.options)} options)"
        raise InvalidArchitecture(f"{self.name}: {option!r} is none of [{shown}]")


@dataclass(frozen=True, slots=True)
class Cost:
    """What an architecture costs: trainable parameters, and multiply-accumulates of one forward pass."""

    params: int
    macs: int


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """The network an architecture names: an entry of `models.MODELS`, and JSON-able keyword arguments."""

    name: str
    kwargs: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Bound:
    """A closed interval; None leaves that side open."""

    min: float | None = None
    max: float | None = None

    def excess(self, value: float) -> float:
        """How far outside the value lies, relative to the bound it breaks; 0 inside.

        Signed: negative below `min`, positive above `max`.
        """
        if self.max is not None and value > self.max:
            return (value - self.max) / max(abs(self.max), 1e-12)
        if self.min is not None and value < self.min:
            return (value - self.min) / max(abs(self.min), 1e-12)
        return 0.0


def always(_: Decoded) -> bool:
    return True


def unchanged(genes: Genes) -> Genes:
    return genes


@dataclass(frozen=True)
class SearchSpace:
    """A finite set of architectures.

    `model` and `cost` say what a point is and what it costs; `allowed` rules points out; `canonical` maps
    the codes that build the same network to one of them, so that `Architecture.key` is identity. `inputs`
    is the shape (channels, height, width) of the tensor a network takes. `baseline` is the published
    reference point, `largest` the point with every option at its last index, unless `largest_genes` says
    which (a published numbering of the options need not rise with their size). `tags` say what it is for:
    "diffusion", "classification", "scaling", "table".
    """

    name: str
    choices: tuple[Choice, ...]
    model: Callable[[Decoded], ModelSpec]
    cost: Callable[[Decoded], Cost]
    inputs: tuple[int, int, int]
    allowed: Callable[[Decoded], bool] = always
    canonical: Callable[[Genes], Genes] = unchanged
    baseline_genes: Genes | None = None
    largest_genes: Genes | None = None
    about: str = ""
    tags: tuple[str, ...] = field(default=())

    # ---------------------------------------------------------------- codes

    @property
    def size(self) -> int:
        """Number of codes, before `allowed` and `canonical`."""
        return math.prod(len(choice.options) for choice in self.choices)

    @cached_property
    def baseline(self) -> Architecture | None:
        return None if self.baseline_genes is None else self.architecture(self.baseline_genes)

    @cached_property
    def largest(self) -> Architecture:
        last = tuple(len(choice.options) - 1 for choice in self.choices)
        return self.architecture(self.largest_genes or last)

    def architecture(self, genes: Genes) -> Architecture:
        """The canonical architecture of a code. Raises InvalidArchitecture where it is not of this space."""
        if len(genes) != len(self.choices):
            raise InvalidArchitecture(f"{self.name} has {len(self.choices)} choices, not {len(genes)}")
        for choice, gene in zip(self.choices, genes, strict=True):
            if not 0 <= gene < len(choice.options):
                raise InvalidArchitecture(f"{choice.name}: no option {gene}, there are {len(choice.options)}")
        canonical = self.canonical(genes)
        if not self.allowed(self._options(canonical)):
            raise InvalidArchitecture(f"{self.name} rules out {json.dumps(dict(self._options(canonical)))}")
        return Architecture(self.name, canonical)

    def contains(self, arch: Architecture) -> bool:
        try:
            return arch == self.architecture(arch.genes)
        except InvalidArchitecture:
            return False

    def decode(self, arch: Architecture) -> Decoded:
        """The chosen option of every choice, by name."""
        if arch.space != self.name:
            raise InvalidArchitecture(f"{arch.key} is of space {arch.space}, not {self.name}")
        return self._options(arch.genes)

    def encode(self, decoded: Mapping[str, object]) -> Architecture:
        """Inverse of `decode`, up to the canonical form; every choice named once, nothing else."""
        names = {choice.name for choice in self.choices}
        if missing := sorted(names - decoded.keys()):
            raise InvalidArchitecture(f"missing: {', '.join(missing)}")
        if unknown := sorted(map(str, decoded.keys() - names)):
            raise InvalidArchitecture(f"{self.name} has no choice {', '.join(unknown)}")
        return self.architecture(tuple(choice.index(decoded[choice.name]) for choice in self.choices))

    def parse_key(self, key: str) -> Architecture:
        """Inverse of `Architecture.key`."""
        space, _, code = key.partition(":")
        try:
            genes = tuple(int(gene) for gene in code.split("-"))
        except ValueError:
            raise InvalidArchitecture(f"{key!r} is no architecture key") from None
        if space != self.name:
            raise InvalidArchitecture(f"{key!r} is not of space {self.name}")
        return self.architecture(genes)

    def _options(self, genes: Genes) -> Decoded:
        return {c.name: c.options[g] for c, g in zip(self.choices, genes, strict=True)}

    # ---------------------------------------------------------------- what it is and costs

    def model_of(self, arch: Architecture) -> ModelSpec:
        return self.model(self.decode(arch))

    def cost_of(self, arch: Architecture) -> Cost:
        return self.cost(self.decode(arch))

    # ---------------------------------------------------------------- operators

    def sample(self, rng: Random) -> Architecture:
        """A uniform draw over the allowed codes, in canonical form."""
        for _ in range(SAMPLE_TRIES):
            genes = tuple(rng.randrange(len(choice.options)) for choice in self.choices)
            arch = self._try(genes)
            if arch is not None:
                return arch
        raise InvalidArchitecture(f"{self.name}: no allowed point in {SAMPLE_TRIES} draws")

    def mutate(self, arch: Architecture, rng: Random) -> Architecture:
        """A uniform draw over the other points one gene away."""
        free = [i for i, choice in enumerate(self.choices) if len(choice.options) > 1]
        for _ in range(SAMPLE_TRIES):
            position = rng.choice(free)
            gene = rng.randrange(len(self.choices[position].options) - 1)
            gene += gene >= arch.genes[position]
            other = self._try((*arch.genes[:position], gene, *arch.genes[position + 1 :]))
            if other is not None and other != arch:
                return other
        raise InvalidArchitecture(f"{self.name}: {arch.key} has no allowed neighbour")

    def cross(self, left: Architecture, right: Architecture, rng: Random) -> Architecture:
        """Uniform crossover: every gene from either parent; `left` where no child is allowed."""
        for _ in range(SAMPLE_TRIES):
            genes = tuple(rng.choice(pair) for pair in zip(left.genes, right.genes, strict=True))
            child = self._try(genes)
            if child is not None:
                return child
        return left

    @property
    def enumerable(self) -> bool:
        """Whether the space is small enough to be listed."""
        return self.size <= ENUMERABLE

    @cached_property
    def listed(self) -> tuple[Architecture, ...]:
        """All architectures of an enumerable space, in the order of their first code."""
        codes = product(*(range(len(choice.options)) for choice in self.choices))
        return tuple(dict.fromkeys(arch for genes in codes if (arch := self._try(genes)) is not None))

    def neighbours(self, arch: Architecture) -> Iterator[Architecture]:
        """Every other point one gene away, each once, in a fixed order."""
        seen = {arch.genes}
        for position, choice in enumerate(self.choices):
            for gene in range(len(choice.options)):
                other = self._try((*arch.genes[:position], gene, *arch.genes[position + 1 :]))
                if other is not None and other.genes not in seen:
                    seen.add(other.genes)
                    yield other

    def _try(self, genes: Genes) -> Architecture | None:
        try:
            return self.architecture(genes)
        except InvalidArchitecture:
            return None
