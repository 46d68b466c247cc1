"""A cell of NAS-Bench-201 as its graph: four nodes in a row, an arrow for every edge, its operation on it.

Edges that carry nothing to the output, cut or on no path to it, are faint.
"""

from collections.abc import Mapping
from typing import Any
from xml.etree.ElementTree import Element, SubElement

from search_spaces.space import SearchSpace
from server.dashboard.svg import box, curve, dot, drawing, tip, words
from server.dashboard.text import option

NODES = ("in", "1", "2", "out")
LEGEND = "Every node is the sum of what its arrows carry. What is faint has no effect."
STEP, LEFT, MIDDLE = 210.0, 70.0, 150.0
WIDTH, HEIGHT = 2 * LEFT + 3 * STEP, 268.0
RADIUS = 20.0
RISE = {(0, 2): -58.0, (0, 3): -112.0, (1, 3): 76.0}  # of the edges that pass over or under a node
LETTER, LABEL = 7.6, 22.0  # width of a letter; height of a label
NONE = "none"


def draw_cell(space: SearchSpace, architecture: Mapping[str, Any], changed: frozenset[str]) -> Element:
    said = {choice.name: option(architecture[choice.name]) for choice in space.choices}
    alive = [str(operation) for operation in space.model(architecture).kwargs["edges"]]
    root = drawing(WIDTH, HEIGHT, "Cell. " + ", ".join(f"{name}: {word}" for name, word in said.items()))
    for (name, operation), working in zip(said.items(), alive, strict=True):
        source, target = (int(node) for node in name.removeprefix("edge_"))
        _edge(root, source, target, operation, dead=working == NONE, changed=name in changed)
    for number, name in enumerate(NODES):
        dot(root, _x(number), MIDDLE, RADIUS, "node")
        words(root, _x(number), MIDDLE + 4.5, name, "label", anchor="middle")
    words(root, LEFT - RADIUS, HEIGHT - 10, LEGEND, "label muted")
    return root


def _edge(root: Element, source: int, target: int, operation: str, *, dead: bool, changed: bool) -> None:
    part = SubElement(root, "g")
    word = operation if not dead or operation == NONE else f"{operation}, no effect"
    tip(part, f"from node {source} to node {target}: {word}{' (changed)' if changed else ''}")
    look = "dead" if dead else "flow"
    start, end, rise = _x(source), _x(target), RISE.get((source, target), 0.0)
    middle = (start + end) / 2
    if rise:
        side = -1 if rise < 0 else 1
        ends = [(start + 12, MIDDLE + side * (RADIUS - 2)), (end - 12, MIDDLE + side * (RADIUS + 1))]
        top = MIDDLE + rise
        # the curve's two handles pull it to `top` at its middle
        handle = top + (top - ends[0][1]) / 3
        curve(part, [ends[0], (start + 40, handle), (end - 40, handle), ends[1]], look)
        at = top
    else:
        curve(part, [(start + RADIUS, MIDDLE)] * 2 + [(end - RADIUS - 2, MIDDLE)] * 2, look)
        at = MIDDLE
    width = LETTER * len(operation) + 16
    box(
        part,
        middle - width / 2,
        at - LABEL / 2,
        width,
        LABEL,
        f"card {'marked' if changed else look}",
        radius=7,
    )
    words(part, middle, at + 4.5, operation, f"label {look}{' marked' if changed else ''}", anchor="middle")


def _x(node: int) -> float:
    return LEFT + node * STEP
