"""Tables of networks that were trained once and for all: where they lie, how they are read.

Published ones are read from the folder of data sets, in the format of their release (the JSON files of
GENIUS and NAS-Bench-Macro) or from compact arrays. An operator's own lie in its folder `tables`:

- NAME.jsonl: one object a line, `{"key": "SPACE:0-2-1", "val_accuracy": 91.2, "test_accuracy": 90.8}`;
- NAME.csv: the same names in the first line, then one row an architecture;
- NAME.npz: an integer array `genes` (N, choices), and an array (N,) for every column.

`key` may be `genes` instead: a list of option indices in JSON, "0-2-1" in CSV. Every other name is a column
of numbers. Columns called `test_*` are for reports and never reach a search.
"""

import csv
import hashlib
import json
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from search_spaces.cell import published_string
from search_spaces.space import Genes, InvalidArchitecture, SearchSpace

Protocol = Literal["published", "split"]
Columns = dict[str, NDArray[np.float64]]
"""`val_accuracy` and `test_accuracy` (N,), or where nothing was held out test accuracies SEEDS (N, seeds)."""

SEEDS = "by seed"
REPORTED = "test_"  # what the names of the columns begin with that a search must not see


class TableUnavailable(ValueError):
    """No usable table: which file, what is wrong with it, and what to do."""


class TableAbsent(TableUnavailable):
    """There is no such table, or none for the protocol; nothing is wrong with any file."""


@dataclass(frozen=True)
class Table:
    """Results by code; `columns` hold a value per row. `digest` names the content of the file."""

    name: str
    source: Path
    digest: str
    rows: Mapping[Genes, int]
    columns: Mapping[str, Sequence[float]]

    @property
    def searched(self) -> tuple[str, ...]:
        """The columns that a search may know."""
        return tuple(name for name in self.columns if not name.startswith(REPORTED))

    def measured(self, genes: Genes) -> dict[str, float] | None:
        """What a search may know; None where the code is not in the table."""
        return self._values(genes, reported=False)

    def reported(self, genes: Genes) -> dict[str, float] | None:
        """What was held out, the columns `test_*`."""
        return self._values(genes, reported=True)

    def rank(self, genes: Genes, column: str) -> tuple[int, int]:
        """The first and the last place, from 1, that a code shares with all of the same value in a column."""
        values = np.asarray(self.columns[column])
        value = values[self.rows[genes]]
        return int((values > value).sum()) + 1, int((values >= value).sum())

    def best(self, column: str, space: SearchSpace) -> tuple[Genes, float]:
        """The highest value of a column over the architectures of a space, and where it stands."""
        values = self.columns[column]
        canonical = (genes for genes in self.rows if space.canonical(genes) == genes)
        genes = max(canonical, key=lambda genes: values[self.rows[genes]])
        return genes, values[self.rows[genes]]

    def _values(self, genes: Genes, *, reported: bool) -> dict[str, float] | None:
        row = self.rows.get(genes)
        if row is None:
            return None
        named = self.columns.items()
        return {name: values[row] for name, values in named if name.startswith(REPORTED) == reported}


def open_table(
    space: SearchSpace, dataset: str, root: Path | None, *, name: str = "", protocol: Protocol = "published"
) -> Table:
    """The published table of a space and data set, or the operator's own called `name`.

    `protocol` says what a search sees of a table that held nothing out, but has several seeds: "published"
    is their mean, which is reported too (as in GENIUS); "split" searches on the first seed and reports the
    mean of the others. Raises TableUnavailable.
    """
    if root is None:
        raise TableUnavailable(
            f"the table of {space.name} needs a data folder, and none is set; set ARCHSMITH_DATA_ROOT"
        )
    if name:
        return _own(space, name, root, protocol)
    return _published(space, dataset, root, protocol)


# -------------------------------------------------------------------- published tables


@dataclass(frozen=True)
class Release:
    """A file of a published table; `read` gives codes and columns, `prefix` tells its arrays from others."""

    file: str
    read: Callable[[Path, "Release"], tuple[Iterable[Genes], Columns]]
    prefix: str = ""


