"""What the walk tests share: a small request, waiting, and looking at processes."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from server.client import Client

PATIENCE_SECONDS = 180.0

# Small enough for a test, and still all of it: training, sampling, RFID, files.
TINY_SEARCH: dict[str, Any] = {
    "kind": "search",
    "method": "diffnas",
    "space": "unet-8",
    "dataset": "digits",
    "constraints": {"macs": {"max": 4_500_000}},
    "budget": {"evaluations": 6},
    "config": {
        "proposer": {"kind": "evolution", "population": 3, "sample": 2},
        "evaluator": {"kind": "diffusion", "steps": 40, "batch": 16, "images": 32, "sampling_steps": 2},
        "confirm": None,
    },
}


def wait_for(question: Callable[[], Any], what: str) -> Any:
    """Asks until the answer is true, and gives it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        answer = question()
        if answer:
            return answer
        time.sleep(0.2)
    raise AssertionError(f"no {what} within {PATIENCE_SECONDS:g} s")


def end_of(client: Client, job_id: str) -> str:
    """The state in which the job ends."""
    return str(wait_for(lambda: client.job(job_id)["finished_at"] and client.job(job_id)["state"], "end"))


def processes(parent: int) -> list[int]:
    """All living descendants of a process."""
    listing = subprocess.run(["ps", "-eo", "pid=,ppid=,stat="], capture_output=True, text=True, check=True)
    children: dict[int, list[int]] = {}
    for line in listing.stdout.splitlines():
        pid, ppid, state = line.split()
        if not state.startswith("Z"):
            children.setdefault(int(ppid), []).append(int(pid))
    found: list[int] = []
    todo = list(children.get(parent, []))
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += children.get(pid, [])
    return found


def command(pid: int) -> bytes:
    """The process's command line; empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return b""


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and waits to be reaped does not."""
    return command(pid) != b""


def workers(client: Client) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = wait_for(lambda: client._json("GET", "/v1/cluster"), "worker")
    return found


def worker_pid(client: Client) -> int:
    return int(workers(client)[-1]["pid"])


def job_process(client: Client, job_id: str) -> int:
    """The process that drives a job."""
    return int(wait_for(lambda: workers(client)[-1]["jobs"].get(job_id), "process of the job"))


def completed(client: Client, job_id: str) -> int:
    return int(client.job(job_id)["candidates"].get("completed", 0))


def check_whole(client: Client, job_id: str, evaluations: int) -> None:
    """Every candidate once, every event once, every completion told once."""
    candidates = list(client.candidates(job_id))
    assert [c["number"] for c in candidates] == list(range(1, evaluations + 1))
    assert len({c["key"] for c in candidates}) == evaluations
    assert {c["state"] for c in candidates} == {"completed"}
    events = list(client.events(job_id))
    assert [event["number"] for event in events] == list(range(1, len(events) + 1))
    ends = [event["candidate_id"] for event in events if event["kind"] == "candidate.completed"]
    assert sorted(ends) == sorted(c["id"] for c in candidates)
