"""A found network as one file to take away."""

import json
import tempfile
import zipfile
from collections.abc import Iterator
from typing import IO, Literal

from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse

from server.api.dependencies import ArtifactsDep, StoreDep
from server.store.artifacts import (
    ARCHITECTURE_FILE,
    CHUNK_BYTES,
    ONNX_FILE,
    WEIGHTS_FILE,
    ArtifactStore,
)
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
def export(
    candidate_id: str, store: StoreDep, files: ArtifactsDep, format: Literal["torch", "onnx"] = "torch"
) -> Response:
    """The candidate as a ZIP file: `architecture.json`, and `model.safetensors` where it was trained.

    With `format=onnx`, `model.onnx` stands in the place of the weights: inputs `x` (batch, channels, height,
    width) and, of a diffusion model, `timesteps` (batch), all of float32; 404 where there is none, for only
    a train job leaves one.
    """
    row = store.candidate(candidate_id)
    name = ONNX_FILE if format == "onnx" else WEIGHTS_FILE
    kept = [file for file in store.artifacts(row.job_id, row.id) if file.name == name]
    if format == "onnx" and not kept:
        raise NotFound(
            f"candidate {row.id} has no {ONNX_FILE}: a train job leaves one of what it has trained"
        )
    network = _read(kept[-1], files) if kept else None
    about = json.dumps(architecture_of(row, store.job(row.job_id)), indent=2)
    archive = _archive(about, name, network)
    headers = {
        "Content-Disposition": f'attachment; filename="{row.id}.zip"',
        "X-Content-Type-Options": "nosniff",
    }
    return StreamingResponse(_chunks(archive), media_type="application/zip", headers=headers)


def _read(network: Artifact, files: ArtifactStore) -> Iterator[bytes]:
    try:
        return files.read(network.path)
    except FileNotFoundError:
        said = f"{network.name} of {network.candidate_id} is gone from the artifact store"
        raise NotFound(said) from None


def _archive(architecture: str, name: str, network: Iterator[bytes] | None) -> IO[bytes]:
    archive = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY_BYTES)
    with zipfile.ZipFile(archive, "w") as bundle:
        bundle.writestr(ARCHITECTURE_FILE, architecture)
        if network is not None:
            with bundle.open(name, "w", force_zip64=True) as entry:
                entry.writelines(network)
    archive.seek(0)
    return archive


def _chunks(archive: IO[bytes]) -> Iterator[bytes]:
    with archive:
        while chunk := archive.read(CHUNK_BYTES):
            yield chunk
