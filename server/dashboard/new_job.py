"""The page that submits: a request as JSON, from a method's example or from a job that was run before.

It is sent to the API by the page's script, as every other change is; the API's words stand at their fields.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response

from server.dashboard.dependencies import StoreDep
from server.dashboard.render import page
from server.dashboard.session import signed_in
from server.store.methods import SEARCH_METHODS, TRAIN_METHODS
from server.store.records import NotFound
from server.store.scale_methods import SCALE_METHODS
from server.store.specs import ScaleSpec, SearchSpec

router = APIRouter(include_in_schema=False, dependencies=[Depends(signed_in)])

FIRST = "evolution"
SHOWN = ("name", "space", "dataset", "seed", "objectives", "budget")  # of a method's defaults, in the example
KINDS = ("search", "train", "scale")


@router.get("/jobs/new")
def new_job(
    request: Request,
    store: StoreDep,
    method: str = FIRST,
    clone: Annotated[str, Query(description="the job whose request to begin with")] = "",
) -> Response:
    """The editor, filled in."""
    methods = {**SEARCH_METHODS, **TRAIN_METHODS, **SCALE_METHODS}
    if clone:
        job = store.job(clone)
        if job.kind not in KINDS:
            raise NotFound(f"job {clone} was not submitted as a request")
        spec, method = dict(job.spec), job.method
    elif method in methods:
        spec = example(method)
    else:
        raise NotFound(f"no method {method}")
    return page(request, "new_job.html", spec=spec, method=method, methods=methods, clone=clone)


def example(method: str) -> dict[str, Any]:
    """A request that names a method, with those of its defaults that are changed most."""
    if method in TRAIN_METHODS:
        return {"kind": "train", "method": method, "architecture": {"job": "JOB_ID", "pick": "best"}}
    spec: SearchSpec | ScaleSpec
    if method in SEARCH_METHODS:
        spec = SearchSpec.model_validate({"method": method})
    else:
        spec = ScaleSpec.model_validate({"kind": "scale", "method": method})
    filled = spec.model_dump(mode="json", exclude_none=True)
    shown = {name: filled[name] for name in SHOWN if name in filled}
    return {"kind": spec.kind, "method": method, **shown}
