"""Every space and the network it names agree: shapes, parameters, multiply-accumulates.

Counting happens on the meta device, which computes shapes and no values, so that large networks cost
nothing; one small network of every space is run for real.
"""

import json
from random import Random

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from models import MODELS, build
from search_spaces import SPACES
from search_spaces.space import Architecture, Cost, Genes, ModelSpec, SearchSpace, unchanged

every_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES.keys())


def run(space: SearchSpace, network: nn.Module, batch: int = 1) -> Tensor:
    """Calls the network the way its space is used."""
    images = torch.zeros(batch, *space.inputs)
    if "diffusion" in space.tags:
        output = network(images, torch.zeros(batch))
    else:
        assert "classification" in space.tags, (
            f"{space.name} needs a tag that says how its networks are called"
        )
        output = network(images)
    assert isinstance(output, Tensor)
    return output


def built(spec: ModelSpec) -> nn.Module:
    """The network, from a specification that has been stored and read: as JSON."""
    return build(spec.name, **json.loads(json.dumps(dict(spec.kwargs)))).eval()


def on_meta(spec: ModelSpec) -> nn.Module:
    with torch.device("meta"):
        return built(spec)


def counted(space: SearchSpace, arch: Architecture) -> Cost:
    """Parameters as built; multiply-accumulates as PyTorch's own counter sees the operators run."""
    network = on_meta(space.model_of(arch))
    params = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        run(space, network)
    assert counter.get_total_flops() % 2 == 0
    return Cost(params, counter.get_total_flops() // 2)


def examples(space: SearchSpace, count: int) -> list[Architecture]:
    rng = Random(0)
    named = [space.largest] if space.baseline is None else [space.baseline, space.largest]
    return [*named, *(space.sample(rng) for _ in range(count))]


def cheapest(space: SearchSpace) -> Architecture:
    return min(examples(space, 200), key=lambda arch: space.cost_of(arch).macs)


def valid(space: SearchSpace, code: Genes) -> bool:
    return space.contains(Architecture(space.name, space.canonical(code)))


def shapes(network: nn.Module) -> list[tuple[int, ...]]:
    return sorted(tuple(tensor.shape) for tensor in network.state_dict().values())


@every_space
def test_the_model_is_in_the_table(space: SearchSpace) -> None:
    assert {space.model_of(arch).name for arch in examples(space, 5)} <= MODELS.keys()


@every_space
def test_parameters_and_macs_are_those_of_the_network_as_built(space: SearchSpace) -> None:
    for arch in examples(space, 3):
        assert counted(space, arch) == space.cost_of(arch), arch.key


@every_space
def test_a_network_runs_and_gives_finite_numbers(space: SearchSpace) -> None:
    torch.manual_seed(0)
    network = built(space.model_of(cheapest(space)))
    with torch.no_grad():
        output = run(space, network, batch=2)
    assert output.shape[0] == 2
    assert output.isfinite().all()
    if "diffusion" in space.tags:
        assert output.shape[2:] == torch.Size(space.inputs[1:])


@pytest.mark.parametrize(
    "space", [space for space in SPACES.values() if space.canonical is not unchanged], ids=lambda s: s.name
)
def test_codes_with_one_canonical_form_build_one_network(space: SearchSpace) -> None:
    rng = Random(0)
    codes = [tuple(rng.randrange(len(choice.options)) for choice in space.choices) for _ in range(300)]
    repaired = [code for code in codes if space.canonical(code) != code and valid(space, code)]
    assert repaired
    for code in repaired[:5]:
        decoded = {
            choice.name: choice.options[gene] for choice, gene in zip(space.choices, code, strict=True)
        }
        arch = space.architecture(code)
        assert space.cost(decoded) == space.cost_of(arch)
        assert shapes(on_meta(space.model(decoded))) == shapes(on_meta(space.model_of(arch)))
