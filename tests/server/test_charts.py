"""Charts are figures that Plotly accepts, true to the rows, and small whatever the size of the search."""

import json
import math
from collections.abc import Sequence
from itertools import pairwise

import plotly.graph_objects as go
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.dashboard import charts
from server.dashboard.charts import Axis
from server.store.records import now
from server.store.states import CandidateState
from server.store.tables import Point
from server.store.views import HistoryPoint

RFID = Axis("rfid", maximize=False)
ACCURACY = Axis("val_accuracy", maximize=True)
PARAMS, MACS = Axis("params", maximize=False), Axis("macs", maximize=False)


def searched(
    values: Sequence[float | None], objective: Axis = RFID, origins: Sequence[str] = ("mutation",)
) -> list[HistoryPoint]:
    """The history of a search whose candidates had these values; None failed."""
    points: list[HistoryPoint] = []
    best: float | None = None
    for number, value in enumerate(values, 1):
        if value is not None and math.isfinite(value):
            better = best is None or (value > best if objective.maximize else value < best)
            best = value if better else best
        score = None if value is None else value if objective.maximize else -value
        points.append(
            HistoryPoint(
                id=f"c{number}",
                number=number,
                value=value,
                best=best,
                scores=None if score is None else [score, float(number)],
                violation=0.0,
                params=1000 + 37 * number % 501,
                macs=9000 + 53 * number % 701,
                origin=origins[number % len(origins)],
                state=CandidateState.FAILED if value is None else CandidateState.COMPLETED,
                reused=number % 5 == 0,
            )
        )
    return points


def accepted(figure: charts.Figure) -> go.Figure:
    """Plotly's own check of every property's name and value."""
    json.dumps(figure, allow_nan=False)
    return go.Figure({part: figure[part] for part in ("data", "layout")})


def trace(figure: charts.Figure, name: str) -> charts.Figure:
    found: list[charts.Figure] = [trace for trace in figure["data"] if trace["name"] == name]
    (only,) = found
    return only


anything = st.lists(st.none() | st.floats(allow_nan=True, allow_infinity=True, width=32), max_size=30)
text = st.text(max_size=12)


@settings(deadline=None, max_examples=40)
@given(anything, st.lists(text, min_size=1, max_size=4), text)
def test_plotly_accepts_the_charts_of_any_search(
    values: list[float | None], origins: list[str], metric: str
) -> None:
    axis = Axis(metric, maximize=True)
    history = searched(values, axis, origins)
    accepted(charts.progress(history, axis))
    accepted(charts.tradeoff(history, axis, PARAMS, limit={"max": 1200.0}))


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40), st.sampled_from([RFID, ACCURACY]))
def test_the_best_line_steps_exactly_where_the_best_changes(values: list[float], objective: Axis) -> None:
    line = trace(charts.progress(searched(values, objective), objective), "best so far")
    best = max if objective.maximize else min
    at = dict(zip(line["x"], line["y"], strict=True))
    expected = {n: best(values[:n]) for n in range(1, len(values) + 1)}
    assert all(expected[n] == value for n, value in at.items())
    corners = [1] + [b for a, b in pairwise(expected) if expected[a] != expected[b]]
    assert set(line["x"]) == {*corners, len(values)}


def test_failures_are_marked_at_the_bottom_of_the_chart_whatever_the_values() -> None:
    figure = charts.progress(searched([5.0, None, 3.0, None]), RFID)
    failed = trace(figure, "failed")
    assert failed["x"] == [2, 4]
    assert failed["yaxis"] == "y2"
    assert figure["layout"]["yaxis2"]["range"] == [0, 1]
    assert all(0 < y < 0.1 for y in failed["y"])


points_2d = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=25)


@settings(deadline=None)
@given(points_2d)
def test_the_front_holds_just_the_points_that_no_other_beats(pairs: list[tuple[int, int]]) -> None:
    history = searched([float(a) for a, _ in pairs], ACCURACY)
    second = dict(zip((point.id for point in history), (b for _, b in pairs), strict=True))
    front = charts.front(history, lambda p: p.value, lambda p: second[p.id])
    found = {(p.value, second[p.id]) for p in front}

    def beaten(pair: tuple[int, int]) -> bool:
        return any(a >= pair[0] and b >= pair[1] and (a, b) != pair for a, b in pairs)

    assert found == {pair for pair in pairs if not beaten(pair)}
    assert len(front) == len(found)


