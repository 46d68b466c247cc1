"""Table look-ups: formats as released, an operator's own tables, and files that are no use."""

import csv
import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from search_spaces import SPACES
from search_spaces.cell import published_string
from search_spaces.space import Architecture, Genes, SearchSpace
from server.store.specs import TableEvaluation
from workers.evaluators.table import TableEvaluator
from workers.evaluators.tables import TableUnavailable
from workers.trial import Measurement, Trial, TrialFailed

CELL, MACRO = SPACES["nasbench201"], SPACES["nasbench-macro"]
RESNET, MOBILENET, SMALL = SPACES["channel-resnet"], SPACES["channel-mobilenet"], SPACES["macro-8"]


def every_code(space: SearchSpace) -> list[Genes]:
    return list(product(*(range(len(choice.options)) for choice in space.choices)))


def accuracy(genes: Genes, seed: int = 0) -> float:
    """A number that tells codes and seeds apart."""
    number = 0
    for gene in genes:
        number = 5 * number + gene
    return 10 + number / 1000 + seed


def entry_cell(genes: Genes) -> tuple[str, dict[str, Any]]:
    values = {"val_acc_200": accuracy(genes), "test_acc_200": accuracy(genes, 1), "rank": 1}
    return published_string(genes), values


def entry_macro(genes: Genes) -> tuple[str, dict[str, Any]]:
    seeds = [accuracy(genes, seed) for seed in range(3)]
    values = {"test_acc": seeds, "mean_acc": 0.0, "std": 0.0, "params": 1, "flops": 1}
    return "".join(map(str, genes)), values


def entry_channel(genes: Genes) -> tuple[str, dict[str, Any]]:
    seeds = [accuracy(genes, seed) for seed in range(3)]
    return "".join(str(gene + 1) for gene in genes), {
        "acc": seeds,
        "mean": 0.0,
        "std": 0.0,
        "flops": 1,
        "params": 1,
    }


Entry = Callable[[Genes], tuple[str, dict[str, Any]]]
RELEASED: dict[tuple[str, str], tuple[str, Entry]] = {
    ("nasbench201", "cifar10"): ("nasbench201_cifar10.json", entry_cell),
    ("nasbench201", "cifar100"): ("nasbench201_cifar100.json", entry_cell),
    ("nasbench201", "imagenet16-120"): ("nasbench201_imagenet.json", entry_cell),
    ("nasbench-macro", "cifar10"): ("nas-bench-macro_cifar10.json", entry_macro),
    ("channel-resnet", "cifar10"): ("Results_ResNet.json", entry_channel),
    ("channel-mobilenet", "cifar10"): ("Results_MobileNet.json", entry_channel),
}


def write_released(folder: Path, space: SearchSpace, dataset: str, *, drop: int = 0) -> Path:
    """The whole table in the layout of its release, in an order of its own."""
    file, entry = RELEASED[space.name, dataset]
    codes = every_code(space)
    Random(1).shuffle(codes)
    path = folder / file
    path.write_text(json.dumps(dict(map(entry, codes[drop:]))))
    return path


def write_cell_arrays(folder: Path, datasets: list[str]) -> None:
    codes = every_code(CELL)
    columns = {
        f"{data}_{split}_acc_200": np.array([accuracy(genes, seed) for genes in codes], np.float32)
        for data in datasets
        for seed, split in enumerate(("val", "test"))
    }
    np.savez(folder / "nasbench201.npz", ops=np.array(codes, np.uint8), **columns)


def opened(space: SearchSpace, dataset: str, root: Path | None, **spec: Any) -> TableEvaluator:
    return TableEvaluator(TableEvaluation(**spec), space, dataset, data_root=root)


def measured(evaluator: TableEvaluator, arch: Architecture) -> Measurement:
    return evaluator.evaluate(Trial(arch, 0, Path(".")), lambda step, metrics: None)


# -------------------------------------------------------------------- published tables


