"""Shapes of a drawing, as an XML tree: well-formed by construction, every word in it escaped."""

import re
from collections.abc import Sequence
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

FORBIDDEN = re.compile(
    "[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
)  # characters XML cannot hold
HEAD = 4.0  # half the width of an arrow's head


def drawing(width: float, height: float, about: str) -> Element:
    """An empty drawing; `about` is what a screen reader says."""
    return Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"0 0 {_n(width)} {_n(height)}",
            "width": _n(width),
            "height": _n(height),
            "class": "diagram",
            "role": "img",
            "aria-label": clean(about),
        },
    )


def to_text(root: Element) -> str:
    return ElementTree.tostring(root, encoding="unicode")


def words(
    parent: Element, x: float, y: float, said: str, look: str = "", *, anchor: str = "start"
) -> Element:
    """A line of text; `y` is its base line."""
    element = SubElement(parent, "text", {"x": _n(x), "y": _n(y), "class": look, "text-anchor": anchor})
    element.text = clean(said)
    return element


def box(
    parent: Element, x: float, y: float, width: float, height: float, look: str, *, radius: float = 3
) -> Element:
    return SubElement(
        parent,
        "rect",
        {
            "x": _n(x),
            "y": _n(y),
            "width": _n(width),
            "height": _n(height),
            "rx": _n(radius),
            "class": look,
        },
    )


def dot(parent: Element, x: float, y: float, radius: float, look: str) -> Element:
    return SubElement(parent, "circle", {"cx": _n(x), "cy": _n(y), "r": _n(radius), "class": look})


def tip(parent: Element, said: str) -> None:
    """What is shown when the pointer rests on the element."""
    title = Element("title")
    title.text = clean(said)
    parent.insert(0, title)


def arrow(parent: Element, points: Sequence[tuple[float, float]], look: str) -> None:
    """A line through the points with a head at the last one."""
    (x0, y0), (x1, y1) = points[-2], points[-1]
    length = max(((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5, 1e-9)
    ux, uy = (x1 - x0) / length, (y1 - y0) / length
    neck = (x1 - 1.6 * HEAD * ux, y1 - 1.6 * HEAD * uy)
    route = " L".join(f"{_n(x)} {_n(y)}" for x, y in [*points[:-1], neck])
    SubElement(parent, "path", {"d": f"M{route}", "class": f"line {look}"})
    _head(parent, (x1, y1), (ux, uy), look)


def curve(parent: Element, handles: Sequence[tuple[float, float]], look: str) -> None:
    """A cubic curve by its four points, with a head at the last one."""
    (x0, y0), _, (x2, y2), (x3, y3) = handles
    dx, dy = (x3 - x2, y3 - y2) if (x3, y3) != (x2, y2) else (x3 - x0, y3 - y0)
    length = (dx * dx + dy * dy) ** 0.5
    ux, uy = dx / length, dy / length
    neck = (x3 - 1.6 * HEAD * ux, y3 - 1.6 * HEAD * uy)
    start, *route = (f"{_n(x)},{_n(y)}" for x, y in [*handles[:-1], neck])
    SubElement(parent, "path", {"d": f"M{start} C{' '.join(route)}", "class": f"line {look}"})
    _head(parent, (x3, y3), (ux, uy), look)


def _head(parent: Element, end: tuple[float, float], along: tuple[float, float], look: str) -> None:
    (x, y), (ux, uy) = end, along
    neck = (x - 1.6 * HEAD * ux, y - 1.6 * HEAD * uy)
    sides = ((neck[0] - HEAD * uy, neck[1] + HEAD * ux), (neck[0] + HEAD * uy, neck[1] - HEAD * ux))
    corners = " ".join(f"{_n(x)},{_n(y)}" for x, y in (end, *sides))
    SubElement(parent, "polygon", {"points": corners, "class": f"head {look}"})


def clean(said: str) -> str:
    return FORBIDDEN.sub("", said)


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
