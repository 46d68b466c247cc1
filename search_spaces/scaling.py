"""ScaleNet (Xie et al., ECCV 2022, arXiv 2207.07267): base networks, scaling strategies and what they cost.

A base network is a sequence of inverted residuals with squeeze-and-excitation; a strategy (d, w, r) makes it
deeper, wider and sharper. Three spaces come of it: bases alone; bases with a strategy of the plan, in which
every evaluation of the search is a point; and all networks that a strategy can give, in which the members of
a family are points, also those beyond the plan. Multipliers are integers in thousandths (the published S4 and
S5 have three decimals), so that no ceiling depends on float drift. Nothing here samples for training or
evaluates.

Cost is counted in two ways. `reference_flops` is the counter of the published code, by which its budgets,
tolerances and figures are meant: it floors feature maps where convolutions ceil them, and scales the block's
input before it expands it. `true_macs` is what the network executes. On large images they differ by a few
percent, on small ones by half; a plan says by which it is meant.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from types import MappingProxyType
from typing import Literal

from search_spaces.space import Architecture, Choice, Cost, Decoded, Genes, ModelSpec, Option, SearchSpace

UNIT = 1000  # a multiplier of 1
LARGEST = 3 * UNIT  # no member of a family is scaled beyond that, in any direction
EXTRAPOLATION_STEPS = 40  # halvings of the scale: far below one pixel or one thousandth
KERNELS = (3, 5, 7)
IDENTITY = "identity"
KERNEL_OF = {f"{kernel}x{kernel}": kernel for kernel in KERNELS}

Kernels = tuple[tuple[int, ...], ...]
"""The kernel size of every layer, stage by stage: a base network, or a deepened one."""


# ------------------------------------------------------------------ values


@dataclass(frozen=True, slots=True)
class Stage:
    """At most `layers` inverted residuals in the base; the first takes the stride and the new width."""

    layers: int
    stride: int
    inputs: int
    outputs: int
    expansion: int


@dataclass(frozen=True, slots=True)
class Strategy:
    """Depth and width multipliers in thousandths, and the resolution in pixels."""

    depth: int
    width: int
    resolution: int


@dataclass(frozen=True, slots=True)
class Grid:
    """The strategies of one scaling stage: every combination of its depths, widths and resolutions."""

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    resolutions: tuple[int, ...]

    def strategies(self) -> Iterator[Strategy]:
        for depth in self.depths:
            for width in self.widths:
                for resolution in self.resolutions:
                    yield Strategy(depth, width, resolution)

    def __len__(self) -> int:
        return len(self.depths) * len(self.widths) * len(self.resolutions)


@dataclass(frozen=True, slots=True)
class Subnet:
    """A network as it is built: all layers, the width multiplier in thousandths, the resolution."""

    kernels: Kernels
    width: int
    resolution: int


@dataclass(frozen=True)
class ScalingPlan:
    """What is scaled, and how far.

    `target` is the FLOPs a base should have, by the plan's own `counter`. A base is valid within `base_error`
    of it, a network of stage s within `scaled_error` * 2^s of 2^s times its own base.
    """

    name: str
    inputs: tuple[int, int, int]
    classes: int
    stem: int
    stages: tuple[Stage, ...]
    head: int
    grids: tuple[Grid, ...]
    target: int
    base_error: int
    scaled_error: int
    counter: Literal["published", "executed"] = "published"
    about: str = ""

    @property
    def base_resolution(self) -> int:
        return self.grids[0].resolutions[0]

    @property
    def widest(self) -> int:
        return max(grid.widths[-1] for grid in self.grids)

    @property
    def sharpest(self) -> int:
        """The largest resolution that is searched, in pixels."""
        return max(grid.resolutions[-1] for grid in self.grids)

    @property
    def deepest(self) -> int:
        return max(grid.depths[-1] for grid in self.grids)

    @property
    def slots(self) -> tuple[int, ...]:
        """Layers that the super-supernet holds for each stage."""
        return tuple(scaled(stage.layers, self.deepest) for stage in self.stages)

    @property
    def choice_blocks(self) -> int:
        """Positions of the published genome: stem, all slots, last convolution, pooling, classifier."""
        return 1 + sum(self.slots) + 3

    @property
    def bases(self) -> int:
        """The number of different base networks."""
        lengths = (range(1, stage.layers + 1) for stage in self.stages)
        return math.prod(sum(len(KERNELS) ** n for n in depths) for depths in lengths)


# ------------------------------------------------------------------ scaling


def scaled(count: int, multiplier: int) -> int:
    """ceil(count * multiplier), exactly."""
    return -(-count * multiplier // UNIT)


def deepened(base: Kernels, depth: int) -> Kernels:
    """Every stage of n layers gets ceil(n * d): the added ones repeat the operation of the last."""
    return tuple(ops + ops[-1:] * (scaled(len(ops), depth) - len(ops)) for ops in base)


def scale(base: Kernels, strategy: Strategy) -> Subnet:
    return Subnet(deepened(base, strategy.depth), strategy.width, strategy.resolution)


def same_depth(plan: ScalingPlan, base: Kernels, stage: int, depth: int) -> int:
    """The smallest depth multiplier of the scaling stage that gives this base the same layers."""
    wanted = [scaled(len(ops), depth) for ops in base]
    return next(d for d in plan.grids[stage].depths if [scaled(len(ops), d) for ops in base] == wanted)


def random_base(plan: ScalingPlan, rng: Random) -> Kernels:
    """Every stage: a uniform number of layers, then a uniform operation for each."""
    return tuple(
        tuple(rng.choice(KERNELS) for _ in range(rng.randint(1, stage.layers))) for stage in plan.stages
    )


# ------------------------------------------------------------------ cost


@dataclass(frozen=True, slots=True)
class Block:
    """One inverted residual of the base, before any width multiplier."""

    inputs: int
    outputs: int
    expansion: int
    kernel: int
    stride: int


def blocks_of(plan: ScalingPlan, kernels: Kernels) -> Iterator[Block]:
    for stage, ops in zip(plan.stages, kernels, strict=True):
        for layer, kernel in enumerate(ops):
            inputs, stride = (stage.inputs, stage.stride) if layer == 0 else (stage.outputs, 1)
            yield Block(inputs, stage.outputs, stage.expansion, kernel, stride)


def reference_flops(plan: ScalingPlan, net: Subnet) -> int:
    """Multiply-accumulates by the published counter: feature maps floored, hidden width t * ceil(C * w)."""
    side = net.resolution // 2
    total = plan.inputs[0] * scaled(plan.stem, net.width) * 9 * side**2
    for block in blocks_of(plan, net.kernels):
        inputs, outputs = scaled(block.inputs, net.width), scaled(block.outputs, net.width)
        hidden = inputs * block.expansion
        if block.expansion != 1:
            total += inputs * hidden * side**2
        side //= block.stride
        total += hidden * (block.kernel**2 + outputs) * side**2 + 2 * hidden * (hidden // 4)
    last = scaled(plan.stages[-1].outputs, net.width)
    return total + last * plan.head * side**2 + plan.head * plan.classes


def true_macs(plan: ScalingPlan, net: Subnet) -> int:
    """Multiply-accumulates that the network executes on one image of its resolution."""
    side = -(-net.resolution // 2)
    total = plan.inputs[0] * scaled(plan.stem, net.width) * 9 * side**2
    for block in blocks_of(plan, net.kernels):
        inputs, outputs = scaled(block.inputs, net.width), scaled(block.outputs, net.width)
        hidden = scaled(block.inputs * block.expansion, net.width)
        if block.expansion != 1:
            total += inputs * hidden * side**2
        side = -(-side // block.stride)
        total += hidden * (block.kernel**2 + outputs) * side**2 + 2 * hidden * (hidden // 4)
    last = scaled(plan.stages[-1].outputs, net.width)
    return total + last * plan.head * side**2 + plan.head * plan.classes


def counted_flops(plan: ScalingPlan, net: Subnet) -> int:
    """FLOPs as the plan means them."""
    return reference_flops(plan, net) if plan.counter == "published" else true_macs(plan, net)


def parameters(plan: ScalingPlan, net: Subnet) -> int:
    """Trainable parameters of the standalone network."""
    stem = scaled(plan.stem, net.width)
    total = plan.inputs[0] * stem * 9 + 2 * stem
    for block in blocks_of(plan, net.kernels):
        inputs, outputs = scaled(block.inputs, net.width), scaled(block.outputs, net.width)
        hidden = scaled(block.inputs * block.expansion, net.width)
        squeezed = hidden // 4
        if block.expansion != 1:
            total += inputs * hidden + 2 * hidden
        total += hidden * block.kernel**2 + 2 * hidden
        total += 2 * hidden * squeezed + squeezed + hidden
        total += hidden * outputs + 2 * outputs
    last = scaled(plan.stages[-1].outputs, net.width)
    return total + last * plan.head + 2 * plan.head + plan.head * plan.classes + plan.classes


def cost_of(plan: ScalingPlan, net: Subnet) -> Cost:
    return Cost(parameters(plan, net), true_macs(plan, net))


def model_of(plan: ScalingPlan, net: Subnet) -> ModelSpec:
    """The standalone network: every width written out, so that building it repeats no rule of this page."""
    blocks = [
        [
            scaled(block.inputs, net.width),
            scaled(block.inputs * block.expansion, net.width),
            scaled(block.outputs, net.width),
            block.kernel,
            block.stride,
        ]
        for block in blocks_of(plan, net.kernels)
    ]
    return ModelSpec(
        "scalenet",
        {
            "channels": plan.inputs[0],
            "blocks": blocks,
            "head": plan.head,
            "classes": plan.classes,
            "resolution": net.resolution,
        },
    )


def supernet_of(plan: ScalingPlan) -> ModelSpec:
    """The super-supernet that holds every base of the plan under each of its strategies."""
    return ModelSpec(
        "scalenet-supernet",
        {
            "channels": plan.inputs[0],
            "stem": plan.stem,
            "stages": [[s.layers, s.stride, s.inputs, s.outputs, s.expansion] for s in plan.stages],
            "head": plan.head,
            "classes": plan.classes,
            "widest": plan.widest,
            "deepest": plan.deepest,
        },
    )


# ------------------------------------------------------------------ what is valid


def base_flops(plan: ScalingPlan, base: Kernels) -> int:
    """F(b), counted."""
    return counted_flops(plan, scale(base, base_strategy(plan)))


def base_valid(plan: ScalingPlan, base: Kernels) -> bool:
    return abs(base_flops(plan, base) - plan.target) <= plan.base_error


def scaling_error(plan: ScalingPlan, base: Kernels, stage: int, strategy: Strategy) -> int:
    """|F(s(b)) - 2^s F(b)| in counted FLOPs."""
    flops = counted_flops(plan, scale(base, strategy))
    return abs(flops - (base_flops(plan, base) << stage))


def scaling_valid(plan: ScalingPlan, base: Kernels, stage: int, strategy: Strategy) -> bool:
    return scaling_error(plan, base, stage, strategy) <= plan.scaled_error << stage


def penalty(plan: ScalingPlan, base: Kernels, stage: int, strategy: Strategy) -> float:
    """What an invalid network scores instead of its top-1 in percent: 3 + (F_target - F) / F_target."""
    target = plan.target << stage
    return 3 + (target - counted_flops(plan, scale(base, strategy))) / target


def base_strategy(plan: ScalingPlan) -> Strategy:
    return next(plan.grids[0].strategies())


# ------------------------------------------------------------------ published genomes


def repaired(plan: ScalingPlan, genome: Sequence[int]) -> tuple[int, ...]:
    """The canonical form of a base's published genome: one operation index per choice block.

    0 is the identity, 1 to 3 the kernels. Of every stage the slots beyond the base's layers are emptied, an
    identity in the first becomes a 3x3 where there is a choice of depth, and identities move behind the
    layers. That is the fixed point of the published repair, whose single pass leaves some gaps open.
    """
    fixed, start = [0], 1
    for stage, slots in zip(plan.stages, plan.slots, strict=True):
        first, *rest = genome[start : start + stage.layers]
        if stage.layers > 1:
            first = first or 1
        fixed += [first, *sorted(rest, key=lambda op: op == 0), *[0] * (slots - stage.layers)]
        start += slots
    return (*fixed, 0, 0, 0)


def from_genome(plan: ScalingPlan, genome: Sequence[int]) -> Kernels:
    """The layers of a repaired or a depth-scaled genome."""
    kernels, start = [], 1
    for slots in plan.slots:
        kernels.append(tuple(2 * op + 1 for op in genome[start : start + slots] if op != 0))
        start += slots
    return tuple(kernels)


def to_genome(plan: ScalingPlan, kernels: Kernels) -> tuple[int, ...]:
    """Inverse of `from_genome`."""
    genome = [0]
    for ops, slots in zip(kernels, plan.slots, strict=True):
        genome += [kernel // 2 for kernel in ops] + [0] * (slots - len(ops))
    return (*genome, 0, 0, 0)


# ------------------------------------------------------------------ the three spaces


def _layers(plan: ScalingPlan, depth: int) -> Iterator[tuple[int, int]]:
    """(stage, layer), both from 0, of every layer that a base may have at this depth multiplier."""
    rows = enumerate(plan.stages)
    return ((number, layer) for number, stage in rows for layer in range(scaled(stage.layers, depth)))


def _layer_name(stage: int, layer: int) -> str:
    return f"stage{stage + 1}.layer{layer + 1}"


def _layer_choices(plan: ScalingPlan, depth: int = UNIT) -> tuple[Choice, ...]:
    about = "kernel of the inverted residual; identity: no such layer"
    first, other = tuple(KERNEL_OF), (IDENTITY, *KERNEL_OF)
    return tuple(
        Choice(_layer_name(stage, layer), first if layer == 0 else other, about)
        for stage, layer in _layers(plan, depth)
    )


def _strategy_choices(plan: ScalingPlan) -> tuple[Choice, ...]:
    depths, widths, resolutions = _multipliers(plan)
    return (
        Choice("stage", tuple(range(len(plan.grids))), "scaling stage s: 2^s times the base's FLOPs"),
        Choice("depth", tuple(depth / UNIT for depth in depths), "multiplies the layers of every stage"),
        Choice("width", tuple(width / UNIT for width in widths), "multiplies the channels"),
        Choice("resolution", tuple(resolutions), "side of the image in pixels"),
    )


def _multipliers(plan: ScalingPlan) -> tuple[list[int], list[int], list[int]]:
    """All depths, widths and resolutions of the plan, each once, rising."""
    depths = {depth for grid in plan.grids for depth in grid.depths}
    widths = {width for grid in plan.grids for width in grid.widths}
    resolutions = {resolution for grid in plan.grids for resolution in grid.resolutions}
    return sorted(depths), sorted(widths), sorted(resolutions)


def _compacted(plan: ScalingPlan, genes: Genes, depth: int = UNIT) -> Genes:
    """Identities behind the layers, stage by stage. A stage's first gene has no identity, so it stays."""
    done: list[int] = []
    for stage in plan.stages:
        first, *rest = genes[len(done) : len(done) + scaled(stage.layers, depth)]
        done += [first, *sorted(rest, key=lambda gene: gene == 0)]
    return (*done, *genes[len(done) :])