@pytest.mark.parametrize(("name", "dataset"), RELEASED)
def test_a_table_is_read_as_released(tmp_path: Path, name: str, dataset: str) -> None:
    space = SPACES[name]
    write_released(tmp_path, space, dataset)
    evaluator = opened(space, dataset, tmp_path)
    arch = space.sample(Random(3))
    mean = dataset == "cifar10" and name != "nasbench201"  # of three seeds
    assert measured(evaluator, arch).metrics == {
        "val_accuracy": pytest.approx(accuracy(arch.genes, 1 if mean else 0)),
    }
    assert evaluator.report(arch) == {"test_accuracy": pytest.approx(accuracy(arch.genes, 1))}


@pytest.mark.parametrize("prefix", ["imagenet16_120", "ImageNet16-120", "imagenet", "imagenet16120"])
def test_the_third_data_set_is_read_in_the_form_of_the_other_two(tmp_path: Path, prefix: str) -> None:
    write_cell_arrays(tmp_path, ["cifar10", prefix])
    arch = CELL.sample(Random(0))
    evaluator = opened(CELL, "imagenet16-120", tmp_path)
    assert evaluator.report(arch)["test_accuracy"] == pytest.approx(accuracy(arch.genes, 1))


def test_a_data_set_that_the_arrays_lack_is_read_from_its_own_file(tmp_path: Path) -> None:
    write_cell_arrays(tmp_path, ["cifar10"])
    with pytest.raises(TableUnavailable, match=r"nasbench201.npz \(has cifar10\), nasbench201_cifar100.json"):
        opened(CELL, "cifar100", tmp_path)
    write_released(tmp_path, CELL, "cifar100")
    assert opened(CELL, "cifar100", tmp_path).table.source.name == "nasbench201_cifar100.json"


def test_compact_arrays_and_the_release_give_the_same(tmp_path: Path) -> None:
    for folder in ("arrays", "released"):
        (tmp_path / folder).mkdir()
    codes = np.array(every_code(MACRO), np.uint8)
    seeds = np.array([[accuracy(genes, seed) for seed in range(3)] for genes in every_code(MACRO)])
    np.savez(tmp_path / "arrays/nasbench_macro_channel.npz", macro_ops=codes, macro_test_acc_seeds=seeds)
    write_released(tmp_path / "released", MACRO, "cifar10")
    one, other = (opened(MACRO, "cifar10", tmp_path / folder) for folder in ("arrays", "released"))
    for arch in (MACRO.sample(Random(seed)) for seed in range(20)):
        assert measured(one, arch).metrics == pytest.approx(measured(other, arch).metrics)


def test_widths_in_compact_arrays_count_from_one(tmp_path: Path) -> None:
    codes = every_code(MOBILENET)
    seeds = np.array([[accuracy(genes, seed) for seed in range(3)] for genes in codes])
    np.savez(
        tmp_path / "nasbench_macro_channel.npz",
        channel_mobilenet_width=np.array(codes, np.uint8) + 1,
        channel_mobilenet_test_acc_seeds=seeds,
    )
    evaluator = opened(MOBILENET, "cifar10", tmp_path)
    assert evaluator.report(MOBILENET.largest)["test_accuracy"] == pytest.approx(accuracy((3,) * 7, 1))


def test_split_searches_on_one_seed_and_reports_the_others(tmp_path: Path) -> None:
    write_released(tmp_path, MACRO, "cifar10")
    evaluator = opened(MACRO, "cifar10", tmp_path, protocol="split")
    arch = MACRO.largest
    assert measured(evaluator, arch).metrics["val_accuracy"] == pytest.approx(accuracy(arch.genes, 0))
    assert evaluator.report(arch)["test_accuracy"] == pytest.approx(accuracy(arch.genes, 1) + 0.5)
    assert evaluator.signature != opened(MACRO, "cifar10", tmp_path).signature


