"""The artifact store over a local folder and over another fsspec filesystem."""

import errno
import hashlib
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from server.store.artifacts import CHUNK_BYTES, ArtifactStore, ArtifactStoreFull


@pytest.fixture(params=["local", "memory"])
def artifacts(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    root = str(tmp_path / "kept") if request.param == "local" else f"memory://{tmp_path.name}"
    return ArtifactStore(root)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file of several chunks."""
    folder = tmp_path / "source"
    folder.mkdir()
    file = folder / "weights.safetensors"
    file.write_bytes(bytes(range(256)) * (3 * CHUNK_BYTES // 256) + b"the end")
    return file


def kept(artifacts: ArtifactStore) -> list[str]:
    """Every file below the root."""
    files, base = fsspec.core.url_to_fs(artifacts.root)
    return sorted(files.find(base)) if files.exists(base) else []


def test_a_file_comes_back_as_it_was(artifacts: ArtifactStore, source: Path) -> None:
    stored = artifacts.put(source, "job/candidate")
    content = source.read_bytes()
    assert b"".join(artifacts.read(stored.path)) == content
    assert (stored.name, stored.path) == (source.name, f"job/candidate/{source.name}")
    assert stored.size_bytes == len(content)
    assert stored.sha256 == hashlib.sha256(content).hexdigest()


def test_a_file_is_kept_once_and_under_its_name_only(artifacts: ArtifactStore, source: Path) -> None:
    artifacts.put(source, "job")
    source.write_bytes(b"newer")
    stored = artifacts.put(source, "job")
    assert [Path(file).name for file in kept(artifacts)] == [source.name]
    assert b"".join(artifacts.read(stored.path)) == b"newer"


def test_a_reader_keeps_the_file_that_it_opened(tmp_path: Path, source: Path) -> None:
    artifacts = ArtifactStore(str(tmp_path / "kept"))
    content = source.read_bytes()
    chunks = artifacts.read(artifacts.put(source, "job").path)
    first = next(chunks)
    source.write_bytes(b"newer")
    artifacts.put(source, "job")
    assert first + b"".join(chunks) == content


def test_a_folder_is_kept_file_by_file_without_what_lies_deeper(
    artifacts: ArtifactStore, source: Path
) -> None:
    (source.parent / "a.json").write_text("{}")
    (source.parent / "deeper").mkdir()
    stored = artifacts.put_folder(source.parent, "job")
    assert [file.name for file in stored] == ["a.json", "weights.safetensors"]
    assert [file.media_type for file in stored] == ["application/json", "application/octet-stream"]


@pytest.mark.parametrize(
    "path", ["../secret", "/etc/passwd", "job/../../secret", "..", "job\\..\\..\\secret", "a/../../b"]
)
def test_a_path_that_leaves_the_root_is_refused(artifacts: ArtifactStore, source: Path, path: str) -> None:
    with pytest.raises(ValueError, match="leaves the artifact store"):
        artifacts.read(path)
    with pytest.raises(ValueError, match="leaves the artifact store"):
        artifacts.put(source, path)
    assert kept(artifacts) == []


def test_a_file_that_is_not_there_is_told_before_the_first_byte(artifacts: ArtifactStore) -> None:
    with pytest.raises(FileNotFoundError):
        artifacts.read("job/none")


# -------------------------------------------------------------------- no room


@contextmanager
def no_file_larger_than(size_bytes: int) -> Iterator[None]:
    """The operating system refuses to write beyond this size, as it does on a full disk: in the middle."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_a_disk_that_fills_up_in_the_middle_of_a_file_leaves_nothing_of_it(
    tmp_path: Path, source: Path
) -> None:
    artifacts = ArtifactStore(str(tmp_path / "kept"))
    with no_file_larger_than(2 * CHUNK_BYTES), pytest.raises(ArtifactStoreFull, match=source.name):
        artifacts.put(source, "job")
    assert kept(artifacts) == []


def test_a_disk_that_fills_up_leaves_the_older_file_as_it_was(tmp_path: Path, source: Path) -> None:
    artifacts = ArtifactStore(str(tmp_path / "kept"))
    content = source.read_bytes()
    source.write_bytes(b"older")
    stored = artifacts.put(source, "job")
    source.write_bytes(content)
    with no_file_larger_than(2 * CHUNK_BYTES), pytest.raises(ArtifactStoreFull):
        artifacts.put(source, "job")
    assert b"".join(artifacts.read(stored.path)) == b"older"


class FullFileSystem(MemoryFileSystem):  # type: ignore[misc]
    """Takes every file, and then finds no room to move it to."""

    protocol = "full"
    store: dict[str, Any] = {}
    pseudo_dirs = [""]

    def mv(self, *_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_remote_store_that_fills_up_leaves_nothing(source: Path) -> None:
    fsspec.register_implementation("full", FullFileSystem, clobber=True)
    artifacts = ArtifactStore("full://root")
    with pytest.raises(ArtifactStoreFull, match="No space left on device"):
        artifacts.put(source, "job")
    assert kept(artifacts) == []


def test_a_root_that_is_no_folder_is_told(tmp_path: Path, source: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ArtifactStoreFull, match=source.name):
        ArtifactStore(str(tmp_path / "file")).put(source, "job")
    assert (tmp_path / "file").read_text() == "in the way"
