"""UNets that start from the weights of others: whole, wider, deeper, and with or without attention."""

from itertools import pairwise
from random import Random

import pytest
import torch
from torch import Tensor, nn

from models.inheritance import inherit
from models.unet import UNet
from search_spaces import find

SPACE = find("unet-8")


def network(seed: int, **changes: object) -> UNet:
    """A small network whose weights are all drawn by the seed, those that would be zero too."""
    torch.manual_seed(seed)
    shape = {"in_channels": 1, "channels": [16, 32], "blocks": [1, 2], "attention": [False, True]}
    widths = {"heads": 2, "base": 32, "time_width": 64, "groups": 8, "dropout": 0.0}
    made = UNet(**{**shape, **widths, **changes})  # type: ignore[arg-type]
    for weight in made.parameters():
        nn.init.normal_(weight, std=0.1)
    return made.eval()


def drawn_from(net: UNet) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        out: Tensor = net(torch.randn(2, 1, 8, 8, generator=generator), torch.tensor([3.0, 700.0]))
    return out


@pytest.mark.parametrize("film", [True, False])
def test_an_heir_of_the_same_shape_is_its_donor(film: bool) -> None:
    heir, donor = network(0, film=film), network(1, film=film)
    assert not torch.equal(drawn_from(heir), drawn_from(donor))
    assert inherit(heir, donor) == 1.0
    assert torch.equal(drawn_from(heir), drawn_from(donor))


@pytest.mark.parametrize("film", [True, False])
def test_a_wider_heir_whose_new_channels_count_for_nothing_does_what_its_donor_does(film: bool) -> None:
    """Norms are taken channel by channel here, so that what is new cannot reach what was there.

    This holds only where all that lies side by side, skips above all, has met its counterpart.
    """
    options = {"groups": 8, "film": film, "heads": 1, "attention": [False, False]}
    donor = network(1, channels=[8, 8], **options)
    heir = network(0, channels=[16, 8], **options)
    for weight in heir.parameters():
        nn.init.zeros_(weight)  # what is not inherited adds nothing
    share = inherit(heir, donor)
    assert 0 < share < 1
    inherited = sum(weight.numel() for weight in donor.parameters())
    assert share == inherited / sum(weight.numel() for weight in heir.parameters())
    skip = heir.decoder[-1].residual.conv1.weight  # reads 16 channels of a map, then 16 of the stem
    assert torch.equal(skip[:8, 16:24], donor.decoder[-1].residual.conv1.weight[:, 8:])
    assert skip[:, 24:].abs().max() == 0


def test_a_deeper_heir_has_its_donors_blocks_at_the_ends_that_are_joined() -> None:
    donor, heir = network(1, blocks=[1, 1]), network(0, blocks=[2, 1])
    last = heir.decoder[2].residual.conv1.weight.clone()  # of the level's three, the one that is new
    inherit(heir, donor)
    assert torch.equal(heir.encoder[0].residual.conv1.weight, donor.encoder[0].residual.conv1.weight)
    assert torch.equal(heir.decoder[2].residual.conv1.weight, last)
    for ours, theirs in ((3, 2), (4, 3)):
        assert torch.equal(
            heir.decoder[ours].residual.conv2.weight, donor.decoder[theirs].residual.conv2.weight
        )


def test_every_network_of_a_space_inherits_from_every_other() -> None:
    rng = Random(0)
    nets = [network(n, **SPACE.model_of(SPACE.sample(rng)).kwargs) for n in range(12)]
    for heir, donor in pairwise(nets):
        assert 0.05 < inherit(heir, donor) <= 1
        assert drawn_from(heir).isfinite().all()