def test_a_table_with_a_validation_column_has_nothing_to_split(tmp_path: Path) -> None:
    write_released(tmp_path, CELL, "cifar10")
    with pytest.raises(TableUnavailable, match="published"):
        opened(CELL, "cifar10", tmp_path, protocol="split")


def test_an_isomorphic_cell_has_the_result_of_its_canonical_code(tmp_path: Path) -> None:
    write_released(tmp_path, CELL, "cifar10")
    evaluator = opened(CELL, "cifar10", tmp_path)
    arch = CELL.architecture((4, 3, 0, 1, 2, 3))
    assert arch.genes == (3, 4, 0, 1, 3, 2)
    assert measured(evaluator, arch).metrics["val_accuracy"] == accuracy((3, 4, 0, 1, 3, 2))


def test_the_best_is_looked_for_among_canonical_codes(tmp_path: Path) -> None:
    write_released(tmp_path, CELL, "cifar10")
    genes, value = opened(CELL, "cifar10", tmp_path).table.best("val_accuracy", CELL)
    assert genes == max(set(map(CELL.canonical, every_code(CELL))))
    assert value == accuracy(genes)


def test_what_is_held_out_never_reaches_a_search(tmp_path: Path) -> None:
    for space, dataset in ((CELL, "cifar10"), (MACRO, "cifar10")):
        write_released(tmp_path, space, dataset)
        evaluator = opened(space, dataset, tmp_path)
        assert set(measured(evaluator, space.largest).metrics) == {"val_accuracy"}


# -------------------------------------------------------------------- files that are no use


def test_without_a_data_folder_the_setting_is_named() -> None:
    with pytest.raises(TableUnavailable, match="ARCHSMITH_DATA_ROOT"):
        opened(CELL, "cifar10", None)


def test_an_absent_table_is_named_with_all_its_files(tmp_path: Path) -> None:
    with pytest.raises(TableUnavailable, match="nasbench_macro_channel.npz, Results_MobileNet.json") as error:
        opened(MOBILENET, "cifar10", tmp_path)
    assert str(tmp_path) in str(error.value)


def test_a_data_set_without_a_table_names_those_that_have_one(tmp_path: Path) -> None:
    with pytest.raises(TableUnavailable, match="nasbench201 on imagenet16-120"):
        opened(MACRO, "cifar100", tmp_path)


def test_a_table_that_lacks_architectures_is_refused(tmp_path: Path) -> None:
    write_released(tmp_path, MACRO, "cifar10", drop=5)
    with pytest.raises(TableUnavailable, match="6,556 of 6,561"):
        opened(MACRO, "cifar10", tmp_path)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def other_layout(path: Path) -> None:
    entries = json.loads(path.read_text())
    path.write_text(json.dumps(list(entries.items())))


def other_fields(path: Path) -> None:
    entries = json.loads(path.read_text())
    path.write_text(json.dumps({key: {"accuracy": 1.0} for key in entries}))


def other_keys(path: Path) -> None:
    entries = json.loads(path.read_text())
    path.write_text(
        json.dumps({key.replace("1", "7").replace("skip", "jump"): entries[key] for key in entries})
    )


def not_a_number(path: Path) -> None:
    entries = json.loads(path.read_text())
    first = next(iter(entries.values()))
    for field, value in first.items():
        first[field] = [float("nan")] * 3 if isinstance(value, list) else float("nan")
    path.write_text(json.dumps(entries))


@pytest.mark.parametrize("damage", [cut, empty, other_layout, other_fields, other_keys, not_a_number])
@pytest.mark.parametrize(("name", "dataset"), [("nasbench201", "cifar10"), ("nasbench-macro", "cifar10")])
def test_a_damaged_release_is_refused_by_name_before_any_search(
    tmp_path: Path, name: str, dataset: str, damage: Callable[[Path], None]
) -> None:
    path = write_released(tmp_path, SPACES[name], dataset)
    damage(path)
    with pytest.raises(TableUnavailable, match="fetch it again") as error:
        opened(SPACES[name], dataset, tmp_path)
    assert str(path) in str(error.value)