def _published(space: SearchSpace, dataset: str, root: Path, protocol: Protocol) -> Table:
    releases = RELEASES.get((space.name, dataset))
    if releases is None:
        known = [f"{known} on {data}" for known, data in RELEASES]
        raise TableUnavailable(
            f"no table of {space.name} on {dataset} is published; known: {', '.join(known)}"
        )
    absent: list[str] = []
    for release in releases:
        path = root / release.file
        try:
            codes, columns = release.read(path, release)
        except (FileNotFoundError, _NotInside) as error:
            absent.append(f"{release.file} ({error})" if isinstance(error, _NotInside) else release.file)
            continue
        except UNREADABLE as error:
            raise _damaged(path, f"{type(error).__name__}: {error}") from error
        table = _table(f"{space.name}/{dataset}", path, space, codes, columns, protocol)
        if len(table.rows) != space.size:
            raise _damaged(path, f"{len(table.rows):,} of {space.size:,} architectures")
        return table
    raise TableAbsent(
        f"{space.name} on {dataset}: none of {', '.join(absent)} in {root}; put one of them there"
    )


UNREADABLE = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    EOFError,
    csv.Error,
    zipfile.BadZipFile,
    zlib.error,
)


class _NotInside(LookupError):
    """The file has other tables, but not this one."""


def _damaged(path: Path, what: str) -> TableUnavailable:
    return TableUnavailable(f"{path} is truncated, or not what its name says ({what}); fetch it again")


def _table(
    name: str, path: Path, space: SearchSpace, codes: Iterable[Genes], columns: Columns, protocol: Protocol
) -> Table:
    columns = _by_protocol(name, columns, protocol)
    rows: dict[Genes, int] = {}
    for row, genes in enumerate(codes):
        if rows.setdefault(genes, row) != row:
            raise TableUnavailable(f"{path}: {space.name}:{'-'.join(map(str, genes))} stands there twice")
    for column, values in columns.items():
        if values.shape != (len(rows),):
            raise _damaged(path, f"{column} has shape {values.shape} for {len(rows):,} architectures")
        if not np.isfinite(values).all():
            raise _damaged(path, f"{column} holds values that are not finite")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return Table(name, path, digest, rows, {column: values.tolist() for column, values in columns.items()})


def _by_protocol(name: str, columns: Columns, protocol: Protocol) -> Columns:
    seeds = columns.get(SEEDS)
    if seeds is None:
        if protocol == "split":
            raise TableAbsent(f"{name} holds no seeds to split; use the protocol 'published'")
        return columns
    if seeds.ndim != 2 or seeds.shape[1] < 2:
        raise TableUnavailable(f"{name}: accuracies of two seeds or more are expected, not {seeds.shape}")
    searched, reported = (seeds, seeds) if protocol == "published" else (seeds[:, :1], seeds[:, 1:])
    return {"val_accuracy": searched.mean(axis=1), "test_accuracy": reported.mean(axis=1)}


# -------------------------------------------------------------------- formats of releases


def _cell_json(path: Path, _: Release) -> tuple[Iterable[Genes], Columns]:
    """GENIUS: architecture string -> val_acc_200, test_acc_200 (and a rank by test, which is not read)."""
    entries = _json_object(path)
    genes_of = {published_string(genes): genes for genes in product(range(5), repeat=6)}
    columns = {
        "val_accuracy": np.array([entry["val_acc_200"] for entry in entries.values()], np.float64),
        "test_accuracy": np.array([entry["test_acc_200"] for entry in entries.values()], np.float64),
    }
    return [genes_of[string] for string in entries], columns


def _digits_json(path: Path, release: Release) -> tuple[Iterable[Genes], Columns]:
    """NAS-Bench-Macro (`test_acc`, digits from 0) and Channel-Bench-Macro (`acc`, digits from 1)."""
    entries = _json_object(path)
    field, options, first = {"macro": ("test_acc", 3, 0), "channel": ("acc", 4, 1)}[release.prefix]
    option = {str(first + index): index for index in range(options)}
    seeds = np.array([entry[field] for entry in entries.values()], np.float64)
    return [tuple(option[digit] for digit in key) for key in entries], {SEEDS: seeds}


def _json_object(path: Path) -> dict[str, Any]:
    with path.open(encoding="utf-8") as file:
        entries = json.load(file)
    if not isinstance(entries, dict) or not entries:
        raise ValueError("it holds no object of architectures")
    return entries


