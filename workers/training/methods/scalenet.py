"""ScaleNet (arXiv 2207.07267): training the super-supernet by hierarchical sampling.

A step draws a scaling stage, a strategy in it and a base, renders the images at the strategy's resolution,
and trains the left or the right slices of that subnet. Parameters of candidates that a step did not use
have no gradient and are left as they are: neither decayed nor moved by momentum.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.supernet import KERNELS, SlicedConv, SuperNet
from workers.training.method import Batch, Clock, Step, TrainingMethod
from workers.training.schedules import Schedule

# ---------------------------------------------------------------- what is trained in a step


@dataclass(frozen=True, slots=True)
class Grid:
    """The strategies of a scaling stage: multipliers in thousandths, resolutions in pixels."""

    depths: Sequence[int]
    widths: Sequence[int]
    resolutions: Sequence[int]


@dataclass(frozen=True, slots=True)
class Draw:
    """A base network (the kernels of its layers) under a strategy of a scaling stage."""

    base: tuple[tuple[int, ...], ...]
    stage: int
    depth: int
    width: int
    resolution: int


def draw(layers: Sequence[int], grids: Sequence[Grid], generator: torch.Generator | None = None) -> Draw:
    """Hierarchical sampling; without a generator from torch's global one.

    A scaling stage in proportion to its number of widths, so that all widths are equally likely; depth,
    width and resolution uniformly and independently within it; then a base with a uniform number of layers
    in each of its stages, of at most `layers`, and a uniform operation in each layer.
    """
    share = torch.tensor([float(len(grid.widths)) for grid in grids])

    def one(options: Sequence[int]) -> int:
        return options[int(torch.randint(len(options), (), generator=generator))]

    stage = int(torch.multinomial(share, 1, generator=generator))
    grid = grids[stage]
    depth, width, resolution = one(grid.depths), one(grid.widths), one(grid.resolutions)
    base = tuple(tuple(one(KERNELS) for _ in range(one(range(1, most + 1)))) for most in layers)
    return Draw(base, stage, depth, width, resolution)


def _generator(seed: int, step: int) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}/{step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def random_crops(
    images: Tensor, resolution: int, *, area: tuple[float, float], ratio: tuple[float, float]
) -> Tensor:
    """A random box of every image (B, C, H, W), bilinearly rendered: (B, C, resolution, resolution).

    The box has a uniform share `area` of the image and a log-uniform width-to-height `ratio`, each side cut
    to the image's own, and lies anywhere inside. All images are rendered at once, where they are.
    """
    count, channels, height, width = images.shape
    chance = torch.rand(4, count, device=images.device)
    size = (area[0] + (area[1] - area[0]) * chance[0]) * height * width
    shape = (math.log(ratio[0]) + math.log(ratio[1] / ratio[0]) * chance[1]).exp()
    across = ((size * shape).sqrt() / width).clamp(max=1)  # the box's sides as shares of the image's
    down = ((size / shape).sqrt() / height).clamp(max=1)
    nowhere = torch.zeros_like(across)
    boxes = torch.stack(  # rows of the affine maps from the output's [-1, 1] to the image's
        (
            torch.stack((across, nowhere, (2 * chance[2] - 1) * (1 - across)), 1),
            torch.stack((nowhere, down, (2 * chance[3] - 1) * (1 - down)), 1),
        ),
        1,
    )
    grid = functional.affine_grid(boxes, [count, channels, resolution, resolution], align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy to 1 - smoothing on the label and smoothing / (C - 1) on each other class.

    PyTorch's own label smoothing spreads it over all C classes instead.
    """
    log_share = functional.log_softmax(logits, dim=1)
    own = log_share.gather(1, labels[:, None])[:, 0]
    others = log_share.sum(1) - own
    return -((1 - smoothing) * own + smoothing / (logits.shape[1] - 1) * others).mean()


