"""The ImageNet space of GENIUS (arXiv 2304.10970): seven options for each layer of a mobile network.

Five stages of six layers. A skip behind the first layer of a stage removes its layer, so skips move to the
end there: 7^30 codes, 65,317^5 networks.

`Cost.macs` counts every convolution and linear layer, squeeze-and-excitation included. The release counts
otherwise, and its window (330 MFLOPs, 430 MFLOPs) is meant so: see `table_flops`.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from search_spaces.conv_blocks import conv_norm, depthwise_norm, divisible, inverted_residual, squeeze_excite
from search_spaces.cost import conv2d, linear, total
from search_spaces.macro import Block, Layer, identities_last, runs_of
from search_spaces.space import Architecture, Choice, Cost, Decoded, ModelSpec, SearchSpace

LAYERS_PER_STAGE = 6
STAGES: tuple[Layer, ...] = ((16, 24, 2), (24, 40, 2), (40, 80, 2), (80, 96, 1), (96, 192, 2))
LAYERS: tuple[Layer, ...] = tuple(
    (inputs, outputs, stride) if first else (outputs, outputs, 1)
    for inputs, outputs, stride in STAGES
    for first in (True, *[False] * (LAYERS_PER_STAGE - 1))
)
STEM, LAST, HEAD = 16, 320, 1280

OPTIONS: dict[str, Block] = {
    "skip": None,
    **{f"mb{expansion}_k{kernel}": [expansion, kernel] for expansion in (4, 6) for kernel in (3, 5, 7)},
}

# -------------------------------------------------------------------- what it costs


def layer_cost(block: Block, layer: Layer, area: int) -> Cost:
    """One of the thirty layers; `area` is that of its input."""
    inputs, outputs, stride = layer
    if block is not None:
        expansion, kernel = block
        width = expansion * inputs
        return inverted_residual(
            inputs, width, outputs, kernel, area=area, stride=stride, reduced=divisible(width / 4)
        )
    if inputs != outputs or stride != 1:
        return conv_norm(inputs, outputs, 1, area=area // stride**2)
    return Cost(0, 0)


def mobile_net_cost(*, blocks: Sequence[Block], classes: int, stem_stride: int, side: int) -> Cost:
    """The cost of `models.mobile_net.MobileNet` with these arguments on images of side x side."""
    areas = list(_areas(side, stem_stride))
    fixed = (
        conv_norm(3, STEM, 3, area=areas[0]),
        depthwise_norm(STEM, 3, area=areas[0]),
        squeeze_excite(STEM, divisible(STEM / 4)),
        conv_norm(STEM, STEM, 1, area=areas[0]),
        conv_norm(STAGES[-1][1], LAST, 1, area=areas[-1]),
        conv2d(LAST, HEAD, 1, area=1),
        linear(HEAD, classes),
    )
    open_layers = map(layer_cost, blocks, LAYERS, areas)
    return total((*fixed, *open_layers))


def _areas(side: int, stem_stride: int) -> Iterator[int]:
    """The area of the input of every open layer, and behind the last the area of its output."""
    side = -(-side // stem_stride)
    yield side**2
    for _, _, stride in LAYERS:
        side = -(-side // stride)
        yield side**2


# -------------------------------------------------------------------- the release's own count

# The release's prompt: stem, separable convolution, last convolution, average, head, classifier. MFLOPs.
FIXED_ROWS = (5.419, 5.8207, 3.049, 0.016, 0.419, 1.28)
UNLISTED_NORMS = 2 * 4 * STEM * 112**2
"""FLOPs of the two batch norms that the fixed rows leave out, and the released script counts."""


def table_flops(decoded: Decoded) -> float:
    """FLOPs by the release's prompt at 224x224, which its search's window bounds: a look-up table, added up.

    MACs of convolutions, plus 4 for every output of a batch norm. Some of the fixed rows are not what they
    should be; they stand here as released. Add UNLISTED_NORMS for what its script measures (329.4 M for
    GENIUS-329).
    """
    rows = sum(map(table_row, _blocks(decoded), LAYERS, _areas(224, 2)))
    return sum(FIXED_ROWS) * 1e6 + rows


def table_row(block: Block, layer: Layer, area: int) -> int:
    """The release's FLOPs of one open layer; `area` is that of its input. Exact; released rounded to 100."""
    inputs, outputs, stride = layer
    after = area // stride**2
    macs = layer_cost(block, layer, area).macs
    if block is not None:
        width = block[0] * inputs
        return macs + 4 * (width * area + width * after + outputs * after)
    return macs + 4 * outputs * after if macs else 0


