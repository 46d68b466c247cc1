"""A Python client of the REST API, for notebooks, CI and the command line."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
from httpx_sse import connect_sse

from server.store.states import ENDED

RECONNECTS = 30  # attempts in a row to get back to a stream that broke off
RECONNECT_SECONDS = 1.0
AWAY = frozenset({502, 503, 504})  # what a server, or a proxy before it, answers while something restarts
ID_LENGTH = 21  # letters of a job's id
IMPORT_SECONDS = 600.0  # the architectures of a large import are counted anew
EXPORT_SECONDS = 600.0  # a ZIP file is built before its first byte is sent
Json = dict[str, Any]


class ApiError(RuntimeError):
    """The server refused: `status` is the HTTP status, the message is the server's own detail."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class ServerUnreachable(ConnectionError):
    """No server answers at this address, or one that is not Archsmith's."""


class Client:
    """Talks to one server; a context manager that closes its connections. Methods raise ApiError and
    ServerUnreachable.
    """

    def __init__(
        self, url: str = "http://127.0.0.1:8000", *, api_key: str = "", timeout: float = 30.0
    ) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self.url = url.rstrip("/")
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=timeout)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def submit(self, spec: Mapping[str, Any], *, idempotency_key: str = "") -> Json:
        """Submits a job. With an idempotency key, submitting again gives the same job."""
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        return self._object("POST", "/v1/jobs", json=dict(spec), headers=headers)

    def job(self, job_id: str) -> Json:
        return self._object("GET", f"/v1/jobs/{_part(job_id)}")

    def jobs(self, **filters: Any) -> list[Json]:
        """One page of jobs, newest first; filters as in the API (`state`, `method`, `limit`, ...)."""
        items: list[Json] = self._object("GET", "/v1/jobs", holds="items", params=filters)["items"]
        return items

    def cancel(self, job_id: str) -> Json:
        return self._object("POST", f"/v1/jobs/{_part(job_id)}/cancel")

    def pause(self, job_id: str) -> Json:
        return self._object("POST", f"/v1/jobs/{_part(job_id)}/pause")

    def resume(self, job_id: str) -> Json:
        return self._object("POST", f"/v1/jobs/{_part(job_id)}/resume")

    def candidates(self, job_id: str, **options: Any) -> Iterator[Json]:
        """All candidates of a job, page by page."""
        return self._pages(f"/v1/jobs/{_part(job_id)}/candidates", options)

    def llm_calls(self, job_id: str, **options: Any) -> Iterator[Json]:
        """All language-model calls of a job, the first one first, page by page."""
        return self._pages(f"/v1/jobs/{_part(job_id)}/llm-calls", options)

    def candidate(self, candidate_id: str) -> Json:
        """One candidate with its curve and artifacts."""
        return self._object("GET", f"/v1/candidates/{_part(candidate_id)}")

    def best(self, job_id: str) -> Json:
        return self._object("GET", f"/v1/jobs/{_part(job_id)}/best")

    def family(self, job_id: str) -> Json:
        """The family of a scale job, once it has succeeded."""
        return self._object("GET", f"/v1/jobs/{_part(job_id)}/family", holds="members")

    def events(self, job_id: str, *, after: int = 0) -> Iterator[Json]:
        """The job's events from `after` on, live until it ends; a broken stream is taken up without a gap."""
        misses = 0
        while True:
            try:
                for event in self._stream(job_id, after):
                    misses, after = 0, event["number"]
                    yield event
                job = self.job(job_id)
                if job["state"] not in ENDED:
                    misses = 0  # all is well, but for a proxy that ends streams
                elif after >= job["last_event"]:
                    return
                broken = "it ended before the last event"
            except (httpx.TransportError, ServerUnreachable, ApiError) as error:
                if isinstance(error, ApiError) and error.status not in AWAY:
                    raise
                broken = str(error)
            misses += 1
            if misses > RECONNECTS:
                raise ServerUnreachable(f"the event stream of {self.url} broke off: {broken}")
            time.sleep(RECONNECT_SECONDS)

    def _stream(self, job_id: str, after: int) -> Iterator[Json]:
        headers = {"Last-Event-ID": str(after)}
        path = f"/v1/jobs/{_part(job_id)}/events"
        with connect_sse(self._http, "GET", path, headers=headers, timeout=60.0) as source:
            if source.response.is_error:
                source.response.read()
                _raise_for(source.response)
            for message in source.iter_sse():
                if message.data:  # a keep-alive comment arrives as an event without data
                    yield message.json()

    def download(self, artifact_id: str, target: Path) -> Path:
        """Writes an artifact to a file."""
        return self._save("GET", f"/v1/artifacts/{_part(artifact_id)}", target, timeout=self._http.timeout)

    def export(self, candidate_id: str, target: Path, *, format: str = "torch") -> Path:
        """Writes a candidate's ZIP file: its architecture, and its weights where it was trained.

        With the format `onnx`, it is the network of a train job as ONNX.
        """
        path = f"/v1/candidates/{_part(candidate_id)}/export"
        return self._save("POST", path, target, timeout=EXPORT_SECONDS, params={"format": format})

    def export_memory(self, **filters: str) -> Iterator[bytes]:
        """Every attempt that has ended, as JSON lines in chunks; filters `space`, `dataset`, `signature`."""
        try:
            with self._http.stream("GET", "/v1/memory/export", params=filters) as response:
                if response.is_error:
                    response.read()
                    _raise_for(response)
                yield from response.iter_bytes()
        except httpx.TransportError as error:
            raise ServerUnreachable(f"the export from {self.url} broke off: {error}") from error

    def import_memory(self, lines: bytes) -> list[Json]:
        """Takes JSON lines of attempts in, or none where one is wrong; gives their jobs."""
        headers = {"Content-Type": "application/x-ndjson"}
        answer = self._object(
            "POST", "/v1/memory/import", holds="jobs", content=lines, headers=headers, timeout=IMPORT_SECONDS
        )
        jobs: list[Json] = answer["jobs"]
        return jobs

    def _pages(self, path: str, options: Mapping[str, Any]) -> Iterator[Json]:
        cursor: str | None = None
        while True:
            params = {**options, "cursor": cursor} if cursor else options
            page = self._object("GET", path, holds="items", params=params)
            yield from page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def _save(self, method: str, path: str, target: Path, **arguments: Any) -> Path:
        """Writes an answer to a file, the whole of it or nothing."""
        part = target.with_name(target.name + ".part")
        try:
            with part.open("wb") as file, self._http.stream(method, path, **arguments) as response:
                if response.is_error:
                    response.read()
                    _raise_for(response)
                file.writelines(response.iter_bytes())
            part.replace(target)
        except httpx.TransportError as error:
            raise ServerUnreachable(f"the download from {self.url} broke off: {error}") from error
        finally:
            part.unlink(missing_ok=True)
        return target

    def _object(self, method: str, path: str, *, holds: str = "id", **arguments: Any) -> Json:
        """The answer, a JSON object that holds that field."""
        body = self._json(method, path, **arguments)
        if not isinstance(body, dict) or holds not in body:
            raise self._stranger()
        return body

    def _json(self, method: str, path: str, **arguments: Any) -> Any:
        try:
            response = self._http.request(method, path, **arguments)
        except httpx.TransportError as error:
            raise ServerUnreachable(
                f"no server answers at {self.url} ({error}); start one with `archsmith serve`"
            ) from error
        _raise_for(response)
        try:
            return response.json()
        except ValueError:
            raise self._stranger() from None

    def _stranger(self) -> ServerUnreachable:
        return ServerUnreachable(f"what answers at {self.url} is no Archsmith server")


def _part(given: str) -> str:
    """An id as a part of an address, which it cannot leave."""
    return quote(given, safe="")


def _raise_for(response: httpx.Response) -> None:
    if not response.is_error:
        return
    try:
        detail = str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        said = f"{response.status_code} {response.reason_phrase}"
        detail = f"{response.url} answers {said}: is that an Archsmith server?"
    raise ApiError(response.status_code, detail)
