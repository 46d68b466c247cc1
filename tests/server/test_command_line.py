"""The command line against a running server: ids and their beginnings, exit codes, words for mistakes."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from fastapi.testclient import TestClient

from server import cli
from server.client import ID_LENGTH, Client, ServerUnreachable
from server.store.store import Store
from tests.server.live import running
from tests.server.searches import architectures, begin_search, complete, propose

Said = tuple[int, str, str]
BRIEF_SECONDS = 0.2


@pytest.fixture
def store(client: TestClient) -> Store:
    store: Store = client.app.state.store  # type: ignore[attr-defined]
    return store


@pytest.fixture
def archsmith(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Said]]:
    """Runs a command as a shell does: its exit code, and what it wrote to its two outputs."""
    with running(client.app) as url:
        monkeypatch.setenv("ARCHSMITH_URL", url)

        def run(*arguments: str) -> Said:
            monkeypatch.setattr("sys.argv", ["archsmith", *arguments])
            with pytest.raises(SystemExit) as ended:
                cli.main()
            written = capsys.readouterr()
            return int(ended.value.code or 0), written.out, written.err

        yield run


def test_jobs_gives_whole_ids_the_progress_and_the_best_in_plain_lines(
    archsmith: Callable[..., Said], store: Store
) -> None:
    claim = begin_search(
        store, name="a name that is far too long for a terminal of eighty columns, or of two"
    )
    complete(claim, propose(claim, architectures(1)[0]), 0.25)
    code, out, _ = archsmith("jobs")
    titles, line = (line.split("\t") for line in out.splitlines())
    shown = dict(zip(titles, line, strict=True))
    assert code == 0
    assert shown["id"] == claim.job.id
    assert (shown["state"], shown["progress"], shown["best"]) == ("running", "1/20", "0.25 rfid")
    assert shown["name"] == claim.job.name


def test_a_terminal_of_eighty_columns_shows_whole_ids(
    archsmith: Callable[..., Said], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = begin_search(store, name="a rather long name " * 5)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = archsmith("jobs")
    assert claim.job.id in out
    assert len(out.splitlines()) == 2


def test_the_beginning_of_an_id_will_do_where_it_is_the_only_one(
    archsmith: Callable[..., Said], store: Store
) -> None:
    first, second = (begin_search(store).job.id for _ in range(2))
    shared = next(n for n in range(len(first)) if first[n] != second[n])
    code, out, _ = archsmith("show", first[: shared + 1], "--json")
    assert (code, json.loads(out)["id"]) == (0, first)
    code, _, err = archsmith("cancel", first[:shared])
    assert code == cli.USAGE
    assert first in err
    assert second in err


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("show", ""), "id is empty"),
        (("show", "no-such-job"), "no job no-such-job"),
        (("show", "../methods"), "Not Found"),
        (("submit", "{request}"), "no such field"),
        (("submit", "{nonsense}"), "is not JSON"),
        (("sample", "any", "--out", "/nonexistent/g.png"), "no folder /nonexistent"),
        (("export", "{job}", "--out", "/nonexistent/x.zip"), "/nonexistent/x.zip"),
    ],
)
def test_what_the_user_got_wrong_ends_with_2_and_a_word(
    archsmith: Callable[..., Said], store: Store, tmp_path: Path, arguments: tuple[str, ...], word: str
) -> None:
    (tmp_path / "request.json").write_text('{"method": "random", "colour": "red"}')
    (tmp_path / "nonsense.json").write_text("{")
    claim = begin_search(store)
    complete(claim, propose(claim, architectures(1)[0]), 0.25)
    names = {
        "request": str(tmp_path / "request.json"),
        "nonsense": str(tmp_path / "nonsense.json"),
        "job": claim.job.id,
    }
    code, _, err = archsmith(*(argument.format(**names) for argument in arguments))
    assert (code, err.count("\n")) == (cli.USAGE, 1)
    assert word in err


def test_a_job_that_does_not_succeed_ends_watching_with_1(
    archsmith: Callable[..., Said], store: Store
) -> None:
    claim = begin_search(store)
    claim.release("the worker stopped")
    store.cancel(claim.job.id)
    code, _, err = archsmith("watch", claim.job.id, "--json")
    assert code == cli.FAILED
    assert "cancelled" in err


class OtherServer(BaseHTTPRequestHandler):
    """Says hello to everybody, in HTML."""

    def do_GET(self) -> None:
        self.send_response(404 if "missing" in self.path else 200)
        self.end_headers()
        self.wfile.write(b"<h1>hello</h1>")

    def log_message(self, *_: object) -> None:
        pass


def test_a_server_that_is_not_archsmiths_is_told_from_one(archsmith: Callable[..., Said]) -> None:
    with HTTPServer(("127.0.0.1", 0), OtherServer) as other:
        Thread(target=other.serve_forever, daemon=True).start()
        code, _, err = archsmith("jobs", "--url", f"http://127.0.0.1:{other.server_port}")
        other.shutdown()
    assert code == cli.UNREACHABLE
    assert "is no Archsmith server" in err


def test_an_export_without_a_server_ends_with_3_and_a_word(
    archsmith: Callable[..., Said], tmp_path: Path
) -> None:
    with socket.socket() as silent:  # bound, so that no other takes the port, and not listening
        silent.bind(("127.0.0.1", 0))
        there = ["--url", f"http://127.0.0.1:{silent.getsockname()[1]}", "--out", str(tmp_path / "x.zip")]
        code, _, err = archsmith("export", "j" * ID_LENGTH, "--candidate", "any", *there)
    assert (code, err.count("\n")) == (cli.UNREACHABLE, 1)
    assert "broke off" in err


class SlowServer(BaseHTTPRequestHandler):
    """Breaks downloads off, and sends an export after longer than a client waits for other answers."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "8")
        self.end_headers()
        self.wfile.write(b"half")

    def do_POST(self) -> None:
        time.sleep(2 * BRIEF_SECONDS)
        self.do_GET()
        self.wfile.write(b"half")

    def log_message(self, *_: object) -> None:
        pass


def test_an_export_may_take_its_time_and_a_download_that_breaks_off_leaves_no_file(tmp_path: Path) -> None:
    with HTTPServer(("127.0.0.1", 0), SlowServer) as slow:
        Thread(target=slow.serve_forever, daemon=True).start()
        with Client(f"http://127.0.0.1:{slow.server_port}", timeout=BRIEF_SECONDS) as reader:
            assert reader.export("any", tmp_path / "x.zip").read_bytes() == b"halfhalf"
            with pytest.raises(ServerUnreachable, match="broke off"):
                reader.download("any", tmp_path / "file")
        slow.shutdown()
    assert [file.name for file in tmp_path.iterdir()] == ["x.zip"]


def test_a_file_that_is_no_database_is_not_served(archsmith: Callable[..., Said], tmp_path: Path) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "archsmith.db").write_text("dear diary, " * 100)
    code, _, err = archsmith("serve", "--port", "0", "--data-dir", str(folder))
    assert code == cli.FAILED
    assert "the database cannot be opened" in err
    assert "Traceback" not in err


def test_the_exit_codes_are_told(archsmith: Callable[..., Said]) -> None:
    _, out, _ = archsmith("--help")
    assert "Exit codes: 0 done; 1 the job or the server failed; 2" in " ".join(out.split())
