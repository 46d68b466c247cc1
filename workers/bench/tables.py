"""What a benchmark searches: a space, and a table that answers for every architecture in it."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import search_spaces
from search_spaces.space import Architecture, Genes, SearchSpace
from workers.evaluators.tables import (
    RELEASES,
    REPORTED,
    Protocol,
    Table,
    TableAbsent,
    TableUnavailable,
    open_table,
    read_table,
)


@dataclass(frozen=True)
class Source:
    """Where a table and its space come from: plain data, so that any process can open them."""

    protocol: Protocol = "published"
    space: str = ""  # a published table: of this space,
    dataset: str = ""  # on this data set,
    root: Path = Path()  # in this folder
    space_file: Path | None = None  # or one's own: the file that defines SPACE,
    table_file: Path | None = None  # and the table
    metric: str = ""  # its column to search by; empty for the only one, or val_accuracy

    @property
    def name(self) -> str:
        return f"{self.space}/{self.dataset}" if self.table_file is None else self.table_file.stem


@dataclass(frozen=True)
class Benchmark:
    """A table opened: what a search may see of an architecture, and what is only reported.

    `optimum` and `reported_optimum` are the highest of either over all networks of the space.
    """

    space: SearchSpace
    searched: dict[Genes, float]
    reported: dict[Genes, float]
    optimum: float
    reported_optimum: float

    def score(self, arch: Architecture) -> float | None:
        """None where the table has no such architecture."""
        return self.searched.get(arch.genes)


def published(root: Path, *, protocol: Protocol) -> list[Source]:
    """The published tables that lie in the folder. Raises TableUnavailable where one of them is damaged."""
    sources = [Source(protocol, space, dataset, root) for space, dataset in RELEASES]
    return [source for source in sources if _lies_there(source)]


def _lies_there(source: Source) -> bool:
    try:
        open_benchmark(source)
    except TableAbsent:
        return False
    return True


@cache
def open_benchmark(source: Source) -> Benchmark:
    """Raises TableUnavailable, UnknownSpace, InvalidSpace, FileNotFoundError."""
    if source.table_file is None or source.space_file is None:
        space = search_spaces.find(source.space)
        table = open_table(space, source.dataset, source.root, protocol=source.protocol)
    else:
        space = search_spaces.load_file(source.space_file)
        table = read_table(space, source.table_file, protocol=source.protocol)
    searched, reported = _columns(table, source.metric)
    rows = {genes: row for genes, row in table.rows.items() if space.canonical(genes) == genes}
    by_search = {genes: table.columns[searched][row] for genes, row in rows.items()}
    by_report = {genes: table.columns[reported][row] for genes, row in rows.items()}
    return Benchmark(space, by_search, by_report, max(by_search.values()), max(by_report.values()))


def _columns(table: Table, metric: str) -> tuple[str, str]:
    """The column to search by, and the one to report: its `test_` twin, else itself."""
    open_to_search = [name for name in table.columns if not name.startswith(REPORTED)]
    if not metric:
        metric = "val_accuracy" if "val_accuracy" in open_to_search else open_to_search[0]
        if len(open_to_search) > 1 and metric != "val_accuracy":
            raise TableUnavailable(f"{table.source}: name the metric, one of {', '.join(open_to_search)}")
    if metric not in open_to_search:
        raise TableUnavailable(f"{table.source}: no column {metric!r}, only {', '.join(open_to_search)}")
    twin = REPORTED + metric.removeprefix("val_")
    return metric, twin if twin in table.columns else metric
