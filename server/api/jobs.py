"""Jobs: submit, steer, read; and the search memory of each."""

from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Body, Header, Query, Response
from fastapi.responses import PlainTextResponse, StreamingResponse

from server.api.dependencies import ArtifactsDep, StoreDep
from server.api.schemas import (
    ArtifactView,
    CandidateDetail,
    CandidateView,
    ConfirmationView,
    JobDetail,
    JobView,
    LLMCallView,
    Page,
    PointView,
    TrialView,
    views,
)
from server.store import overview
from server.store import views as questions
from server.store.artifacts import LOG_FILE
from server.store.comparison import hypervolumes
from server.store.confirmations import Confirmation, confirmation_of, confirmations, seed_of
from server.store.records import NotFound
from server.store.specs import JobSpec
from server.store.states import CandidateState, JobState
from server.store.tables import Artifact, Candidate, Job

router = APIRouter(tags=["jobs"])

Limit = Annotated[int, Query(ge=1, le=500)]
EXAMPLE = {
    "kind": "search",
    "method": "evolution",
    "space": "unet-8",
    "dataset": "digits",
    "budget": {"evaluations": 12},
    "constraints": {"params": {"max": 400_000}},
}


@router.post("/jobs", status_code=201)
def submit(
    spec: Annotated[JobSpec, Body(openapi_examples={"a search on digits": {"value": EXAMPLE}})],
    store: StoreDep,
    response: Response,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
) -> JobDetail:
    """Queues a job. What the request leaves out is filled in from its method.

    With an `Idempotency-Key`, the same request again gives the same job (200) instead of another.
    """
    job, new = store.create_job(spec, idempotency_key=idempotency_key)
    response.status_code = 201 if new else 200
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return _detail(job, store)


@router.get("/jobs")
def jobs(
    store: StoreDep,
    kind: str | None = None,
    method: str | None = None,
    state: JobState | None = None,
    status: Annotated[JobState | None, Query(description="another name of `state`")] = None,
    project: str | None = None,
    text: Annotated[str, Query(description="part of the name, or the beginning of the id")] = "",
    cursor: str | None = None,
    limit: Limit = 50,
) -> Page[JobDetail]:
    """Newest first."""
    if cursor is not None:
        _check_cursor(cursor, store)
    rows = store.jobs(
        project=project,
        kind=kind,
        method=method,
        state=state or status,
        text=text,
        cursor=cursor,
        limit=limit + 1,
    )
    more = len(rows) > limit
    return Page(items=_details(rows[:limit], store), next_cursor=rows[limit - 1].id if more else None)


def _check_cursor(cursor: str, store: StoreDep) -> None:
    try:
        store.job(cursor)
    except NotFound:
        raise questions.InvalidCursor(f"cursor {cursor!r} is no job of this list") from None


@router.get("/jobs/{job_id}")
def job(job_id: str, store: StoreDep) -> JobDetail:
    return _detail(store.job(job_id), store)


@router.post("/jobs/{job_id}/cancel")
def cancel(job_id: str, store: StoreDep) -> JobDetail:
    """Ends the job; trials in flight are stopped. Idempotent; 409 when it has ended otherwise."""
    return _detail(store.cancel(job_id), store)


@router.post("/jobs/{job_id}/pause")
def pause(job_id: str, store: StoreDep) -> JobDetail:
    """Lets trials in flight finish and begins no more. Idempotent; 409 when the job has ended."""
    return _detail(store.pause(job_id), store)


@router.post("/jobs/{job_id}/resume")
def resume(job_id: str, store: StoreDep) -> JobDetail:
    """Queues a paused job again. Idempotent; 409 when the job has ended."""
    return _detail(store.resume(job_id), store)


def _detail(row: Job, store: StoreDep) -> JobDetail:
    return _details([row], store)[0]


def _details(rows: Sequence[Job], store: StoreDep) -> list[JobDetail]:
    ids = [row.id for row in rows]
    counts, best = questions.counts(store, ids), overview.best_values(store, rows)
    steps = overview.last_steps(store, [row.id for row in rows if row.kind == "train"])
    evaluated, ahead = overview.evaluated(store, rows, counts), overview.ahead(store, rows)
    return [
        JobDetail(
            **JobView.model_validate(row).model_dump(),
            candidates=counts[row.id],
            evaluated=evaluated[row.id],
            best=best.get(row.id),
            step=steps.get(row.id),
            ahead=ahead.get(row.id),
        )
        for row in rows
    ]


# -------------------------------------------------------------------- search memory


@router.get("/jobs/{job_id}/candidates")
def candidates(
    job_id: str,
    store: StoreDep,
    sort: questions.SortBy = "number",
    descending: bool = False,
    state: CandidateState | None = None,
    cursor: str | None = None,
    limit: Limit = 50,
) -> Page[CandidateView]:
    """The architectures that were tried. `sort=score&descending=true` gives the best first."""
    store.job(job_id)
    rows, following = questions.candidates_page(
        store, job_id, sort=sort, descending=descending, state=state, cursor=cursor, limit=limit
    )
    return Page(items=views(CandidateView, rows), next_cursor=following)


@router.get("/candidates/{candidate_id}")
def candidate(candidate_id: str, store: StoreDep) -> CandidateDetail:
    """One candidate with its curve and files, and what came of measuring it again."""
    row = store.candidate(candidate_id)
    confirmed = confirmation_of(store, row)
    return CandidateDetail.model_validate(
        {
            **CandidateView.model_validate(row).model_dump(),
            "curve": views(PointView, store.points(row.id)),
            "artifacts": views(ArtifactView, store.artifacts(row.job_id, row.id)),
            "confirmation": None if confirmed is None else _confirmation(confirmed),
        }
    )


