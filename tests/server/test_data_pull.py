"""Data sets from the web, against a real HTTP server: resumed, checked, in place all at once."""

import fcntl
import hashlib
import io
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from server import cli, data_pull
from server.data_pull import UNDER_WAY, PullFailed, pull
from server.store import sources
from server.store.sources import SOURCES, Source
from workers.training.data import load

IMAGES = 3


def cifar_archive() -> bytes:
    """A binary CIFAR-10 in the published layout, with few images."""
    rng = np.random.RandomState(0)
    files = {"batches.meta.txt": "\n".join("abcdefghij").encode() + b"\n\n"}
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        records = rng.randint(0, 256, (IMAGES, 3073), np.uint8)
        records[:, 0] %= 10
        files[f"{name}.bin"] = records.tobytes()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


@dataclass
class Web:
    """What the server holds, how it misbehaves, and which ranges it was asked for."""

    content: bytes
    breaks_after: int | None = None
    """Bytes of an answer before the connection is closed."""
    ignores_ranges: bool = False
    status: int | None = None
    asked: list[str | None] = field(default_factory=list)


@pytest.fixture
def web() -> Web:
    return Web(cifar_archive())


@pytest.fixture
def address(web: Web) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            web.asked.append(asked)
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and not web.ignores_ranges else 0
            if start >= len(web.content) or web.status:
                self.send_response(web.status or 416)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(web.content) - start))
            self.end_headers()
            end = None if web.breaks_after is None else start + web.breaks_after
            self.wfile.write(web.content[start:end])
            self.close_connection = True

        def log_message(self, format: str, *words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def source(web: Web, address: str, monkeypatch: pytest.MonkeyPatch) -> Source:
    """CIFAR-10, as the table names it, but on the test's own server."""
    made = replace(
        SOURCES["cifar10"],
        url=f"{address}/cifar-10-binary.tar.gz",
        checksum=f"sha256:{hashlib.sha256(web.content).hexdigest()}",
        size_bytes=len(web.content),
    )
    monkeypatch.setitem(sources.SOURCES, "cifar10", made)
    return made


def fetched(root: Path) -> tuple[Path, bool]:
    return pull("cifar10", root, lambda have, total: None, retry_seconds=0.0)


def test_a_pulled_data_set_is_whole_verified_and_can_be_read(source: Source, tmp_path: Path) -> None:
    place, verified = fetched(tmp_path)
    assert (place, verified) == (tmp_path / "cifar-10-batches-bin", True)
    data = load("cifar10", tmp_path)
    assert len(data.train) + len(data.val) == 5 * IMAGES
    assert data.classes == tuple("abcdefghij")
    assert list((tmp_path / UNDER_WAY).iterdir()) == []


def test_progress_is_told_up_to_the_last_byte(source: Source, tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    pull("cifar10", tmp_path, lambda have, total: told.append((have, total)))
    assert told[-1] == (source.size_bytes, source.size_bytes)
    assert told == sorted(told)


def test_a_connection_that_breaks_again_and_again_is_taken_up_each_time(
    web: Web, source: Source, tmp_path: Path
) -> None:
    web.breaks_after = len(web.content) // 9
    place, _ = fetched(tmp_path)
    assert place.is_dir()
    assert len(web.asked) == 10
    assert web.asked[1] == f"bytes={web.breaks_after}-"


def test_a_second_pull_goes_on_where_the_first_stopped(web: Web, source: Source, tmp_path: Path) -> None:
    (tmp_path / UNDER_WAY).mkdir()
    (tmp_path / UNDER_WAY / "cifar-10-binary.tar.gz.part").write_bytes(web.content[:1000])
    fetched(tmp_path)
    assert web.asked == ["bytes=1000-"]


def test_a_server_without_ranges_begins_again(web: Web, source: Source, tmp_path: Path) -> None:
    (tmp_path / UNDER_WAY).mkdir()
    (tmp_path / UNDER_WAY / "cifar-10-binary.tar.gz.part").write_bytes(b"x" * 1000)
    web.ignores_ranges = True
    assert fetched(tmp_path)[0].is_dir()


def test_a_server_that_gives_nothing_is_given_up(web: Web, source: Source, tmp_path: Path) -> None:
    web.breaks_after = 0
    with pytest.raises(PullFailed, match="goes on where this one stopped"):
        fetched(tmp_path)
    assert len(web.asked) == data_pull.TRIES


def test_a_refusal_is_told_and_not_asked_again(web: Web, source: Source, tmp_path: Path) -> None:
    web.status = 403
    with pytest.raises(PullFailed, match="answers 403 Forbidden"):
        fetched(tmp_path)
    assert len(web.asked) == 1


def longer(web: Web) -> bytes:
    return web.content + b"x"


def shorter(web: Web) -> bytes:
    return web.content[:-1]


def other(web: Web) -> bytes:
    return bytes([web.content[0] ^ 1]) + web.content[1:]


@pytest.mark.parametrize("spoil", [longer, shorter, other])
def test_another_file_than_the_published_one_is_thrown_away(
    web: Web, source: Source, tmp_path: Path, spoil: Callable[[Web], bytes]
) -> None:
    right, web.content = web.content, spoil(web)
    with pytest.raises(PullFailed, match="is not the file that it should be"):
        fetched(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [UNDER_WAY]
    web.content = right
    assert fetched(tmp_path)[0].is_dir()


def test_without_a_checksum_the_size_is_checked_and_no_more_is_claimed(
    web: Web, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sources.SOURCES, "cifar10", replace(source, checksum=""))
    assert fetched(tmp_path)[1] is False
    monkeypatch.setitem(sources.SOURCES, "cifar10", replace(source, checksum="", size_bytes=5, place="x"))
    with pytest.raises(PullFailed, match=r"has [\d,]+ bytes, not 5"):
        fetched(tmp_path)


def test_a_plain_file_is_put_in_place(
    web: Web, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.content = b'{"a": 1}'
    table = Source("a table", f"{address}/table.json", "renamed.json", size_bytes=len(web.content))
    monkeypatch.setitem(sources.SOURCES, "table", table)
    place, verified = pull("table", tmp_path, lambda have, total: None)
    assert (place.name, place.read_bytes(), verified) == ("renamed.json", web.content, False)


def test_an_archive_that_reaches_outside_is_refused(
    web: Web, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("../outside"))
    web.content = packed.getvalue()
    spoilt = replace(source, checksum="", size_bytes=len(web.content))
    monkeypatch.setitem(sources.SOURCES, "cifar10", spoilt)
    with pytest.raises(PullFailed, match="cannot be unpacked"):
        fetched(tmp_path)
    assert not (tmp_path / "outside").exists()


def test_what_is_there_is_left_alone(web: Web, source: Source, tmp_path: Path) -> None:
    (tmp_path / source.place).mkdir()
    assert fetched(tmp_path) == (tmp_path / source.place, False)
    assert web.asked == []


def test_two_pulls_of_one_file_do_not_mix(source: Source, tmp_path: Path) -> None:
    (tmp_path / UNDER_WAY).mkdir()
    with (tmp_path / UNDER_WAY / "cifar-10-binary.tar.gz.part").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(PullFailed, match="by another process"):
            fetched(tmp_path)


def test_a_folder_that_cannot_be_written_is_told(source: Source, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PullFailed, match="cannot be written below"):
        fetched(tmp_path / "file")


def test_the_command_line_pulls_and_says_what_was_checked(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARCHSMITH_DATA_ROOT", str(tmp_path))
    first = CliRunner().invoke(cli.app, ["data", "pull", "cifar10"])
    assert "cifar-10-batches-bin (verified)" in first.output.replace("\n", "")
    again = CliRunner().invoke(cli.app, ["data", "pull", "cifar10"])
    assert "(was there already)" in again.output.replace("\n", "")
    assert "* cifar10 " in CliRunner().invoke(cli.app, ["data", "list"]).output
    unknown = CliRunner().invoke(cli.app, ["data", "pull", "mars"])
    assert "choose one of cifar10, cifar100" in str(unknown.exception)


def test_every_source_can_be_checked() -> None:
    for name, each in SOURCES.items():
        kind, _, digest = each.checksum.partition(":")
        assert each.url.startswith("https://"), name
        assert digest or each.size_bytes, name
        assert not digest or len(digest) == 2 * hashlib.new(kind).digest_size, name
        assert each.packed or each.place == each.file, name
