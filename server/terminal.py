"""Jobs in the terminal: tables, and a progress bar that the event stream moves."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from server.client import Client

COLOURS = {
    "queued": "dim", "running": "cyan", "paused": "yellow", "succeeded": "green", "failed": "red",
    "cancelled": "magenta",
}  # fmt: skip


def print_jobs(jobs: Sequence[Mapping[str, Any]]) -> None:
    table = Table(box=None)
    for title in ("id", "state", "method", "space", "data set", "name", "created"):
        table.add_column(title)
    for job in jobs:
        state = f"[{COLOURS[job['state']]}]{job['state']}[/]"
        table.add_row(
            job["id"], state, job["method"], job["space"], job["dataset"], job["name"], job["created_at"][:19]
        )
    Console().print(table if jobs else "no jobs")


def print_job(job: Mapping[str, Any], best: Mapping[str, Any] | None, url: str) -> None:
    table = Table(box=None, show_header=False)
    rows = {
        "id": job["id"],
        "state": f"[{COLOURS[job['state']]}]{job['state']}[/] {job['reason']}",
        "method": f"{job['method']} on {job['space']} / {job['dataset']}",
        "candidates": ", ".join(f"{count} {state}" for state, count in job["candidates"].items()) or "none",
        "page": f"{url}/jobs/{job['id']}",
    }
    if best is not None and best["score"] is not None:
        rows["best"] = describe(best, job["spec"]["objectives"][0]["metric"])
    for name, value in rows.items():
        table.add_row(f"[dim]{name}[/]", value)
    Console().print(table)


def describe(candidate: Mapping[str, Any], metric: str) -> str:
    options = " ".join(f"{name}={value}" for name, value in candidate["architecture"].items())
    return f"#{candidate['number']}  {metric} {candidate['metrics'][metric]:.4g}  ({options})"


def follow(client: Client, job_id: str) -> None:
    """Shows the job's progress until it has ended."""
    job = client.job(job_id)
    objective = job["spec"]["objectives"][0]
    best: float | None = None
    columns = (
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TimeElapsedColumn(), TextColumn("{task.fields[best]}"),
    )  # fmt: skip
    with Progress(*columns) as progress:
        total = job["spec"]["budget"]["evaluations"]
        task = progress.add_task(job["state"], total=total, best="")
        for event in client.events(job_id):
            noun, _, verb = event["kind"].partition(".")
            if noun == "job":
                progress.update(task, description=verb.replace("_", " "))
            elif verb == "completed":
                best = _better(best, event["data"]["metrics"].get(objective["metric"]), objective["goal"])
                shown = f"best {objective['metric']} {best:.4g}" if best is not None else ""
                progress.update(task, advance=1, best=shown)
            elif verb == "failed":
                progress.update(task, advance=1)
                progress.console.print(f"[red]a candidate failed:[/] {event['data'].get('reason', '')}")


def _better(best: float | None, value: float | None, goal: str) -> float | None:
    if best is None or value is None:
        return value if best is None else best
    return max(best, value) if goal == "maximize" else min(best, value)