def genes_of(plan: ScalingPlan, base: Kernels) -> Genes:
    """The base's layer genes, which lead the code of both spaces."""
    genes: list[int] = []
    for stage, (first, *rest) in zip(plan.stages, base, strict=True):
        genes += [KERNELS.index(first), *(1 + KERNELS.index(kernel) for kernel in rest)]
        genes += [0] * (stage.layers - 1 - len(rest))
    return tuple(genes)


def base_of_genes(plan: ScalingPlan, genes: Genes) -> Kernels:
    """The base that leading layer genes describe; identities between layers leave no gap."""
    base, start = [], 0
    for stage in plan.stages:
        first, *rest = genes[start : start + stage.layers]
        base.append((KERNELS[first], *(KERNELS[gene - 1] for gene in rest if gene)))
        start += stage.layers
    return tuple(base)


def base_of(plan: ScalingPlan, decoded: Decoded) -> Kernels:
    return _kernels_of(plan, decoded, UNIT)


def _kernels_of(plan: ScalingPlan, decoded: Decoded, depth: int) -> Kernels:
    names = [(stage, _layer_name(stage, layer)) for stage, layer in _layers(plan, depth)]
    return tuple(
        tuple(KERNEL_OF[str(op)] for of, name in names if of == stage and (op := decoded[name]) != IDENTITY)
        for stage in range(len(plan.stages))
    )


