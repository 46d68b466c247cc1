"""Search memory as JSON lines: all of it out, all or nothing of it in."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from search_spaces import SPACES
from search_spaces.space import Cost, Decoded
from server import cli
from server.store import memory
from server.store.engine import make_engine
from server.store.memory import InvalidLine, Line, exported, imported
from server.store.store import Store
from tests.server.live import running
from tests.server.searches import architectures, begin_search, complete, fail, propose

SPACE = SPACES["macro-8"]
LINE: dict[str, Any] = {
    "space": "macro-8",
    "dataset": "digits",
    "signature": "ours/seed0",
    "key": SPACE.largest.key,
    "metrics": {"val_accuracy": 91.5},
    "objectives": [{"metric": "val_accuracy", "goal": "maximize"}],
}


def lines(*changes: dict[str, Any]) -> bytes:
    return "\n".join(json.dumps({**LINE, **change}) for change in changes).encode()


def some_memory(store: Store) -> None:
    """A search with a result, a failure, and a candidate that still runs."""
    claim = begin_search(store)
    for number, arch in enumerate(architectures(3)):
        candidate = propose(claim, arch, note="because ü")
        if number == 0:
            complete(claim, candidate, 0.5, device_seconds=3.0)
        elif number == 1:
            fail(claim, candidate, "it diverged")


def told(store: Store, **filters: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in exported(store, **filters)]


def test_what_has_ended_is_exported_whole(sqlite_store: Store) -> None:
    some_memory(sqlite_store)
    good, bad = told(sqlite_store)
    assert good["metrics"]["rfid"] == 0.5
    assert good["device_seconds"] == 3.0
    assert good["note"] == "because ü"
    assert (bad["state"], bad["reason"], bad["metrics"]) == ("failed", "it diverged", {})
    assert all(set(line) == set(Line.model_fields) for line in (good, bad))


def test_an_export_can_be_imported_elsewhere_and_says_the_same(store: Store, tmp_path: Path) -> None:
    some_memory(store)
    first = told(store)
    jobs = imported(store, [json.dumps(line).encode() for line in first], project="another")
    again = told(store, project="another")
    moving = {"job", "candidate", "finished_at"}
    assert [{name: line[name] for name in line if name not in moving} for line in again] == [
        {name: line[name] for name in line if name not in moving} for line in first
    ]
    assert {line["job"] for line in again} == {job.id for job in jobs}
    assert store.jobs(project="another")[0].kind == "import"


def test_what_is_remembered_already_is_left_out_of_an_import(store: Store) -> None:
    some_memory(store)
    export = [line.encode() for line in exported(store)]
    assert imported(store, export) == []
    other = {**json.loads(export[0]), "metrics": {"rfid": 0.4}}
    (job,) = imported(store, [*export, json.dumps(other).encode()])
    assert [row.metrics for row in store.candidates(job.id)] == [{"rfid": 0.4}]
    assert imported(store, [*export, json.dumps(other).encode()]) == []
    assert len(told(store)) == 3


def test_an_export_is_filtered(sqlite_store: Store) -> None:
    some_memory(sqlite_store)
    imported(sqlite_store, lines({}, {"signature": "theirs/seed0"}).splitlines())
    assert len(told(sqlite_store)) == 4
    assert {line["space"] for line in told(sqlite_store, space="macro-8")} == {"macro-8"}
    assert [line["signature"] for line in told(sqlite_store, signature="ours")] == ["ours/seed0"]
    assert told(sqlite_store, signature="o%") == []
    assert told(sqlite_store, dataset="cifar10") == []
    assert len(told(sqlite_store, project="default")) == 4


def test_a_long_export_comes_in_pages_and_whole(sqlite_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "PAGE", 3)
    archs = list(SPACE.neighbours(SPACE.largest))[:7]
    imported(sqlite_store, lines(*({"key": arch.key} for arch in archs)).splitlines())
    assert [line["key"] for line in told(sqlite_store)] == [arch.key for arch in archs]


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a space that nobody knows": ({"space": "mars"}, "no search space 'mars'"),
    "an architecture of another space": ({"key": "unet-8:0-0"}, "is not of space macro-8"),
    "an option that does not exist": ({"key": "macro-8:9-9-9-9"}, "no option 9"),
    "a data set that nobody knows": ({"dataset": "mars"}, "dataset: 'mars' is unknown"),
    "an objective without a value": ({"metrics": {}}, "the objective 'val_accuracy' is missing"),
    "a value that is no number": ({"metrics": {"val_accuracy": "good"}}, "metrics.val_accuracy"),
    "no signature": ({"signature": ""}, "signature"),
    "an unknown field": ({"colour": "red"}, "colour"),
    "options that are not the key's": (
        {"architecture": dict(SPACE.decode(next(SPACE.neighbours(SPACE.largest))))},
        "architecture is not that of key",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_one_bad_line_is_named_and_nothing_is_kept(client: TestClient, case: str) -> None:
    change, words = WRONG[case]
    body = lines({}, {"signature": "theirs/seed0"}, change)
    answer = client.post("/v1/memory/import", content=body, headers={"Content-Type": "application/x-ndjson"})
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("line 3: ")
    assert words in answer.json()["detail"]
    assert client.get("/v1/jobs").json()["items"] == []


def test_what_several_jobs_have_measured_alike_is_taken_in_once(sqlite_store: Store) -> None:
    failed: dict[str, Any] = {"state": "failed", "metrics": {}, "reason": "out of memory"}
    body = lines(failed, {"note": "earlier"}, {"note": "later"}, failed)
    (job,) = imported(sqlite_store, body.splitlines())
    (row,) = sqlite_store.candidates(job.id)
    assert (row.state, row.note) == ("completed", "later")
    twice = "".join(exported(sqlite_store)).encode().splitlines() * 2
    (job,) = imported(sqlite_store, twice, project="another")
    assert len(sqlite_store.candidates(job.id)) == 1


@pytest.mark.parametrize("body", [b"", b"\n\n", b"{", b"[]", b"\xff"])
def test_what_holds_no_attempts_is_refused(client: TestClient, body: bytes) -> None:
    answer = client.post("/v1/memory/import", content=body, headers={"Content-Type": "application/x-ndjson"})
    assert answer.status_code == 422


def test_an_import_has_a_largest_size(sqlite_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MAX_LINES", 1)
    with pytest.raises(InvalidLine, match="line 2: at most 1"):
        imported(sqlite_store, lines({}, {"signature": "theirs/seed0"}).splitlines())


def test_others_write_while_an_import_counts_its_architectures(
    sqlite_store: Store, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = Store(make_engine(sqlite_url, busy_seconds=0.1))

    def cost(decoded: Decoded) -> Cost:
        begin_search(others)
        return SPACE.cost(decoded)

    monkeypatch.setitem(SPACES, SPACE.name, replace(SPACE, cost=cost))
    (job,) = imported(sqlite_store, lines({}).splitlines())
    assert sorted(each.kind for each in others.jobs()) == ["import", "search"]
    others.engine.dispose()


def test_a_large_import_is_several_jobs_and_one_that_broke_off_can_be_sent_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    archs = list(SPACE.neighbours(SPACE.largest))[:5]
    body = lines(*({"key": arch.key} for arch in archs)).splitlines()

    def cost(decoded: Decoded) -> Cost:
        if decoded == SPACE.decode(archs[3]):
            raise RuntimeError("killed")
        return SPACE.cost(decoded)

    monkeypatch.setattr(memory, "PER_JOB", 2)
    with monkeypatch.context() as broken:
        broken.setitem(SPACES, SPACE.name, replace(SPACE, cost=cost))
        with pytest.raises(RuntimeError, match="killed"):
            imported(store, body)
    assert [job.name for job in store.jobs()] == ["2 imported attempts"]
    assert [job.name for job in imported(store, body)] == ["2 imported attempts", "1 imported attempts"]
    assert sorted(line["key"] for line in told(store)) == sorted(arch.key for arch in archs)


def test_attempts_measured_differently_go_to_jobs_of_their_own(client: TestClient) -> None:
    body = lines({}, {"signature": "theirs/seed0"}, {"key": next(SPACE.neighbours(SPACE.largest)).key})
    answer = client.post("/v1/memory/import", content=body, headers={"Content-Type": "application/x-ndjson"})
    assert answer.status_code == 201, answer.text
    first, second = answer.json()["jobs"]
    assert (first["spec"]["signature"], second["spec"]["signature"]) == ("ours/seed0", "theirs/seed0")
    assert first["kind"] == "import"
    assert first["state"] == "succeeded"
    rows = client.get(f"/v1/jobs/{first['id']}/candidates").json()["items"]
    assert [row["number"] for row in rows] == [1, 2]
    assert rows[0]["params"] == SPACE.cost_of(SPACE.largest).params
    assert client.get(f"/v1/jobs/{first['id']}/best").json()["id"] == rows[0]["id"]
    events = client.get(f"/v1/jobs/{first['id']}/events", params={"follow": False}).json()["items"]
    assert [event["kind"] for event in events] == ["job.imported"]


def test_imported_jobs_have_pages_like_others(client: TestClient) -> None:
    body = lines({}, {"key": next(SPACE.neighbours(SPACE.largest)).key, "state": "failed", "metrics": {}})
    headers = {"Content-Type": "application/x-ndjson"}
    (job,) = client.post("/v1/memory/import", content=body, headers=headers).json()["jobs"]
    candidate = client.get(f"/v1/jobs/{job['id']}/best").json()["id"]
    for path in ("/", f"/jobs/{job['id']}", f"/jobs/{job['id']}/charts", f"/candidates/{candidate}"):
        assert client.get(path).status_code == 200, path


def test_the_command_line_saves_and_takes_in(client: TestClient, tmp_path: Path) -> None:
    given, saved = tmp_path / "given.jsonl", tmp_path / "saved.jsonl"
    given.write_bytes(lines({}))
    run = CliRunner().invoke
    with running(client.app) as url:  # type: ignore[arg-type]
        taken = run(cli.app, ["memory", "import", str(given), "--url", url])
        assert (
            run(cli.app, ["memory", "export", str(saved), "--space", "macro-8", "--url", url]).exit_code == 0
        )
        told = run(cli.app, ["memory", "export", "--url", url])
    assert "1 imported attempts: macro-8 on digits" in taken.output
    assert saved.read_text() == told.output
    assert json.loads(saved.read_text())["key"] == SPACE.largest.key
    assert list(tmp_path.glob("*.part")) == []


def test_an_outcome_of_an_import_is_found_by_later_searches(sqlite_store: Store) -> None:
    (job,) = imported(sqlite_store, lines({}).splitlines(), project="ours")
    found = sqlite_store.measured("ours/seed0", [SPACE.largest.key], project="ours")
    assert [row.job_id for row in found.values()] == [job.id]
    assert sqlite_store.measured("ours/seed0", [SPACE.largest.key], project="theirs") == {}
