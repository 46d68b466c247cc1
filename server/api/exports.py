"""A found network as one file to take away."""

import json
import tempfile
import zipfile
from collections.abc import Iterator
from typing import IO

from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse

from server.api.dependencies import ArtifactsDep, StoreDep
from server.store.artifacts import ARCHITECTURE_FILE, CHUNK_BYTES, WEIGHTS_FILE, ArtifactStore
from server.store.exports import architecture_of
from server.store.records import NotFound
from server.store.tables import Artifact

router = APIRouter(tags=["jobs"])

IN_MEMORY_BYTES = 8 << 20  # a larger archive is built on disk


@router.post(
    "/candidates/{candidate_id}/export",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}}}},
)
def export(candidate_id: str, store: StoreDep, files: ArtifactsDep) -> Response:
    """The candidate as a ZIP file: `architecture.json`, and `model.safetensors` where it was trained."""
    row = store.candidate(candidate_id)
    kept = [file for file in store.artifacts(row.job_id, row.id) if file.name == WEIGHTS_FILE]
    weights = _read(kept[-1], files) if kept else None
    archive = _archive(json.dumps(architecture_of(row, store.job(row.job_id)), indent=2), weights)
    headers = {
        "Content-Disposition": f'attachment; filename="{row.id}.zip"',
        "X-Content-Type-Options": "nosniff",
    }
    return StreamingResponse(_chunks(archive), media_type="application/zip", headers=headers)


def _read(weights: Artifact, files: ArtifactStore) -> Iterator[bytes]:
    try:
        return files.read(weights.path)
    except FileNotFoundError:
        raise NotFound(f"the weights of {weights.candidate_id} are gone from the artifact store") from None


def _archive(architecture: str, weights: Iterator[bytes] | None) -> IO[bytes]:
    archive = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY_BYTES)
    with zipfile.ZipFile(archive, "w") as bundle:
        bundle.writestr(ARCHITECTURE_FILE, architecture)
        if weights is not None:
            with bundle.open(WEIGHTS_FILE, "w", force_zip64=True) as entry:
                entry.writelines(weights)
    archive.seek(0)
    return archive


def _chunks(archive: IO[bytes]) -> Iterator[bytes]:
    with archive:
        while chunk := archive.read(CHUNK_BYTES):
            yield chunk