def strategy_of(plan: ScalingPlan, decoded: Decoded) -> Strategy:
    depth, width = (round(UNIT * float(decoded[name])) for name in ("depth", "width"))
    given = Strategy(depth, width, int(decoded["resolution"]))
    return settled(plan, base_of(plan, decoded), int(decoded["stage"]), given)


def settled(plan: ScalingPlan, base: Kernels, stage: int, strategy: Strategy) -> Strategy:
    """The strategy that stands for this one: in the stage's grid, with the smallest depth of equal effect."""
    grid = plan.grids[stage]
    return Strategy(
        same_depth(plan, base, stage, _nearest(grid.depths, strategy.depth)),
        _nearest(grid.widths, strategy.width),
        _nearest(grid.resolutions, strategy.resolution),
    )


def _nearest(options: Sequence[int], value: int) -> int:
    return min(options, key=lambda option: (abs(option - value), option))


def options_of(plan: ScalingPlan, base: Kernels) -> dict[str, Option]:
    """The base as the options of its layers. Raises ValueError for a base that the plan does not hold."""
    return _layer_options(plan, base, UNIT)


def _layer_options(plan: ScalingPlan, kernels: Kernels, depth: int) -> dict[str, Option]:
    for stage, ops in zip(plan.stages, kernels, strict=True):
        most = scaled(stage.layers, depth)
        if not 1 <= len(ops) <= most:
            raise ValueError(f"{plan.name}: a stage has 1 to {most} layers, not {len(ops)}")
    return {
        _layer_name(stage, layer): f"{kernels[stage][layer]}x{kernels[stage][layer]}"
        if layer < len(kernels[stage])
        else IDENTITY
        for stage, layer in _layers(plan, depth)
    }