def test_candidates_that_break_a_constraint_are_drawn_but_not_on_the_front() -> None:
    good, broken = searched([0.5, 0.1])
    broken = HistoryPoint(**{name: getattr(broken, name) for name in broken.__slots__} | {"violation": 0.3})
    figure = charts.tradeoff([good, broken], RFID, PARAMS)
    assert trace(figure, "Pareto front")["y"] == [0.5]
    assert trace(figure, "mutation")["y"] == [0.5, 0.1]
    assert "breaks a constraint" in trace(figure, "mutation")["text"][1]


def test_the_cost_axis_and_the_limit_are_those_asked_for() -> None:
    history = searched([0.4, 0.3])
    figure = charts.tradeoff(history, RFID, MACS, limit={"min": None, "max": 9100.0})
    assert trace(figure, "mutation")["x"] == [point.macs for point in history]
    assert [shape["x0"] for shape in figure["layout"]["shapes"]] == [9100.0]


def test_a_second_objective_is_drawn_in_its_own_direction() -> None:
    history = searched([0.4, 0.3, 0.5])  # its second score is the candidate's number
    latency = Axis("latency_ms", maximize=False)
    figure = charts.tradeoff(history, RFID, latency, rank=1)
    assert trace(figure, "mutation")["x"] == [-1.0, -2.0, -3.0]


def test_a_search_of_many_thousands_is_thinned_without_losing_what_matters() -> None:
    values = [1.0 + (7919 * n % 10_007) / 10_007 - n / 20_000 for n in range(10_000)]
    history = searched([None if n % 20 == 3 else v for n, v in enumerate(values)], origins=("a", "b"))
    figure = charts.progress(history, RFID)
    marks = [t for t in figure["data"] if t["mode"] == "markers" and t["name"] != "failed"]
    shown = {identity for t in marks for (identity,) in t["customdata"]}
    assert len(shown) <= charts.MARKS
    assert charts.improvements(history) <= shown
    assert max(max(t["x"]) for t in marks) == history[-1].number
    assert len(trace(figure, "failed")["x"]) == 500
    assert len(json.dumps(figure)) < 300_000

    figure = charts.tradeoff(history, RFID, PARAMS)
    front = set(trace(figure, "Pareto front")["x"])
    assert front <= {x for t in figure["data"] if t["mode"] == "markers" for x in t["x"]}


@settings(deadline=None)
@given(st.lists(st.integers(), max_size=50), st.integers(1, 20))
def test_spaced_items_keep_order_and_both_ends(items: list[int], most: int) -> None:
    kept = charts.spaced(list(enumerate(items)), most)
    assert len(kept) == min(most, len(items))
    assert kept == sorted(kept)
    if items:
        assert kept[-1][0] == len(items) - 1
    if most > 1 and items:
        assert kept[0][0] == 0


def test_a_diverged_candidate_does_not_flatten_all_others() -> None:
    values = [0.6, 0.61, 0.59, 0.62, 0.58, 0.6, 0.57, 0.63, 1e6]
    start, end = charts.progress(searched(values), RFID)["layout"]["yaxis"]["range"]
    assert start < 0.57
    assert 0.63 < end < 2
    negative = [-value for value in values]
    start, end = charts.progress(searched(negative, ACCURACY), ACCURACY)["layout"]["yaxis"]["range"]
    assert end > -0.57
    assert -2 < start < -0.63


def test_the_axis_is_left_alone_where_nothing_diverged() -> None:
    values = [0.6, 0.61, 0.59, 0.62, 0.58, 0.6, 0.57, 0.63]
    assert "range" not in charts.progress(searched(values), RFID)["layout"]["yaxis"]


@pytest.mark.parametrize("evil", ["<i>x</i>", "<a href='javascript:alert(1)'>x</a>", "<script>x</script>"])
def test_text_from_proposers_is_escaped(evil: str) -> None:
    figure = charts.progress(searched([0.4, None], origins=(evil,)), Axis(evil, maximize=False))
    curve = [Point(candidate_id="c", step=1, metrics={evil: 1.0}, at=now())]
    said = json.dumps([figure, charts.curves(curve)])
    assert evil.split(">")[0] + ">" not in said
    assert "&lt;" in said


def test_a_metric_name_cannot_reach_into_a_hover_template() -> None:
    curve = [Point(candidate_id="c", step=1, metrics={"%{customdata}": 1.0}, at=now())]
    assert "%{customdata}" not in charts.curves(curve)["data"][0]["hovertemplate"]


