"""Channel-Bench-Macro: the widths of a small ResNet and of a small MobileNet, seven in each.

The tables' keys hold the width as a multiple, 1 to 4, of a base width; here an option is the width itself,
and the gene one less than that multiple. Stems have stride 2, as the tables' costs prove.
"""

from collections.abc import Callable, Sequence
from typing import Any

from search_spaces.conv_blocks import conv_norm, inverted_residual
from search_spaces.cost import linear, total
from search_spaces.space import Choice, Cost, Decoded, ModelSpec, SearchSpace

MULTIPLES = (1, 2, 3, 4)


def resnet_cost(*, widths: Sequence[int], classes: int, side: int = 32) -> Cost:
    """The cost of `models.channel_net.ChannelResNet` with these arguments on images of side x side."""
    stem, *inner = widths[:4]
    outer, *later = widths[4:]
    area, half = (side // 2) ** 2, (side // 4) ** 2
    costs = [conv_norm(3, stem, 3, area=area)]
    for width in inner[:2]:
        costs += [conv_norm(stem, width, 3, area=area), conv_norm(width, stem, 3, area=area)]
    costs += [conv_norm(stem, inner[2], 3, area=half), conv_norm(inner[2], outer, 3, area=half)]
    for width in later:
        costs += [conv_norm(outer, width, 3, area=half), conv_norm(width, outer, 3, area=half)]
    return total([*costs, linear(outer, classes)])


def mobilenet_cost(*, widths: Sequence[int], classes: int, side: int = 32) -> Cost:
    """The cost of `models.channel_net.ChannelMobileNet` with these arguments on images of side x side."""
    stem, first, second, down, outer, later, head = widths
    area, half = (side // 2) ** 2, (side // 4) ** 2
    return total(
        (
            conv_norm(3, stem, 3, area=area),
            inverted_residual(stem, first, stem, 3, area=area, stride=1),
            inverted_residual(stem, second, stem, 3, area=area, stride=1),
            inverted_residual(stem, down, outer, 3, area=area, stride=2),
            inverted_residual(outer, later, outer, 3, area=half, stride=1),
            conv_norm(outer, head, 1, area=half),
            linear(head, classes),
        )
    )


def channel_space(
    name: str,
    model: str,
    cost: Callable[..., Cost],
    *,
    widths: Sequence[tuple[str, int, str]],
    about: str,
) -> SearchSpace:
    """A space of widths, each given as name, base width, and what it is the width of."""
    choices = tuple(
        Choice(choice, tuple(multiple * base for multiple in MULTIPLES), what)
        for choice, base, what in widths
    )

    def arguments(decoded: Decoded) -> dict[str, Any]:
        return {"widths": [decoded[choice.name] for choice in choices], "classes": 10}

    return SearchSpace(
        name=name,
        choices=choices,
        model=lambda decoded: ModelSpec(model, arguments(decoded)),
        cost=lambda decoded: cost(**arguments(decoded)),
        inputs=(3, 32, 32),
        about=about,
        tags=("classification", "table"),
    )


# -------------------------------------------------------------------- the spaces

CHANNEL_RESNET = channel_space(
    "channel-resnet",
    "channel-resnet",
    resnet_cost,
    widths=(
        ("stage1", 64, "width of the stem and of stage 1 (maps of 16x16)"),
        ("inner1", 64, "between the two convolutions of block 1"),
        ("inner2", 64, "between the two convolutions of block 2"),
        ("inner3", 128, "between the two convolutions of block 3, which halves the map"),
        ("stage2", 128, "width of stage 2 (maps of 8x8)"),
        ("inner4", 128, "between the two convolutions of block 4"),
        ("inner5", 128, "between the two convolutions of block 5"),
    ),
    about="""\
A residual network for 32x32 images; every width is free. A block is 3x3 convolution, batch norm, ReLU, \
3x3 convolution, batch norm; its input is added where the stride is 1; then ReLU. The layers:
stem: 3x3 convolution, 3 to stage1 channels, stride 2, batch norm, ReLU (16x16);
block 1: stage1, inner1, stage1 channels (16x16);
block 2: stage1, inner2, stage1 channels (16x16);
block 3: stage1, inner3, stage2 channels, the first convolution with stride 2, nothing added (8x8);
block 4: stage2, inner4, stage2 channels (8x8);
block 5: stage2, inner5, stage2 channels (8x8);
global average and a linear classifier of stage2 inputs.
A 3x3 convolution from a to b channels costs 9ab parameters, and 9ab times its output positions in MACs.""",
)

CHANNEL_MOBILENET = channel_space(
    "channel-mobilenet",
    "channel-mobilenet",
    mobilenet_cost,
    widths=(
        ("stage1", 32, "width of the stem and of stage 1 (maps of 16x16)"),
        ("inner1", 192, "expanded width of block 1"),
        ("inner2", 192, "expanded width of block 2"),
        ("inner3", 192, "expanded width of block 3, which halves the map"),
        ("stage2", 64, "width of stage 2 (maps of 8x8)"),
        ("inner4", 384, "expanded width of block 4"),
        ("head", 256, "width of the last convolution"),
    ),
    about="""\
A network of inverted residuals for 32x32 images; every width is free. A block is 1x1 convolution to the \
inner width, 3x3 depthwise convolution, 1x1 convolution to the outer width, batch norm after each, ReLU \
after the first two; its input is added where the stride is 1. The layers:
stem: 3x3 convolution, 3 to stage1 channels, stride 2, batch norm, ReLU (16x16);
block 1: stage1, inner1, stage1 channels (16x16);
block 2: stage1, inner2, stage1 channels (16x16);
block 3: stage1, inner3, stage2 channels, depthwise stride 2, nothing added (8x8);
block 4: stage2, inner4, stage2 channels (8x8);
head: 1x1 convolution to head channels, batch norm, ReLU (8x8);
global average and a linear classifier of head inputs.
A 1x1 convolution from a to b channels costs ab parameters, a depthwise one 9a; MACs are that times the \
output positions.""",
)
