"""Drawing from an exported diffusion model."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from models import build
from search_spaces import find
from workers.sample import NotSampleable, load, main, sample

SPACE = find("unet-8")


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """A folder as an export leaves it, of a small network with chance weights."""
    model = SPACE.model_of(SPACE.architecture((0, 0, 0, 0, 0)))
    torch.manual_seed(0)
    network = build(model.name, **model.kwargs)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    folder = tmp_path / "export"
    folder.mkdir()
    about = {
        "key": "unet-8:0-0-0-0-0",
        "model": {"name": model.name, "arguments": model.kwargs},
        "inputs": SPACE.inputs,
        "diffusion": {"timesteps": 20, "schedule": "cosine"},
    }
    (folder / "architecture.json").write_text(json.dumps(about))
    save_file(network.state_dict(), folder / "model.safetensors")
    return folder


def test_samples_follow_from_the_seed_alone(exported: Path) -> None:
    first, again, other = (sample(exported, count=5, steps=3, seed=seed, device="cpu") for seed in (1, 1, 2))
    assert first.shape == (5, 1, 8, 8)
    assert first.dtype == torch.uint8
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_more_steps_than_the_process_has_are_all_of_them(exported: Path) -> None:
    many, all_ = (sample(exported, count=2, steps=steps, seed=0, device="cpu") for steps in (500, 20))
    assert torch.equal(many, all_)


def test_the_loaded_network_is_the_saved_one(exported: Path) -> None:
    network, about = load(exported)
    assert not network.training
    assert about["inputs"] == [1, 8, 8]
    assert (
        sum(weight.numel() for weight in network.parameters())
        == SPACE.cost_of(SPACE.architecture((0, 0, 0, 0, 0))).params
    )


def test_the_command_writes_a_picture(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "grid.png"
    options = ["--out", str(out), "--n", "5", "--steps", "2", "--device", "cpu"]
    monkeypatch.setattr("sys.argv", ["sample", str(exported), *options])
    assert main() == 0
    with Image.open(out) as picture:
        assert picture.format == "PNG"
        assert picture.width / 3 == pytest.approx(picture.height / 2, abs=1)  # five images: 3 and 2


def test_what_was_never_trained_is_refused_with_a_word(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (exported / "model.safetensors").unlink()
    with pytest.raises(NotSampleable, match="only a trained network can be sampled"):
        sample(exported, count=1, steps=1, seed=0)
    monkeypatch.setattr("sys.argv", ["sample", str(exported), "--out", str(tmp_path / "grid.png")])
    assert main() == 2
    assert "only a trained network" in capsys.readouterr().err


def test_a_classifier_is_refused_with_a_word(exported: Path) -> None:
    file = exported / "architecture.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "diffusion": None}))
    with pytest.raises(NotSampleable, match="not trained as a diffusion model"):
        load(exported)
