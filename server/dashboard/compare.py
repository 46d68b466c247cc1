"""Searches side by side: which ones, and the figures of their courses."""

import itertools
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse

from server.dashboard.charts import PALETTE, Axis, Figure, plain_layout, safe, whole_ticks
from server.dashboard.dependencies import StoreDep
from server.dashboard.glance import glances
from server.dashboard.render import page
from server.dashboard.session import signed_in
from server.store.comparison import MOST, Comparison, Course, NotComparable, compare
from server.store.records import NotFound
from server.store.specs import Goal, Objective
from server.store.store import Store
from server.store.tables import Job

router = APIRouter(include_in_schema=False, dependencies=[Depends(signed_in)])

CHOICE = 100  # jobs to choose from, the newest


@router.get("/compare")
def choose(
    request: Request,
    store: StoreDep,
    job: Annotated[list[str] | None, Query(max_length=MOST)] = None,
    chosen: Annotated[list[str] | None, Query(max_length=MOST)] = None,
) -> Response:
    """The latest jobs that have objectives, to choose from; what is chosen goes to a page of its own."""
    if job:
        return RedirectResponse(f"/compare/{','.join(job)}", 303)
    return _choice(request, store, chosen=chosen or ())


@router.get("/compare/{ids}")
def compared(request: Request, ids: str, store: StoreDep) -> Response:
    try:
        comparison = compare(store, ids.split(","))
    except NotComparable as refused:
        return _choice(request, store, chosen=ids.split(","), refused=str(refused))
    return page(
        request,
        "compare.html",
        comparison=comparison,
        names=_names(comparison.courses),
        chosen=ids.split(","),
    )


def _choice(request: Request, store: Store, *, chosen: Sequence[str] = (), refused: str = "") -> Response:
    """The jobs to choose from, those already chosen first."""
    marked = _those_there(store, chosen)
    others = [job for job in store.jobs(limit=CHOICE) if job.id not in chosen]
    return page(
        request,
        "compare.html",
        status=422 if refused else 200,
        glances=[glance for glance in glances(store, [*marked, *others]) if glance.aims],
        comparison=None,
        most=MOST,
        chosen=chosen,
        refused=refused,
    )


@router.get("/compare/{ids}/charts")
def compared_charts(ids: str, store: StoreDep) -> Response:
    """The figures of the page above, as JSON."""
    return JSONResponse(figures(compare(store, ids.split(","))))


def _those_there(store: Store, job_ids: Sequence[str]) -> list[Job]:
    found = []
    for job_id in dict.fromkeys(job_ids):
        with suppress(NotFound):
            found.append(store.job(job_id))
    return found


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
    layout = plain_layout(x, y)
    if x == "candidate":
        layout["xaxis"] |= whole_ticks([number for trace in data for number in trace["x"]])
    return {
        "data": data,
        "layout": layout,
        "empty": "" if data else "Nothing to draw: no candidate has been measured.",
    }


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
        "line": {"width": 1.4, "dash": "dot", "shape": "vh"},  # the border of what the front dominates
    }  # fmt: skip


def _names(courses: Sequence[Course]) -> list[str]:
    """What each search is called: its name, or its method and space; with the id where two are alike."""
    said = [course.job.name or f"{course.job.method} on {course.job.space}" for course in courses]
    return [
        f"{name} ({course.job.id})" if said.count(name) > 1 else name
        for name, course in zip(said, courses, strict=True)
    ]
