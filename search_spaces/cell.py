"""NAS-Bench-201 (arXiv 2001.00326): which operation each of the six edges of a cell carries.

A cell has four nodes; node 0 is its input, node 3 its output, and a node is the sum of what its incoming
edges carry. The genes are the benchmark's operation ids in the order of its architecture string.

Of the 15,625 codes many build the same network: edges that do not lie on a path from input to output compute
nothing, a skip only names a node twice, and two nodes may swap places. `canonical_cell` maps every code to
the smallest one of the same network, 5,260 in all. (The benchmark trained an edge out of a node that nothing
reaches: it adds the shift of a batch norm, and is taken for dead here, as the name "zero" says.)
"""

from collections.abc import Sequence
from functools import cache
from itertools import product
from typing import Any

from search_spaces.conv_blocks import conv_norm
from search_spaces.cost import conv2d, linear, norm, total
from search_spaces.space import Choice, Cost, Decoded, Genes, ModelSpec, SearchSpace

EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
INPUT, OUTPUT = 0, 3

OPERATIONS = ("none", "skip", "conv1x1", "conv3x3", "avgpool3x3")
PUBLISHED = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
NONE, SKIP, CONV1, CONV3, POOL = range(5)
KERNELS = {"conv1x1": 1, "conv3x3": 3}


def published_string(genes: Genes) -> str:
    """The benchmark's own name of a code: `|op~0|+|op~0|op~1|+|op~0|op~1|op~2|`."""
    parts = [f"{PUBLISHED[gene]}~{source}" for gene, (source, _) in zip(genes, EDGES, strict=True)]
    return f"|{parts[0]}|+|{'|'.join(parts[1:3])}|+|{'|'.join(parts[3:])}|"


# -------------------------------------------------------------------- which codes are one network


def canonical_cell(genes: Genes) -> Genes:
    """The smallest code that builds the same network; its dead edges all are `none`."""
    return _representatives()[genes]


@cache
def _representatives() -> dict[Genes, Genes]:
    smallest: dict[tuple[str, int, int], Genes] = {}
    codes = product(range(len(OPERATIONS)), repeat=len(EDGES))  # rising, so the first of a form is smallest
    return {genes: smallest.setdefault(network_form(genes), genes) for genes in codes}


def network_form(genes: Genes) -> tuple[str, int, int]:
    """Equal for two codes exactly where their cells are the same network.

    It is the sum that the output computes, its terms sorted, and how many convolutions of each kind do so: a
    term that stands twice is one convolution used twice, or two of them, and the number tells which. (Four
    nodes leave no other case.) An average pool has no weights, so two of the same input are one.
    """
    live = without_dead_edges(genes)
    sums: list[list[str]] = [["x"], [], [], []]
    for gene, (source, target) in zip(live, EDGES, strict=True):
        terms = sums[source]
        if gene == SKIP:
            sums[target] += terms
        elif gene != NONE:
            sums[target].append(f"{gene}({'+'.join(sorted(terms))})")
    return "+".join(sorted(sums[OUTPUT])), live.count(CONV1), live.count(CONV3)


def without_dead_edges(genes: Genes) -> Genes:
    """The code with `none` on every edge that lies on no path from input to output."""
    reached, needed = {INPUT}, {OUTPUT}
    edges = [(gene, edge) for gene, edge in zip(genes, EDGES, strict=True) if gene != NONE]
    for _, (source, target) in edges:  # ordered by target, so a node is settled before it is a source
        if source in reached:
            reached.add(target)
    for _, (source, target) in reversed(edges):
        if target in needed:
            needed.add(source)
    return tuple(
        gene if source in reached and target in needed else NONE
        for gene, (source, target) in zip(genes, EDGES, strict=True)
    )


# -------------------------------------------------------------------- what it costs


def cell_net_cost(*, edges: Sequence[str], channels: int, cells: int, classes: int, side: int = 32) -> Cost:
    """The cost of `models.cell_net.CellNet` with these arguments on images of side x side.

    Every edge given counts, dead or not. The benchmark's FLOPs are these MACs plus one per class, the bias of
    its classifier.
    """
    widths = [channels, 2 * channels, 4 * channels]
    areas = [side**2, (side // 2) ** 2, (side // 4) ** 2]
    kernels = [KERNELS[edge] for edge in edges if edge in KERNELS]
    layers = [conv_norm(3, channels, 3, area=areas[0]), norm(widths[-1]), linear(widths[-1], classes)]
    for width, area in zip(widths, areas, strict=True):
        layers += cells * [conv_norm(width, width, kernel, area=area) for kernel in kernels]
    for inputs, outputs, area in zip(widths[:-1], widths[1:], areas[1:], strict=True):
        layers += [
            conv_norm(inputs, outputs, 3, area=area),
            conv_norm(outputs, outputs, 3, area=area),
            conv2d(inputs, outputs, 1, area=area, bias=False),
        ]
    return total(layers)


# -------------------------------------------------------------------- the space


def cell_space(name: str, *, channels: int, cells: int, about: str, tags: tuple[str, ...]) -> SearchSpace:
    """The space of cells, each repeated `cells` times in three stages of `channels` and its multiples."""

    def arguments(decoded: Decoded) -> dict[str, Any]:
        genes = tuple(choice.index(decoded[choice.name]) for choice in CHOICES)
        edges = [OPERATIONS[gene] for gene in without_dead_edges(genes)]
        return {"edges": edges, "channels": channels, "cells": cells, "classes": 10}

    return SearchSpace(
        name=name,
        choices=CHOICES,
        model=lambda decoded: ModelSpec("cell", arguments(decoded)),
        cost=lambda decoded: cell_net_cost(**arguments(decoded)),
        inputs=(3, 32, 32),
        canonical=canonical_cell,
        baseline_genes=(CONV3, NONE, CONV3, SKIP, NONE, SKIP),  # the cell that is ResNet's basic block
        largest_genes=(CONV3,) * len(EDGES),
        about=about,
        tags=tags,
    )


CHOICES = tuple(
    Choice(f"edge_{source}{target}", OPERATIONS, f"what node {source} sends to node {target}")
    for source, target in EDGES
)

ABOUT = """\
An image classifier made of one cell, repeated. The cell has four nodes: node 0 is its input, node 3 its \
output, and every node is the sum of what its incoming edges carry: n1 = e01(n0); n2 = e02(n0) + e12(n1); \
n3 = e03(n0) + e13(n1) + e23(n2). Every edge carries one of five operations, all of which keep the shape:
none: zero, the edge is cut and passes no gradient;
skip: the node itself;
conv1x1, conv3x3: ReLU, convolution without bias, batch norm;
avgpool3x3: 3x3 average, stride 1.
The network: a 3x3 convolution from 3 to 16 channels with batch norm; 5 cells at 16 channels, 32x32; a \
residual block with stride 2; 5 cells at 32 channels, 16x16; a residual block with stride 2; 5 cells at 64 \
channels, 8x8; batch norm, ReLU, global average, linear classifier. All cells are alike. A conv1x1 edge \
costs 28,000 parameters and 3.93 M MACs over the whole network, a conv3x3 edge 243,040 and 35.39 M; the \
rest costs 73,306 and 7.78 M. Edges that lie on no path from node 0 to node 3 do nothing, and cells that \
differ only in how nodes are numbered are the same network."""

NASBENCH201 = cell_space("nasbench201", channels=16, cells=5, about=ABOUT, tags=("classification", "table"))