@router.get("/jobs/{job_id}/best")
def best(job_id: str, store: StoreDep) -> CandidateView:
    """The incumbent; of a job that has succeeded, what it ended with. 404 before the first result."""
    store.job(job_id)
    row = questions.best(store, job_id)
    if row is None:
        raise NotFound(f"job {job_id} has no result yet")
    return CandidateView.model_validate(row)


@router.get("/jobs/{job_id}/pareto")
def pareto(job_id: str, store: StoreDep) -> Page[CandidateView]:
    """The candidates that no other beats in every objective."""
    store.job(job_id)
    return Page(items=views(CandidateView, questions.pareto(store, job_id)))


@router.get("/jobs/{job_id}/confirmations")
def confirmed(job_id: str, store: StoreDep) -> Page[ConfirmationView]:
    """The candidates that were measured again under new seeds, the best by their mean first."""
    found = confirmations(store, store.job(job_id))
    return Page(items=[_confirmation(each) for each in found])


def _confirmation(found: Confirmation) -> ConfirmationView:
    candidate = found.candidate
    return ConfirmationView(
        candidate=candidate.id,
        number=candidate.number,
        key=candidate.key,
        origin=candidate.origin,
        first=candidate.metrics,
        trials=[_trial(row) for row in found.trials],
        seeds=sorted(found.seeds),
        mean=found.mean(),
        sd=found.sd(),
    )


def _trial(row: Candidate) -> TrialView:
    return TrialView(
        id=row.id,
        seed=seed_of(row),
        state=row.state,
        reason=row.reason,
        metrics=row.metrics,
        reused_from=row.reused_from,
        device_seconds=row.device_seconds,
    )


@router.get("/jobs/{job_id}/metrics")
def metrics(job_id: str, store: StoreDep) -> dict[str, list[Any]]:
    """The search's history in columns: candidate number, value of the first objective, best so far, ...

    With several objectives `hypervolume` says how the front has grown, from 0 to 1: the share that it
    dominates of the box between the worst feasible values found (the reference point) and the best.
    """
    row = store.job(job_id)
    maximize = row.spec["objectives"][0]["goal"] == "maximize"
    points = questions.history(store, job_id, maximize=maximize)
    names = ("id", "number", "value", "best", "params", "macs", "origin", "state")
    columns = {name: [getattr(point, name) for point in points] for name in names}
    if len(row.spec["objectives"]) > 1:
        columns["hypervolume"] = hypervolumes(points)
    return columns


@router.get("/jobs/{job_id}/llm-calls")
def llm_calls(
    job_id: str, store: StoreDep, cursor: str | None = None, limit: Limit = 50
) -> Page[LLMCallView]:
    """What was said to the language model, what it answered, and what that cost; the first call first."""
    store.job(job_id)
    rows, following = overview.llm_calls_page(store, job_id, cursor=cursor, limit=limit)
    return Page(items=views(LLMCallView, rows), next_cursor=following)


@router.get("/jobs/{job_id}/logs", response_class=PlainTextResponse)
def logs(
    job_id: str,
    store: StoreDep,
    files: ArtifactsDep,
    lines: Annotated[int, Query(ge=1, le=10_000, description="how many of the last lines")] = 500,
) -> str:
    """The last lines that the job's process, and those that it starts, have written, as of seconds ago.

    Empty before it has started. What happened to a job, its events say; this is for what went wrong.
    """
    store.job(job_id)
    try:
        written = b"".join(files.read(f"{job_id}/{LOG_FILE}")).decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "".join(written.splitlines(keepends=True)[-lines:])


# -------------------------------------------------------------------- files


@router.get("/jobs/{job_id}/artifacts")
def artifacts(job_id: str, store: StoreDep, candidate: str | None = None) -> Page[ArtifactView]:
    store.job(job_id)
    return Page(items=views(ArtifactView, store.artifacts(job_id, candidate)))


@router.get("/artifacts/{artifact_id}", response_class=StreamingResponse)
def artifact(artifact_id: str, store: StoreDep, files: ArtifactsDep) -> Response:
    """The file itself."""
    return _file(store.artifact(artifact_id), files)


@router.get("/jobs/{job_id}/artifacts/{name}", response_class=StreamingResponse)
def artifact_by_name(
    job_id: str, name: str, store: StoreDep, files: ArtifactsDep, candidate: str | None = None
) -> Response:
    """A file by its name, as `samples.png`: of one candidate, or the newest of the job."""
    found = [row for row in store.artifacts(job_id, candidate) if row.name == name]
    if not found:
        raise NotFound(f"job {job_id} has no artifact {name!r}")
    return _file(found[-1], files)


def _file(row: Artifact, files: ArtifactsDep) -> Response:
    try:
        chunks = files.read(row.path)
    except FileNotFoundError:
        raise NotFound(f"artifact {row.name} is gone from the artifact store") from None
    headers = {
        "Content-Length": str(row.size_bytes),
        "Content-Disposition": f"{'inline' if row.media_type == 'image/png' else 'attachment'}; "
        f"filename*=utf-8''{quote(row.name, safe='')}",
        "ETag": f'"{row.sha256}"',
        "X-Content-Type-Options": "nosniff",
    }
    return StreamingResponse(chunks, media_type=row.media_type, headers=headers)