def test_damaged_arrays_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "nasbench201.npz"
    write_cell_arrays(tmp_path, ["cifar10"])
    whole = path.read_bytes()
    wrong = {"ops": np.full((2, 6), 9), "cifar10_val_acc_200": np.ones(2), "cifar10_test_acc_200": np.ones(2)}
    for damaged in (
        whole[: len(whole) // 2],
        b"",
        b"not an archive",
        whole[:200] + b"\0" * 400 + whole[600:],
    ):
        path.write_bytes(damaged)
        with pytest.raises(TableUnavailable, match="nasbench201.npz") as error:
            opened(CELL, "cifar10", tmp_path)
        assert "pickle" not in str(error.value)
    np.savez(path, **wrong)
    with pytest.raises(TableUnavailable, match="outside 0 to 4"):
        opened(CELL, "cifar10", tmp_path)
    np.savez(path, **{name: wrong[name] for name in ("ops", "cifar10_val_acc_200")})
    with pytest.raises(TableUnavailable, match="cifar10_test_acc_200"):
        opened(CELL, "cifar10", tmp_path)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    objects = np.array([{"a": 1}], dtype=object)
    np.savez(
        tmp_path / "nasbench201.npz", ops=objects, cifar10_val_acc_200=objects, cifar10_test_acc_200=objects
    )
    with pytest.raises(TableUnavailable, match="allow_pickle"):
        opened(CELL, "cifar10", tmp_path)


# -------------------------------------------------------------------- an operator's own tables

ROWS = [
    {"genes": [0, 0, 0, 0], "val_accuracy": 50.0, "latency_ms": 1.5, "test_accuracy": 49.0},
    {"genes": [2, 0, 1, 1], "val_accuracy": 80.0, "latency_ms": 2.5, "test_accuracy": 79.0},
]


def write_lines(folder: Path, rows: list[dict[str, Any]]) -> None:
    lines = [json.dumps(row) for row in rows]
    (folder / "mine.jsonl").write_text("\n".join(lines) + "\n\n")


def write_csv(folder: Path, rows: list[dict[str, Any]]) -> None:
    with (folder / "mine.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows({**row, "genes": "-".join(map(str, row["genes"]))} for row in rows)


def write_arrays(folder: Path, rows: list[dict[str, Any]]) -> None:
    np.savez(folder / "mine.npz", **{name: np.array([row[name] for row in rows]) for name in rows[0]})


@pytest.fixture
def own(tmp_path: Path) -> Path:
    folder = tmp_path / "tables"
    folder.mkdir()
    return folder


def opened_own(own: Path, name: str = "mine", **spec: Any) -> TableEvaluator:
    return opened(SMALL, "digits", own.parent, table=name, **spec)


@pytest.mark.parametrize("write", [write_lines, write_csv, write_arrays])
def test_an_own_table_is_read_from_lines_csv_and_arrays(
    own: Path, write: Callable[[Path, list[dict[str, Any]]], None]
) -> None:
    write(own, ROWS)
    evaluator = opened_own(own)
    arch = SMALL.architecture((2, 0, 1, 1))
    assert measured(evaluator, arch).metrics == {
        "val_accuracy": 80.0,
        "latency_ms": 2.5,
    }
    assert evaluator.report(arch) == {"test_accuracy": 79.0}


def test_an_own_table_may_name_architectures_by_their_keys(own: Path) -> None:
    write_lines(own, [{"key": "macro-8:2-0-1-1", "score": 3}])
    assert measured(opened_own(own), SMALL.architecture((2, 0, 1, 1))).metrics["score"] == 3


def test_a_network_listed_under_another_code_is_found(own: Path) -> None:
    write_lines(own, [{"genes": [0, 2, 1, 1], "score": 3}])
    assert measured(opened_own(own), SMALL.architecture((0, 2, 1, 1))).metrics["score"] == 3


def test_the_canonical_code_goes_before_another_of_the_same_network(own: Path) -> None:
    write_lines(own, [{"genes": [0, 2, 1, 1], "score": 3}, {"genes": [2, 0, 1, 1], "score": 4}])
    assert measured(opened_own(own), SMALL.architecture((0, 2, 1, 1))).metrics["score"] == 4


def test_an_architecture_that_is_not_listed_fails_its_trial_alone(own: Path) -> None:
    write_lines(own, ROWS)
    evaluator = opened_own(own)
    with pytest.raises(TrialFailed, match=r"macro-8:2-2-2-2 is not among the 2 .*mine\.jsonl"):
        measured(evaluator, SMALL.largest)
    with pytest.raises(LookupError, match="2-2-2-2"):
        evaluator.report(SMALL.largest)


@pytest.mark.parametrize(
    ("row", "word"),
    [
        ({"genes": [0, 0, 0], "score": 1}, "line 2: macro-8 has 4 choices"),
        ({"genes": [0, 0, 0, 9], "score": 1}, "line 2: layer_4"),
        ({"genes": "0-0-x-0", "score": 1}, "line 2: .*'x'"),
        ({"key": "unet-8:0-0-0-0", "score": 1}, "line 2: .*not of space macro-8"),
        ({"score": 1}, "line 2: .*'key' or by 'genes'"),
        ({"genes": [0, 0, 0, 1], "score": "good"}, "line 2: score is 'good', not a number"),
        ({"genes": [0, 0, 0, 1], "points": 1}, r"line 2: columns \['points'\], before \['score'\]"),
        ({"genes": [1, 0, 0, 0], "score": 1}, "macro-8:1-0-0-0 stands there twice"),
        ({"genes": [0, 0, 0, 1], "score": float("inf")}, "score holds values that are not finite"),
    ],
)
def test_a_wrong_line_is_named(own: Path, row: dict[str, Any], word: str) -> None:
    write_lines(own, [{"genes": [1, 0, 0, 0], "score": 2}, row])
    with pytest.raises(TableUnavailable, match=word) as error:
        opened_own(own)
    assert "mine.jsonl" in str(error.value)


@pytest.mark.parametrize("text", ["{", "[1]", "", '{"genes": [0, 0, 0, 0], "test_accuracy": 1}'])
def test_a_file_that_is_no_table_is_refused(own: Path, text: str) -> None:
    (own / "mine.jsonl").write_text(text)
    with pytest.raises(TableUnavailable, match="mine.jsonl"):
        opened_own(own)


@pytest.mark.parametrize("text", ["genes,score\n0-0-0-0\n", "genes,score\n0-0-0-0,1,2\n", 'genes,score\n"0'])
def test_a_ragged_csv_is_refused(own: Path, text: str) -> None:
    (own / "mine.csv").write_text(text)
    with pytest.raises(TableUnavailable, match="mine.csv"):
        opened_own(own)


def test_arrays_of_unequal_length_are_refused(own: Path) -> None:
    np.savez(own / "mine.npz", genes=np.zeros((2, 4), int), score=np.ones(3))
    with pytest.raises(TableUnavailable, match="mine.npz"):
        opened_own(own)


@pytest.mark.parametrize("name", ["../mine", "a/b", ".hidden", "absent"])
def test_a_table_is_looked_for_in_its_folder_only(own: Path, name: str) -> None:
    write_lines(own.parent, ROWS)
    with pytest.raises(TableUnavailable, match="table"):
        opened_own(own, name)


def test_another_content_is_another_signature(own: Path) -> None:
    write_lines(own, ROWS)
    first = opened_own(own).signature
    assert opened_own(own).signature == first
    write_lines(own, ROWS[:1])
    assert opened_own(own).signature != first
