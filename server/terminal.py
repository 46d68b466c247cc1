"""Jobs in the terminal: tables, and a progress bar that the event stream moves."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

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
    if figures := (job["result"] or {}).get("confirmed"):
        rows["confirmed"] = confirmed(figures)
    for name, value in rows.items():
        table.add_row(f"[dim]{name}[/]", value)
    Console().print(table)


def describe(candidate: Mapping[str, Any], metric: str) -> str:
    options = " ".join(f"{name}={value}" for name, value in candidate["architecture"].items())
    return f"#{candidate['number']}  {metric} {candidate['metrics'][metric]:.4g}  ({options})"


def confirmed(figures: Mapping[str, Any]) -> str:
    """What the winner came to under new seeds, and what the search had measured."""
    spread = "" if figures["sd"] is None else f" ± {figures['sd']:.2g}"
    seeds = f"{len(figures['seeds'])} new seed{'s' if len(figures['seeds']) > 1 else ''}"
    found = f"{figures['first']:.4g} in the search"
    return f"{figures['metric']} {figures['mean']:.4g}{spread} with {seeds}; {found}"


def follow(client: Client, job_id: str) -> None:
    """Shows the job's progress until it has ended: candidates of a search, steps of a training."""
    job = client.job(job_id)
    shows = _TrainingBar if job["kind"] == "train" else _SearchBar
    columns = (
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TimeElapsedColumn(), TextColumn("{task.fields[best]}"),
    )  # fmt: skip
    with Progress(*columns) as progress:
        bar: _Bar = shows(progress, job)
        told = ""
        for event in client.events(job_id):
            noun, _, verb = event["kind"].partition(".")
            if noun == "job":
                progress.update(bar.task, description=verb.replace("_", " "))
            elif noun == "candidate":
                bar.moved(verb, event["data"])
            elif verb == "confirming":
                again = len(event["data"]["candidates"]) * len(event["data"]["seeds"])
                progress.reset(bar.task, total=again, description="measuring the best again", best="")
                bar = _ConfirmationBar(progress, bar.task)
            elif verb == "confirmed":
                progress.console.print(Text(confirmed(event["data"])))
            elif verb == "fell_back" and event["data"]["reason"] != told:
                told = event["data"]["reason"]
                console = progress.console
                console.print("[yellow]others propose in the language model's place:[/]", Text(told))


class _Bar(Protocol):
    task: TaskID

    def moved(self, verb: str, data: Mapping[str, Any]) -> None:
        """Takes an event of a candidate."""


class _SearchBar:
    """A step for every candidate that has ended, and the best value so far."""

    def __init__(self, progress: Progress, job: Mapping[str, Any]) -> None:
        self.progress, self.objective = progress, job["spec"]["objectives"][0]
        self.task = progress.add_task(job["state"], total=job["spec"]["budget"]["evaluations"], best="")
        self.best: float | None = None

    def moved(self, verb: str, data: Mapping[str, Any]) -> None:
        if verb == "completed":
            metric = self.objective["metric"]
            self.best = _better(self.best, data["metrics"].get(metric), self.objective["goal"])
            shown = f"best {metric} {self.best:.4g}" if self.best is not None else ""
            self.progress.update(self.task, advance=1, best=shown)
        elif verb == "failed":
            self.progress.update(self.task, advance=1)
            self.progress.console.print(f"[red]a candidate failed:[/] {data.get('reason', '')}")


class _ConfirmationBar:
    """A step for every candidate that has been measured again."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self.progress, self.task = progress, task

    def moved(self, verb: str, data: Mapping[str, Any]) -> None:
        if verb in ("completed", "failed"):
            self.progress.update(self.task, advance=1)


class _TrainingBar:
    """Where the one training stands, and its loss."""

    def __init__(self, progress: Progress, job: Mapping[str, Any]) -> None:
        recipe = job["spec"]["config"]["recipe"]
        self.progress, self.metric = progress, job["spec"]["objectives"][0]["metric"]
        self.task = progress.add_task(job["state"], total=recipe.get("steps") or recipe["epochs"], best="")

    def moved(self, verb: str, data: Mapping[str, Any]) -> None:
        if verb == "progress":
            loss = data["metrics"].get("loss")
            shown = "" if loss is None else f"loss {loss:.4g}"
            self.progress.update(self.task, completed=data["step"], best=shown)
        elif verb == "completed":
            self.progress.update(self.task, best=f"{self.metric} {data['metrics'][self.metric]:.4g}")
        elif verb == "retried":
            self.progress.console.print(f"[yellow]goes on from its last checkpoint:[/] {data['reason']}")


def _better(best: float | None, value: float | None, goal: str) -> float | None:
    if best is None or value is None:
        return value if best is None else best
    return max(best, value) if goal == "maximize" else min(best, value)
