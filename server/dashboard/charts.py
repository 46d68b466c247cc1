"""From rows to Plotly figures, as plain JSON-able values. Pure functions; colours of the page's theme are
filled in by the browser, text from users and proposers is escaped."""

import html
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from server.dashboard.text import number, quantity
from server.store.states import CandidateState
from server.store.tables import Point
from server.store.views import HistoryPoint

Figure = dict[str, Any]

MARKS = 1000  # candidates drawn as points; more would make the page slow and the picture no clearer
CROWD = 250  # of more, the marks are smaller
CURVES, CURVE_POINTS = 4, 800
FEW = 12  # candidates that have a tick each
COST_NAMES = {"params": "parameters", "macs": "MACs"}

# Okabe and Ito's colours, told apart by colour-blind readers, on light and on dark ground.
PALETTE = ("#0090d0", "#e69f00", "#00a37a", "#cc79a7", "#d55e00", "#8c6bd1", "#7f8c2a", "#56b4e9")
BEST, BASELINE, FAILED, STOPPED = "#4a6cf0", "#98a2b0", "#d64550", "#98a2b0"
FAILURE_LEVEL = 0.025  # height of the marks of failures, as a share of the plot


@dataclass(frozen=True, slots=True)
class Axis:
    """What a candidate is judged by: its name, and whether more of it is better."""

    name: str
    maximize: bool

    @property
    def title(self) -> str:
        goal = "higher" if self.maximize else "lower"
        return f"{safe(COST_NAMES.get(self.name, self.name))} ({goal} is better)"


# -------------------------------------------------------------------- best so far


