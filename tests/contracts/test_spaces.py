"""The laws that every search space keeps."""

import json
import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import islice
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces import SPACES
from search_spaces.space import Architecture, InvalidArchitecture, SearchSpace, unchanged

law = settings(deadline=None, max_examples=25)
every_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES.keys())
seeds = st.integers(0, 2**32)
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5))
junk = st.one_of(scalars, st.lists(scalars, max_size=3), st.dictionaries(st.text(max_size=3), scalars))


def drawn(space: SearchSpace, seed: int) -> Architecture:
    return space.sample(Random(seed))


def genes_apart(left: Architecture, right: Architecture) -> int:
    return sum(a != b for a, b in zip(left.genes, right.genes, strict=True))


@every_space
def test_a_space_stands_in_the_table_under_its_own_name_and_explains_itself(space: SearchSpace) -> None:
    assert SPACES[space.name] is space
    assert space.about
    assert len({choice.name for choice in space.choices}) == len(space.choices)
    assert all(len(set(choice.options)) == len(choice.options) > 0 for choice in space.choices)


@every_space
def test_the_named_points_are_inside(space: SearchSpace) -> None:
    assert space.contains(space.largest)
    assert space.baseline is None or space.contains(space.baseline)


@every_space
@law
@given(seed=seeds)
def test_a_sample_is_inside_and_the_same_seed_draws_it_again(space: SearchSpace, seed: int) -> None:
    arch = drawn(space, seed)
    assert space.contains(arch)
    assert drawn(space, seed) == arch


@every_space
@law
@given(seed=seeds)
def test_encode_inverts_decode_also_through_json(space: SearchSpace, seed: int) -> None:
    arch = drawn(space, seed)
    decoded = space.decode(arch)
    assert space.encode(decoded) == arch
    assert space.encode(json.loads(json.dumps(dict(decoded)))) == arch


@every_space
@law
@given(seed=seeds)
def test_a_key_reads_back(space: SearchSpace, seed: int) -> None:
    arch = drawn(space, seed)
    assert space.parse_key(arch.key) == arch


@every_space
@law
@given(seed=seeds)
def test_a_mutation_is_another_point_one_gene_away(space: SearchSpace, seed: int) -> None:
    arch = drawn(space, seed)
    other = space.mutate(arch, Random(seed))
    assert other != arch
    assert space.contains(other)
    assert space.mutate(arch, Random(seed)) == other
    if space.canonical is unchanged:
        assert genes_apart(arch, other) == 1


@every_space
@law
@given(seed=seeds)
def test_a_child_is_inside_and_takes_after_its_parents(space: SearchSpace, seed: int) -> None:
    left, right = drawn(space, seed), drawn(space, seed + 1)
    child = space.cross(left, right, Random(seed))
    assert space.contains(child)
    assert space.cross(left, right, Random(seed)) == child
    if space.canonical is unchanged:
        pairs = zip(child.genes, left.genes, right.genes, strict=True)
        assert all(gene in parents for gene, *parents in pairs)


@every_space
@settings(law, max_examples=10)
@given(seed=seeds)
def test_neighbours_are_distinct_and_inside(space: SearchSpace, seed: int) -> None:
    arch = drawn(space, seed)
    neighbours = list(islice(space.neighbours(arch), 100))
    assert neighbours
    assert arch not in neighbours
    assert len(set(neighbours)) == len(neighbours)
    assert all(space.contains(other) for other in neighbours)
    if space.canonical is unchanged:
        assert all(genes_apart(arch, other) == 1 for other in neighbours)


@every_space
@law
@given(data=st.data())
def test_canonical_is_idempotent(space: SearchSpace, data: st.DataObject) -> None:
    genes = tuple(data.draw(st.integers(0, len(choice.options) - 1)) for choice in space.choices)
    once = space.canonical(genes)
    assert space.canonical(once) == once


@every_space
@law
@given(seed=seeds)
def test_every_point_costs_something(space: SearchSpace, seed: int) -> None:
    cost = space.cost_of(drawn(space, seed))
    assert type(cost.params) is int
    assert cost.params > 0
    assert type(cost.macs) is int
    assert cost.macs > 0


# -------------------------------------------------------------------- junk: a point, or InvalidArchitecture


def point_or_refusal(space: SearchSpace, read: Callable[[], Architecture]) -> None:
    """Any other exception fails the test."""
    with suppress(InvalidArchitecture):
        assert space.contains(read())


@every_space
@law
@given(genes=st.lists(st.integers(), max_size=30).map(tuple))
def test_junk_genes_are_refused(space: SearchSpace, genes: tuple[int, ...]) -> None:
    point_or_refusal(space, lambda: space.architecture(genes))


@every_space
@law
@given(seed=seeds, data=st.data())
def test_one_wrong_gene_is_refused(space: SearchSpace, seed: int, data: st.DataObject) -> None:
    genes = list(drawn(space, seed).genes)
    position = data.draw(st.integers(0, len(genes) - 1))
    options = len(space.choices[position].options)
    genes[position] = data.draw(st.one_of(st.integers(max_value=-1), st.integers(min_value=options)))
    with pytest.raises(InvalidArchitecture, match=re.escape(space.choices[position].name)):
        space.architecture(tuple(genes))


@every_space
@law
@given(data=st.data())
def test_a_junk_mapping_is_refused(space: SearchSpace, data: st.DataObject) -> None:
    names = st.sampled_from([choice.name for choice in space.choices])
    mapping = data.draw(st.dictionaries(st.one_of(names, st.text(max_size=5)), junk))
    point_or_refusal(space, lambda: space.encode(mapping))


@every_space
@law
@given(seed=seeds, data=st.data())
def test_one_junk_value_is_refused_by_the_name_of_its_choice(
    space: SearchSpace, seed: int, data: st.DataObject
) -> None:
    decoded = dict[str, object](space.decode(drawn(space, seed)))
    choice = data.draw(st.sampled_from(space.choices))
    known = [(type(option), option) for option in choice.options]  # 1, 1.0 and True are three options
    value = data.draw(junk.filter(lambda value: (type(value), value) not in known))
    with pytest.raises(InvalidArchitecture, match=re.escape(choice.name)):
        space.encode(decoded | {choice.name: value})


@every_space
@law
@given(seed=seeds, data=st.data())
def test_a_missing_or_an_additional_choice_is_refused_by_name(
    space: SearchSpace, seed: int, data: st.DataObject
) -> None:
    decoded = dict(space.decode(drawn(space, seed)))
    with pytest.raises(InvalidArchitecture, match="extra"):
        space.encode(decoded | {"extra": 1})
    name = data.draw(st.sampled_from(sorted(decoded)))
    del decoded[name]
    with pytest.raises(InvalidArchitecture, match=re.escape(name)):
        space.encode(decoded)


@every_space
@law
@given(text=st.text(max_size=40), numbers=st.lists(st.integers(), max_size=20))
def test_a_junk_key_is_refused(space: SearchSpace, text: str, numbers: list[int]) -> None:
    for key in (text, f"{space.name}:{text}", f"{space.name}:{'-'.join(map(str, numbers))}"):
        point_or_refusal(space, partial(space.parse_key, key))


@every_space
def test_another_space_is_refused(space: SearchSpace) -> None:
    stranger = Architecture("elsewhere", space.largest.genes)
    assert not space.contains(stranger)
    with pytest.raises(InvalidArchitecture, match="elsewhere"):
        space.decode(stranger)
    with pytest.raises(InvalidArchitecture, match="elsewhere"):
        space.parse_key(stranger.key)
