"""Drawings are well-formed SVG, the same for the same architecture, and show what the architecture is."""

from collections import Counter
from random import Random
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import search_spaces
from search_spaces.space import Choice, Cost, Decoded, ModelSpec, SearchSpace
from server.dashboard.diagram import DRAWINGS, changes, draw
from server.dashboard.text import option

SPACES = sorted(search_spaces.every())
SVG = "{http://www.w3.org/2000/svg}"


def parsed(drawing: str) -> Element:
    root = ElementTree.fromstring(drawing)
    assert root.tag == f"{SVG}svg"
    return root


def said(root: Element) -> list[str]:
    return [element.text or "" for element in root.iter() if element.tag in (f"{SVG}text", f"{SVG}title")]


def looks(root: Element, tag: str) -> Counter[str]:
    return Counter(element.get("class", "") for element in root.iter(f"{SVG}{tag}"))


@st.composite
def points(draw_: Any) -> tuple[SearchSpace, Decoded, Decoded]:
    """A space and two of its architectures, the second one gene from the first."""
    space = search_spaces.find(draw_(st.sampled_from(SPACES)))
    rng = Random(draw_(st.integers(0, 2**20)))
    arch = space.sample(rng)
    return space, space.decode(arch), space.decode(space.mutate(arch, rng))


@settings(deadline=None)
@given(points())
def test_every_architecture_of_every_space_is_drawn_well_formed_and_twice_the_same(
    point: tuple[SearchSpace, Decoded, Decoded],
) -> None:
    space, architecture, parent = point
    drawing = draw(architecture, space, parent)
    root = parsed(drawing)
    assert root.get("role") == "img"
    assert root.get("aria-label")
    assert draw(dict(architecture), space, dict(parent)) == drawing


@settings(deadline=None)
@given(points())
def test_what_differs_from_the_parent_is_marked_and_nothing_else_is(
    point: tuple[SearchSpace, Decoded, Decoded],
) -> None:
    space, architecture, parent = point
    alone, marked = draw(architecture, space), draw(architecture, space, parent)
    assert draw(architecture, space, architecture) == alone
    assert changes(architecture, parent)
    assert marked != alone


odd = st.text(min_size=1, max_size=10)


@settings(deadline=None)
@given(st.dictionaries(odd, odd | st.integers() | st.booleans() | st.floats(), max_size=12))
def test_words_of_any_kind_are_drawn_as_text(architecture: dict[str, Any]) -> None:
    """Names with markup, quotes, control characters or half a surrogate pair."""
    root = parsed(draw(architecture, None))
    assert {element.tag for element in root.iter()} <= {
        SVG + tag for tag in ("svg", "g", "title", "rect", "text", "circle")
    }
    assert len(looks(root, "rect")) <= 1
    assert sum(looks(root, "rect").values()) == len(architecture)


def test_markup_in_a_name_stays_text() -> None:
    evil = '"><script>alert(1)</script>'
    drawing = draw({evil: evil}, None)
    assert "<script>" not in drawing
    assert f"{evil}: {evil}" in said(parsed(drawing))


def strip_space(options: int) -> SearchSpace:
    choices = (Choice("width", tuple(range(10, 10 * options + 1, 10))), Choice("pool", (False, True)))
    return SearchSpace(
        "toy", choices, lambda d: ModelSpec("toy", dict(d)), lambda d: Cost(1, 1), inputs=(1, 8, 8)
    )


def test_a_family_without_a_drawing_is_a_strip_that_shows_the_chosen_option_among_all() -> None:
    root = parsed(draw({"width": 30, "pool": True}, strip_space(4), {"width": 20, "pool": True}))
    assert {"width", "30", "pool", "yes", "was 20"} <= set(said(root))
    assert looks(root, "circle") == {"pip": 4, "pip chosen": 2}
    assert looks(root, "rect") == {"card": 1, "card marked": 1}


def test_of_many_options_the_position_is_written() -> None:
    root = parsed(draw({"width": 30, "pool": False}, strip_space(50)))
    assert "3 of 50" in said(root)


