"""`archsmith data ...`: data sets and benchmark tables, fetched from where they are published."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Data sets and benchmark tables.")

Root = Annotated[
    Path | None,
    typer.Option("--data-root", envvar="ARCHSMITH_DATA_ROOT", help="The data folder.", show_default=False),
]


@app.command("list")
def list_data(data_root: Root = None) -> None:
    """List what can be pulled, and what is there."""
    from server.store.sources import SOURCES

    root = _root(data_root)
    for name, source in SOURCES.items():
        there = root is not None and (root / source.place).exists()
        size = "" if source.size_bytes is None else f", {source.size_bytes / 1e6:,.1f} MB"
        typer.echo(f"{'*' if there else ' '} {name:18}{source.about}{size}")
    typer.echo(
        f"* is in {root}" if root else "no data folder is set: give --data-root, or ARCHSMITH_DATA_ROOT"
    )


@app.command("pull")
def pull_data(
    names: Annotated[list[str], typer.Argument(help="What to fetch, as `archsmith data list` names it.")],
    data_root: Root = None,
) -> None:
    """Fetch data from its official source, checked; a pull that broke off goes on where it stopped."""
    from server.data_pull import pull
    from server.store.sources import SOURCES

    root = _root(data_root)
    if root is None:
        raise ValueError("no data folder is set: give --data-root, or ARCHSMITH_DATA_ROOT")
    for name in names:
        there_before = name in SOURCES and (root / SOURCES[name].place).exists()
        with _bar(name) as progress:
            place, verified = pull(name, root, progress)
        said = "was there already" if there_before else "verified" if verified else "size checked, unverified"
        typer.echo(f"{name}: {place} ({said})")


@contextmanager
def _bar(name: str) -> Iterator[Callable[[int, int | None], None]]:
    """A progress bar in bytes."""
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, transient=True) as bars:
        bar = bars.add_task(name, total=None)
        yield lambda have, total: bars.update(bar, completed=have, total=total)


def _root(given: Path | None) -> Path | None:
    from server.store.settings import StoreSettings

    return given or StoreSettings().data_root
