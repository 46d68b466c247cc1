"""Fetches data sets into the data folder: resumed where it broke off, checked, and in place all at once.

What is under way lies in the folder's `.downloads`; nothing that is not whole and checked ever stands where a
job would look for it.
"""

import fcntl
import hashlib
import os
import shutil
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import httpx

from server.store.sources import SOURCES, Source

UNDER_WAY = ".downloads"
TRIES = 5  # in a row without a new byte
RETRY_SECONDS = 2.0
TIMEOUT_SECONDS = 60.0

Progress = Callable[[int, int | None], None]
"""Told how many bytes there are, and how many there will be, where that is known."""


class PullFailed(RuntimeError):
    """The data is not in place; the message says why and what to do."""


def pull(
    name: str, root: Path, progress: Progress, *, retry_seconds: float = RETRY_SECONDS
) -> tuple[Path, bool]:
    """Where the data now lies, and whether its checksum was compared. Raises PullFailed.

    What is there already is left as it is.
    """
    if name not in SOURCES:
        raise PullFailed(f"no data {name!r} to pull; choose one of {', '.join(SOURCES)}")
    source = SOURCES[name]
    place = root / source.place
    if place.exists():
        return place, False
    try:
        return _fetched(source, root, progress, retry_seconds), bool(source.checksum)
    except OSError as error:
        raise PullFailed(
            f"{source.file} cannot be written below {root}: {error.strerror or error}"
        ) from error


def _fetched(source: Source, root: Path, progress: Progress, retry_seconds: float) -> Path:
    folder, place = root / UNDER_WAY, root / source.place
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{source.file}.part"
    with part.open("ab") as file, _alone(file, source):
        if place.exists():
            return place  # another pull has just ended
        _download(source, file, progress, retry_seconds)
        _check(source, part)
        if source.packed:
            _unpack(source, part, place)
        else:
            os.replace(part, place)
        part.unlink(missing_ok=True)
    return place


@contextmanager
def _alone(file: BinaryIO, source: Source) -> Iterator[None]:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise PullFailed(f"{source.file} is being fetched by another process") from None
    yield


# -------------------------------------------------------------------- over the network


def _download(source: Source, file: BinaryIO, progress: Progress, retry_seconds: float) -> None:
    """Appends what is missing; the connection may break as often as every time some bytes come."""
    misses, total = 0, source.size_bytes
    with httpx.Client(follow_redirects=True, timeout=TIMEOUT_SECONDS) as client:
        while True:
            before = file.seek(0, os.SEEK_END)
            if total is not None and before >= total:
                return
            try:
                total = _stream(client, source, file, progress)
                if total is None or file.seek(0, os.SEEK_END) >= total:
                    return
                trouble = "the connection broke off"
            except httpx.TransportError as error:
                trouble = str(error) or type(error).__name__
            misses = 0 if file.seek(0, os.SEEK_END) > before else misses + 1
            if misses >= TRIES:
                raise PullFailed(f"{source.url}: {trouble}; the same command goes on where this one stopped")
            time.sleep(retry_seconds)


def _stream(client: httpx.Client, source: Source, file: BinaryIO, progress: Progress) -> int | None:
    """One request for the rest of the file; gives the size of the whole, where the server tells it."""
    have = file.seek(0, os.SEEK_END)
    # compressed on the way, the bytes that were left out could not be told
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with client.stream("GET", source.url, headers=headers) as response:
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            return have  # nothing follows: the checks tell whether this is all
        if response.status_code not in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
            raise PullFailed(f"{source.url} answers {response.status_code} {response.reason_phrase}")
        if response.status_code == httpx.codes.OK:
            file.truncate(0)  # the server begins again
            have = 0
        length = response.headers.get("content-length")
        total = have + int(length) if length else source.size_bytes
        for chunk in response.iter_raw():  # as it comes: what waits for more is lost when the connection is
            file.write(chunk)
            have += len(chunk)
            progress(have, total)
        file.flush()
    return total


# -------------------------------------------------------------------- on the disk


def _check(source: Source, part: Path) -> None:
    size = part.stat().st_size
    wrong = ""
    if source.size_bytes is not None and size != source.size_bytes:
        wrong = f"it has {size:,} bytes, not {source.size_bytes:,}"
    elif source.checksum:
        kind, _, expected = source.checksum.partition(":")
        with part.open("rb") as file:
            found = hashlib.file_digest(file, kind).hexdigest()
        if found != expected:
            wrong = f"its {kind} is {found}, not {expected}"
    if wrong:
        part.unlink()
        raise PullFailed(f"{source.url} is not the file that it should be: {wrong}; try again")


def _unpack(source: Source, part: Path, place: Path) -> None:
    """The one folder of an archive, moved into place when all of it is there."""
    aside = part.with_name(f"{source.place}.unpacked")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        with tarfile.open(part) as archive:
            archive.extractall(aside, filter="data")
    except tarfile.TarError as error:
        raise PullFailed(f"{part} cannot be unpacked: {error}") from error
    if not (aside / source.place).is_dir():
        raise PullFailed(f"{part} holds no folder {source.place}")
    os.replace(aside / source.place, place)
    shutil.rmtree(aside)