# -------------------------------------------------------------------- the spaces


def mobile_space(name: str, *, side: int, classes: int, stem_stride: int, about: str) -> SearchSpace:
    def arguments(decoded: Decoded) -> dict[str, Any]:
        return {"blocks": _blocks(decoded), "classes": classes, "stem_stride": stem_stride}

    runs = runs_of(LAYERS)
    return SearchSpace(
        name=name,
        choices=CHOICES,
        model=lambda decoded: ModelSpec("mobile", arguments(decoded)),
        cost=lambda decoded: mobile_net_cost(**arguments(decoded), side=side),
        inputs=(3, side, side),
        canonical=lambda genes: identities_last(genes, runs),
        # MobileNetV2's expansion, kernels and depths (arXiv 1801.04381, table 2): no network that a search of
        # this space has found, for such a one would be the answer in the question
        baseline_genes=_genes("440000 444000 444400 444000 444000"),
        about=about,
        tags=("classification",),
    )


def _blocks(decoded: Decoded) -> list[Block]:
    return [OPTIONS[str(decoded[choice.name])] for choice in CHOICES]


def _genes(code: str) -> tuple[int, ...]:
    """A code as published: five groups of six digits."""
    return tuple(int(digit) for digit in code.replace(" ", ""))


def _about(side: int, classes: int, stem_stride: int) -> str:
    areas = list(_areas(side, stem_stride))
    rows = []
    for stage, (inputs, outputs, stride) in enumerate(STAGES):
        for kind, index in (("layer 1", 0), ("layers 2 to 6", 1)):
            index += stage * LAYERS_PER_STAGE
            macs = [layer_cost(block, LAYERS[index], areas[index]).macs / 1e6 for block in OPTIONS.values()]
            shape = (
                f"{inputs} to {outputs} channels, stride {stride}"
                if kind == "layer 1"
                else f"{outputs} channels"
            )
            rows.append(f"stage {stage + 1}, {kind} ({shape}): {', '.join(f'{value:.4f}' for value in macs)}")
    rest = mobile_net_cost(
        blocks=[None] * len(LAYERS), classes=classes, stem_stride=stem_stride, side=side
    ).macs - sum(layer_cost(None, layer, area).macs for layer, area in zip(LAYERS, areas[:-1], strict=True))
    return ABOUT.format(
        side=side,
        stem_stride=stem_stride,
        options=", ".join(OPTIONS),
        classes=classes,
        rest=f"{rest / 1e6:.4f}",
        rows="\n".join(rows),
    )


ABOUT = """\
An image classifier for {side}x{side} images with thirty open layers in five stages of six. Choice sS_lL \
is layer L of stage S. Options: {options}.
mbE_kK is an inverted residual: 1x1 convolution to E times the input channels, KxK depthwise convolution, \
squeeze-and-excitation to a quarter of that width, 1x1 convolution to the output channels; batch norm \
after each convolution, hard swish after the first two; the input is added where the shape is kept.
skip removes its layer; as the first layer of a stage, where the shape changes, it is a 1x1 convolution \
with that stride and batch norm. Where in layers 2 to 6 of a stage the skips stand makes no difference.
Around them: 3x3 convolution to 16 channels with stride {stem_stride}; depthwise separable convolution \
with squeeze-and-excitation; at the end a 1x1 convolution from 192 to 320 channels, global average, a \
linear layer to 1280 with hard swish, dropout 0.2, a linear classifier of {classes} classes.
Millions of MACs of every layer, in the order of the options; the network's are their sum and {rest} for \
the layers around them:
{rows}"""

CHOICES = tuple(
    Choice(
        f"s{stage}_l{layer}",
        tuple(OPTIONS),
        f"layer {layer} of stage {stage}"
        + (f", to {outputs} channels, stride {stride}" if layer == 1 else ""),
    )
    for stage, (_, outputs, stride) in enumerate(STAGES, 1)
    for layer in range(1, LAYERS_PER_STAGE + 1)
)

MOBILE_IMAGENET = mobile_space(
    "mobile-imagenet", side=224, classes=1000, stem_stride=2, about=_about(224, 1000, 2)
)
MOBILE_64 = mobile_space("mobile-64", side=64, classes=10, stem_stride=1, about=_about(64, 10, 1))

NAMED: dict[str, Architecture] = {
    "GENIUS-329": MOBILE_IMAGENET.architecture(_genes("100010 101110 404300 430440 505550")),
    "GENIUS-401": MOBILE_IMAGENET.architecture(_genes("101011 110011 440404 450505 650605")),
}
