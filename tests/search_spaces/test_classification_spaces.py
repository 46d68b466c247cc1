"""The spaces of cells, blocks and widths: which codes are one network, and the published costs."""

from collections import Counter
from itertools import permutations, product
from random import Random

import pytest

from search_spaces.cell import (
    EDGES,
    NASBENCH201,
    OPERATIONS,
    canonical_cell,
    cell_net_cost,
    published_string,
    without_dead_edges,
)
from search_spaces.channels import CHANNEL_MOBILENET, CHANNEL_RESNET
from search_spaces.macro import LAYERS, MACRO_8, NASBENCH_MACRO
from search_spaces.mobile import (
    FIXED_ROWS,
    MOBILE_64,
    MOBILE_IMAGENET,
    NAMED,
    UNLISTED_NORMS,
    table_flops,
    table_row,
)
from search_spaces.space import Cost, Genes, SearchSpace

CELLS = tuple(product(range(5), repeat=6))


def code(digits: str) -> Genes:
    return tuple(map(int, digits))


# -------------------------------------------------------------------- cells


def isomorphic_form(genes: Genes) -> str:
    """The cell's sum with its convolutions named, smallest over all namings: equal for one graph only."""
    live = [
        (gene, edge, number)
        for number, (gene, edge) in enumerate(zip(without_dead_edges(genes), EDGES, strict=True))
        if gene
    ]
    convolutions = [number for gene, _, number in live if gene in (2, 3)]
    forms = []
    for order in permutations("abcdef"[: len(convolutions)]):
        names = dict(zip(convolutions, order, strict=True))
        sums: list[list[str]] = [["x"], [], [], []]
        for gene, (source, target), number in live:
            terms = sums[source]
            name = f"{gene}{names.get(number, '')}"
            sums[target] += terms if gene == 1 else [f"{name}({'+'.join(sorted(terms))})"]
        forms.append("+".join(sorted(sums[3])))
    return min(forms)


def test_two_cells_share_a_canonical_form_exactly_where_their_graphs_are_isomorphic() -> None:
    rng = Random(0)
    sample = rng.sample(CELLS, 3000) + [canonical_cell(genes) for genes in rng.sample(CELLS, 500)]
    pairs = {(canonical_cell(genes), isomorphic_form(genes)) for genes in sample}
    assert len({canonical for canonical, _ in pairs}) == len({form for _, form in pairs}) == len(pairs)


def test_there_are_5260_cells_and_the_smallest_code_stands_for_each() -> None:
    classes: dict[Genes, list[Genes]] = {}
    for genes in CELLS:
        classes.setdefault(canonical_cell(genes), []).append(genes)
    assert len(classes) == 5260
    assert all(canonical == min(members) for canonical, members in classes.items())


def test_a_canonical_cell_has_no_dead_edge() -> None:
    assert all(without_dead_edges(canonical_cell(genes)) == canonical_cell(genes) for genes in CELLS)


def test_without_a_path_all_cells_are_the_empty_one() -> None:
    cut = [genes for genes in CELLS if not any(without_dead_edges(genes))]
    assert len(cut) == 341
    assert {canonical_cell(genes) for genes in cut} == {(0,) * 6}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("430123", "340132"),
        ("303101", "030103"),
        ("300300", "000300"),
        ("003303", "000300"),
        ("401011", "440011"),
    ],
    ids=["nodes swapped", "a skip contracted", "a dead end", "an edge out of nothing", "a pool used twice"],
)
def test_cells_that_are_one_network_share_a_key(one: str, other: str) -> None:
    assert NASBENCH201.architecture(code(one)) == NASBENCH201.architecture(code(other))


@pytest.mark.parametrize(("one", "other"), [("301011", "330011"), ("201111", "220111")])
def test_one_convolution_used_twice_is_not_two_convolutions(one: str, other: str) -> None:
    assert NASBENCH201.architecture(code(one)) != NASBENCH201.architecture(code(other))


@pytest.mark.parametrize("best", ["333123", "333132", "333133", "223133", "322133"])
def test_the_best_published_cells_stand_for_themselves_alone(best: str) -> None:
    assert [genes for genes in CELLS if canonical_cell(genes) == canonical_cell(code(best))] == [code(best)]


def test_the_largest_cell_has_convolutions_everywhere() -> None:
    assert set(NASBENCH201.decode(NASBENCH201.largest).values()) == {"conv3x3"}


def test_cells_cost_what_the_benchmark_says() -> None:
    for genes in CELLS[::97]:
        cost = cell_net_cost(edges=[OPERATIONS[gene] for gene in genes], channels=16, cells=5, classes=10)
        assert cost.params == 73_306 + 28_000 * genes.count(2) + 243_040 * genes.count(3)
        assert cost.macs == 7_783_040 + 3_932_160 * genes.count(2) + 35_389_440 * genes.count(3)


@pytest.mark.parametrize(("classes", "params"), [(10, 73_306), (100, 79_156), (120, 80_456)])
def test_the_classifier_grows_with_the_classes(classes: int, params: int) -> None:
    assert cell_net_cost(edges=["none"] * 6, channels=16, cells=5, classes=classes).params == params


def test_a_cell_reads_as_the_benchmark_writes_it() -> None:
    string = "|nor_conv_3x3~0|+|avg_pool_3x3~0|none~1|+|skip_connect~0|nor_conv_1x1~1|nor_conv_3x3~2|"
    assert published_string(code("340123")) == string