def test_the_colour_of_an_origin_stays_as_the_search_goes_on() -> None:
    history = searched([0.5, 0.4, 0.6, 0.3, 0.2], origins=("random", "mutation", "llm"))

    def colours(upto: int) -> dict[str, str]:
        marks = charts.progress(history[:upto], RFID)["data"]
        return {t["name"]: t["marker"]["color"] for t in marks if t["mode"] == "markers"}

    whole = colours(5)
    assert len(set(whole.values())) == 3
    assert all(colours(n).items() <= whole.items() for n in range(1, 5))


metrics = st.dictionaries(st.sampled_from("abcdef"), st.floats(allow_nan=True, width=32), max_size=6)


@settings(deadline=None, max_examples=40)
@given(st.lists(metrics, max_size=30))
def test_curves_have_one_plot_for_each_metric_and_no_value_that_is_no_number(
    rows: list[dict[str, float]],
) -> None:
    points = [Point(candidate_id="c", step=step, metrics=row, at=now()) for step, row in enumerate(rows)]
    figure = charts.curves(points)
    accepted(figure)
    names = list(dict.fromkeys(name for row in rows for name in row))[: charts.CURVES]
    assert [t["name"] for t in figure["data"]] == names
    for t in figure["data"]:
        finite = [
            (n, row[t["name"]]) for n, row in enumerate(rows) if math.isfinite(row.get(t["name"], math.nan))
        ]
        assert list(zip(t["x"], t["y"], strict=True)) == finite


def test_a_curve_that_never_changes_is_drawn_at_its_own_scale() -> None:
    rows = [{"learning_rate": 1e-4, "gain": -2.0, "loss": 1.0 / step, "none": 0.0} for step in (1, 2, 3)]
    points = [Point(candidate_id="c", step=step, metrics=row, at=now()) for step, row in enumerate(rows)]
    figure = charts.curves(points)
    accepted(figure)
    ranges = [figure["layout"][axis].get("range") for axis in ("yaxis", "yaxis2", "yaxis3", "yaxis4")]
    assert ranges == [[0.0, 2e-4], [-4.0, 0.0], None, None]


def test_long_curves_are_thinned_to_both_ends() -> None:
    points = [Point(candidate_id="c", step=step, metrics={"loss": 1.0}, at=now()) for step in range(5000)]
    (curve,) = charts.curves(points)["data"]
    assert len(curve["x"]) == charts.CURVE_POINTS
    assert (curve["x"][0], curve["x"][-1]) == (0, 4999)


def test_a_chart_without_anything_to_draw_says_so() -> None:
    for figure in (charts.progress([], RFID), charts.tradeoff([], RFID, PARAMS), charts.curves([])):
        assert figure["empty"]
        assert not figure["data"]
    assert not charts.progress(searched([None]), RFID)["empty"]  # a failure is drawn


def test_few_candidates_have_a_tick_each() -> None:
    assert charts.progress(searched([1.0, 2.0]), RFID)["layout"]["xaxis"]["dtick"] == 1
    assert "dtick" not in charts.progress(searched([1.0] * 100), RFID)["layout"]["xaxis"]


def test_a_chart_tells_how_many_candidates_it_leaves_out() -> None:
    values = [90.0 + n % 7 / 10 for n in range(2990)] + [9.0] * 10
    figure = charts.progress(searched(values, ACCURACY), ACCURACY)
    marks = sum(len(t["x"]) for t in figure["data"] if t["mode"] == "markers")
    assert f"{marks:,} of 3,000 measured candidates are drawn." in figure["note"]
    assert "10 of all lie below this range" in figure["note"]
    assert charts.progress(searched([1.0, 2.0]), RFID)["note"] == ""


def test_candidates_that_were_stopped_early_are_no_failures() -> None:
    point, broken = searched([None, None])
    early = HistoryPoint(**{name: getattr(point, name) for name in point.__slots__} | {"stopped_early": True})
    figure = accepted(charts.progress([early, broken], RFID))
    assert [(mark.name, list(mark.x)) for mark in figure.data] == [("stopped early", [1]), ("failed", [2])]


def test_the_growth_of_a_front_is_drawn_by_its_corners() -> None:
    figure = charts.volume([1, 2, 3, 4], [0.0, 0.5, 0.5, 0.5])
    assert (trace(figure, "hypervolume")["x"], trace(figure, "hypervolume")["y"]) == (
        [1, 2, 4],
        [0.0, 0.5, 0.5],
    )
    accepted(figure)
    assert charts.volume([1], [0.0])["empty"]
