"""The tabular benchmark on the command line: `python -m workers.bench tabular --tables DIR`."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table as Grid

from search_spaces import InvalidSpace
from workers.bench import contestants, tabular
from workers.bench.tables import Source, published
from workers.evaluators.tables import Protocol, TableUnavailable

app = typer.Typer(add_completion=False)


def main(arguments: Sequence[str]) -> NoReturn:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes started from here
    app(args=list(arguments), prog_name="python -m workers.bench tabular")
    raise SystemExit(0)


@app.command()
def command(
    tables: Annotated[Path | None, typer.Option(help="Folder of the published tables.")] = None,
    only: Annotated[str, typer.Option(help="Tables to run, comma-separated (nasbench201/cifar10).")] = "",
    space: Annotated[Path | None, typer.Option(help="Your own space: a Python file with SPACE.")] = None,
    table: Annotated[Path | None, typer.Option(help="Its table: .jsonl, .csv or .npz.")] = None,
    metric: Annotated[str, typer.Option(help="Column of your table to search by.")] = "",
    protocol: Annotated[
        str, typer.Option(help="published: search the mean over seeds; split: search one, report the others.")
    ] = "published",
    proposers: Annotated[
        str, typer.Option(help="Comma-separated; those whose package is missing are skipped.")
    ] = ",".join([*contestants.OURS, "optuna-tpe"]),
    seeds: Annotated[int, typer.Option(min=1)] = 20,
    budget: Annotated[int, typer.Option(min=1, help="Evaluations a search.")] = 200,
    processes: Annotated[int, typer.Option(min=1, max=2)] = 1,
    out: Annotated[Path | None, typer.Option(help="Write the figures here, as JSON.")] = None,
) -> None:
    """Regret of the incumbent after 10, 20, 50, 100 and 200 evaluations, in the table's unit."""
    console = Console()
    try:
        sources = _sources(tables, only, space, table, metric, _protocol(protocol))
        names, missing = _contestants(proposers)
        lines = _run(console, sources, names, seeds, budget, processes)
    except (TableUnavailable, InvalidSpace, LookupError, FileNotFoundError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    for name in dict.fromkeys(line.table for line in lines):
        console.print(_grid(name, [line for line in lines if line.table == name]))
    for reason in missing:
        console.print(f"skipped: {reason}", highlight=False, markup=False)
    if out is not None:
        figures = {
            "seeds": seeds,
            "budget": budget,
            "protocol": protocol,
            "skipped": missing,
            "results": [line.as_json() for line in lines],
        }
        out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def _protocol(text: str) -> Protocol:
    known: dict[str, Protocol] = {"published": "published", "split": "split"}
    if text not in known:
        raise LookupError(f"no protocol {text!r}; known: {', '.join(known)}")
    return known[text]


def _sources(
    root: Path | None, only: str, space: Path | None, table: Path | None, metric: str, protocol: Protocol
) -> list[Source]:
    if (space is None) != (table is None):
        raise LookupError("--space and --table go together: a space's file, and the table of its networks")
    if space is not None and table is not None:
        return [Source(protocol, space_file=space, table_file=table, metric=metric)]
    if root is None:
        raise LookupError("give --tables, the folder of the published tables, or --space with --table")
    found = published(root, protocol=protocol)
    if not found:
        raise LookupError(f"no published table in {root} that has the protocol {protocol!r}")
    wanted = [name for name in only.split(",") if name]
    if absent := [name for name in wanted if name not in {source.name for source in found}]:
        known = ", ".join(source.name for source in found)
        raise LookupError(f"no table {', '.join(absent)} in {root}; there: {known}")
    return [source for source in found if not wanted or source.name in wanted]


def _contestants(proposers: str) -> tuple[list[str], list[str]]:
    """Those that can run, and why the others cannot."""
    able: list[str] = []
    missing: list[str] = []
    for name in filter(None, proposers.split(",")):
        try:
            contestants.find(name)
        except contestants.NotInstalled as error:
            missing.append(str(error))
        else:
            able.append(name)
    return able, missing


def _run(
    console: Console, sources: list[Source], names: list[str], seeds: int, budget: int, processes: int
) -> list[tabular.Line]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=len(sources) * len(names) * seeds)

        def tick(curve: tabular.Curve) -> None:
            bar.update(task, advance=1, description=f"{curve.table}: {curve.proposer}")

        return tabular.run(sources, names, seeds=seeds, budget=budget, processes=processes, progress=tick)


def _grid(name: str, lines: list[tabular.Line]) -> Grid:
    grid = Grid(title=f"{name}: regret, below it on test")
    grid.add_column("proposer")
    for mark in lines[0].marks:
        grid.add_column(f"{mark}", justify="right")
    grid.add_column("s/search", justify="right")
    for line in lines:
        cells = [
            f"{searched[0]:.3f} ± {searched[1]:.3f}\n{reported[0]:.3f} ± {reported[1]:.3f}"
            for searched, reported in zip(line.searched, line.reported, strict=True)
        ]
        grid.add_row(line.proposer, *cells, f"{line.seconds:.2f}")
    return grid
