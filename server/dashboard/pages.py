"""The dashboard: pages over the same rows that the API reads."""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse
from markupsafe import Markup

from search_spaces import UnknownSpace, find
from search_spaces.space import SearchSpace
from server.dashboard import charts, compare, family, new_job
from server.dashboard.dependencies import StoreDep
from server.dashboard.diagram import changes, draw
from server.dashboard.errors import add_error_pages
from server.dashboard.files import add_files
from server.dashboard.glance import Glance, compared, glances, metric_columns
from server.dashboard.render import page
from server.dashboard.session import add_sign_in, signed_in
from server.store import overview, views
from server.store.comparison import hypervolumes
from server.store.confirmations import confirmation_of, confirmations
from server.store.methods import SEARCH_METHODS, TRAIN_METHODS
from server.store.records import NotFound, now
from server.store.scale_methods import SCALE_METHODS
from server.store.states import CandidateState, JobState
from server.store.store import Store
from server.store.tables import Artifact, Candidate, Job

router = APIRouter(include_in_schema=False, dependencies=[Depends(signed_in)])

JOBS_PAGE, CANDIDATES_PAGE = 25, 25
EVENTS_SHOWN, CALLS_SHOWN = 50, 50
FRONT_SHOWN = 50
METRIC_COLUMNS = 3
LINEAGE, CHILDREN = 12, 60
RECENT = 50  # points looked at for the names of the metrics
SAMPLES = "samples.png"
PREVIEW = re.compile(r"samples-(\d+)\.png")
PREVIEWS = 8
WORKER_SILENT_SECONDS = 60.0

StateFilter = JobState | Literal[""]
CandidateFilter = CandidateState | Literal[""]


def add_dashboard(app: FastAPI) -> None:
    """Adds the pages and their static files to the application."""
    app.include_router(new_job.router)  # before the pages of jobs: `new` is no id
    app.include_router(router)
    app.include_router(compare.router)
    app.include_router(family.router)
    add_sign_in(app)
    add_files(app)
    add_error_pages(app)


# -------------------------------------------------------------------- jobs


@router.get("/")
def jobs(
    request: Request,
    store: StoreDep,
    state: StateFilter = "",
    method: str = "",
    text: Annotated[str, Query(max_length=200)] = "",
    cursor: str = "",
) -> Response:
    """All jobs, newest first, filtered by the address."""
    rows = store.jobs(
        state=JobState(state) if state else None,
        method=method or None,
        text=text,
        cursor=cursor or None,
        limit=JOBS_PAGE + 1,
    )
    chosen = {"state": state, "method": method, "text": text}
    more = rows[JOBS_PAGE - 1].id if len(rows) > JOBS_PAGE else ""
    counts = overview.job_counts(store)
    return page(
        request,
        "jobs.html",
        glances=glances(store, rows[:JOBS_PAGE]),
        ahead=overview.ahead(store, rows[:JOBS_PAGE]),
        counts=counts,
        total=sum(counts.values()),
        methods=[*SEARCH_METHODS, *TRAIN_METHODS, *SCALE_METHODS],
        chosen=chosen,
        filtered=any(chosen.values()),
        cursor=cursor,
        following=_address("/", chosen | {"cursor": more}) if more else "",
        links={kind: _address("/", chosen | {"state": kind}) for kind in ("", *JobState)},
        server=str(request.base_url).rstrip("/"),
    )


# -------------------------------------------------------------------- one job


@router.get("/jobs/{job_id}")
def job(
    request: Request,
    job_id: str,
    store: StoreDep,
    sort: views.SortBy = "number",
    descending: bool = True,
    state: CandidateFilter = "",
    cursor: str = "",
) -> Response:
    """One search: how far it is, the incumbent, charts, every candidate, and what happened."""
    glance = _glance_of(store, job_id)
    trained = _trained(store, glance)
    return page(
        request,
        "job.html",
        glance=glance,
        job=glance.job,
        **_found(store, glance),
        **_table(store, glance, sort, descending, CandidateState(state) if state else None, cursor),
        origins=overview.origins(store, job_id),
        fell_back=overview.fell_back(store, job_id),
        confirmations=confirmations(store, glance.job),
        confirmed=(glance.job.result or {}).get("confirmed"),
        device_seconds=overview.device_seconds(store, job_id),
        events=overview.latest_events(store, job_id, EVENTS_SHOWN),
        llm=overview.llm_totals(store, job_id),
        files=overview.job_files(store, job_id),
        curve_rows=_curve_rows(store, trained),
        previews=_previews(store.artifacts(job_id, trained.id)) if trained else [],
        axes=_cost_axes(glance),
        ahead=overview.ahead(store, [glance.job]).get(job_id),
        front=views.pareto(store, job_id) if len(glance.aims) > 1 else [],
        front_most=FRONT_SHOWN,
    )


