"""The UNet against the figures of Improved DDPM's released networks, and against plain loops."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from models import UnknownModel, build
from models.unet import Attention, GroupNorm, ResidualBlock, UNet, sinusoidal
from search_spaces import NAMED, find

IDDPM_CIFAR10 = {
    "in_channels": 3,
    "channels": [128, 256, 256, 256],
    "blocks": [3, 3, 3, 3],
    "attention": [False, True, True, False],
}


def params(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def on_meta(**changes: object) -> UNet:
    with torch.device("meta"):
        network = build("unet", **(IDDPM_CIFAR10 | changes))
    assert isinstance(network, UNet)
    return network


def scaled(base: int, *multiples: int) -> dict[str, object]:
    """Improved DDPM with another base width or other multiples of it; attention at 16 and 8 of 32 pixels."""
    levels = len(multiples)
    return {
        "channels": [base * multiple for multiple in multiples],
        "blocks": [3] * levels,
        "attention": [False, True, True, False][:levels],
        "base": base,
        "time_width": 4 * base,
    }


def tiny(**changes: object) -> UNet:
    """A small network with weights that are not zero."""
    torch.manual_seed(0)
    shape = {"in_channels": 1, "channels": [16, 32], "blocks": [1, 2], "attention": [False, True]}
    widths = {"heads": 2, "base": 32, "time_width": 64, "groups": 8}
    network = build("unet", **(shape | widths | changes))
    assert isinstance(network, UNet)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    return network


def batch(size: int = 3, side: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(size, 1, side, side, generator=generator)
    return images, torch.linspace(0, 999, size)


# -------------------------------------------------------------------- published figures


def test_the_cifar10_network_has_the_published_parameters_part_by_part() -> None:
    network = on_meta()
    assert params(network) == 52_546_438
    assert params(network.embed) == 328_704
    assert params(network.stem, network.encoder) == 16_926_848
    assert params(network.middle) == 3_151_360
    assert params(network.decoder) == 32_132_352
    assert params(network.norm, network.out) == 7_174


def test_the_cifar10_network_has_the_published_blocks() -> None:
    network = on_meta()
    kinds = [type(module).__name__ for module in network.modules()]
    assert kinds.count("ResidualBlock") == 30
    assert kinds.count("Attention") == 15
    assert kinds.count("Downsample") == 3
    assert kinds.count("Upsample") == 3
    assert 1 + len(network.encoder) == len(network.decoder) == 16


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"learned_sigma": False}, 52_542_979),
        ({"blocks": [2] * 4}, 39_629_062),
        ({"blocks": [1] * 4}, 26_711_686),
        ({"blocks": [4] * 4}, 65_463_814),
        (scaled(64, 1, 2, 2, 2), 13_161_926),
        (scaled(96, 1, 2, 2, 2), 29_576_358),
        (scaled(160, 1, 2, 2, 2), 82_072_166),
        (scaled(192, 1, 2, 2, 2), 118_153_542),
        ({"film": False}, 49_066_246),
        ({"attention": [False, True, False, False]}, 50_700_678),
        ({"attention": [False, False, True, False]}, 50_700_678),
        ({"attention": [False] * 4}, 48_854_918),
        ({"attention": [True] * 4}, 54_856_326),
        (scaled(128, 1, 1, 1, 1), 17_919_494),
        (scaled(128, 1, 1, 2, 2), 40_997_766),
        (scaled(128, 1, 2, 2), 38_372_742),
        (scaled(128, 1, 2, 3, 4), 115_548_166),
        (scaled(128, 1, 2, 4, 4), 140_613_254),
        ({"channels": [160, 192, 256, 256]}, 48_023_462),
        ({"channels": [128, 256, 256, 320], "blocks": [3, 3, 3, 2]}, 55_597_894),
    ],
)
def test_variants_have_the_published_parameters(changes: dict[str, object], expected: int) -> None:
    assert params(on_meta(**changes)) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [("ddpm-cifar10", 35_746_307), ("iddpm-cifar10", 52_546_438), ("iddpm-imagenet64", 121_063_942)],
)
def test_named_architectures_are_the_published_networks(name: str, expected: int) -> None:
    arch = NAMED[name]
    model = find(arch.space).model_of(arch)
    with torch.device("meta"):
        assert params(build(model.name, **model.kwargs)) == expected == find(arch.space).cost_of(arch).params


@pytest.mark.parametrize(("base", "millions"), [(64, 30), (96, 68), (128, 120), (192, 270)])
def test_networks_for_64_pixels_have_the_sizes_of_the_scaling_study(base: int, millions: int) -> None:
    """Improved DDPM, section 6; attention at 16 and 8 of 64 pixels."""
    network = on_meta(**{**scaled(base, 1, 2, 3, 4), "attention": [False, False, True, True]})
    assert float(f"{params(network):.2g}") == millions * 1e6


def test_ddpm_is_a_point_of_the_options() -> None:
    ddpm = {"blocks": [2] * 4, "attention": [False, True, False, False], "heads": 1, "dropout": 0.1}
    widths = {"base": 128, "time_width": 512, "groups": 32, "film": False, "learned_sigma": False}
    assert params(on_meta(**ddpm, **widths)) == 35_746_307  # the 35.7 M of the paper
    arch = NAMED["ddpm-cifar10"]
    assert find(arch.space).model_of(arch).kwargs == IDDPM_CIFAR10 | ddpm | widths


@pytest.mark.parametrize("side", [8, 32, 64])
@pytest.mark.parametrize(("learned_sigma", "outputs"), [(False, 3), (True, 6)])
def test_learned_sigma_doubles_the_output_channels(side: int, learned_sigma: bool, outputs: int) -> None:
    network = on_meta(learned_sigma=learned_sigma)
    with torch.device("meta"):
        assert network(torch.zeros(2, 3, side, side), torch.zeros(2)).shape == (2, outputs, side, side)


# -------------------------------------------------------------------- behaviour


def test_an_untrained_network_returns_exactly_zero() -> None:
    torch.manual_seed(0)
    network = UNet(
        in_channels=3, channels=[32, 64], blocks=[1, 1], attention=[True, True], base=32, time_width=64
    )
    images = torch.randn(2, 3, 16, 16)
    assert network(images, torch.tensor([0.0, 999.0])).abs().max() == 0
    assert network.stem(images).abs().max() > 0


@pytest.mark.parametrize("film", [True, False])
def test_the_gradient_reaches_every_parameter(film: bool) -> None:
    network = tiny(film=film)
    images, timesteps = batch()
    network(images, timesteps).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_evaluation_is_deterministic_and_training_drops_out() -> None:
    network = tiny(dropout=0.5)
    images, timesteps = batch()
    with torch.no_grad():
        assert not network(images, timesteps).equal(network(images, timesteps))
        network.eval()
        assert network(images, timesteps).equal(network(images, timesteps))


@pytest.mark.parametrize("film", [True, False])
def test_the_output_depends_on_the_time_step_of_each_image_alone(film: bool) -> None:
    network = tiny(film=film).eval()
    image = batch(size=1)[0].expand(2, -1, -1, -1)
    with torch.no_grad():
        same = network(image, torch.tensor([10.0, 10.0]))
        other = network(image, torch.tensor([10.0, 500.0]))
    torch.testing.assert_close(same[0], same[1])
    torch.testing.assert_close(other[0], same[0])
    assert (other[1] - same[1]).abs().max() > 1e-3


def test_a_state_dict_restores_the_network() -> None:
    network, restored = tiny().eval(), tiny(learned_sigma=True).eval()
    nn.init.ones_(restored.out.weight)
    restored.load_state_dict(network.state_dict())
    images, timesteps = batch()
    with torch.no_grad():
        assert network(images, timesteps).equal(restored(images, timesteps))


def test_channels_last_gives_the_same_numbers_in_the_same_layout() -> None:
    network = tiny().eval()
    images, timesteps = batch()
    with torch.no_grad():
        expected = network(images, timesteps)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        output = network(images.contiguous(memory_format=torch.channels_last), timesteps)
    assert output.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)


def test_bfloat16_autocast_stays_near_float32_and_trains() -> None:
    network = tiny().eval()
    images, timesteps = batch()
    expected = network(images, timesteps)
    with torch.autocast("cpu", torch.bfloat16):
        output = network(images, timesteps)
    assert output.dtype == torch.bfloat16
    assert (output - expected).norm() < 0.05 * expected.norm()
    output.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in network.parameters())


def test_the_network_compiles_as_one_graph() -> None:
    network = tiny().eval()
    images, timesteps = batch()
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images, timesteps), network(images, timesteps))


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"channels": [16]}, "per level"),
        ({"channels": [], "blocks": [], "attention": []}, "per level"),
        ({"channels": [16, 36]}, "groups"),
        ({"channels": [16, 0]}, "groups"),
        ({"heads": 3}, "heads"),
        ({"blocks": [1, 0]}, "one or more"),
        ({"base": 31}, "even"),
    ],
)
def test_impossible_shapes_are_refused_with_the_reason(changes: dict[str, object], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        tiny(**changes)


def test_an_unknown_model_is_refused_with_the_known_names() -> None:
    with pytest.raises(UnknownModel, match="no model 'vnet'; known: .*unet"):
        build("vnet")


# -------------------------------------------------------------------- parts, against plain loops


def test_the_time_embedding_is_that_of_the_paper() -> None:
    steps, width = [0.0, 3.0, 999.5], 8
    frequencies = [10_000 ** (-index / 4) for index in range(4)]
    expected = [[f(t * w) for f in (math.cos, math.sin) for w in frequencies] for t in steps]
    torch.testing.assert_close(
        sinusoidal(torch.tensor(steps), width), torch.tensor(expected), rtol=1e-4, atol=1e-4
    )


def test_attention_mixes_values_by_softmax_within_each_head() -> None:
    torch.manual_seed(0)
    channels, heads, side = 12, 3, 2
    attention = Attention(channels, heads=heads, groups=4).double()
    nn.init.normal_(attention.project.weight)
    x = torch.randn(1, channels, side, side, dtype=torch.float64)

    tokens = attention.norm(x)[0].flatten(1).T
    q, k, v = attention.qkv(tokens).split(channels, dim=1)
    mixed = torch.zeros(side * side, channels, dtype=torch.float64)
    for head in range(heads):
        mine = slice(head * 4, head * 4 + 4)
        for i in range(side * side):
            weights = torch.stack([q[i, mine] @ k[j, mine] / 2 for j in range(side * side)]).softmax(0)
            mixed[i, mine] = sum((w * v[j, mine] for j, w in enumerate(weights)), torch.zeros(()))
    expected = x + attention.project(mixed).T.reshape(1, channels, side, side)
    torch.testing.assert_close(attention(x), expected)


@pytest.mark.parametrize("film", [True, False])
def test_the_time_conditions_a_residual_block_after_or_before_its_second_norm(film: bool) -> None:
    torch.manual_seed(0)
    block = ResidualBlock(8, 12, time_width=5, groups=4, film=film, dropout=0.0)
    nn.init.normal_(block.conv2.weight)
    x, time = torch.randn(2, 8, 4, 4), torch.randn(2, 5)

    h = block.conv1(functional.silu(functional.group_norm(x, 4)))
    condition = block.condition(time)
    if film:
        scale, shift = condition[:, :12, None, None], condition[:, 12:, None, None]
        h = functional.group_norm(h, 4) * (1 + scale) + shift
    else:
        h = functional.group_norm(h + condition[:, :, None, None], 4)
    expected = block.shortcut(x) + block.conv2(functional.silu(h))
    torch.testing.assert_close(block(x, time), expected)


def test_group_normalization_is_computed_in_float32_and_returned_in_the_precision_given() -> None:
    norm = GroupNorm(2, 4).bfloat16()
    nn.init.constant_(norm.weight, 1.5)
    x = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    exact = functional.group_norm(x.double(), 2) * 1.5
    assert norm(x).dtype == torch.bfloat16
    assert norm(x).equal(exact.bfloat16())