def progress(history: Sequence[HistoryPoint], objective: Axis) -> Figure:
    """Every candidate in the order of proposal by its value, the best so far, and the failures below."""
    scored = [point for point in history if _finite(point.value)]
    failed = [point for point in history if point.state is CandidateState.FAILED]
    early = [point for point in failed if point.stopped_early]
    broken = [point for point in failed if not point.stopped_early]
    shown = thinned(scored, keep=improvements(history))
    limits = _robust_range(scored, objective.maximize)
    data = [
        *_by_origin(shown, lambda point: point.number, lambda point: point.value, objective.name),
        _best_line(history),
        _failures(thinned(early), "stopped early", STOPPED),
        _failures(thinned(broken), "failed", FAILED),
    ]
    layout = plain_layout("candidate", objective.title, limits) | {
        "yaxis2": {"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True}
    }
    layout["xaxis"] |= whole_ticks([point.number for point in history])
    return {
        "data": [trace for trace in data if trace["x"]],
        "layout": layout,
        "note": _left_out(scored, shown, limits),
        "empty": "" if scored or failed else "Nothing to draw: no candidate has ended.",
    }


def improvements(history: Sequence[HistoryPoint]) -> set[str]:
    """The candidates that were the best when they ended, and the baseline."""
    found = {point.id for point in history if point.origin == "baseline"}
    best: float | None = None
    for point in history:
        if point.best is not None and point.best != best:
            best = point.best
            found.add(point.id)
    return found


def _best_line(history: Sequence[HistoryPoint]) -> Figure:
    """Corners only: a step where the best changes, and the end."""
    x: list[int] = []
    y: list[float] = []
    for point in history:
        if _finite(point.best) and point.best is not None and (not y or point.best != y[-1]):
            x.append(point.number)
            y.append(point.best)
    if x and history[-1].number != x[-1]:
        x.append(history[-1].number)
        y.append(y[-1])
    return {
        "type": "scatter", "mode": "lines", "name": "best so far", "x": x, "y": y,
        "line": {"shape": "hv", "color": BEST, "width": 2.5}, "hoverinfo": "skip",
    }  # fmt: skip


def _failures(points: Sequence[HistoryPoint], word: str, colour: str) -> Figure:
    return {
        "type": "scatter", "mode": "markers", "name": word, "yaxis": "y2",
        "x": [point.number for point in points], "y": [FAILURE_LEVEL] * len(points),
        "customdata": [[point.id] for point in points],
        "text": [f"#{point.number} {safe(point.origin)}: {word}" for point in points],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {"symbol": "x-thin", "size": 7, "line": {"color": colour, "width": 1.6}},
    }  # fmt: skip


# -------------------------------------------------------------------- metric against cost


def tradeoff(
    history: Sequence[HistoryPoint],
    objective: Axis,
    against: Axis,
    *,
    rank: int = 0,
    limit: Mapping[str, float | None] | None = None,
) -> Figure:
    """The first objective against a cost, or against objective number `rank`, with the front of the two.

    `limit` is the constraint on that cost: lines at its `min` and `max`.
    """
    scored = [point for point in history if _finite(point.value) and _finite(_against(point, against, rank))]
    best = front(
        [point for point in scored if point.violation == 0],
        lambda point: _signed(point.value, objective.maximize),
        lambda point: _signed(_against(point, against, rank), against.maximize),
    )
    shown = thinned(scored, keep={point.id for point in best} | improvements(history))
    data = [
        *_by_origin(
            shown, lambda point: _against(point, against, rank), lambda point: point.value, objective.name
        ),
        {
            "type": "scatter", "mode": "lines", "name": "Pareto front",
            "x": [_against(point, against, rank) for point in best],
            "y": [point.value for point in best],
            "line": {"shape": "hv", "color": BEST, "width": 2, "dash": "dot"},
            "hoverinfo": "skip",
        },
    ]  # fmt: skip
    limits = _robust_range(scored, objective.maximize)
    return {
        "data": [trace for trace in data if trace["x"]],
        "layout": plain_layout(against.title, objective.title, limits)
        | {"shapes": [_limit_line(value) for value in (limit or {}).values() if value is not None]},
        "note": _left_out(scored, shown, limits),
        "empty": "" if scored else "Nothing to draw: no candidate has been measured.",
    }


def volume(numbers: Sequence[int], values: Sequence[float]) -> Figure:
    """What the front dominates of the box between the worst and the best values, after every candidate."""
    corners = [at for at in range(len(values)) if at in (0, len(values) - 1) or values[at] != values[at - 1]]
    layout = plain_layout("candidate", "hypervolume (higher is better)")
    layout["xaxis"] |= whole_ticks(numbers)
    trace: Figure = {
        "type": "scatter", "mode": "lines", "name": "hypervolume", "x": [numbers[at] for at in corners],
        "y": [values[at] for at in corners], "line": {"shape": "hv", "color": BEST, "width": 2.5},
        "hovertemplate": "after #%{x}: %{y:.4g}<extra></extra>",
    }  # fmt: skip
    none = not any(values)
    return {
        "data": [] if none else [trace],
        "layout": layout,
        "empty": "Nothing to draw: there are no two different results." if none else "",
    }


def front(points: Sequence[HistoryPoint], first: Any, second: Any) -> list[HistoryPoint]:
    """Those that no other point beats in both scores (higher is better), from the cheapest end up."""
    ordered = sorted(points, key=lambda point: (second(point), first(point)), reverse=True)
    kept: list[HistoryPoint] = []
    for point in ordered:
        if not kept or first(point) > first(kept[-1]):
            kept.append(point)
    return kept


def _against(point: HistoryPoint, against: Axis, rank: int) -> float | None:
    if rank:
        scores = point.scores or ()
        return _signed(scores[rank], against.maximize) if rank < len(scores) else None
    return point.params if against.name == "params" else point.macs


def _signed(value: float | None, maximize: bool) -> float | None:
    return value if value is None or maximize else -value


def _limit_line(at: float) -> Figure:
    return {
        "type": "line", "xref": "x", "yref": "paper", "x0": at, "x1": at, "y0": 0, "y1": 1,
        "line": {"color": FAILED, "width": 1.2, "dash": "dash"},
    }  # fmt: skip


# -------------------------------------------------------------------- curves of one candidate


def curves(points: Sequence[Point], limit: int = CURVES) -> Figure:
    """One small plot for each reported metric, above one another over the same steps."""
    names = list(dict.fromkeys(name for point in points for name in point.metrics))[:limit]
    shown = spaced(points, CURVE_POINTS)
    layout = plain_layout("step", "")
    layout["grid"] = {"rows": max(1, len(names)), "columns": 1, "pattern": "coupled", "ygap": 0.25}
    layout["showlegend"] = False
    data = []
    for index, name in enumerate(names):
        axis = "" if index == 0 else str(index + 1)
        values = [(point.step, point.metrics[name]) for point in shown if _finite(point.metrics.get(name))]
        layout[f"yaxis{axis}"] = {
            **{"title": {"text": safe(name)}, "automargin": True},
            **_level_range([value for _, value in values]),
        }
        data.append(
            {
                "type": "scatter", "mode": "lines+markers" if len(values) < 40 else "lines",
                "x": [step for step, _ in values], "y": [value for _, value in values],
                "name": safe(name), "yaxis": f"y{axis}",
                "line": {"color": PALETTE[index % len(PALETTE)], "width": 2}, "marker": {"size": 5},
                "hovertemplate": f"step %{{x}}<br>{_template(name)} %{{y:.4g}}<extra></extra>",
            }
        )  # fmt: skip
    return {
        "data": data,
        "layout": layout,
        "empty": "" if data else "Nothing to draw: nothing has been reported.",
    }


# -------------------------------------------------------------------- what they share


def thinned(
    points: Sequence[HistoryPoint], keep: set[str] | frozenset[str] = frozenset(), most: int = MARKS
) -> list[HistoryPoint]:
    """About `most` of the points: those to keep, and the others evenly spaced, in their order."""
    if len(points) <= most:
        return list(points)
    others = [point for point in points if point.id not in keep]
    chosen = keep | {point.id for point in spaced(others, max(1, most - len(keep)))}
    return [point for point in points if point.id in chosen]


def spaced(items: Sequence[Any], most: int) -> list[Any]:
    """At most `most` items, evenly spaced, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    if most == 1:
        return [items[-1]]
    return [items[index * (len(items) - 1) // (most - 1)] for index in range(most)]


def _level_range(values: Sequence[float]) -> dict[str, list[float]]:
    """The axis of values that are all alike: left to itself, Plotly would show a learning rate as 0 of 1."""
    if not values or min(values) < max(values) or values[0] == 0:
        return {}
    return {"range": sorted((0.0, 2 * values[0]))}


def safe(text: str) -> str:
    """Text for Plotly, which reads a little HTML in names and titles."""
    return html.escape(text, quote=False)


def _template(text: str) -> str:
    """Text within a hover template, where `%{` begins a value."""
    return safe(text).replace("%{", "%&#123;")


def _by_origin(points: Sequence[HistoryPoint], x: Any, y: Any, metric: str) -> list[Figure]:
    """One trace for each origin, in the order of appearance: colours stay as the search goes on."""
    groups: dict[str, list[HistoryPoint]] = {}
    for point in points:
        groups.setdefault(point.origin, []).append(point)
    colours = itertools.cycle(PALETTE)
    size = 8 if len(points) <= CROWD else 5
    return [
        _marks(origin, group, x, y, metric)
        | {"marker": _marker(group, BASELINE if origin == "baseline" else next(colours), size)}
        for origin, group in groups.items()
    ]


def _marker(points: Sequence[HistoryPoint], colour: str, size: int) -> Figure:
    """A diamond for the baseline, a ring for what an earlier job had measured, a disc for all others."""
    if colour == BASELINE:
        return {"symbol": "diamond", "size": 11, "color": colour}
    rings = any(point.reused for point in points)
    symbols = ["circle-open" if point.reused else "circle" for point in points] if rings else "circle"
    return {"symbol": symbols, "size": size, "color": colour, "opacity": 0.85}


def _marks(origin: str, points: Sequence[HistoryPoint], x: Any, y: Any, metric: str) -> Figure:
    return {
        "type": "scatter", "mode": "markers", "name": safe(origin),
        "x": [x(point) for point in points], "y": [y(point) for point in points],
        "customdata": [[point.id] for point in points],
        "text": [_words(point, metric) for point in points],
        "hovertemplate": "%{text}<extra></extra>",
    }  # fmt: skip


def _words(point: HistoryPoint, metric: str) -> str:
    broken = "<br>breaks a constraint" if point.violation else ""
    reused = ", reused" if point.reused else ""
    return (
        f"<b>#{point.number}</b> {safe(point.origin)}{reused}<br>{safe(metric)} {number(point.value)}"
        f"<br>{quantity(point.params)} parameters, {quantity(point.macs)} MACs{broken}"
    )


def whole_ticks(numbers: Sequence[int]) -> dict[str, int]:
    """Ticks for an axis of candidates: where there are few, Plotly would number halves."""
    return {"dtick": 1} if numbers and max(numbers) - min(numbers) <= FEW else {}


def _left_out(
    scored: Sequence[HistoryPoint], shown: Sequence[HistoryPoint], limits: Sequence[float] | None
) -> str:
    """What the chart does not show, in words."""
    said = (
        [f"{len(shown):,} of {len(scored):,} measured candidates are drawn."]
        if len(shown) < len(scored)
        else []
    )
    values = [point.value for point in scored if point.value is not None]
    low, high = limits or (-math.inf, math.inf)
    for count, side in ((sum(v < low for v in values), "below"), (sum(v > high for v in values), "above")):
        if count:
            said.append(f"{count:,} of all lie {side} this range; double-click the chart to see them.")
    return " ".join(said)


def plain_layout(x: str, y: str, y_range: list[float] | None = None) -> Figure:
    """The layout that all figures share, with the titles of its axes."""
    axis: Figure = {"automargin": True, "zeroline": False}
    return {
        "xaxis": {**axis, "title": {"text": x}},
        "yaxis": {**axis, "title": {"text": y}} | ({"range": y_range} if y_range else {}),
        "margin": {"l": 12, "r": 12, "t": 8, "b": 12},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 11}},
        "hovermode": "closest",
        "uirevision": "kept",
    }


def _robust_range(points: Sequence[HistoryPoint], maximize: bool) -> list[float] | None:
    """The range of the value axis where a few diverged candidates would flatten all others; else None.

    The bad end is cut at four interquartile ranges beyond the quartile. Double-click shows everything.
    """
    if len(points) < 8:
        return None
    values = sorted(point.value for point in points if point.value is not None)
    low, high = values[len(values) // 4], values[3 * len(values) // 4]
    reach = 4 * (high - low)
    start, end = values[0], values[-1]
    if maximize and 0 < reach < low - start:
        start = low - reach
    elif not maximize and 0 < reach < end - high:
        end = high + reach
    else:
        return None
    margin = 0.06 * (end - start)
    return [start - margin, end + margin]


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