@router.get("/jobs/{job_id}/charts")
def job_charts(job_id: str, store: StoreDep, against: str = "params") -> Response:
    """The figures of the page above, as JSON. `against` is a cost or a further objective."""
    glance = _glance_of(store, job_id)
    if glance.trains:
        trained = _trained(store, glance)
        points = [] if trained is None else store.points(trained.id)
        return JSONResponse({"curves": charts.curves(points)})
    return JSONResponse(_search_figures(store, glance, against) if glance.aims else {})


def _search_figures(store: Store, glance: Glance, against: str) -> dict[str, charts.Figure]:
    objective, *others = [charts.Axis(aim.metric, aim.maximize) for aim in glance.aims]
    history = views.history(store, glance.job.id, maximize=objective.maximize)
    costs = {name: charts.Axis(name, maximize=False) for name in charts.COST_NAMES}
    ranks = {axis.name: rank for rank, axis in enumerate(others, 1)}
    axes = {axis.name: axis for axis in others} | costs
    axis = axes[against if against in axes else next(iter(_cost_axes(glance)))]
    limit = (glance.job.spec.get("constraints") or {}).get(axis.name)
    rank = 0 if axis.name in costs else ranks[axis.name]
    drawn = {
        "progress": charts.progress(history, objective),
        "tradeoff": charts.tradeoff(history, objective, axis, rank=rank, limit=limit),
    }
    if others:
        numbers = [point.number for point in history]
        drawn["hypervolume"] = charts.volume(numbers, hypervolumes(history))
    return drawn


@router.get("/jobs/{job_id}/calls")
def calls(request: Request, job_id: str, store: StoreDep) -> Response:
    """The latest language-model calls, as a fragment."""
    store.job(job_id)
    found = overview.latest_llm_calls(store, job_id, CALLS_SHOWN)
    keys = [key for call in found for key in (call.outcome or {}).get("accepted", ())]
    tried = overview.by_keys(store, job_id, keys)
    return page(request, "_calls.html", calls=found, job_id=job_id, tried=tried)


def _glance_of(store: Store, job_id: str) -> Glance:
    (glance,) = glances(store, [store.job(job_id)])
    return glance


def _found(store: Store, glance: Glance) -> dict[str, Any]:
    """The incumbent and what it is compared with."""
    best, baseline = views.best(store, glance.job.id), overview.baseline(store, glance.job.id)
    if best is None:
        return {"best": None}
    return {
        "best": best,
        "best_rows": compared(best, baseline, glance.aims),
        "best_samples": overview.artifact_of(store, best, SAMPLES),
        "baseline": baseline,
    }


def _table(
    store: Store,
    glance: Glance,
    sort: views.SortBy,
    descending: bool,
    state: CandidateState | None,
    cursor: str,
) -> dict[str, Any]:
    """A page of candidates, and the addresses of the others."""
    rows, following = views.candidates_page(
        store,
        glance.job.id,
        sort=sort,
        descending=descending,
        state=state,
        cursor=cursor or None,
        limit=CANDIDATES_PAGE,
    )
    here, base = f"/jobs/{glance.job.id}", {"sort": sort, "descending": descending, "state": state or ""}
    return {
        "candidates": rows,
        "columns": metric_columns(glance.aims, rows, METRIC_COLUMNS),
        "sort": sort,
        "descending": descending,
        "state": state or "",
        "first": _address(here, base) if cursor else "",
        "following": _address(here, base | {"cursor": following}) if following else "",
        "sorts": {
            by: _address(here, base | {"sort": by, "descending": not descending if by == sort else True})
            for by in ("number", "score", "params", "macs", "device_seconds")
        },
        "states": {kind: _address(here, base | {"state": kind}) for kind in ("", *CandidateState)},
    }


def _cost_axes(glance: Glance) -> dict[str, str]:
    """What the first objective can be drawn against: the costs, and the other objectives."""
    lead, *others = [aim.metric for aim in glance.aims] or [""]
    axes = {metric: metric for metric in others} | charts.COST_NAMES
    return {name: said for name, said in axes.items() if name != lead}


# -------------------------------------------------------------------- one candidate