def _cell_arrays(path: Path, release: Release) -> tuple[Iterable[Genes], Columns]:
    """Arrays `ops` (N, 6) into `op_names`, `DATASET_val_acc_200` and `DATASET_test_acc_200` (N,)."""
    with _arrays(path) as arrays:
        data = [name.removesuffix("_val_acc_200") for name in arrays if name.endswith("_val_acc_200")]
        named = [name for name in data if re.fullmatch(release.prefix, re.sub(r"\W|_", "", name).lower())]
        if not named:
            raise _NotInside(f"has {', '.join(data) or 'no accuracies'}")
        columns = {
            "val_accuracy": arrays[f"{named[0]}_val_acc_200"].astype(np.float64),
            "test_accuracy": arrays[f"{named[0]}_test_acc_200"].astype(np.float64),
        }
        return _codes(arrays["ops"], options=5), columns


def _macro_arrays(path: Path, _: Release) -> tuple[Iterable[Genes], Columns]:
    """Arrays `macro_ops` (N, 8) from 0, `macro_test_acc_seeds` (N, 3)."""
    with _arrays(path) as arrays:
        if "macro_ops" not in arrays:
            raise _NotInside("has no macro_ops")
        seeds = arrays["macro_test_acc_seeds"].astype(np.float64)
        return _codes(arrays["macro_ops"], options=3), {SEEDS: seeds}


def _channel_arrays(path: Path, release: Release) -> tuple[Iterable[Genes], Columns]:
    """Arrays `PREFIX_width` (N, 7) of multiples from 1, `PREFIX_test_acc_seeds` (N, 3)."""
    with _arrays(path) as arrays:
        if f"{release.prefix}_width" not in arrays:
            raise _NotInside(f"has no {release.prefix}_width")
        seeds = arrays[f"{release.prefix}_test_acc_seeds"].astype(np.float64)
        multiples = arrays[f"{release.prefix}_width"].astype(np.int64)
        return _codes(multiples - 1, options=4), {SEEDS: seeds}


@contextmanager
def _arrays(path: Path) -> Iterator[Mapping[str, NDArray[Any]]]:
    """The arrays of an npz file, while it is open. Raises ValueError where it is something else."""
    with path.open("rb") as file:
        if not zipfile.is_zipfile(file):  # NumPy would take it for pickled objects, and advise to allow them
            raise ValueError("it is no npz file")
        file.seek(0)
        yield np.load(file, allow_pickle=False)


def _codes(genes: NDArray[Any], *, options: int) -> list[Genes]:
    if not ((genes >= 0) & (genes < options)).all():
        raise ValueError(f"an option index is outside 0 to {options - 1}")
    return list(map(tuple, genes.astype(int).tolist()))


MACRO_CHANNEL = "nasbench_macro_channel.npz"
RELEASES: dict[tuple[str, str], tuple[Release, ...]] = {
    ("nasbench201", "cifar10"): (
        Release("nasbench201.npz", _cell_arrays, "cifar10"),
        Release("nasbench201_cifar10.json", _cell_json),
    ),
    ("nasbench201", "cifar100"): (
        Release("nasbench201.npz", _cell_arrays, "cifar100"),
        Release("nasbench201_cifar100.json", _cell_json),
    ),
    ("nasbench201", "imagenet16-120"): (
        Release("nasbench201.npz", _cell_arrays, "(imagenet|in)(16)?(120)?"),
        Release("nasbench201_imagenet.json", _cell_json),
    ),
    ("nasbench-macro", "cifar10"): (
        Release(MACRO_CHANNEL, _macro_arrays),
        Release("nas-bench-macro_cifar10.json", _digits_json, "macro"),
    ),
    ("channel-resnet", "cifar10"): (
        Release(MACRO_CHANNEL, _channel_arrays, "channel_resnet"),
        Release("Results_ResNet.json", _digits_json, "channel"),
    ),
    ("channel-mobilenet", "cifar10"): (
        Release(MACRO_CHANNEL, _channel_arrays, "channel_mobilenet"),
        Release("Results_MobileNet.json", _digits_json, "channel"),
    ),
}


