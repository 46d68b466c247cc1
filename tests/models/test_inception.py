"""Inception-v3 for the Frechet distance: its published layout, and what sets it apart from the usual one."""

import pytest
import torch
from torch.nn import functional

from models.inception import BlockE, Inception


@pytest.fixture(scope="module")
def model() -> Inception:
    torch.manual_seed(0)
    return Inception().eval()


def test_the_parameters_are_those_of_inception_v3_with_1008_classes(model: Inception) -> None:
    """23,834,568 with 1,000 classes and no auxiliary head; and eight more rows of 2,048 weights and bias."""
    assert sum(weight.numel() for weight in model.parameters()) == 23_834_568 + 8 * 2049


def test_the_state_has_the_published_names_and_shapes(model: Inception) -> None:
    state = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert state["Conv2d_1a_3x3.conv.weight"] == (32, 3, 3, 3)
    assert state["Conv2d_4a_3x3.bn.running_var"] == (192,)
    assert state["Mixed_5b.branch_pool.conv.weight"] == (32, 192, 1, 1)
    assert state["Mixed_5d.branch5x5_2.conv.weight"] == (64, 48, 5, 5)
    assert state["Mixed_6a.branch3x3dbl_3.conv.weight"] == (96, 96, 3, 3)
    assert state["Mixed_6b.branch7x7_2.conv.weight"] == (128, 128, 1, 7)
    assert state["Mixed_6c.branch7x7dbl_2.conv.weight"] == (160, 160, 7, 1)
    assert state["Mixed_6e.branch7x7dbl_5.bn.weight"] == (192,)
    assert state["Mixed_7a.branch7x7x3_4.conv.weight"] == (192, 192, 3, 3)
    assert state["Mixed_7b.branch3x3_2a.conv.weight"] == (384, 384, 1, 3)
    assert state["Mixed_7c.branch3x3dbl_3b.conv.weight"] == (384, 384, 3, 1)
    assert state["Mixed_7c.branch_pool.conv.weight"] == (192, 2048, 1, 1)
    assert state["fc.weight"] == (1008, 2048)
    assert len({name.split(".")[0] for name in state}) == 17
    assert sum("conv.weight" in name for name in state) == 94


def test_images_of_any_size_give_2048_features_and_1008_logits(model: Inception) -> None:
    images = torch.rand(2, 3, 20, 12) * 2 - 1
    with torch.no_grad():
        features, logits = model(images), model.classify(images)
    assert features.shape == (2, 2048)
    assert logits.shape == (2, 1008)
    torch.testing.assert_close(logits, features @ model.fc.weight.T + model.fc.bias)


def test_a_grey_image_is_a_colour_image_without_colour(model: Inception) -> None:
    grey = torch.rand(1, 1, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(model(grey), model(grey.repeat(1, 3, 1, 1)))


def test_average_pools_leave_the_padding_out() -> None:
    """A constant map stays constant, also at the border; the last block's maximum tells it from a mean."""
    torch.manual_seed(0)
    mean, maximum = BlockE(8, max_pool=False).eval(), BlockE(8, max_pool=True).eval()
    maximum.load_state_dict(mean.state_dict())
    flat, bumpy = torch.full((1, 8, 5, 5), -2.0), torch.rand(1, 8, 5, 5)
    with torch.no_grad():
        pooled = mean(flat)[:, -192:]
        torch.testing.assert_close(pooled, pooled[:, :, 2:3, 2:3].expand_as(pooled))
        torch.testing.assert_close(maximum(flat)[:, -192:], pooled)
        expected = maximum.branch_pool(functional.max_pool2d(bumpy, 3, stride=1, padding=1))
        torch.testing.assert_close(maximum(bumpy)[:, -192:], expected)
        assert not torch.allclose(mean(bumpy)[:, -192:], expected)
