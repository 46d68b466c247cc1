"""Search memory as JSON lines, out and in."""

from typing import Annotated

from fastapi import APIRouter, Body
from fastapi.responses import StreamingResponse

from server.api.dependencies import StoreDep
from server.api.schemas import ImportView, JobView, views
from server.store import memory

router = APIRouter(prefix="/memory", tags=["memory"])

JSON_LINES = "application/x-ndjson"
LINE = (
    '{"space": "macro-8", "dataset": "digits", "key": "macro-8:0-1-2-0", "signature": "our-cluster/seed0", '
    '"metrics": {"val_accuracy": 91.5}, "objectives": [{"metric": "val_accuracy", "goal": "maximize"}]}'
)


@router.get(
    "/export",
    response_class=StreamingResponse,
    responses={200: {"content": {JSON_LINES: {"schema": {"type": "string"}}}}},
)
def export_memory(
    store: StoreDep,
    space: str | None = None,
    dataset: str | None = None,
    signature: str | None = None,
    project: str | None = None,
) -> StreamingResponse:
    """Every attempt that has ended, one JSON object a line, the oldest jobs first.

    `signature` says how it was measured, or how that begins: `table/`, `train/digits`.
    """
    lines = memory.exported(store, space=space, dataset=dataset, signature=signature, project=project)
    return StreamingResponse(lines, media_type=JSON_LINES)


@router.post("/import", status_code=201)
def import_memory(
    store: StoreDep,
    lines: Annotated[
        bytes,
        Body(media_type=JSON_LINES, openapi_examples={"one attempt": {"value": LINE}}),
    ],
) -> ImportView:
    """Takes attempts in, as an export gives them: for reuse, and for `config.warm_start`.

    All lines are taken, or none: 422 names the first that is no attempt. They belong to jobs of kind
    `import`, one for each way of measuring, and for every 20,000 attempts. What is remembered already is
    left out, and where that is all, there is no job: an import that broke off can be sent again.
    """
    jobs = memory.imported(store, lines.splitlines())
    return ImportView(jobs=views(JobView, jobs))
