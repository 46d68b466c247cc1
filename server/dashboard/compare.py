"""Searches side by side: which ones, and the figures of their courses."""

import itertools
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse

from server.dashboard.charts import PALETTE, Axis, Figure, plain_layout, safe
from server.dashboard.glance import glances
from server.dashboard.render import page
from server.dashboard.session import signed_in
from server.store.comparison import MOST, Comparison, Course, compare
from server.store.specs import Goal, Objective
from server.store.store import Store

router = APIRouter(include_in_schema=False, dependencies=[Depends(signed_in)])

CHOICE = 100  # jobs to choose from, the newest


def _store(request: Request) -> Store:
    store: Store = request.app.state.store
    return store


StoreDep = Annotated[Store, Depends(_store)]


@router.get("/compare")
def choose(
    request: Request, store: StoreDep, job: Annotated[list[str] | None, Query(max_length=MOST)] = None
) -> Response:
    """The latest jobs that have objectives, to choose from; what is chosen goes to a page of its own."""
    if job:
        return RedirectResponse(f"/compare/{','.join(job)}", 303)
    rows = [glance for glance in glances(store, store.jobs(limit=CHOICE)) if glance.aims]
    return page(request, "compare.html", glances=rows, comparison=None, most=MOST)


@router.get("/compare/{ids}")
def compared(request: Request, ids: str, store: StoreDep) -> Response:
    comparison = compare(store, ids.split(","))
    return page(request, "compare.html", comparison=comparison, names=_names(comparison.courses))


@router.get("/compare/{ids}/charts")
def compared_charts(ids: str, store: StoreDep) -> Response:
    """The figures of the page above, as JSON."""
    return JSONResponse(figures(compare(store, ids.split(","))))


def figures(comparison: Comparison) -> dict[str, Figure]:
    """The best so far of every search; with several objectives their fronts, and how these have grown."""
    lead = _axis(comparison.objectives[0])
    traces = [_steps(course.numbers, course.best) for course in comparison.courses]
    drawn = {"best": _figure(comparison.courses, traces, "candidate", lead.title)}
    if len(comparison.objectives) > 1:
        other = _axis(comparison.objectives[1])
        fronts = [_front(course, comparison.objectives) for course in comparison.courses]
        volumes = [_steps(course.numbers, course.hypervolume or ()) for course in comparison.courses]
        drawn["fronts"] = _figure(comparison.courses, fronts, other.title, lead.title)
        drawn["hypervolume"] = _figure(
            comparison.courses, volumes, "candidate", "hypervolume (higher is better)"
        )
    return drawn


def _axis(objective: Objective) -> Axis:
    return Axis(objective.metric, objective.goal is Goal.MAXIMIZE)


def _figure(courses: Sequence[Course], traces: Sequence[Figure], x: str, y: str) -> Figure:
    named = zip(_names(courses), traces, itertools.cycle(PALETTE))
    data = [
        {**trace, "name": safe(name), "line": {**trace["line"], "color": colour}, "marker": {"color": colour}}
        for name, trace, colour in named
        if trace["x"]
    ]
    return {"data": data, "layout": plain_layout(x, y)}


def _steps(numbers: Sequence[int], values: Sequence[float | None]) -> Figure:
    known = [(number, value) for number, value in zip(numbers, values, strict=False) if value is not None]
    return {
        "type": "scatter", "mode": "lines", "x": [number for number, _ in known],
        "y": [value for _, value in known], "line": {"shape": "hv", "width": 2.2},
    }  # fmt: skip


def _front(course: Course, objectives: Sequence[Objective]) -> Figure:
    """The first objective over the second, of the candidates that no other beats."""
    y, x = (
        [each.score((row.scores or ())[rank]) for row in course.front]  # a score's score is its metric
        for rank, each in enumerate(objectives[:2])
    )
    return {
        "type": "scatter", "mode": "lines+markers" if len(objectives) == 2 else "markers", "x": x, "y": y,
        "line": {"width": 1.2, "dash": "dot"},
    }  # fmt: skip


def _names(courses: Sequence[Course]) -> list[str]:
    """What each search is called: its name, or its method and space; with the id where two are alike."""
    said = [course.job.name or f"{course.job.method} on {course.job.space}" for course in courses]
    return [
        f"{name} ({course.job.id})" if said.count(name) > 1 else name
        for name, course in zip(said, courses, strict=True)
    ]