def scaled_options(plan: ScalingPlan, base: Kernels, stage: int, strategy: Strategy) -> dict[str, Option]:
    """The point of the plan's space that is this base under this strategy of a scaling stage."""
    return options_of(plan, base) | {
        "stage": stage,
        "depth": strategy.depth / UNIT,
        "width": strategy.width / UNIT,
        "resolution": strategy.resolution,
    }


def base_space(plan: ScalingPlan, baseline: Kernels | None = None) -> SearchSpace:
    """The base networks alone, unscaled."""

    def network(decoded: Decoded) -> Subnet:
        return scale(base_of(plan, decoded), base_strategy(plan))

    space = SearchSpace(
        name=f"{plan.name}-base",
        choices=_layer_choices(plan),
        model=lambda decoded: model_of(plan, network(decoded)),
        cost=lambda decoded: cost_of(plan, network(decoded)),
        inputs=plan.inputs,
        canonical=lambda genes: _compacted(plan, genes),
        about=f"{plan.about} A stage's layers after its first may be left out (identity).",
        tags=("classification",),
    )
    return space if baseline is None else _with_baseline(space, options_of(plan, baseline))


def scaling_space(plan: ScalingPlan, baseline: Kernels | None = None) -> SearchSpace:
    """The base networks under the strategies of every scaling stage: one point for each different network.

    The stage decides which multipliers are open: a depth, width or resolution of another stage stands for
    the nearest of its own. Of the depth multipliers that give a base the same layers the smallest stands
    for all.
    """

    def network(decoded: Decoded) -> Subnet:
        return scale(base_of(plan, decoded), strategy_of(plan, decoded))

    space = SearchSpace(
        name=plan.name,
        choices=(*_layer_choices(plan), *_strategy_choices(plan)),
        model=lambda decoded: model_of(plan, network(decoded)),
        cost=lambda decoded: cost_of(plan, network(decoded)),
        inputs=plan.inputs,
        canonical=lambda genes: _canonical(plan, genes),
        about=f"{plan.about} Each base in every scaling stage: deeper, wider, at a higher resolution. "
        "A depth, width or resolution outside the stage's own grid stands for the nearest in it.",
        tags=("classification", "scaling"),
    )
    if baseline is None:
        return space
    return _with_baseline(space, scaled_options(plan, baseline, 0, base_strategy(plan)))