def test_an_architecture_that_its_space_no_longer_holds_is_still_drawn() -> None:
    root = parsed(draw({"width": 35, "depth": 2}, strip_space(4)))
    assert {"width", "35", "depth", "2"} <= set(said(root))


# -------------------------------------------------------------------- the UNet

UNETS = [name for name in SPACES if name.startswith("unet-")]


def bars(root: Element) -> list[float]:
    """The widths of the residual blocks, those of the legend left out."""
    found = [e for e in root.iter(f"{SVG}rect") if "block" in e.get("class", "")][:-2]
    return [float(e.get("width", 0)) for e in found]


def test_unets_have_a_drawing_of_their_own() -> None:
    assert UNETS
    for name in UNETS:
        space = search_spaces.find(name)
        assert space.model_of(space.largest).name in DRAWINGS


@pytest.mark.parametrize("name", UNETS)
@settings(deadline=None)
@given(seed=st.integers(0, 2**16))
def test_a_unet_is_drawn_with_all_its_blocks_levels_skips_and_attention(name: str, seed: int) -> None:
    space = search_spaces.find(name)
    architecture = space.decode(space.sample(Random(seed)))
    kwargs = space.model(architecture).kwargs
    root = parsed(draw(architecture, space))
    blocks, attention = kwargs["blocks"], kwargs["attention"]

    assert len(bars(root)) == sum(2 * n + 1 for n in blocks) + 2
    attending = sum(2 * n + 1 for n, attends in zip(blocks, attention, strict=True) if attends) + 1
    assert looks(root, "rect")["block attends"] == attending + 1  # and one in the legend
    skips = [e for e in root.iter(f"{SVG}polygon") if e.get("class") == "head skip"]
    assert len(skips) == len(blocks) + 1  # and one in the legend
    words = said(root)
    for level, channels in enumerate(kwargs["channels"]):
        side = space.inputs[1] >> level
        assert f"{side}×{side}" in words
        assert f"{channels} channels" in words


def test_bars_are_as_wide_as_their_channels_on_one_scale_for_the_space() -> None:
    space = search_spaces.find("unet-8")
    common = {"blocks_8": 1, "blocks_4": 1, "attention_4": False}
    narrow = bars(parsed(draw({"channels_8": 16, "channels_4": 32, **common}, space)))
    wide = bars(parsed(draw({"channels_8": 32, "channels_4": 64, **common}, space)))
    assert wide == [pytest.approx(2 * width) for width in narrow]
    assert max(narrow) == pytest.approx(2 * min(narrow))


def test_only_the_level_that_changed_is_marked() -> None:
    space = search_spaces.find("unet-8")
    assert space.baseline is not None
    base = dict(space.decode(space.baseline))
    root = parsed(draw(base | {"channels_4": 48}, space, base))
    assert looks(root, "rect")["changed"] == 1
    assert any("4×4" in words and "(changed)" in words for words in said(root))
    assert not any("8×8" in words and "(changed)" in words for words in said(root))


@settings(deadline=None)
@given(points())
def test_a_strip_names_every_choice(point: tuple[SearchSpace, Decoded, Decoded]) -> None:
    space, architecture, _ = point
    titles = said(parsed(draw(architecture, None)))
    assert all(f"{name}: {option(value)}" in titles for name, value in architecture.items()), space.name


def test_a_cell_is_drawn_as_its_graph_with_what_has_no_effect_faint() -> None:
    space = search_spaces.find("nasbench201")
    cell = {"edge_01": "conv3x3", "edge_02": "none", "edge_12": "none", "edge_03": "skip", "edge_13": "none",
            "edge_23": "conv1x1"}  # fmt: skip
    root = parsed(draw(cell, space, {**cell, "edge_03": "conv1x1"}))
    assert looks(root, "path") == {"line flow": 1, "line dead": 5}  # only the skip leads from end to end
    assert looks(root, "circle") == {"node": 4}
    assert looks(root, "rect")["card marked"] == 1
    assert "from node 0 to node 1: conv3x3, no effect" in said(root)
    assert "from node 0 to node 3: skip (changed)" in said(root)
