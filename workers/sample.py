"""Draws images from an exported diffusion model: `python -m workers.sample FOLDER --out grid.png`.

FOLDER holds `architecture.json` and `model.safetensors`, as an export does.
"""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file

from models import build
from server.store.artifacts import ARCHITECTURE_FILE, WEIGHTS_FILE
from workers.evaluators.devices import device_of
from workers.evaluators.fid import drawn
from workers.evaluators.pictures import grid
from workers.training.noise import make_process

PEAK = 255
WRONG_INPUT = 2  # the exit code of the command line for what its user got wrong


class NotSampleable(ValueError):
    """The folder holds no diffusion model."""


def sample(folder: Path, *, count: int, steps: int, seed: int, device: str = "auto") -> torch.Tensor:
    """Images as levels 0..255, uint8 (count, C, H, W), by DDIM in `steps` steps. Raises NotSampleable."""
    network, about = load(folder)
    process = make_process(about["diffusion"]["schedule"], about["diffusion"]["timesteps"])
    where = device_of(device)
    channels, height, width = about["inputs"]
    return drawn(
        network.to(where),
        process.to(where).respaced(str(min(steps, process.steps))),
        (channels, height, width),
        count=count,
        sampler="ddim",
        peak=PEAK,
        device=where,
        seed=seed,
    )


def load(folder: Path) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The network of an export, ready to predict, and its architecture file. Raises NotSampleable."""
    for name in (ARCHITECTURE_FILE, WEIGHTS_FILE):
        if not (folder / name).exists():
            raise NotSampleable(f"the export holds no {name}: only a trained network can be sampled")
    about = json.loads((folder / ARCHITECTURE_FILE).read_text())
    weights = load_file(folder / WEIGHTS_FILE)
    if about["diffusion"] is None or about["diffusion"]["timesteps"] is None:
        raise NotSampleable(f"{about['key']} was not trained as a diffusion model")
    network = build(about["model"]["name"], **about["model"]["arguments"])
    network.load_state_dict(weights)
    return network.eval(), about


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m workers.sample", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="the picture to write, a PNG file")
    parser.add_argument("--n", type=int, default=64)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    try:
        images = sample(given.folder, count=given.n, steps=given.steps, seed=given.seed, device=given.device)
    except NotSampleable as error:
        sys.stderr.write(f"archsmith: {error}\n")
        return WRONG_INPUT
    columns = math.ceil(math.sqrt(given.n))
    picture = grid(images, PEAK, columns=columns, rows=math.ceil(given.n / columns))
    try:
        Image.fromarray(picture.squeeze(2).numpy()).save(given.out, format="PNG")
    except OSError as error:
        sys.stderr.write(f"archsmith: cannot write {given.out}: {error.strerror}\n")
        return WRONG_INPUT
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