def family_space(plan: ScalingPlan, baseline: Kernels | None = None) -> SearchSpace:
    """All networks that a base of the plan can be scaled to: layers, width multiplier and resolution."""

    def network(decoded: Decoded) -> Subnet:
        return subnet_of(plan, decoded)

    space = SearchSpace(
        name=f"{plan.name}-family",
        choices=(*_layer_choices(plan, LARGEST), *_size_choices(plan)),
        model=lambda decoded: model_of(plan, network(decoded)),
        cost=lambda decoded: cost_of(plan, network(decoded)),
        inputs=plan.inputs,
        canonical=lambda genes: _compacted(plan, genes, LARGEST),
        about=f"{plan.about} Scaled by up to {LARGEST // UNIT} in depth, width and resolution: what the "
        "members of a family are points of. A stage's layers after its first may be left out (identity).",
        tags=("classification",),
    )
    if baseline is None:
        return space
    return _with_baseline(space, subnet_options(plan, scale(baseline, base_strategy(plan))))


def _size_choices(plan: ScalingPlan) -> tuple[Choice, ...]:
    resolutions = range(plan.base_resolution, scaled(plan.base_resolution, LARGEST) + 1)
    return (
        Choice("width", tuple(w / UNIT for w in range(UNIT, LARGEST + 1)), "multiplies the channels"),
        Choice("resolution", tuple(resolutions), "side of the image in pixels"),
    )


