"""NAS-Bench-Macro (arXiv 2103.11922): which block every layer of a MobileNet-like network is.

Where the shape is kept, an identity removes its layer, and where it stood makes no difference: identities
move to the end of such a run. An identity that changes the shape is a convolution and stays where it is. That
leaves 3,969 networks of the 6,561 codes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from search_spaces.conv_blocks import conv_norm, inverted_residual
from search_spaces.cost import linear, total
from search_spaces.space import Choice, Cost, Decoded, Genes, ModelSpec, SearchSpace

Layer = Sequence[int]  # channels in, channels out, stride
Block = Sequence[int] | None  # expansion and kernel of an inverted residual; None is the identity


def identities_last(genes: Genes, runs: Sequence[slice]) -> Genes:
    """The code with the zeros of every run behind its other genes; what is in no run keeps its place."""
    moved = list(genes)
    for run in runs:
        moved[run] = sorted(genes[run], key=lambda gene: gene == 0)
    return tuple(moved)


def runs_of(layers: Sequence[Layer]) -> list[slice]:
    """The longest stretches of layers that keep the shape: there an identity removes its layer."""
    runs: list[slice] = []
    start = 0
    for end, (inputs, outputs, stride) in enumerate([*layers, (0, 1, 1)]):
        if inputs != outputs or stride != 1:
            if end > start:
                runs.append(slice(start, end))
            start = end + 1
    return runs


def macro_net_cost(
    *,
    blocks: Sequence[Block],
    layers: Sequence[Layer],
    head: int,
    in_channels: int,
    classes: int,
    side: int,
) -> Cost:
    """The cost of `models.macro_net.MacroNet` with these arguments on images of side x side."""
    area = side**2
    costs = [conv_norm(in_channels, layers[0][0], 3, area=area)]
    for block, (inputs, outputs, stride) in zip(blocks, layers, strict=True):
        after = area // stride**2
        if block is not None:
            expansion, kernel = block
            costs.append(
                inverted_residual(inputs, expansion * inputs, outputs, kernel, area=area, stride=stride)
            )
        elif inputs != outputs or stride != 1:
            costs.append(conv_norm(inputs, outputs, 1, area=after))
        area = after
    costs += [conv_norm(layers[-1][1], head, 1, area=area), linear(head, classes)]
    return total(costs)


def macro_space(
    name: str,
    *,
    side: int,
    in_channels: int,
    layers: Sequence[Layer],
    options: Mapping[str, Block],
    head: int,
    about: str,
    tags: tuple[str, ...],
) -> SearchSpace:
    """A space that chooses a block for each of `layers`; the first of `options` is the identity."""
    choices = tuple(
        Choice(
            f"layer_{number}",
            tuple(options),
            f"{inputs} to {outputs} channels, stride {stride}" if stride > 1 else f"{outputs} channels",
        )
        for number, (inputs, outputs, stride) in enumerate(layers, 1)
    )
    runs = runs_of(layers)

    def arguments(decoded: Decoded) -> dict[str, Any]:
        blocks = [options[str(decoded[choice.name])] for choice in choices]
        return {
            "blocks": blocks,
            "layers": [list(layer) for layer in layers],
            "head": head,
            "in_channels": in_channels,
            "classes": 10,
        }

    return SearchSpace(
        name=name,
        choices=choices,
        model=lambda decoded: ModelSpec("macro", arguments(decoded)),
        cost=lambda decoded: macro_net_cost(**arguments(decoded), side=side),
        inputs=(in_channels, side, side),
        canonical=lambda genes: identities_last(genes, runs),
        about=about,
        tags=tags,
    )


# -------------------------------------------------------------------- the spaces

ABOUT = """\
An image classifier for {side}x{side} images: a 3x3 convolution to {stem} channels, {count} open layers, a \
1x1 convolution to {head} channels, global average, linear classifier. Every open layer is one of:
{options}.
An identity whose shape changes (other channels, or stride 2) is a 1x1 convolution with that stride and \
batch norm; elsewhere it removes the layer, so its place within a stage does not matter. A block mbE_kK is \
an inverted residual: 1x1 convolution to E times the input channels, KxK depthwise convolution, 1x1 \
convolution to the output channels, batch norm after each and ReLU after the first two, and the input is \
added where the shape is kept.
The open layers (number: channels in, channels out, stride; side of the output):
{layers}"""


def _about(side: int, layers: Sequence[Layer], options: Mapping[str, Block], head: int) -> str:
    rows, area = [], side
    for number, (inputs, outputs, stride) in enumerate(layers, 1):
        area //= stride
        rows.append(f"layer_{number}: {inputs}, {outputs}, {stride}; {area}x{area}")
    return ABOUT.format(
        side=side,
        stem=layers[0][0],
        count=len(layers),
        head=head,
        options=", ".join(options),
        layers="\n".join(rows),
    )


LAYERS = (
    (32, 64, 2),
    (64, 64, 1),
    (64, 128, 2),
    (128, 128, 1),
    (128, 128, 1),
    (128, 256, 2),
    (256, 256, 1),
    (256, 256, 1),
)
OPTIONS: dict[str, Block] = {"identity": None, "mb3_k3": [3, 3], "mb6_k5": [6, 5]}

NASBENCH_MACRO = macro_space(
    "nasbench-macro",
    side=32,
    in_channels=3,
    layers=LAYERS,
    options=OPTIONS,
    head=1280,
    about=_about(32, LAYERS, OPTIONS, 1280),
    tags=("classification", "table"),
)

# Small enough to train every network for a second on one core, and in no published table.
LAYERS_8 = ((16, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1))
OPTIONS_8: dict[str, Block] = {"identity": None, "mb2_k3": [2, 3], "mb4_k3": [4, 3]}

MACRO_8 = macro_space(
    "macro-8",
    side=8,
    in_channels=1,
    layers=LAYERS_8,
    options=OPTIONS_8,
    head=64,
    about=_about(8, LAYERS_8, OPTIONS_8, 64),
    tags=("classification",),
)
