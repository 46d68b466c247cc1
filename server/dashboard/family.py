"""The page of a family: its members, how they scale, and what the figures behind them are worth."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse

from server.dashboard.charts import BASELINE, BEST, PALETTE, Figure, plain_layout
from server.dashboard.dependencies import StoreDep
from server.dashboard.render import page
from server.dashboard.session import signed_in
from server.dashboard.text import quantity
from server.store.families import family_of
from server.store.records import NotFound

router = APIRouter(include_in_schema=False, dependencies=[Depends(signed_in)])

Json = dict[str, Any]

FLOPS = "FLOPs (multiply-accumulates)"


@router.get("/jobs/{job_id}/family")
def family(request: Request, job_id: str, store: StoreDep) -> Response:
    """The family of a scale job; before it is found, a word that it is not there yet."""
    job = store.job(job_id)
    if job.kind != "scale":
        raise NotFound(f"job {job_id} is a {job.kind} job and has no family")
    found: Json | None = (job.result or {}).get("family")
    return page(
        request,
        "family.html",
        job=job,
        title=job.name or f"{job.method} on {job.space}",
        family=found,
        seconds=sum(row["device_seconds"] for row in found["cost"]) if found else 0.0,
        trained=found is not None and any(m["test_accuracy"] is not None for m in found["members"]),
    )


@router.get("/jobs/{job_id}/family/charts")
def family_charts(job_id: str, store: StoreDep) -> Response:
    """The figures of the page above, as JSON."""
    found = family_of(store.job(job_id))
    return JSONResponse(
        {
            "scaling": scaling(found["members"]),
            "rounds": rounds(found["rounds"]),
            "sampling": sampling(found["sampling"]),
            "correlation": correlation(found["correlation"]["pairs"]),
        }
    )


# -------------------------------------------------------------------- figures


def scaling(members: Sequence[Json]) -> Figure:
    """Accuracy against FLOPs, every member a point; extrapolated ones are rings."""
    data = [
        _curve(members, "test_accuracy", "trained from scratch", BEST),
        _curve(members, "inherited_accuracy", "inherited weights", PALETTE[1]),
    ]
    data = [trace for trace in data if trace["x"]]
    layout = plain_layout(FLOPS, "accuracy, percent", _with_room([y for trace in data for y in trace["y"]]))
    layout["xaxis"] |= _log_axis([member["counted_flops"] for member in members])
    return {"data": data, "layout": layout}


def _with_room(values: Sequence[float]) -> list[float] | None:
    """The range of the values, with room above for the names of the highest; None where there are none."""
    if not values:
        return None
    span = max(values) - min(values) or 1.0
    return [min(values) - 0.1 * span, max(values) + 0.2 * span]


def _log_axis(ticks: Sequence[float]) -> Figure:
    return {
        **{"type": "log", "tickmode": "array", "tickvals": list(ticks)},
        "ticktext": [quantity(tick) for tick in ticks],
    }


def _curve(members: Sequence[Json], score: str, name: str, colour: str) -> Figure:
    shown = [member for member in members if member[score] is not None]
    return {
        "type": "scatter", "mode": "lines+markers+text", "name": name,
        "x": [member["counted_flops"] for member in shown], "y": [member[score] for member in shown],
        "text": [member["name"] for member in shown], "textposition": "top center", "cliponaxis": False,
        "customdata": [[member["candidate"]] for member in shown],
        "hovertemplate": "%{text}: %{y:.3f} at %{x:.3s}<extra></extra>",
        "line": {"color": colour, "width": 2},
        "marker": {
            "size": 9, "color": colour,
            "symbol": ["circle-open" if member["extrapolated"] else "circle" for member in shown],
        },
    }  # fmt: skip


def rounds(done: Sequence[Json]) -> Figure:
    """The fitness of the kept base and strategies after every round: it never falls."""
    shown = [one for one in done if one["fitness"] is not None]
    trace = {
        "type": "scatter", "mode": "lines+markers", "name": "fitness",
        "x": [one["round"] for one in shown], "y": [one["fitness"] for one in shown],
        "line": {"color": BEST, "width": 2.5}, "marker": {"size": 8},
        "hovertemplate": "round %{x}: %{y:.2f}<extra></extra>",
    }  # fmt: skip
    layout = plain_layout("round", "mean held-out accuracy, percent")
    layout["xaxis"]["dtick"] = max(1, len(shown) // 10)
    return {"data": [trace], "layout": layout}


def sampling(drawn: Json) -> Figure:
    """How many sampled networks fall into each range of FLOPs, and where the stages' budgets lie."""
    edges = drawn["edges"]
    middles = [(low * high) ** 0.5 for low, high in pairwise(edges)]
    data = [
        {
            "type": "scatter", "mode": "lines", "name": name, "x": middles,
            "y": [count / drawn["draws"] for count in drawn[name]["bins"]],
            "line": {"shape": "hvh", "color": colour, "width": 2},
            "hovertemplate": "%{y:.1%} near %{x:.3s}<extra></extra>",
        }
        for name, colour in (("hierarchical", BEST), ("independent", PALETTE[1]))
    ]  # fmt: skip
    layout = plain_layout(FLOPS, "share of networks")
    layout["xaxis"] |= _log_axis(drawn["targets"])
    layout["yaxis"]["tickformat"] = ".0%"
    layout["shapes"] = [
        {
            "type": "line", "xref": "x", "yref": "paper", "x0": at, "x1": at, "y0": 0, "y1": 1,
            "line": {"color": BASELINE, "width": 1, "dash": "dot"},
        }
        for at in drawn["targets"]
    ]  # fmt: skip
    return {"data": data, "layout": layout}


def correlation(pairs: Sequence[Json]) -> Figure:
    """What networks inherit against what training makes of them."""
    trace = {
        "type": "scatter", "mode": "markers", "name": "networks",
        "x": [pair["inherited"] for pair in pairs], "y": [pair["trained"] for pair in pairs],
        "customdata": [[None] for _ in pairs],
        "text": [f"{pair['counted_flops']:,} FLOPs" for pair in pairs],
        "hovertemplate": "inherited %{x:.3f}, trained %{y:.3f}<br>%{text}<extra></extra>",
        "marker": {"size": 9, "color": PALETTE[2]},
    }  # fmt: skip
    layout = plain_layout("inherited accuracy, percent", "accuracy after training, percent")
    return {"data": [trace], "layout": layout}