def subnet_options(plan: ScalingPlan, net: Subnet) -> dict[str, Option]:
    """The point of the plan's family space that a network is. Raises ValueError where it is none."""
    layers = _layer_options(plan, net.kernels, LARGEST)
    return {**layers, "width": net.width / UNIT, "resolution": net.resolution}


def subnet_of(plan: ScalingPlan, decoded: Decoded) -> Subnet:
    """Inverse of `subnet_options`."""
    width, resolution = round(UNIT * float(decoded["width"])), int(decoded["resolution"])
    return Subnet(_kernels_of(plan, decoded, LARGEST), width, resolution)


def _canonical(plan: ScalingPlan, genes: Genes) -> Genes:
    *layers, stage, depth, width, resolution = genes
    ops = _compacted(plan, tuple(layers))
    depths, widths, resolutions = _multipliers(plan)
    given = Strategy(depths[depth], widths[width], resolutions[resolution])
    own = settled(plan, base_of_genes(plan, ops), stage, given)
    indices = depths.index(own.depth), widths.index(own.width), resolutions.index(own.resolution)
    return (*ops, stage, *indices)


def _with_baseline(space: SearchSpace, options: Mapping[str, Option]) -> SearchSpace:
    return replace(space, baseline_genes=space.encode(options).genes)


# ------------------------------------------------------------------ larger stages, families


@dataclass(frozen=True, slots=True)
class Growth:
    """Growth of depth, width and resolution per scaling stage: m(s) = exp(scale * rate * s)."""

    depth: float
    width: float
    resolution: float

    def at(self, stage: int, scale: float = 1.0) -> tuple[float, float, float]:
        depth, width, resolution = (
            math.exp(scale * stage * rate) for rate in (self.depth, self.width, self.resolution)
        )
        return depth, width, resolution

    def nominal_scale(self) -> float:
        """The scale at which d * w^2 * r^2 = 2^s."""
        return math.log(2) / (self.depth + 2 * self.width + 2 * self.resolution)


def fit_growth(plan: ScalingPlan, strategies: Sequence[Strategy]) -> Growth:
    """Least squares through the origin of ln m against s, over the strategies of stages 1, 2, ...

    The paper's rule for stages 4 and 5 is in neither the paper nor its code; this one comes within 5% of the
    published multipliers.
    """
    squares = sum(stage**2 for stage in range(1, len(strategies) + 1))

    def rate(multipliers: Sequence[float]) -> float:
        return sum(s * math.log(m) for s, m in enumerate(multipliers, 1)) / squares

    return Growth(
        rate([strategy.depth / UNIT for strategy in strategies]),
        rate([strategy.width / UNIT for strategy in strategies]),
        rate([strategy.resolution / plan.base_resolution for strategy in strategies]),
    )


