"""Where files are kept: one root, local or any fsspec URL, written whole or not at all."""

import hashlib
import mimetypes
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec

CHUNK_BYTES = 1 << 20
WEIGHTS_FILE = "model.safetensors"  # what a trained network leaves
ONNX_FILE = "model.onnx"  # and what one leaves that a train job has trained
LOG_FILE = "log.txt"  # the last lines that a job's process wrote, in the folder of the job
ARCHITECTURE_FILE = "architecture.json"  # what goes with it in an export


class ArtifactStoreFull(OSError):
    """The artifact store cannot take the file."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file as it was kept: its path below the root, size and content hash."""

    name: str
    path: str
    media_type: str
    size_bytes: int
    sha256: str


class ArtifactStore:
    """Files below one root. A reader never sees a half-written one: it is written aside and moved."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._files, self._base = fsspec.core.url_to_fs(root)

    def put(self, source: Path, folder: str) -> StoredFile:
        """Keeps a local file under `folder`. Raises ArtifactStoreFull where it cannot be written."""
        path = posixpath.join(folder, source.name)
        target = self._locate(path)
        aside = f"{target}.{uuid4().hex}.part"
        try:
            self._files.makedirs(posixpath.dirname(target), exist_ok=True)
            digest = _copy(source, self._files, aside)
            self._files.mv(aside, target)
        except OSError as error:
            if self._files.exists(aside):
                self._files.rm(aside)
            raise ArtifactStoreFull(f"cannot write {source.name} to the artifact store: {error}") from error
        media_type = mimetypes.guess_type(source.name)[0] or "application/octet-stream"
        return StoredFile(source.name, path, media_type, source.stat().st_size, digest)

    def put_folder(self, source: Path, folder: str) -> list[StoredFile]:
        return [self.put(file, folder) for file in sorted(source.iterdir()) if file.is_file()]

    def fetch(self, path: str, target: Path) -> bool:
        """Copies a kept file to a local one; False where there is none."""
        try:
            chunks = self.read(path)
        except FileNotFoundError:
            return False
        with target.open("wb") as file:
            file.writelines(chunks)
        return True

    def remove(self, path: str) -> None:
        """Forgets a file; nothing happens where there is none."""
        if self._files.exists(self._locate(path)):
            self._files.rm(self._locate(path))

    def read(self, path: str) -> Iterator[bytes]:
        """The file in chunks. Raises FileNotFoundError at the call, not in the middle."""
        file = self._files.open(self._locate(path), "rb")

        def chunks() -> Iterator[bytes]:
            with file:
                while chunk := file.read(CHUNK_BYTES):
                    yield chunk

        return chunks()

    def _locate(self, path: str) -> str:
        normal = posixpath.normpath(path)
        if normal.startswith(("/", "..")) or "\\" in normal:
            raise ValueError(f"{path!r} leaves the artifact store")
        return posixpath.join(self._base, normal)


def _copy(source: Path, files: Any, target: str) -> str:
    digest = hashlib.sha256()
    with source.open("rb") as read, files.open(target, "wb") as write:
        while chunk := read.read(CHUNK_BYTES):
            digest.update(chunk)
            write.write(chunk)
    return digest.hexdigest()
