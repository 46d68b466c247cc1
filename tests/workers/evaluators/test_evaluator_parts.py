"""The cost evaluator, what a run's errors mean, devices, and pictures."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from search_spaces import SPACES
from server.store.specs import CostEvaluation
from workers.evaluators import make_evaluator
from workers.evaluators.devices import device_of
from workers.evaluators.faults import trial_faults
from workers.evaluators.pictures import grid, save_comparison
from workers.training.fit import NonFiniteLoss
from workers.trial import Diverged, Trial, TrialFailed

SPACE = SPACES["unet-8"]


def test_cost_is_the_space_s_own_count(tmp_path: Path) -> None:
    made = make_evaluator(CostEvaluation(), SPACE, "digits", data_root=None, cache=tmp_path)
    cost = SPACE.cost_of(SPACE.largest)
    measured = made.evaluate(Trial(SPACE.largest, 0, tmp_path), lambda step, metrics: None)
    assert measured.metrics == {"score": -cost.params}
    assert measured.device_seconds == 0
    assert made.signature == "cost"


# ---------------------------------------------------------------- faults


def test_a_loss_that_is_not_a_number_is_divergence() -> None:
    with pytest.raises(Diverged, match="step 3"), trial_faults():
        raise NonFiniteLoss("the loss is nan at step 3")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nmore lines"),
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory"
        ),
    ],
)
def test_memory_that_ran_out_fails_the_trial_by_that_word(error: BaseException) -> None:
    with pytest.raises(TrialFailed, match="out of memory") as failure, trial_faults():
        raise error
    assert "\n" not in str(failure.value)
    assert not isinstance(failure.value, Diverged)


def test_the_cpu_allocator_s_real_error_is_known() -> None:
    with pytest.raises(TrialFailed, match="out of memory"), trial_faults():
        torch.empty(1 << 60, dtype=torch.uint8)


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), KeyError("x"), TrialFailed("enough")])
def test_every_other_error_stays_what_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, trial_faults():
        raise error
    assert raised.value is error


def test_a_device_is_taken_by_name() -> None:
    assert device_of("cpu") == torch.device("cpu")
    assert device_of("cuda:1") == torch.device("cuda", 1)
    assert device_of("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


# ---------------------------------------------------------------- pictures


def test_a_grid_enlarges_every_pixel_in_its_place() -> None:
    pixels = torch.randint(17, (4, 1, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    picture = grid(pixels, 16, columns=2)
    assert picture.shape == (482, 482, 1)  # 30 times, and a gap of two pixels
    assert int(picture[242 + 30 * 3 + 7, 30 * 5 + 9, 0]) == round(int(pixels[2, 0, 3, 5]) * 255 / 16)
    assert int(picture[240, 100, 0]) == 255  # the gap


def test_too_few_images_leave_paper() -> None:
    picture = grid(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), 255, columns=2)
    assert int(picture[0, 0, 0]) == 0
    assert bool((picture[-1] == 255).all())
    assert grid(torch.zeros(3, 3, 4, 4, dtype=torch.uint8), 255, columns=2, rows=1).shape == (240, 482, 3)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_two_grids_stand_side_by_side(channels: int, mode: str, tmp_path: Path) -> None:
    dark, light = torch.zeros(9, channels, 4, 4, dtype=torch.uint8), torch.full((9, channels, 4, 4), 16)
    save_comparison(dark, light.to(torch.uint8), 16, tmp_path / "samples.png", columns=3)
    with Image.open(tmp_path / "samples.png") as picture:
        assert picture.mode == mode
        assert picture.width == 2 * picture.height + 12
        middle = picture.height // 2
        assert picture.getpixel((5, middle)) == (0 if mode == "L" else (0, 0, 0))
        assert picture.getpixel((picture.width - 5, middle)) == (255 if mode == "L" else (255, 255, 255))