# -------------------------------------------------------------------- blocks


def test_nasbench_macro_has_3969_networks() -> None:
    codes = product(range(3), repeat=8)
    sizes = Counter(Counter(map(NASBENCH_MACRO.canonical, codes)).values())
    assert sizes == {1: 2025, 2: 1620, 4: 324}


def test_an_identity_moves_to_the_end_of_its_stage_and_no_further() -> None:
    arch = NASBENCH_MACRO.architecture(code("02012102"))
    assert arch.genes == code("02012120")
    assert NASBENCH_MACRO.architecture(code("00100000")) != NASBENCH_MACRO.architecture(code("10000000"))


def test_where_the_first_layer_keeps_the_shape_its_identity_moves_too() -> None:
    assert MACRO_8.architecture((0, 2, 0, 1)).genes == (2, 0, 0, 1)
    assert len({MACRO_8.canonical(genes) for genes in product(range(3), repeat=4)}) == 63


@pytest.mark.parametrize(
    ("digits", "params", "macs"),
    [
        ("00000000", 387_882, 7_713_280),
        ("02012100", 890_666, 47_327_744),
        ("22212202", 1_985_514, 85_164_544),
        ("22222222", 2_932_586, 105_660_928),
    ],
)
def test_macro_networks_cost_what_is_published(digits: str, params: int, macs: int) -> None:
    assert NASBENCH_MACRO.cost_of(NASBENCH_MACRO.architecture(code(digits))) == Cost(params, macs)


def test_descriptions_list_every_layer_and_name_no_benchmark() -> None:
    for space in (NASBENCH201, NASBENCH_MACRO, CHANNEL_RESNET, CHANNEL_MOBILENET, MOBILE_IMAGENET):
        text = space.about.lower()
        assert not any(name in text for name in ("nas-bench", "nasbench", "cifar", "imagenet", "genius"))
        assert "{" not in text
    assert all(f"layer_{number}: " in NASBENCH_MACRO.about for number in range(1, len(LAYERS) + 1))


# -------------------------------------------------------------------- widths


@pytest.mark.parametrize(
    ("space", "multiples", "params", "macs"),
    [
        (CHANNEL_RESNET, "1111111", 963_658, 90_096_896),
        (CHANNEL_RESNET, "4444444", 15_356_170, 1_436_226_560),
        (CHANNEL_RESNET, "4344424", 12_701_322, 1_209_734_144),
        (CHANNEL_MOBILENET, "1111111", 125_418, 14_285_312),
        (CHANNEL_MOBILENET, "4444342", 1_388_170, 185_062_400),
        (CHANNEL_MOBILENET, "2144212", 470_410, 64_140_288),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_widths_cost_what_is_published(space: SearchSpace, multiples: str, params: int, macs: int) -> None:
    arch = space.architecture(tuple(int(digit) - 1 for digit in multiples))
    assert space.cost_of(arch) == Cost(params, macs)


def test_options_are_widths() -> None:
    best = CHANNEL_RESNET.decode(CHANNEL_RESNET.architecture((3, 2, 3, 3, 3, 1, 3)))
    assert list(best.values()) == [256, 192, 256, 512, 512, 256, 512]


# -------------------------------------------------------------------- the ImageNet space


@pytest.mark.parametrize(
    ("name", "params", "macs", "mflops"),
    [("GENIUS-329", 6_967_464, 306.97e6, 329.4), ("GENIUS-401", 7_452_328, 372.26e6, 401.5)],
)
def test_the_networks_found_by_genius_cost_what_is_published(
    name: str, params: int, macs: float, mflops: float
) -> None:
    arch = NAMED[name]
    cost = MOBILE_IMAGENET.cost_of(arch)
    assert cost.params == params
    assert cost.macs == pytest.approx(macs, abs=5e3)
    measured = table_flops(MOBILE_IMAGENET.decode(arch)) + UNLISTED_NORMS
    assert measured / 1e6 == pytest.approx(mflops, abs=0.05)


def test_the_released_table_runs_from_21_6_to_883_mflops() -> None:
    ends = [(0,) * 30, (6,) * 30]
    flops = [table_flops(MOBILE_IMAGENET.decode(MOBILE_IMAGENET.architecture(genes))) for genes in ends]
    assert [round(value / 1e6, 1) for value in flops] == [21.6, 883.0]
    assert sum(FIXED_ROWS) == pytest.approx(16.0037)


def test_a_row_of_the_released_table() -> None:
    first = (16, 24, 2)
    assert table_row((4, 3), first, 112**2) / 1e6 == pytest.approx(23.785, abs=1e-3)
    assert table_row(None, first, 112**2) / 1e6 == pytest.approx(1.5053, abs=1e-4)
    assert table_row(None, (24, 24, 1), 56**2) == 0


def test_skips_move_to_the_end_of_a_stage_but_the_first_layer_stays() -> None:
    genes = code("000010" + "101110" + "404300" + "430440" + "505550")
    assert MOBILE_IMAGENET.canonical(genes) == code("010000" + "111100" + "443000" + "434400" + "555500")


def test_the_same_network_is_cheaper_on_small_images() -> None:
    arch = MOBILE_64.architecture(NAMED["GENIUS-329"].genes)
    small, full = MOBILE_64.cost_of(arch), MOBILE_IMAGENET.cost_of(NAMED["GENIUS-329"])
    assert full.params - small.params == 990 * (1280 + 1)
    assert small.macs < full.macs / 2