# -------------------------------------------------------------------- an operator's own tables


def _own(space: SearchSpace, name: str, root: Path, protocol: Protocol) -> Table:
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise TableUnavailable(f"table {name!r}: a name has letters, digits, '.', '_' and '-' only")
    paths = [root / "tables" / f"{name}{suffix}" for suffix in READERS]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise TableUnavailable(f"table {name!r}: there is none of {', '.join(map(str, paths))}")
    return _read(space, name, path, protocol)


def read_table(space: SearchSpace, path: Path, *, protocol: Protocol = "published") -> Table:
    """The operator's own table in this file, wherever it lies. Raises TableUnavailable."""
    if path.suffix not in READERS:
        raise TableUnavailable(f"{path}: a table's file ends in {', '.join(READERS)}")
    return _read(space, path.stem, path, protocol)


def _read(space: SearchSpace, name: str, path: Path, protocol: Protocol) -> Table:
    try:
        return _own_table(space, name, path, protocol)
    except TableUnavailable:
        raise
    except UNREADABLE as error:
        raise TableUnavailable(f"{path}: {error}") from error


def _own_table(space: SearchSpace, name: str, path: Path, protocol: Protocol) -> Table:
    codes: list[Genes] = []
    values: dict[str, list[float]] = {}
    for place, entry in READERS[path.suffix](path):
        try:
            codes.append(_genes(space, entry))
            numbers = {name: _number(name, entry[name]) for name in entry if name not in IDENTITY}
        except ValueError as error:
            raise TableUnavailable(f"{path}, {place}: {error}") from error
        if len(codes) > 1 and numbers.keys() != values.keys():
            raise TableUnavailable(f"{path}, {place}: columns {sorted(numbers)}, before {sorted(values)}")
        for column, number in numbers.items():
            values.setdefault(column, []).append(number)
    if all(column.startswith(REPORTED) for column in values):
        raise TableUnavailable(f"{path}: no column to search by; one must not begin with {REPORTED!r}")
    columns = {column: np.array(numbers, np.float64) for column, numbers in values.items()}
    table = _table(name, path, space, codes, columns, protocol)
    # a network listed under another of its codes than the canonical one is found all the same
    under_canonical = {space.canonical(genes): row for genes, row in reversed(list(table.rows.items()))}
    return Table(name, path, table.digest, under_canonical | dict(table.rows), table.columns)


IDENTITY = ("key", "genes")


def _number(column: str, value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (ValueError, TypeError):
        raise ValueError(f"{column} is {value!r}, not a number") from None


def _genes(space: SearchSpace, entry: Mapping[str, Any]) -> Genes:
    """The code of an entry as it stands there. Raises ValueError where it is not of the space."""
    given = entry.get("genes", entry.get("key"))
    if isinstance(given, str):
        owner, _, code = given.rpartition(":")
        if owner not in ("", space.name):
            raise InvalidArchitecture(f"{given!r} is not of space {space.name}")
        given = [int(gene) for gene in code.split("-")]
    if not isinstance(given, Sequence) or not all(type(gene) is int for gene in given):
        raise InvalidArchitecture(f"{given!r} is no architecture; name it by 'key' or by 'genes'")
    genes = tuple(given)
    space.architecture(genes)
    return genes


def _json_lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield f"line {number}", _object(line, path, number)


def _object(line: str, path: Path, number: int) -> Mapping[str, Any]:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise TableUnavailable(f"{path}, line {number}: {error}") from error
    if not isinstance(entry, dict):
        raise TableUnavailable(f"{path}, line {number}: not an object")
    return entry


def _csv_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, restkey="beyond the last column", strict=True)
        for entry in reader:
            yield f"line {reader.line_num}", entry


def _array_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with _arrays(path) as arrays:
        lists = {name: arrays[name].tolist() for name in arrays}
    for row, values in enumerate(zip(*lists.values(), strict=True)):
        yield f"row {row}", dict(zip(lists, values, strict=True))


READERS: dict[str, Callable[[Path], Iterator[tuple[str, Mapping[str, Any]]]]] = {
    ".jsonl": _json_lines,
    ".csv": _csv_rows,
    ".npz": _array_rows,
}
