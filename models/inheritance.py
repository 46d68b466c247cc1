"""A UNet that starts from the weights of another: what overlaps is copied, the rest stays as it was drawn.

Parts meet by their place: a block by its level and by how far it is from the level's first block in the
encoder or its last one in the decoder, for these two are joined by a skip connection. Of every weight the
first channels are copied. Where several things lie side by side in a weight (a map and the skip joined to
it; scale and shift; queries, keys and values), that is done for each of them.
"""

from collections.abc import Iterator
from itertools import accumulate, product

import torch
from torch import Tensor, nn

from models.unet import Attention, Block, Downsample, ResidualBlock, UNet, Upsample

Widths = tuple[int, ...]
"""Of the things that lie side by side along one dimension of a weight."""
Part = tuple[nn.Module, Widths]
"""A module that holds weights, and the widths that its input is joined of."""


@torch.no_grad()
def inherit(heir: nn.Module, donor: nn.Module) -> float:
    """Copies what the heir can take over, in place; gives its share of the heir's parameters.

    Raises TypeError where one of the two is no UNet.
    """
    if not (isinstance(heir, UNet) and isinstance(donor, UNet)):
        raise TypeError(f"{type(heir).__name__} cannot inherit from {type(donor).__name__}: UNets can")
    theirs = dict(_placed(donor))
    copied = sum(_taken(part, theirs[place]) for place, part in _placed(heir) if place in theirs)
    return copied / sum(weight.numel() for weight in heir.parameters())


# -------------------------------------------------------------------- places


def _placed(net: UNet) -> Iterator[tuple[tuple[object, ...], Part]]:
    for index, layer in enumerate(net.embed):
        if isinstance(layer, nn.Linear):
            yield ("embed", index), (layer, (layer.in_features,))
    yield ("stem",), (net.stem, (net.stem.in_channels,))
    width, skips, level, index = net.stem.out_channels, [net.stem.out_channels], 0, 0
    for part in net.encoder:
        if isinstance(part, Downsample):
            level, index = level + 1, 0
            yield ("down", level), (part.conv, (width,))
        elif isinstance(part, Block):
            yield from _inside(part, (width,), "encoder", level, index)
            width, index = part.residual.conv2.out_channels, index + 1
        skips.append(width)
    for index, part in enumerate(_blocks(net.middle)):
        yield from _inside(part, (width,), "middle", index)
    for level, blocks in reversed(list(enumerate(_by_level(net)))):
        for index, part in reversed(list(enumerate(reversed(blocks)))):
            yield from _inside(part, (width, skips.pop()), "decoder", level, index)
            width = part.residual.conv2.out_channels
    yield ("norm",), (net.norm, (width,))
    yield ("out",), (net.out, (width,))


def _by_level(net: UNet) -> list[list[Block]]:
    """The blocks of the decoder, from the full resolution down; within a level in the order they run."""
    levels: list[list[Block]] = [[]]
    for block in _blocks(net.decoder):
        levels[-1].append(block)
        if any(isinstance(after, Upsample) for after in block.after):
            levels.append([])
    return levels[::-1]


def _blocks(parts: nn.ModuleList) -> Iterator[Block]:
    return (part for part in parts if isinstance(part, Block))


def _inside(block: Block, inputs: Widths, *place: object) -> Iterator[tuple[tuple[object, ...], Part]]:
    width = block.residual.conv2.out_channels
    yield (*place, "residual"), (block.residual, inputs)
    for after in block.after:
        part = after.conv if isinstance(after, Upsample) else after
        yield (*place, type(after).__name__), (part, (width,))


# -------------------------------------------------------------------- weights


def _taken(heir: Part, donor: Part) -> int:
    """Copies one part's weights; gives how many."""
    theirs = dict(_weights(*donor))
    return sum(_copied(*weight, *theirs[name]) for name, weight in _weights(*heir) if name in theirs)


def _weights(part: nn.Module, inputs: Widths) -> Iterator[tuple[str, tuple[Tensor, list[Widths]]]]:
    """Every weight with what lies side by side along its first two dimensions."""
    for name, weight in part.named_parameters():
        rows: Widths = (len(weight),)
        columns: Widths = () if weight.ndim < 2 else (weight.shape[1],)
        match part, name.partition(".")[0]:
            case ResidualBlock(), "norm1":
                rows = inputs
            case ResidualBlock(), "conv1" | "shortcut":
                columns = columns and inputs
            case ResidualBlock(film=True), "condition":
                rows = (len(weight) // 2,) * 2
            case Attention(), "qkv":
                rows = (len(weight) // 3,) * 3
        yield name, (weight, [side for side in (rows, columns) if side])


def _copied(heir: Tensor, ours: list[Widths], donor: Tensor, theirs: list[Widths]) -> int:
    """Copies the first of each of the things side by side; gives how many numbers that were."""
    count = 0
    sides = [_overlaps(mine, other) for mine, other in zip(ours, theirs, strict=True)]
    for chosen in product(*sides):
        into, out_of = tuple(to for to, _ in chosen), tuple(of for _, of in chosen)
        heir[into].copy_(donor[out_of])
        count += heir[into].numel()
    return count


def _overlaps(ours: Widths, theirs: Widths) -> list[tuple[slice, slice]]:
    starts = zip(accumulate(ours, initial=0), accumulate(theirs, initial=0), strict=False)
    common = [min(pair) for pair in zip(ours, theirs, strict=True)]
    return [
        (slice(to, to + width), slice(of, of + width))
        for (to, of), width in zip(starts, common, strict=False)
    ]
