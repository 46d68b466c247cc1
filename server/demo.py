"""The demonstration: the embedded topology, one search on real digits, and what came of it."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from server.client import Client, ServerUnreachable
from server.terminal import confirmed, describe, follow

USUAL_PORT = 8000
START_SECONDS = 60.0
STOP_SECONDS = 30.0

REQUEST: dict[str, Any] = {
    "kind": "search",
    "name": "demo: a UNet for 8x8 digits",
    "method": "diffnas",
    "space": "unet-8",
    "dataset": "digits",
    "config": {
        "proposer": {"kind": "evolution", "population": 6, "sample": 3},
        # three more trainings, with the baseline's: what a demo has time for
        "confirm": {"top": 2, "seeds": 1},
    },
}


def run_demo(data_dir: Path, evaluations: int) -> None:
    """Serves, submits over REST, follows the search, and tells what was found. Raises RuntimeError."""
    console = Console()
    with ExitStack() as exits:
        url = exits.enter_context(serving(data_dir, USUAL_PORT))
        client = exits.enter_context(Client(url))
        console.print(f"Archsmith serves at [link={url}]{url}[/link] (data in {data_dir.absolute()})")
        job = client.submit({**REQUEST, "budget": {"evaluations": evaluations}})
        console.print(f"Submitted search {job['id']}: {job['method']} on {job['space']} / {job['dataset']}")
        follow(client, job["id"])
        job = client.job(job["id"])
        if job["state"] != "succeeded":
            raise RuntimeError(f"the search {job['state']}: {job['reason']}")
        _report(console, client, job, data_dir)
        if sys.stdin.isatty():
            console.print("\nStill serving: open the page above; Ctrl-C ends.")
            _wait_for_interrupt()
    console.print(f"To see it again, or to run jobs of your own: archsmith serve --data-dir {data_dir}")


def _report(console: Console, client: Client, job: Mapping[str, Any], data_dir: Path) -> None:
    best = client.best(job["id"])
    base = next(c for c in client.candidates(job["id"]) if c["origin"] == "baseline")
    saved = {a["name"]: a for a in client.candidate(best["id"])["artifacts"]}
    grid = client.download(saved["samples.png"]["id"], data_dir / "demo-samples.png")
    console.print(f"\n[bold]Best UNet[/]  {describe(best, 'rfid')}")
    for label, candidate in (("best", best), ("base", base)):
        console.print(
            f"  {label}: rfid {candidate['metrics']['rfid']:.3f}, FID {candidate['metrics']['fid']:.1f}, "
            f"{candidate['params']:,} parameters, {candidate['macs']:,} MACs"
        )
    gain = 100 * (1 - best["metrics"]["rfid"])
    if again := job["result"].get("confirmed"):
        console.print(f"  trained again: {confirmed(again)}")
        gain = 100 * (1 - again["mean"])  # and not by the score that it was chosen by
    if best["id"] == base["id"]:
        console.print("  the base UNet was not beaten at this budget")
    else:
        console.print(
            f"  {gain:.0f}% lower FID than the base UNet, with no more parameters and MACs, in as many steps"
        )
    console.print(f"  generated digits beside real ones: {grid.absolute()}")
    console.print(f"  weights and curves: {data_dir.absolute() / 'artifacts' / job['id'] / best['id']}")
    console.print(f"  page of this search: {client.url}/jobs/{job['id']}")


@contextmanager
def serving(data_dir: Path, wanted_port: int = 0) -> Iterator[str]:
    """`archsmith serve` in a process of its own, on the wanted port if that is free; gives its address."""
    data_dir.mkdir(parents=True, exist_ok=True)
    port = _free_port(wanted_port)
    command = [sys.executable, "-m", "server.cli", "serve", "--port", str(port), "--data-dir", str(data_dir)]
    log_file = data_dir / "serve.log"
    with log_file.open("ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ)
        url = f"http://127.0.0.1:{port}"
        try:
            with Client(url) as client:
                _wait_until_ready(client, process, log_file)
            yield url
        finally:
            process.terminate()
            process.wait(timeout=STOP_SECONDS)


def _wait_until_ready(client: Client, process: "subprocess.Popen[bytes]", log_file: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server did not start; see {log_file}")
        try:
            client.jobs(limit=1)
            return
        except ServerUnreachable:
            time.sleep(0.2)
    raise RuntimeError(f"the server did not answer within {START_SECONDS:g} s; see {log_file}")


def _free_port(wanted: int) -> int:
    """The wanted one where it is free, else any."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise RuntimeError("no free port on 127.0.0.1")


def _wait_for_interrupt() -> None:
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        pass
