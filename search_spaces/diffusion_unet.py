"""DiffNAS (arXiv 2310.04750): width, depth and attention of a diffusion UNet at every resolution.

The paper's own table of options is not public. These are our reconstruction around its base model, the
networks of Improved DDPM (arXiv 2102.09672), whose published configurations are points of the spaces. That
paper's own baseline, the network of DDPM (arXiv 2006.11239), is a point of a space beside them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from search_spaces.cost import conv2d, linear, norm, self_attention, time_residual, total
from search_spaces.space import Architecture, Choice, Cost, Decoded, ModelSpec, Option, SearchSpace


@dataclass(frozen=True, slots=True)
class Level:
    """The options at one resolution, from small to large."""

    side: int
    channels: tuple[int, ...]
    blocks: tuple[int, ...] = (1, 2, 3, 4)
    attention: tuple[bool, ...] = (False, True)


@dataclass(frozen=True, slots=True)
class Fixed:
    """What all networks of a space share; the names are those of the model's arguments."""

    in_channels: int = 3
    base: int = 128
    time_width: int = 512
    groups: int = 32
    film: bool = True
    learned_sigma: bool = True
    dropout: float = 0.0


def unet_space(
    name: str,
    levels: Sequence[Level],
    fixed: Fixed,
    *,
    heads: tuple[int, ...],
    baseline: Mapping[str, Option],
    about: str,
) -> SearchSpace:
    """A space of UNets with these levels, from the full resolution down, each half the side of the last.

    The choices are `channels_S` and `blocks_S` for every side S, `attention_S` where there are two options,
    and `heads` where there are several; `baseline` names an option for each.
    """
    choices = tuple(_choices(levels, heads))

    def model(decoded: Decoded) -> ModelSpec:
        return ModelSpec(
            "unet",
            asdict(fixed)
            | {
                "channels": [decoded[f"channels_{level.side}"] for level in levels],
                "blocks": [decoded[f"blocks_{level.side}"] for level in levels],
                "attention": [decoded.get(f"attention_{level.side}", level.attention[0]) for level in levels],
                "heads": decoded.get("heads", heads[0]),
            },
        )

    def allowed(decoded: Decoded) -> bool:
        return splits(**model(decoded).kwargs)

    def cost(decoded: Decoded) -> Cost:
        return unet_cost(levels[0].side, **model(decoded).kwargs)

    return SearchSpace(
        name=name,
        choices=choices,
        model=model,
        cost=cost,
        inputs=(fixed.in_channels, levels[0].side, levels[0].side),
        allowed=allowed,
        baseline_genes=tuple(choice.index(baseline[choice.name]) for choice in choices),
        about=about,
        tags=("diffusion",),
    )


def splits(
    *, channels: Sequence[int], attention: Sequence[bool], heads: int, groups: int, **_: object
) -> bool:
    """Whether every width can be split into the groups of its norms, and into the heads where it attends.

    The last level always attends: the middle of the UNet has its width.
    """
    attends = (*attention[:-1], True)
    return all(
        width % groups == 0 and (width % heads == 0 or not attended)
        for width, attended in zip(channels, attends, strict=True)
    )


def unet_cost(
    side: int,
    *,
    in_channels: int,
    channels: Sequence[int],
    blocks: Sequence[int],
    attention: Sequence[bool],
    base: int,
    time_width: int,
    film: bool,
    learned_sigma: bool,
    **_: Any,
) -> Cost:
    """The cost of `models.unet.UNet` with these arguments on images of side x side."""

    def block(inputs: int, outputs: int, area: int, attends: bool) -> Iterator[Cost]:
        yield time_residual(inputs, outputs, area=area, time_width=time_width, film=film)
        if attends:
            yield self_attention(outputs, area=area)

    def layers() -> Iterator[Cost]:
        yield linear(base, time_width)
        yield linear(time_width, time_width)
        areas = [(side >> level) ** 2 for level in range(len(channels))]
        levels = list(zip(areas, channels, blocks, attention, strict=True))

        width, skips = channels[0], [channels[0]]
        yield conv2d(in_channels, width, 3, area=areas[0])
        for area, outputs, depth, attends in levels:
            if area != areas[0]:
                yield conv2d(width, width, 3, area=area)
                skips.append(width)
            for _ in range(depth):
                yield from block(width, outputs, area, attends)
                width = outputs
                skips.append(width)

        yield from block(width, width, areas[-1], True)
        yield from block(width, width, areas[-1], False)

        for area, outputs, depth, attends in reversed(levels):
            if area != areas[-1]:
                yield conv2d(width, width, 3, area=area)
            for _ in range(depth + 1):
                yield from block(width + skips.pop(), outputs, area, attends)
                width = outputs

        yield norm(width)
        yield conv2d(width, in_channels * (2 if learned_sigma else 1), 3, area=areas[0])

    return total(layers())


def _choices(levels: Sequence[Level], heads: tuple[int, ...]) -> Iterator[Choice]:
    for level in levels:
        yield Choice(
            f"channels_{level.side}", level.channels, f"width of the blocks at {level.side}x{level.side}"
        )
    for level in levels:
        yield Choice(
            f"blocks_{level.side}",
            level.blocks,
            f"residual blocks of the encoder at {level.side}x{level.side}; the decoder has one more",
        )
    for level in levels:
        if len(level.attention) > 1:
            yield Choice(
                f"attention_{level.side}",
                level.attention,
                f"self-attention after every block at {level.side}x{level.side}",
            )
    if len(heads) > 1:
        yield Choice("heads", heads, "heads of every attention; they cost no parameters and no MACs")


