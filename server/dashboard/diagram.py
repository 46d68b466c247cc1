"""An architecture as a drawing: SVG text, from the space and the chosen options. Pure functions.

A network family has a drawing of its own in `DRAWINGS`, by the name of its model; all others are drawn as a
strip of their choices. Colours and fonts are the page's: every part carries a class (`static/style.css`).
"""

from collections.abc import Callable, Mapping
from typing import Any
from xml.etree.ElementTree import Element, SubElement

from search_spaces.space import InvalidArchitecture, Option, SearchSpace
from server.dashboard.cell_drawing import draw_cell
from server.dashboard.svg import box, dot, drawing, tip, to_text, words
from server.dashboard.text import option
from server.dashboard.unet_drawing import draw_unet

Drawing = Callable[[SearchSpace, Mapping[str, Any], frozenset[str]], Element]

DRAWINGS: dict[str, Drawing] = {"unet": draw_unet, "cell": draw_cell}

COLUMNS = 5
CARD, ROW, GAP = 156.0, 66.0, 10.0
PIPS = 12  # options that are drawn as dots; of more, the position is written
LETTERS = 19  # that fit on a line of a card


def draw(
    architecture: Mapping[str, Any], space: SearchSpace | None, parent: Mapping[str, Any] | None = None
) -> str:
    """The SVG of an architecture; what differs from `parent` is marked.

    Without a space, or where the architecture is none of it any more, it is drawn as a strip of choices.
    """
    changed = changes(architecture, parent)
    if space is None or not _belongs(architecture, space):
        return to_text(strip(architecture, {}, changed))
    family = DRAWINGS.get(space.model(architecture).name)
    if family is not None:
        return to_text(family(space, architecture, frozenset(changed)))
    return to_text(strip(architecture, {choice.name: choice.options for choice in space.choices}, changed))


def changes(architecture: Mapping[str, Any], parent: Mapping[str, Any] | None) -> dict[str, Any]:
    """The choices that differ from the parent's, with the parent's option."""
    if parent is None:
        return {}
    return {
        name: parent[name]
        for name, value in architecture.items()
        if name in parent and option(parent[name]) != option(value)
    }


def strip(
    architecture: Mapping[str, Any], options: Mapping[str, tuple[Option, ...]], changed: Mapping[str, Any]
) -> Element:
    """Every choice as a card: its name, the chosen option, and which of how many it is."""
    rows = -(-max(1, len(architecture)) // COLUMNS)
    columns = min(COLUMNS, max(1, len(architecture)))
    about = ", ".join(f"{name}: {option(value)}" for name, value in architecture.items())
    root = drawing(columns * (CARD + GAP) - GAP + 2, rows * (ROW + GAP) - GAP + 2, about)
    for index, (name, value) in enumerate(architecture.items()):
        x, y = 1 + index % COLUMNS * (CARD + GAP), 1 + index // COLUMNS * (ROW + GAP)
        _card(root, x, y, name, value, options.get(name, ()), changed.get(name))
    return root


def _card(
    root: Element, x: float, y: float, name: str, value: Any, options: tuple[Option, ...], before: Any
) -> None:
    part = SubElement(root, "g")
    was = "" if before is None else f", was {option(before)}"
    tip(part, f"{name}: {option(value)}{was}")
    box(part, x, y, CARD, ROW, "card" if before is None else "card marked", radius=8)
    words(part, x + 12, y + 20, _cut(name), "label muted")
    chosen = _cut(option(value))
    words(part, x + 12, y + 40, chosen, "strong")
    if before is not None:
        said = _cut(f"was {option(before)}", LETTERS - len(chosen))
        words(part, x + CARD - 12, y + 40, said, "label marked", anchor="end")
    _pips(part, x + 15, y + 54, options, value)


def _pips(part: Element, x: float, y: float, options: tuple[Option, ...], value: Any) -> None:
    chosen = [option(known) for known in options].index(option(value)) if options else None
    if chosen is None:
        return
    if len(options) > PIPS:
        words(part, x - 3, y + 4, f"{chosen + 1} of {len(options)}", "label muted")
        return
    for index in range(len(options)):
        dot(part, x + 11 * index, y, 3.2, "pip chosen" if index == chosen else "pip")


def _belongs(architecture: Mapping[str, Any], space: SearchSpace) -> bool:
    try:
        space.encode(architecture)
    except InvalidArchitecture:
        return False
    return True


def _cut(said: str, letters: int = LETTERS) -> str:
    if len(said) <= letters:
        return said
    return f"{said[: letters - 1]}…" if letters > 1 else ""
