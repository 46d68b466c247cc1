"""Training throughput of a CIFAR-10-size UNet: our loop beside the plainest PyTorch loop of the same network.

Both train Improved DDPM's CIFAR-10 network (52.5 M parameters) on noise of the data's shape, in bfloat16,
channels last, compiled, with AdamW and a moving average of the weights. Needs PyTorch alone:

    python benchmarks/gpu_unet.py [--batch 128] [--steps 50] [--no-compile]

Prints, for each loop, images per second and the peak of the GPU's memory; then how much slower ours is.
`--tiny` takes a small network, to see on a CPU that the script works.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))  # from a checkout, with nothing installed

from models.unet import UNet
from workers.training.fit import fit
from workers.training.methods.diffusion import Diffusion

LEARNING_RATE = 1e-4
EMA = 0.9999
REPORT_EVERY = 10


class Same:
    """The same batch at every step: what is measured is the training, not the data."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __call__(self, step: int) -> Mapping[str, Tensor]:
        return {"images": self.images}

    def epoch(self, step: int) -> int:
        return 0


def network(tiny: bool) -> UNet:
    if tiny:
        return UNet(
            in_channels=3, channels=[16, 32], blocks=[1, 1], attention=[False, True], heads=2, base=16,
            time_width=32, groups=8, learned_sigma=False, dropout=0.0,
        )  # fmt: skip
    return UNet(
        in_channels=3,
        channels=[128, 256, 256, 256],
        blocks=[3, 3, 3, 3],
        attention=[False, True, True, False],
        learned_sigma=False,  # the plain loop below has the squared error alone
        dropout=0.0,
    )


def prepared(options: argparse.Namespace, device: torch.device) -> UNet:
    torch.manual_seed(0)
    model = network(options.tiny).to(device)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def our_loop(options: argparse.Namespace, device: torch.device, images: Tensor) -> Callable[[int], None]:
    """Runs so many steps of `fit` with the diffusion method."""
    method = Diffusion(prepared(options, device), learned_variance=False, ema=EMA, ema_ramp=False).to(device)
    if options.compile:
        method.model.compile()
    optimizer = torch.optim.AdamW(method.model.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=True)

    def run(steps: int) -> None:
        fit(
            method,
            Same(images),
            optimizer=optimizer,
            steps=steps,
            seed=0,
            bfloat16=True,
            report_every=REPORT_EVERY,
        )

    return run


def plain_loop(options: argparse.Namespace, device: torch.device, images: Tensor) -> Callable[[int], None]:
    """Runs so many steps of a loop written out, with the same arithmetic and nothing around it."""
    model = prepared(options, device)
    average = [weight.detach().clone() for weight in model.parameters()]
    if options.compile:
        model.compile()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    steps_in_all = 4000
    bars = (
        torch.cos((torch.arange(steps_in_all, device=device) / steps_in_all + 0.008) / 1.008 * torch.pi / 2)
        ** 2
    )

    def run(steps: int) -> None:
        for _ in range(steps):
            t = torch.randint(steps_in_all, (len(images),), device=device)
            noise, bar = torch.randn_like(images), bars[t][:, None, None, None]
            noisy = bar.sqrt() * images + (1 - bar).sqrt() * noise
            with torch.autocast(device.type, torch.bfloat16):
                loss = (model(noisy, t * (1000 / steps_in_all)).float() - noise).square().mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                torch._foreach_lerp_(average, list(model.parameters()), 1 - EMA)

    return run


def measured(
    make: Callable[[argparse.Namespace, torch.device, Tensor], Callable[[int], None]],
    options: argparse.Namespace,
    device: torch.device,
) -> dict[str, float]:
    """Images per second and peak memory in MiB, after steps that warm up and compile."""
    side = 8 if options.tiny else 32
    images = torch.randn(options.batch, 3, side, side, device=device).to(memory_format=torch.channels_last)
    run = make(options, device, images)
    run(options.warmup)
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    run(options.steps)
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    peak = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else float("nan")
    return {"images_per_second": options.batch * options.steps / seconds, "peak_mib": peak}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--warmup", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3, help="the loops take turns; the best of each counts")
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loops = {"plain": plain_loop, "ours": our_loop}
    best: dict[str, dict[str, float]] = {}
    for _ in range(options.rounds):
        for name, make in loops.items():
            figures = measured(make, options, device)
            if name not in best or figures["images_per_second"] > best[name]["images_per_second"]:
                best[name] = figures
    where = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    for name, figures in best.items():
        print(json.dumps({"loop": name, "device": where, "batch": options.batch, **figures}))
    share = best["ours"]["images_per_second"] / best["plain"]["images_per_second"]
    print(f"ours runs at {share:.3f} of the plain loop's throughput")


if __name__ == "__main__":
    main()