# -------------------------------------------------------------------- the spaces

ABOUT = """\
A UNet that predicts the noise in an image. The encoder goes down through the resolutions, a middle part \
(block, attention, block) works at the smallest one, the decoder comes back up and reads the encoder's maps.
channels_S is the width at SxS: parameters and MACs grow with its square; wide small maps are cheap in MACs \
and dear in parameters, wide large maps the reverse. channels at the full resolution are also the width of \
the first and the last convolution. blocks_S is the depth at SxS: the encoder has that many residual blocks, \
the decoder one more. attention_S lets every position at SxS see all others, after every block there; its \
cost grows with the fourth power of S, and the middle attends in any case. """

ABOUT_HEADS = """\
heads splits every attention into so many independent ones at no cost; each sees width / heads channels. """

IDDPM_CIFAR10: dict[str, Option] = {
    **{"channels_32": 128, "channels_16": 256, "channels_8": 256, "channels_4": 256},
    **{"blocks_32": 3, "blocks_16": 3, "blocks_8": 3, "blocks_4": 3},
    **{"attention_16": True, "attention_8": True, "attention_4": False, "heads": 4},
}
DDPM_CIFAR10: dict[str, Option] = {
    **{"channels_32": 128, "channels_16": 256, "channels_8": 256, "channels_4": 256},
    **{"blocks_32": 2, "blocks_16": 2, "blocks_8": 2, "blocks_4": 2},
    **{"attention_16": True, "attention_8": False, "attention_4": False, "heads": 1},
}
IDDPM_IMAGENET64: dict[str, Option] = {
    **{"channels_64": 128, "channels_32": 256, "channels_16": 384, "channels_8": 512},
    **{"blocks_64": 3, "blocks_32": 3, "blocks_16": 3, "blocks_8": 3},
    **{"attention_32": False, "attention_16": True, "attention_8": True, "heads": 4},
}

UNET_8 = unet_space(
    "unet-8",
    (
        Level(8, (8, 16, 24, 32), (1, 2), attention=(False,)),
        Level(4, (16, 32, 48, 64), (1, 2)),
    ),
    Fixed(in_channels=1, base=32, time_width=64, groups=8, learned_sigma=False),
    heads=(2,),
    # The net that the short-training protocol was tuned on: one block a level, in the lower half of the
    # widths, with attention, so that a search finds better networks above it and cheaper ones below.
    baseline={"channels_8": 16, "channels_4": 32, "blocks_8": 1, "blocks_4": 1, "attention_4": True},
    about=ABOUT
    + "Images are 8x8 grey digits; there are two resolutions, 8 and 4, and no attention at 8. "
    + "128 networks: small enough to train each for seconds on one CPU core.",
)

LEVELS_32 = (
    Level(32, (64, 96, 128, 160, 192), attention=(False,)),
    Level(16, (128, 192, 256, 320, 384)),
    Level(8, (128, 192, 256, 320, 384)),
    Level(4, (128, 192, 256, 320, 384)),
)

UNET_32 = unet_space(
    "unet-32",
    LEVELS_32,
    Fixed(dropout=0.3),
    heads=(1, 2, 4, 8),
    baseline=IDDPM_CIFAR10,
    about=ABOUT
    + ABOUT_HEADS
    + "Images are 32x32 RGB (CIFAR-10); there is no attention at 32. The network also predicts the variance. "
    + "The baseline is Improved DDPM's CIFAR-10 network, 52.5 M parameters and 8.39 G MACs.",
)

UNET_32_DDPM = unet_space(
    "unet-32-ddpm",
    LEVELS_32,
    Fixed(film=False, learned_sigma=False, dropout=0.1),
    heads=(1, 2, 4, 8),
    baseline=DDPM_CIFAR10,
    about=ABOUT
    + ABOUT_HEADS
    + "Images are 32x32 RGB (CIFAR-10); there is no attention at 32. As in DDPM, the time only shifts the "
    + "features and the variance is fixed. The baseline is DDPM's CIFAR-10 network, 35.7 M parameters and "
    + "6.22 G MACs.",
)

UNET_64 = unet_space(
    "unet-64",
    (
        Level(64, (64, 96, 128, 160, 192), attention=(False,)),
        Level(32, (128, 192, 256, 320, 384)),
        Level(16, (192, 256, 384, 512, 576)),
        Level(8, (256, 384, 512, 640, 768)),
    ),
    Fixed(),
    heads=(1, 2, 4, 8),
    baseline=IDDPM_IMAGENET64,
    about=ABOUT
    + ABOUT_HEADS
    + "Images are 64x64 RGB; there is no attention at 64, and at 32 it is dear. Four resolutions, as in the "
    + "published networks for this size. The network also predicts the variance. The baseline is Improved "
    + "DDPM's ImageNet-64 network; the widths of ADM's (192, 384, 576, 768) are options too.",
)


NAMED: dict[str, Architecture] = {
    "ddpm-cifar10": UNET_32_DDPM.encode(DDPM_CIFAR10),
    "iddpm-cifar10": UNET_32.encode(IDDPM_CIFAR10),
    "iddpm-imagenet64": UNET_64.encode(IDDPM_IMAGENET64),
}
