"""How fast the platform itself is: command line, submissions, first trial, overhead over bare Ray Tune.

    python benchmarks/platform_speed.py

Serves on 127.0.0.1 in a temporary folder. Run it on an idle machine; it takes about six minutes.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from server.client import Client, ServerUnreachable
from server.demo import serving

SEARCH: dict[str, Any] = {
    "kind": "search",
    "method": "random",
    "space": "unet-8",
    "dataset": "digits",
    "constraints": {"macs": {"max": 4_500_000}},
    "config": {
        "evaluator": {"kind": "diffusion", "steps": 20, "batch": 64, "images": 128, "sampling_steps": 5}
    },
}
TRIALS = 16
SUBMISSIONS = 400
REPEATS = 5
PAUSE_SECONDS = 10.0


def command_line() -> None:
    seconds = []
    for _ in range(7):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "server.cli", "--help"], check=True, capture_output=True)
        seconds.append(time.perf_counter() - began)
    print(f"archsmith --help: median {statistics.median(seconds):.2f} s, min {min(seconds):.2f} s")


@contextmanager
def api_alone(folder: Path) -> Iterator[Client]:
    """`archsmith api` on an empty database, and no worker that would take the jobs up."""
    port, command = 8017, [sys.executable, "-m", "server.cli"]
    environment = {**os.environ, "ARCHSMITH_DATA_DIR": str(folder)}
    subprocess.run([*command, "db", "upgrade"], check=True, env=environment)
    server = subprocess.Popen(
        [*command, "api", "--port", str(port)], env=environment, stderr=subprocess.DEVNULL
    )
    try:
        with Client(f"http://127.0.0.1:{port}") as client:
            while True:
                try:
                    client.jobs(limit=1)
                    break
                except ServerUnreachable:
                    time.sleep(0.2)
            yield client
    finally:
        server.terminate()
        server.wait()


def submissions(client: Client) -> None:
    request = {**SEARCH, "config": {"evaluator": {"kind": "cost"}, "baseline": False}}

    def submit(_: int) -> float:
        began = time.perf_counter()
        client.submit(request)
        return time.perf_counter() - began

    began = time.perf_counter()
    with ThreadPoolExecutor(4) as threads:
        seconds = sorted(threads.map(submit, range(SUBMISSIONS)))
    rate = SUBMISSIONS / (time.perf_counter() - began)
    p99 = seconds[int(0.99 * len(seconds))]
    print(
        f"REST submissions (SQLite, 4 clients): {rate:.0f} per second, "
        f"median {1e3 * statistics.median(seconds):.1f} ms, p99 {1e3 * p99:.1f} ms"
    )


def first_trial(client: Client) -> None:
    """From the request to the first trial: on record, begun on its device, and its first report."""
    print(f"cold (Ray and the feature network are started and made): {_first_trial(client, 0, 2)}")
    seed = 0
    for pause in (0.0, PAUSE_SECONDS):
        for parallel in (2, 1):
            for _ in range(REPEATS):
                time.sleep(pause)
                seed += 1
                print(
                    f"warm worker, {parallel} at a time, {pause:g} s after the job before: "
                    f"{_first_trial(client, seed, parallel)}"
                )


def _first_trial(client: Client, seed: int, parallel: int) -> str:
    config = {**SEARCH["config"], "trials": {"parallel": parallel}}
    began = time.time()
    job = client.submit({**SEARCH, "config": config, "seed": seed, "budget": {"evaluations": 2}})
    seen: dict[str, float] = {}
    for event in client.events(job["id"]):
        seen.setdefault(event["kind"], time.time() - began)
    runs = [
        datetime.fromisoformat(row["finished_at"]).timestamp() - row["device_seconds"] - began
        for row in client.candidates(job["id"])
    ]
    return (
        f"first trial on record {seen['candidate.started']:.2f} s, runs {min(runs):.2f} s, "
        f"first report {seen['candidate.progress']:.2f} s (load {os.getloadavg()[0]:.1f})"
    )


def overhead(client: Client) -> None:
    """Seconds per trial of a search against bare Ray Tune that runs the very same evaluations.

    Both start processes for their trials: the search begins before any stand by for it.
    """
    job = client.submit({**SEARCH, "seed": 99, "budget": {"evaluations": TRIALS}})
    for _event in client.events(job["id"]):
        pass
    candidates = list(client.candidates(job["id"]))
    job = client.job(job["id"])
    platform = job["running_seconds"]
    print(f"search of {TRIALS} trials: {platform:.1f} s of running, {platform / TRIALS:.2f} s a trial")
    time.sleep(PAUSE_SECONDS)  # until the processes that stand by for a next job have started
    bare = bare_tune([c["key"] for c in candidates])
    print(
        f"bare Ray Tune, same evaluations: {bare:.1f} s, {bare / TRIALS:.2f} s a trial; "
        f"the platform takes {platform / bare:.2f} x"
    )


def bare_tune(keys: list[str]) -> float:
    """Ray Tune as anybody would use it: a function, a grid, reused actors."""
    os.environ.update(RAY_AIR_NEW_OUTPUT="0", TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1")
    code = f"""
import time, tempfile
from pathlib import Path
import ray
from ray import tune
from ray.tune import RunConfig, TuneConfig, Tuner
from search_spaces import find
from server.store.specs import DiffusionEvaluation
from workers.evaluators import make_evaluator
from workers.trial import Trial

space = find("unet-8")
spec = DiffusionEvaluation(**{SEARCH["config"]["evaluator"]!r})
cache = Path(tempfile.mkdtemp())
evaluator = make_evaluator(spec, space, "digits", data_root=None, cache=cache)
evaluator.signature  # the feature network is trained before the clock starts, as it is in the search

def trial(config):
    found = trial.__dict__.setdefault("evaluator", None)
    made = found or make_evaluator(spec, space, "digits", data_root=None, cache=cache)
    trial.evaluator = made
    folder = Path(tempfile.mkdtemp())
    measured = made.evaluate(
        Trial(space.parse_key(config["key"]), 99, folder, {{"fid": 1.0}}),
        lambda step, metrics: tune.report(dict(metrics)),
    )
    tune.report(dict(measured.metrics))

ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
tuner = Tuner(
    tune.with_resources(trial, {{"cpu": 1}}),
    param_space={{"key": tune.grid_search({keys!r})}},
    tune_config=TuneConfig(reuse_actors=True, max_concurrent_trials=2),
    run_config=RunConfig(storage_path=tempfile.mkdtemp(), verbose=0),
)
began = time.time()
tuner.fit()
print("SECONDS", time.time() - began)
"""
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return float(ran.stdout.rsplit("SECONDS", 1)[1])


def main() -> None:
    command_line()
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as url, Client(url) as client:
        first_trial(client)
        overhead(client)
    with tempfile.TemporaryDirectory() as folder, api_alone(Path(folder)) as client:
        submissions(client)


if __name__ == "__main__":
    main()
