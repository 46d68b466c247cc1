"""The tabular benchmark on a table of one's own, whose figures can be counted by hand."""

import json
from itertools import product
from pathlib import Path

import pytest

from workers.bench import contestants, tabular, tabular_command
from workers.bench.tables import Source, open_benchmark

SPACE = """
from search_spaces.space import Choice, Cost, ModelSpec, SearchSpace

SPACE = SearchSpace(
    "bench-toy",
    tuple(Choice(f"c{i}", (1, 2, 3)) for i in range(3)),
    lambda _: ModelSpec("none", {}),
    lambda decoded: Cost(sum(decoded.values()), sum(decoded.values())),
    (1, 8, 8),
    canonical=lambda genes: tuple(sorted(genes)),
)
"""


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """27 codes of 10 networks; the search sees 10 a - b of the sorted code (a, b, c), the report -c."""
    (tmp_path / "toy.py").write_text(SPACE)
    lines = [
        {
            "genes": genes,
            "val_accuracy": 10 * sorted(genes)[0] - sorted(genes)[1],
            "test_accuracy": -max(genes),
        }
        for genes in product(range(3), repeat=3)
    ]
    (tmp_path / "table.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return Source(space_file=tmp_path / "toy.py", table_file=tmp_path / "table.jsonl")


def test_a_benchmark_knows_its_networks_and_both_optima(source: Source) -> None:
    benchmark = open_benchmark(source)
    assert len(benchmark.searched) == 10
    assert (benchmark.optimum, benchmark.reported_optimum) == (18.0, 0.0)


def test_a_search_that_sees_every_network_ends_without_regret(source: Source) -> None:
    curve = tabular.search(source, "random", seed=0, budget=50)
    assert len(curve.searched) == 10
    assert list(curve.searched) == sorted(curve.searched, reverse=True)
    assert curve.searched[-1] == 0.0
    assert curve.reported[-1] == 2.0  # the best network to search for is the worst on test


def test_lines_hold_mean_and_deviation_at_the_marks(source: Source) -> None:
    def curve(seed: int, *regrets: float) -> tabular.Curve:
        return tabular.Curve("table", "x", seed, regrets, regrets, 1.0)

    line = tabular.summary([curve(0, *[4.0] * 10, 2.0), curve(1, 6.0, *[0.0] * 11)], budget=12)
    assert line.marks == (10, 12)
    assert line.searched == ((2.0, 2.0), (1.0, 1.0))
    assert line.solved == (0.5, 0.5)


def test_the_same_seed_gives_the_same_figures_in_one_process_and_in_two(source: Source) -> None:
    def figures(processes: int) -> list[dict[str, object]]:
        lines = tabular.run([source], ["random", "local"], seeds=2, budget=6, processes=processes)
        return [line.as_json() | {"seconds_a_search": None} for line in lines]

    assert figures(1) == figures(2)


def test_the_command_writes_what_it_measured(
    source: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = (
        f"--space {source.space_file} --table {source.table_file} --seeds 2 --budget 10 --out {tmp_path}/o"
    )
    with pytest.raises(SystemExit) as ended:
        tabular_command.main([*options.split(), "--proposers", "warm-local,evolution"])
    assert not ended.value.code
    figures = json.loads((tmp_path / "o").read_text())
    assert [line["proposer"] for line in figures["results"]] == ["warm-local", "evolution"]
    assert all(line["at"]["10"]["regret"]["mean"] == 0.0 for line in figures["results"])
    assert "warm-local" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ("--proposers oracle --tables /nowhere", "no published table in /nowhere"),
        ("--space x.py", "--space and --table go together"),
        ("", "give --tables"),
    ],
)
def test_the_command_says_what_is_wrong(
    options: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        tabular_command.main(options.split())
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err


def test_a_damaged_table_is_no_absent_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "nasbench201_cifar100.json").write_text('{"|nor_conv_3x3~0|+|')
    with pytest.raises(SystemExit) as ended:
        tabular_command.main(["--tables", str(tmp_path)])
    assert ended.value.code == 2
    assert "nasbench201_cifar100.json is truncated" in capsys.readouterr().err


def test_an_unknown_contestant_is_answered_with_those_there_are() -> None:
    with pytest.raises(contestants.UnknownContestant, match="known: random, evolution"):
        contestants.find("oracle")


@pytest.mark.parametrize("peer", ["optuna-tpe", "smac"])
def test_peers_evaluate_distinct_networks(source: Source, peer: str) -> None:
    package, contest = contestants.PEERS[peer]
    pytest.importorskip(package)
    order = contest(open_benchmark(source), 8, 0)
    assert len(set(order)) == len(order) <= 8
