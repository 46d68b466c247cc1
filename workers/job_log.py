"""What a job's process, and those that it starts, write to their terminals: the last lines, for whoever asks.

The lines go on to the terminal, and every few seconds, where there are new ones, to one file in the artifact
store: that, and the database, is all that a worker and an API on another host share.
"""

import os
import select
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from server.store.artifacts import LOG_FILE, ArtifactStore

TAIL_BYTES = 256 << 10
KEEP_SECONDS = 5.0
CHUNK_BYTES = 64 << 10


@contextmanager
def kept_log(artifacts: ArtifactStore, job_id: str) -> Iterator[None]:
    """Within, all output of this process is kept, after what an earlier attempt has left."""
    terminals = {number: os.dup(number) for number in (1, 2)}
    source, sink = os.pipe()
    tail = _Tail(artifacts, job_id, terminals[2])
    done = threading.Event()
    reader = threading.Thread(target=_carry, args=(source, tail, done), name="log", daemon=True)
    reader.start()
    for number in terminals:
        os.dup2(sink, number)
    os.close(sink)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, terminal in terminals.items():
            os.dup2(terminal, number)
        done.set()  # processes that were started within may hold the pipe open: its end is not waited for
        reader.join()
        for number in (source, *terminals.values()):
            os.close(number)


def _carry(source: int, tail: "_Tail", done: threading.Event) -> None:
    last, kept = False, time.monotonic()
    while not last:
        last = done.is_set()
        ready, _, _ = select.select([source], [], [], 0 if last else 0.2)
        if ready and (chunk := os.read(source, CHUNK_BYTES)):
            tail.write(chunk)
            last = False
        if last or time.monotonic() - kept >= KEEP_SECONDS:
            tail.keep()
            kept = time.monotonic()


class _Tail:
    def __init__(self, artifacts: ArtifactStore, job_id: str, terminal: int) -> None:
        self.artifacts, self.job_id, self.terminal = artifacts, job_id, terminal
        self.fresh = False
        try:
            self.lines = b"".join(artifacts.read(f"{job_id}/{LOG_FILE}"))
        except FileNotFoundError:
            self.lines = b""

    def write(self, chunk: bytes) -> None:
        self._show(chunk)
        self.lines = (self.lines + chunk)[-TAIL_BYTES:]
        self.fresh = True

    def keep(self) -> None:
        if not self.fresh:
            return
        self.fresh = False
        with tempfile.TemporaryDirectory(prefix="archsmith-") as folder:
            file = Path(folder) / LOG_FILE
            try:
                file.write_bytes(self.lines)
                self.artifacts.put(file, self.job_id)
            except Exception as error:  # noqa: BLE001 - each kind of store has its own; the job goes on without
                self._show(f"the log of job {self.job_id} is not kept: {error}\n".encode())

    def _show(self, text: bytes) -> None:
        """On the terminal. What that does not take must not hold up all that writes here."""
        with suppress(OSError):
            os.write(self.terminal, text)
