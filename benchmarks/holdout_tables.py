"""Tables that no proposer was made for: the largest network loses, options are shuffled, genes interact.

    python benchmarks/holdout_tables.py DATA_FOLDER OUT_FOLDER

writes a space NAME.py and its table NAME.npz for each of them. Then

    python -m workers.bench tabular --space OUT/NAME.py --table OUT/NAME.npz

The priced tables take from an accuracy what a network costs: so many points for each standard deviation of
its log MACs or log latency, over all networks. The NK landscapes (Kauffman) sum, over the genes, a random
value of the gene and K others.
"""

import sys
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

DERIVED = """from dataclasses import replace

from search_spaces import find

SPACE = replace(find({base!r}), name={name!r})
"""

SHUFFLED = """from dataclasses import replace

from search_spaces import find
from search_spaces.space import Choice

ORDERS = {orders!r}  # of every choice: which of its options stands where
BASE = find({base!r})


def published(genes):
    return tuple(order[gene] for order, gene in zip(ORDERS, genes, strict=True))


def shuffled(genes):
    return tuple(order.index(gene) for order, gene in zip(ORDERS, genes, strict=True))


SPACE = replace(
    BASE,
    name={name!r},
    choices=tuple(
        Choice(choice.name, tuple(choice.options[old] for old in order))
        for choice, order in zip(BASE.choices, ORDERS, strict=True)
    ),
    canonical=lambda genes: shuffled(BASE.canonical(published(genes))),
    baseline_genes=None,
    largest_genes=None,
)
"""

NK = """from search_spaces.space import Choice, Cost, ModelSpec, SearchSpace

SPACE = SearchSpace(
    {name!r},
    tuple(Choice(f"gene{{i}}", tuple(range(count))) for i, count in enumerate({options!r})),
    lambda _: ModelSpec("none", {{}}),
    lambda decoded: Cost(1 + sum(decoded.values()), 1 + sum(decoded.values())),
    (1, 1, 1),
)
"""


def write(out: Path, name: str, space: str, genes: NDArray[np.int64], score: Array, test: Array) -> None:
    (out / f"{name}.py").write_text(space, encoding="utf-8")
    np.savez_compressed(out / f"{name}.npz", genes=genes, val_accuracy=score, test_accuracy=test)


def deviations(values: Array) -> Array:
    """Log values with mean 0 and variance 1."""
    logs = np.log(values.astype(np.float64))
    scaled: Array = (logs - logs.mean()) / logs.std()
    return scaled


def nk_landscape(options: tuple[int, ...], k: int, seed: int) -> tuple[NDArray[np.int64], Array]:
    """All codes (N, genes), and their values in [0, 100], (N,)."""
    rng = np.random.default_rng(seed)
    codes = np.array(list(product(*map(range, options))))
    total = np.zeros(len(codes))
    for gene in range(len(options)):
        others = rng.choice([other for other in range(len(options)) if other != gene], k, replace=False)
        involved = [gene, *others.tolist()]
        values = rng.random([options[one] for one in involved])
        total += values[tuple(codes[:, involved].T)]
    return codes, 100 * total / len(options)


def main(data: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    cells = np.load(data / "nasbench201.npz")
    others = np.load(data / "nasbench_macro_channel.npz")
    genes = cells["ops"].astype(np.int64)
    val, test = cells["cifar100_val_acc_200"], cells["cifar100_test_acc_200"]

    def derived(name: str, base: str, codes: Array, score: Array, reported: Array) -> None:
        text = DERIVED.format(base=base, name=name)
        write(out, name, text, codes.astype(np.int64), score.astype(np.float64), reported.astype(np.float64))

    priced = cells["cifar10_val_acc_200"] - 3 * deviations(cells["cifar10_flops_m"])
    derived("cell-priced", "nasbench201", genes, priced, priced)
    slow = 4 * deviations(cells["latency_ms_raspi4"] + 1)
    derived("cell-latency", "nasbench201", genes, val - slow, test - slow)
    derived(
        "cell-12-epochs", "nasbench201", genes, cells["cifar100_val_acc_12"], cells["cifar100_test_acc_12"]
    )
    for name, base, prefix, codes, points in (
        ("channel-priced", "channel-resnet", "channel_resnet", others["channel_resnet_width"] - 1, 0.35),
        ("macro-priced", "nasbench-macro", "macro", others["macro_ops"], 1.5),
    ):
        mean = others[f"{prefix}_test_acc_seeds"].astype(np.float64).mean(axis=1)
        score = mean - points * deviations(others[f"{prefix}_flops"])
        derived(name, base, codes, score, score)

    rng = np.random.default_rng(3)
    orders = [rng.permutation(5).tolist() for _ in range(6)]
    shuffled = np.stack([np.argsort(order)[column] for order, column in zip(orders, genes.T, strict=True)], 1)
    text = SHUFFLED.format(orders=orders, base="nasbench201", name="cell-shuffled")
    write(out, "cell-shuffled", text, shuffled, val.astype(np.float64), test.astype(np.float64))

    options = (4, 3, 5, 2, 4, 3, 6, 2)
    for k in (1, 3):
        codes, score = nk_landscape(options, k, seed=k)
        write(out, f"nk-{k}", NK.format(name=f"nk-{k}", options=options), codes, score, score)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
