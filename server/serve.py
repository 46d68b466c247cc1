"""The embedded topology: the API in this process, one supervised worker process beside it."""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import uvicorn
from sqlalchemy.exc import DatabaseError

from server.app import create_app
from server.settings import ServerSettings
from server.store.engine import upgrade

log = logging.getLogger("server")

RESTART_SECONDS = 1.0
STOP_SECONDS = 20.0


class CannotServe(RuntimeError):
    """The server cannot start; the message says why and what to do."""


def serve(settings: ServerSettings, *, worker: bool, migrate: bool) -> None:
    """Serves until interrupted or terminated.

    Raises CannotServe and SchemaMismatch before anything has started.
    """
    _check_writable(settings.data_dir)
    listener = _listen(settings.host, settings.port)
    try:
        if migrate:
            upgrade(settings.store().engine)
        app = create_app(settings)
    except DatabaseError as error:
        listener.close()
        raise CannotServe(f"the database cannot be opened: {error.orig}") from error
    host, port = listener.getsockname()[:2]
    log.info("dashboard and API: http://%s:%d", host, port)
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=3)
    supervisor = Supervisor(settings) if worker else None
    # uvicorn puts this back and raises the signal again when it has shut down: it must not end us at once
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        if supervisor is not None:
            supervisor.start()
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        if supervisor is not None:
            supervisor.stop()


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise CannotServe(
            f"the data folder {folder} cannot be written ({error.strerror}): choose another with --data-dir"
        ) from error


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()  # at once: until one listens, another can be bound to the same port
    except OSError as error:
        listener.close()
        raise CannotServe(
            f"cannot listen on {host}:{port} ({error.strerror}): choose another port with --port"
        ) from error
    return listener


class Supervisor:
    """Keeps one worker process running. The worker ends by itself when this process is gone."""

    def __init__(self, settings: ServerSettings) -> None:
        self._environment = {
            **os.environ,
            "ARCHSMITH_SUPERVISED": "1",
            "ARCHSMITH_DATA_DIR": str(settings.data_dir.absolute()),
            "ARCHSMITH_DATABASE_URL": settings.database_url.get_secret_value(),
        }
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        self._thread.join(timeout=STOP_SECONDS)

    def _run(self) -> None:
        while not self._stopping.is_set():
            # a session of its own: Ctrl-C reaches us alone, and we end the worker in order
            self._process = subprocess.Popen(
                [sys.executable, "-m", "workers"],
                stdin=subprocess.PIPE,
                env=self._environment,
                start_new_session=True,
            )
            code = self._process.wait()
            if not self._stopping.is_set():
                log.error("the worker ended with code %d; starting another", code)
                self._stopping.wait(RESTART_SECONDS)