def extrapolated(plan: ScalingPlan, base: Kernels, strategies: Sequence[Strategy], stage: int) -> Strategy:
    """The strategy of a larger stage, along the growth that fits the strategies of stages 1, 2, ..."""
    return grown(plan, base, fit_growth(plan, strategies), stage)


def grown(plan: ScalingPlan, base: Kernels, growth: Growth, stage: int) -> Strategy:
    """The strategy of a stage along a growth whose counted FLOPs are nearest 2^stage F(b)."""
    target = base_flops(plan, base) << stage
    low, high = 0.0, 2 * growth.nominal_scale()
    tried: dict[Strategy, int] = {}
    for _ in range(EXTRAPOLATION_STEPS):
        middle = (low + high) / 2
        strategy = _rounded(plan, growth.at(stage, middle))
        tried[strategy] = counted_flops(plan, scale(base, strategy))
        low, high = (middle, high) if tried[strategy] < target else (low, middle)
    return min(tried, key=lambda strategy: abs(tried[strategy] - target))


def _rounded(plan: ScalingPlan, multipliers: tuple[float, float, float]) -> Strategy:
    depth, width, resolution = (min(round(UNIT * multiplier), LARGEST) for multiplier in multipliers)
    return Strategy(depth, width, round(plan.base_resolution * resolution / UNIT))


@dataclass(frozen=True, slots=True)
class Member:
    """One network of a family, with what it costs."""

    stage: int
    strategy: Strategy
    net: Subnet
    params: int
    macs: int
    counted_flops: int

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(len(ops) for ops in self.net.kernels)


def member(plan: ScalingPlan, base: Kernels, stage: int, strategy: Strategy) -> Member:
    net = scale(base, strategy)
    cost = cost_of(plan, net)
    return Member(stage, strategy, net, cost.params, cost.macs, counted_flops(plan, net))


def family(plan: ScalingPlan, base: Kernels, strategies: Sequence[Strategy], stages: int) -> list[Member]:
    """The base, its searched strategies (stages 1, 2, ...), and extrapolated ones up to `stages`."""
    found = [base_strategy(plan), *strategies]
    found += [extrapolated(plan, base, strategies, stage) for stage in range(len(found), stages + 1)]
    return [member(plan, base, stage, strategy) for stage, strategy in enumerate(found)]


# ------------------------------------------------------------------ the published plan and family

SCALENET = ScalingPlan(
    name="scalenet",
    inputs=(3, 224, 224),
    classes=1000,
    stem=32,
    stages=(
        Stage(1, 1, 32, 16, 1),
        Stage(4, 2, 16, 32, 6),
        Stage(4, 2, 32, 40, 6),
        Stage(4, 2, 40, 80, 6),
        Stage(4, 1, 80, 96, 6),
        Stage(4, 2, 96, 192, 6),
        Stage(1, 1, 192, 320, 6),
    ),
    head=1280,
    grids=(
        Grid((1000,), (1000,), (224,)),
        Grid((1040, 1080, 1120, 1160), (1040, 1080, 1120, 1160), (224, 240, 256)),
        Grid((1200, 1240, 1280, 1320, 1360), (1200, 1240, 1280, 1320, 1360), (272, 288, 304)),
        Grid(tuple(range(1400, 1641, 40)), tuple(range(1400, 1641, 40)), (320, 336, 354)),
    ),
    target=306_000_000,
    base_error=25_000_000,
    scaled_error=50_000_000,
    about="ScaleNet: inverted residuals with squeeze-and-excitation in seven stages, kernels 3, 5 or 7.",
)

S0: Kernels = ((5,), (5,), (7, 7, 5, 3), (5, 5), (7, 7), (7, 5, 7), (5,))
"""The published base. It counts 355M, above the 306M +- 25M of the released search settings."""

PUBLISHED: Mapping[str, Member] = MappingProxyType(
    {
        f"scalenet-s{stage}": member(SCALENET, S0, stage, strategy)
        for stage, strategy in enumerate(
            (
                Strategy(1000, 1000, 224),
                Strategy(1040, 1040, 256),
                Strategy(1360, 1200, 304),
                Strategy(1400, 1400, 354),
                Strategy(1653, 1534, 457),
                Strategy(1848, 1688, 533),
            )
        )
    }
)
"""The published family. Pixels of S4 and S5 are the published multipliers (2.042, 2.378) of 224, rounded."""

