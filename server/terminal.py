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


JOB_COLUMNS = ("id", "state", "progress", "best", "method", "space", "name", "created")


def print_jobs(jobs: Sequence[Mapping[str, Any]]) -> None:
    """A table that fits the terminal, ids whole; elsewhere plain lines, a tab between their columns."""
    console = Console()
    if not jobs:
        console.print("no jobs")
    elif console.is_terminal:
        console.print(_job_table(jobs))
    else:
        for line in (JOB_COLUMNS, *map(_job_cells, jobs)):
            console.file.write("\t".join(" ".join(cell.split()) for cell in line) + "\n")


def _job_table(jobs: Sequence[Mapping[str, Any]]) -> Table:
    """The first columns whole; the name, or what stands for it, has the room that is left."""
    rows = [(*_job_cells(job)[:4], job["name"] or f"{job['method']} on {job['space']}") for job in jobs]
    table = Table(box=None, padding=(0, 1, 0, 0))
    for title, column in zip(JOB_COLUMNS[:4], zip(*rows, strict=True), strict=False):
        table.add_column(title, no_wrap=True, min_width=max(map(len, (title, *column))))
    table.add_column("name", no_wrap=True, overflow="ellipsis")
    for job, (number, state, *rest) in zip(jobs, rows, strict=True):
        table.add_row(number, Text(state, style=COLOURS[job["state"]]), *map(Text, rest))
    return table


def _job_cells(job: Mapping[str, Any]) -> tuple[str, ...]:
    best = "" if job["best"] is None else f"{job['best']:.6g} {job['spec']['objectives'][0]['metric']}"
    return (
        job["id"], job["state"], _progress(job), best, job["method"], job["space"] or "", job["name"],
        job["created_at"][:19],
    )  # fmt: skip


def _progress(job: Mapping[str, Any]) -> str:
    """`5/12`: candidates that have ended of the budget, or steps of a training."""
    spec = job["spec"]
    if job["kind"] == "train":
        recipe = spec["config"]["recipe"]
        return _of(job["step"] or 0, recipe.get("steps") or recipe.get("epochs"))
    return _of(job["evaluated"], (spec.get("budget") or {}).get("evaluations"))


def _of(done: int, planned: int | None) -> str:
    return f"{done}/{planned}" if planned else str(done)


def print_job(job: Mapping[str, Any], best: Mapping[str, Any] | None, url: str) -> None:
    table = Table(box=None, show_header=False)
    rows: dict[str, str | Text] = {
        "id": job["id"],
        "state": Text.assemble((job["state"], COLOURS[job["state"]]), " ", job["reason"]),
        "method": f"{job['method']} on {job['space']} / {job['dataset']}",
        "candidates": ", ".join(f"{count} {state}" for state, count in job["candidates"].items()) or "none",
        "page": f"{url}/jobs/{job['id']}",
    }
    if best is not None and best["score"] is not None:
        rows["best"] = describe(best, job["spec"]["objectives"][0]["metric"])
    if figures := (job["result"] or {}).get("confirmed"):
        rows["confirmed"] = confirmed(figures)
    for name, value in rows.items():
        table.add_row(f"[dim]{name}[/]", Text.assemble(value))
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
                bar.moved(verb, event)
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

    def moved(self, verb: str, event: Mapping[str, Any]) -> None:
        """Takes an event of a candidate."""


class _SearchBar:
    """A step for every candidate of the searched space that has ended, and the best value so far.

    A scale job has others: its super-supernet, and its family.
    """

    def __init__(self, progress: Progress, job: Mapping[str, Any]) -> None:
        self.space, self.others = job["space"], set[str]()
        self.progress, self.objective = progress, job["spec"]["objectives"][0]
        self.task = progress.add_task(job["state"], total=job["spec"]["budget"]["evaluations"], best="")
        self.best: float | None = None

    def moved(self, verb: str, event: Mapping[str, Any]) -> None:
        data = event["data"]
        if verb == "started" and not data["key"].startswith(f"{self.space}:"):
            self.others.add(event["candidate_id"])
        if event["candidate_id"] in self.others:
            return
        if verb == "completed":
            metric = self.objective["metric"]
            self.best = _better(self.best, data["metrics"].get(metric), self.objective["goal"])
            shown = f"best {metric} {self.best:.4g}" if self.best is not None else ""
            self.progress.update(self.task, advance=1, best=shown)
        elif verb == "failed":
            self.progress.update(self.task, advance=1)
            self.progress.console.print("[red]a candidate failed:[/]", Text(data.get("reason", "")))


class _ConfirmationBar:
    """A step for every candidate that has been measured again."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self.progress, self.task = progress, task

    def moved(self, verb: str, event: Mapping[str, Any]) -> None:
        if verb in ("completed", "failed"):
            self.progress.update(self.task, advance=1)


class _TrainingBar:
    """Where the one training stands, and its loss."""

    def __init__(self, progress: Progress, job: Mapping[str, Any]) -> None:
        recipe = job["spec"]["config"]["recipe"]
        self.progress, self.metric = progress, job["spec"]["objectives"][0]["metric"]
        self.task = progress.add_task(job["state"], total=recipe.get("steps") or recipe["epochs"], best="")

    def moved(self, verb: str, event: Mapping[str, Any]) -> None:
        data = event["data"]
        if verb == "progress":
            loss = data["metrics"].get("loss")
            shown = "" if loss is None else f"loss {loss:.4g}"
            self.progress.update(self.task, completed=data["step"], best=shown)
        elif verb == "completed":
            self.progress.update(self.task, best=f"{self.metric} {data['metrics'][self.metric]:.4g}")
        elif verb == "retried":
            self.progress.console.print("[yellow]goes on from its last checkpoint:[/]", Text(data["reason"]))


def _better(best: float | None, value: float | None, goal: str) -> float | None:
    if best is None or value is None:
        return value if best is None else best
    return max(best, value) if goal == "maximize" else min(best, value)
