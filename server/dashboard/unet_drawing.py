"""A diffusion UNet as a U: the encoder comes down on the left, the decoder goes up on the right.

A bar is a residual block. Its width is proportional to its channels, on one scale for a whole space, so that
two drawings can be compared; its height falls with the resolution.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element, SubElement

from search_spaces.space import SearchSpace
from server.dashboard.svg import arrow, box, dot, drawing, tip, words

LABELS = 150.0  # width of the column of labels on the left
AFTER = 84.0  # and of the one on the right
COLUMN = 270.0  # width of the widest possible decoder level
GAP = 4.0  # between bars
INDENT = 26.0  # of each level against the one above
SKIP = 96.0  # least length of a skip arrow at the lowest level
TOP, DROP = 58.0, 34.0  # above the first level; between levels
TALLEST, SHRINK, SHORTEST = 84.0, 0.78, 40.0
WIDEST_BAR, THINNEST_BAR = 56.0, 6.0
LEGEND = 44.0


@dataclass(frozen=True, slots=True)
class _Level:
    """One resolution: where its row lies, and what is in it."""

    side: int
    channels: int
    blocks: int
    attends: bool
    top: float
    height: float
    bar: float
    changed: bool

    @property
    def middle(self) -> float:
        return self.top + self.height / 2

    @property
    def bottom(self) -> float:
        return self.top + self.height


@dataclass(frozen=True, slots=True)
class _Bars:
    """A row of bars: the left edges, and the right edge of the last."""

    lefts: Sequence[float]
    end: float
    bar: float

    @property
    def first(self) -> float:
        return self.lefts[0] + self.bar / 2

    @property
    def last(self) -> float:
        return self.lefts[-1] + self.bar / 2


def draw_unet(space: SearchSpace, architecture: Mapping[str, Any], changed: frozenset[str]) -> Element:
    kwargs = space.model(architecture).kwargs
    widest, deepest = _extremes(space, kwargs)
    unit = min(WIDEST_BAR, COLUMN / (deepest + 1) - GAP)
    levels = _levels(space.inputs[1], kwargs, unit / widest, changed)
    column = (deepest + 1) * (unit + GAP)
    right = LABELS + 2 * column + 2 * (len(levels) - 1) * INDENT + SKIP
    lowest = levels[-1]
    middle_top = lowest.bottom + DROP
    height = middle_top + lowest.height + 26 + LEGEND

    root = drawing(right + AFTER, height, _about(levels))
    encoder = [_row(LABELS + i * INDENT, level.blocks, level.bar) for i, level in enumerate(levels)]
    decoder = [
        _row(right - i * INDENT - _length(level.blocks + 1, level.bar), level.blocks + 1, level.bar)
        for i, level in enumerate(levels)
    ]
    middle = _row((LABELS + right) / 2 - _length(2, lowest.bar) / 2, 2, lowest.bar)

    _ends(root, space, kwargs, levels[0], encoder[0], decoder[0])
    for level, down, up in zip(levels, encoder, decoder, strict=True):
        _level(root, level, down, up, right)
    for i in range(len(levels) - 1):
        _between(root, levels[i], levels[i + 1], (encoder[i], encoder[i + 1]), (decoder[i], decoder[i + 1]))
    _middle(root, lowest, middle_top, encoder[-1], middle, decoder[-1])
    _legend(root, height - 18, int(kwargs["heads"]), "heads" in changed)
    return root


# -------------------------------------------------------------------- where things lie


def _extremes(space: SearchSpace, kwargs: Mapping[str, Any]) -> tuple[int, int]:
    """The most channels and blocks that any network of the space has at a level."""
    channels, blocks = list(kwargs["channels"]), list(kwargs["blocks"])
    for choice in space.choices:
        if choice.name.startswith("channels_"):
            channels += choice.options
        elif choice.name.startswith("blocks_"):
            blocks += choice.options
    return max(channels), max(blocks)


def _levels(
    side: int, kwargs: Mapping[str, Any], scale: float, changed: frozenset[str]
) -> tuple[_Level, ...]:
    levels: list[_Level] = []
    top = TOP
    for i, (channels, blocks, attends) in enumerate(
        zip(kwargs["channels"], kwargs["blocks"], kwargs["attention"], strict=True)
    ):
        here = side >> i
        touched = bool(changed & {f"{part}_{here}" for part in ("channels", "blocks", "attention")})
        height = max(SHORTEST, TALLEST * SHRINK**i)
        bar = max(THINNEST_BAR, channels * scale)
        levels.append(_Level(here, channels, blocks, bool(attends), top, height, bar, touched))
        top += height + DROP
    return tuple(levels)


def _row(left: float, count: int, bar: float) -> _Bars:
    lefts = [left + index * (bar + GAP) for index in range(count)]
    return _Bars(lefts, lefts[-1] + bar, bar)


def _length(count: int, bar: float) -> float:
    return count * (bar + GAP) - GAP


# -------------------------------------------------------------------- the parts


def _level(root: Element, level: _Level, down: _Bars, up: _Bars, right: float) -> None:
    part = SubElement(root, "g")
    tip(part, _sentence(level))
    if level.changed:
        box(part, 0, level.top - 8, right + AFTER, level.height + 16, "changed", radius=6)
    words(part, 10, level.middle - 12, f"{level.side}×{level.side}", "strong")
    words(part, 10, level.middle + 5, f"{level.channels} channels", "label")
    attention = ", attention" if level.attends else ""
    words(part, 10, level.middle + 20, f"{_count(level.blocks)}{attention}", "label muted")
    words(part, right + 12, level.middle + 4, _count(level.blocks + 1), "label muted")
    for bars in (down, up):
        _bars(part, bars, level.top, level.height, [level.attends] * len(bars.lefts))
    arrow(part, [(down.end + 6, level.middle), (up.lefts[0] - 6, level.middle)], "skip")


def _bars(parent: Element, bars: _Bars, top: float, height: float, attends: Sequence[bool]) -> None:
    for left, attending in zip(bars.lefts, attends, strict=True):
        box(parent, left, top, bars.bar, height, "block attends" if attending else "block")
        if attending:
            dot(parent, left + bars.bar / 2, top + height / 2, min(3.5, bars.bar / 2 - 1), "eye")


def _between(
    root: Element, above: _Level, below: _Level, down: tuple[_Bars, _Bars], up: tuple[_Bars, _Bars]
) -> None:
    turn = (above.bottom + below.top) / 2
    start, end = down[0].last, down[1].first
    arrow(root, [(start, above.bottom + 3), (start, turn), (end, turn), (end, below.top - 3)], "flow")
    start, end = up[1].last, up[0].first
    arrow(root, [(start, below.top - 3), (start, turn), (end, turn), (end, above.bottom + 3)], "flow")


def _middle(root: Element, lowest: _Level, top: float, down: _Bars, middle: _Bars, up: _Bars) -> None:
    part = SubElement(root, "g")
    tip(
        part,
        f"middle: block, attention, block with {lowest.channels} channels at {lowest.side}×{lowest.side}",
    )
    _bars(part, middle, top, lowest.height, [True, False])
    level = top + lowest.height / 2
    arrow(part, [(down.last, lowest.bottom + 3), (down.last, level), (middle.lefts[0] - 5, level)], "flow")
    arrow(part, [(middle.end + 5, level), (up.first, level), (up.first, lowest.bottom + 3)], "flow")
    words(
        part,
        (middle.lefts[0] + middle.end) / 2,
        top + lowest.height + 16,
        "middle",
        "label muted",
        anchor="middle",
    )


def _ends(
    root: Element, space: SearchSpace, kwargs: Mapping[str, Any], first: _Level, down: _Bars, up: _Bars
) -> None:
    channels, height, width = space.inputs
    words(root, down.lefts[0], 20, f"noisy image {channels}×{height}×{width}, and the time step", "label")
    arrow(root, [(down.first, 28), (down.first, first.top - 3)], "flow")
    predicted = "noise and variance" if kwargs.get("learned_sigma") else "noise"
    words(root, up.end, 20, f"predicted {predicted}", "label", anchor="end")
    arrow(root, [(up.last, first.top - 3), (up.last, 28)], "flow")


def _legend(root: Element, y: float, heads: int, heads_changed: bool) -> None:
    box(root, 10, y - 11, 12, 14, "block")
    words(root, 28, y, "residual block", "label muted")
    box(root, 132, y - 11, 12, 14, "block attends")
    dot(root, 138, y - 4, 3.5, "eye")
    split = f"{heads} {'head' if heads == 1 else 'heads'}"
    look = "label marked" if heads_changed else "label muted"
    words(root, 150, y, f"with self-attention, {split}", look)
    arrow(root, [(356, y - 4), (390, y - 4)], "skip")
    words(root, 398, y, "skip connection", "label muted")
    arrow(root, [(508, y - 4), (542, y - 4)], "flow")
    words(root, 550, y, "to half or double the side", "label muted")


# -------------------------------------------------------------------- in words


def _count(blocks: int) -> str:
    return f"{blocks} {'block' if blocks == 1 else 'blocks'}"


def _sentence(level: _Level) -> str:
    attention = " with self-attention" if level.attends else ""
    changed = " (changed)" if level.changed else ""
    return (
        f"{level.side}×{level.side}: {level.channels} channels, {_count(level.blocks)} down and "
        f"{level.blocks + 1} up{attention}{changed}"
    )


def _about(levels: Sequence[_Level]) -> str:
    return "UNet. " + "; ".join(map(_sentence, levels))