# ------------------------------------------------------------------ small plans, for small images
#
# A scaled network may miss 2^s times its base by 20% of 2^s times the target. A base may lie 15% below the
# target, so that every valid scaled network lies within 23.6% of 2^s times its own base.

SCALENET_8 = ScalingPlan(
    name="scalenet-8",
    inputs=(1, 8, 8),
    classes=10,
    stem=4,
    stages=(Stage(1, 1, 4, 4, 1), Stage(2, 2, 4, 6, 6), Stage(2, 2, 6, 8, 6)),
    head=32,
    grids=(
        Grid((1000,), (1000,), (16,)),
        Grid((1080, 1160), (1040, 1160), (16, 18)),
        Grid((1240, 1360), (1240, 1360), (20, 22)),
        Grid((1480, 1640), (1480, 1640), (24, 28)),
    ),
    target=65_000,
    base_error=9_750,
    scaled_error=13_000,
    counter="executed",
    about="ScaleNet in small, for 8x8 grey images rendered at 16 to 28 pixels: three stages of inverted "
    "residuals with squeeze-and-excitation, kernels 3, 5 or 7.",
)

SCALENET_32 = ScalingPlan(
    name="scalenet-32",
    inputs=(3, 32, 32),
    classes=10,
    stem=8,
    stages=(Stage(1, 1, 8, 8, 1), Stage(2, 2, 8, 12, 6), Stage(2, 2, 12, 16, 6)),
    head=64,
    grids=(
        Grid((1000,), (1000,), (20,)),
        Grid((1080, 1160), (1080, 1160), (20, 22)),
        Grid((1240, 1360), (1240, 1360), (25, 27)),
        Grid((1480, 1640), (1480, 1640), (30, 34)),
    ),
    target=330_000,
    base_error=49_500,
    scaled_error=66_000,
    counter="executed",
    about="ScaleNet in small, for 32x32 images rendered at 20 to 34 pixels: three stages of inverted "
    "residuals with squeeze-and-excitation, kernels 3, 5 or 7.",
)

SCALENET_64 = ScalingPlan(
    name="scalenet-64",
    inputs=(3, 64, 64),
    classes=10,
    stem=8,
    stages=(Stage(1, 1, 8, 8, 1), Stage(3, 2, 8, 12, 6), Stage(3, 2, 12, 16, 6)),
    head=64,
    grids=(
        Grid((1000,), (1000,), (40,)),
        Grid((1080, 1160), (1080, 1160), (40, 44, 48)),
        Grid((1240, 1360), (1240, 1360), (48, 52, 56)),
        Grid((1480, 1640), (1480, 1640), (60, 64, 70)),
    ),
    target=1_600_000,
    base_error=240_000,
    scaled_error=320_000,
    counter="executed",
    about="ScaleNet in small, for 64x64 images rendered at 40 to 70 pixels: three stages of inverted "
    "residuals with squeeze-and-excitation, kernels 3, 5 or 7.",
)
"""Of the small plans' bases two to three in five are valid, and have valid strategies in every stage."""

PLANS: Mapping[str, ScalingPlan] = MappingProxyType(
    {plan.name: plan for plan in (SCALENET, SCALENET_8, SCALENET_32, SCALENET_64)}
)
"""By the name of the space of bases with a strategy."""

SCALENET_BASE_SPACE = base_space(SCALENET, S0)
SCALENET_SPACE = scaling_space(SCALENET, S0)
SCALENET_8_SPACE = scaling_space(SCALENET_8)
SCALENET_32_SPACE = scaling_space(SCALENET_32)
SCALENET_64_SPACE = scaling_space(SCALENET_64)

FAMILY_SPACES: Mapping[str, SearchSpace] = MappingProxyType(
    {name: family_space(plan, S0 if plan is SCALENET else None) for name, plan in PLANS.items()}
)
"""By the name of the plan."""

NAMED: dict[str, Architecture] = {
    name: FAMILY_SPACES[SCALENET.name].encode(subnet_options(SCALENET, member.net))
    for name, member in PUBLISHED.items()
}
"""The published family, as points of a space."""