class ScaleNet(TrainingMethod):
    """One subnet a step, by `seed` and the number of the step: all parts of a batch train the same.

    With `sides` "alternate" even steps train its left slices and odd steps its right ones; with "both" every
    step trains both, each with half the loss. `grids` name depths, widths and resolutions for each scaling
    stage. The published crop is (0.08, 1) of the image; a small image stands less.
    """

    views = ("images", "labels")
    partial = True

    def __init__(
        self,
        model: nn.Module,
        *,
        grids: Iterable[Mapping[str, Sequence[int]]],
        seed: int,
        sides: Literal["alternate", "both"] = "alternate",
        label_smoothing: float = 0.1,
        crop_area: tuple[float, float] = (0.08, 1.0),
        crop_ratio: tuple[float, float] = (0.75, 1.33),
    ) -> None:
        super().__init__()
        if not isinstance(model, SuperNet):
            raise TypeError(f"scalenet trains a super-supernet, not a {type(model).__name__}")
        self.model = model
        self.grids = tuple(Grid(**grid) for grid in grids)
        self.seed, self.sides = seed, sides
        self.label_smoothing = label_smoothing
        self.crop_area, self.crop_ratio = crop_area, crop_ratio

    def drawn(self, step: int) -> Draw:
        """What the step of this number trains."""
        return draw(self.model.layers, self.grids, _generator(self.seed, step))

    def forward(self, batch: Batch, clock: Clock) -> Step:
        net = self.drawn(clock.step)
        self.model.activate(net.base, depth=net.depth, width=net.width)
        images = random_crops(batch["images"], net.resolution, area=self.crop_area, ratio=self.crop_ratio)
        if self.sides == "both":
            outputs = [self.model(images, "left"), self.model(images, "right")]
        else:
            outputs = [self.model(images, "right" if clock.step % 2 else "left")]

        labels, smoothing = batch["labels"], self.label_smoothing
        losses = [smoothed_cross_entropy(logits.float(), labels, smoothing) for logits in outputs]
        loss = torch.stack(losses).mean()
        hits = torch.stack([logits.detach().argmax(1) == labels for logits in outputs])
        accuracy = 100 * hits.float().mean()  # percent
        return Step(loss, {"accuracy": accuracy, f"accuracy_stage{net.stage}": accuracy})

    def deployed(self) -> nn.Module:
        return self.model


# ---------------------------------------------------------------- how it is trained


def parameter_groups(model: SuperNet, *, weight_decay: float = 4e-5) -> list[dict[str, object]]:
    """Convolution weights decay twice as fast as the classifier; their biases and the norms do not."""
    convolutions = [module for module in model.modules() if isinstance(module, SlicedConv)]
    decayed = {id(convolution.weight) for convolution in convolutions}
    classifier = {id(weight) for weight in model.classifier.parameters()}
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if id(p) in decayed], "weight_decay": 2 * weight_decay},
        {"params": [p for p in parameters if id(p) in classifier], "weight_decay": weight_decay},
        {
            "params": [p for p in parameters if id(p) not in decayed and id(p) not in classifier],
            "weight_decay": 0.0,
        },
    ]


def make_optimizer(
    model: SuperNet, *, learning_rate: float = 0.12, weight_decay: float = 4e-5
) -> torch.optim.SGD:
    """SGD with Nesterov momentum; the published rate is for 256 images a step."""
    groups = parameter_groups(model, weight_decay=weight_decay)
    return torch.optim.SGD(groups, lr=learning_rate, momentum=0.9, nesterov=True)


def warmed_cosine(steps: int, warmup: int) -> Schedule:
    """1 / warmup, 2 / warmup, ..., 1, then half a cosine to 0, which the last of `steps` steps reaches."""

    def factor(step: int) -> float:
        number = step + 1
        if number <= warmup:
            return number / warmup
        return 0.5 * (1 + math.cos(math.pi * min((number - warmup) / (steps - warmup), 1)))

    return factor