@router.get("/candidates/{candidate_id}")
def candidate_anywhere(candidate_id: str, store: StoreDep) -> Response:
    found = store.candidate(candidate_id)
    return RedirectResponse(f"/jobs/{found.job_id}/candidates/{found.id}", 307)


@router.get("/jobs/{job_id}/candidates/{candidate_id}")
def candidate(request: Request, job_id: str, candidate_id: str, store: StoreDep) -> Response:
    """One architecture: what it is, where it comes from, what was measured."""
    found = store.candidate(candidate_id)
    if found.job_id != job_id:
        raise NotFound(f"job {job_id} has no candidate {candidate_id}")
    glance = _glance_of(store, job_id)
    parents = views.candidates_by_id(store, found.parents)
    parent = parents[0] if parents else None
    before, after = overview.beside(store, found)
    files = store.artifacts(job_id, candidate_id)
    baseline = overview.baseline(store, job_id)
    return page(
        request,
        "candidate.html",
        candidate=found,
        glance=glance,
        job=glance.job,
        diagram=_diagram(found, parent),
        changed=changes(found.architecture, None if parent is None else parent.architecture),
        parent=parent,
        parents=parents,
        line=overview.ancestors(store, found, LINEAGE),
        children=overview.children(store, found, CHILDREN),
        confirmation=confirmation_of(store, found),
        confirmed=None if found.confirms is None else store.candidate(found.confirms),
        before=before,
        after=after,
        rows=compared(found, baseline, glance.aims),
        baseline=baseline,
        others={name: value for name, value in found.metrics.items() if not _is_aim(name, glance)},
        curve_rows=_curve_rows(store, found),
        samples=next((file for file in reversed(files) if file.name == SAMPLES), None),
        previews=_previews(files),
        files=files,
        events=overview.candidate_events(store, found, EVENTS_SHOWN),
        call=overview.call_of(store, found),
    )


@router.get("/jobs/{job_id}/candidates/{candidate_id}/charts")
def candidate_charts(job_id: str, candidate_id: str, store: StoreDep) -> Response:
    return JSONResponse({"curves": charts.curves(store.points(candidate_id))})


def _diagram(candidate: Candidate, parent: Candidate | None) -> Markup:
    """Safe to be shown as it is: the drawing escapes every word."""
    before = None if parent is None else parent.architecture
    return Markup(draw(candidate.architecture, _space_of(candidate), before))


def _space_of(candidate: Candidate) -> SearchSpace | None:
    try:
        return find(candidate.space)
    except UnknownSpace:
        return None


def _is_aim(metric: str, glance: Glance) -> bool:
    return any(aim.metric == metric for aim in glance.aims)


def _trained(store: Store, glance: Glance) -> Candidate | None:
    """The one candidate of a training job."""
    if not glance.trains:
        return None
    rows, _ = views.candidates_page(store, glance.job.id, descending=True, limit=1)
    return rows[0] if rows else None


def _previews(files: Sequence[Artifact]) -> list[tuple[int, Artifact]]:
    """Grids of samples by the step that they were drawn after: some, the first and the last among them."""
    found = [(int(match[1]), file) for file in files if (match := PREVIEW.fullmatch(file.name))]
    return charts.spaced(sorted(found, key=lambda preview: preview[0]), PREVIEWS)


def _curve_rows(store: Store, candidate: Candidate | None) -> int:
    """How many small plots the candidate's curves take."""
    if candidate is None:
        return 0
    names = {name for point in overview.latest_points(store, candidate, RECENT) for name in point.metrics}
    return min(len(names), charts.CURVES)


# -------------------------------------------------------------------- the cluster


@router.get("/cluster")
def cluster(request: Request, store: StoreDep) -> Response:
    """The workers, and what each is doing."""
    running: dict[str, list[Job]] = {}
    for row in store.jobs(state=JobState.RUNNING, limit=200):
        running.setdefault(row.worker or "", []).append(row)
    at = now()
    workers = [(worker, (at - worker.seen_at).total_seconds()) for worker in store.workers()]
    return page(
        request,
        "cluster.html",
        workers=workers,
        running=running,
        waiting=overview.job_counts(store)[JobState.QUEUED],
        silent_after=WORKER_SILENT_SECONDS,
    )


def _address(path: str, parameters: dict[str, Any]) -> str:
    """The path with those parameters that are set."""
    said = {
        name: str(value).lower() if isinstance(value, bool) else value for name, value in parameters.items()
    }
    query = urlencode({name: value for name, value in said.items() if value != ""})
    return f"{path}?{query}" if query else path
