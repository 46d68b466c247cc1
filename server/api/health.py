"""Liveness, readiness and Prometheus metrics, at the root."""

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest

from server.api.dependencies import StoreDep
from server.store import overview
from server.store.engine import SchemaMismatch, check

router = APIRouter(tags=["health"])


@router.get("/healthz")
def healthz() -> dict[str, str]:
    """The process lives."""
    return {"status": "ok"}


@router.get("/readyz")
def readyz(store: StoreDep, response: Response) -> dict[str, str]:
    """The database answers and has the schema of this version; else 503."""
    try:
        check(store.engine)
    except SchemaMismatch as mismatch:
        response.status_code = 503
        return {"status": str(mismatch)}
    return {"status": "ok"}


@router.get("/metrics", response_class=Response)
def metrics(request: Request, store: StoreDep) -> Response:
    """Jobs and candidates by state, device seconds, workers: counted in the database at each scrape."""
    registry = CollectorRegistry()
    jobs = Gauge("archsmith_jobs", "Jobs by state", ["state"], registry=registry)
    candidates = Gauge("archsmith_candidates", "Candidates by state", ["state"], registry=registry)
    device = Gauge("archsmith_device_seconds", "Device seconds of all candidates", registry=registry)
    workers = Gauge("archsmith_workers", "Workers that have reported themselves", registry=registry)
    for gauge, counts in ((jobs, overview.job_counts(store)), (candidates, overview.candidate_counts(store))):
        for state, count in counts.items():
            gauge.labels(state.value).set(count)
    device.set(overview.all_device_seconds(store))
    workers.set(len(store.workers()))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
