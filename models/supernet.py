"""ScaleNet (arXiv 2207.07267): the super-supernet, and the standalone networks that come out of it.

The super-supernet holds the weights of every base network under every scaling strategy. A layer that has C
channels in the base is stored with T = C + ceil(C * widest) of them; a subnet of width w uses c = ceil(C * w)
of those, either the left slice [0, c) or the right slice [T - c, T), so that over the widths every channel is
used about equally often. Which side is used is an argument of the forward pass, never a hidden counter.

Kernels are the sizes of every layer, stage by stage; multipliers are integers in thousandths.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Side = Literal["left", "right"]
Kernels = Sequence[Sequence[int]]

UNIT = 1000  # a multiplier of 1
KERNELS = (3, 5, 7)  # the candidates of a slot, after the identity
REDUCTION = 4  # squeeze-and-excitation, of the hidden width


def scaled(count: int, multiplier: int) -> int:
    """ceil(count * multiplier), exactly."""
    return -(-count * multiplier // UNIT)


def render(images: Tensor, resolution: int) -> Tensor:
    """Images (B, C, H, W) at resolution x resolution, bilinear as in the published loader."""
    if images.shape[-2:] == (resolution, resolution):
        return images
    return functional.interpolate(images, (resolution, resolution), mode="bilinear", align_corners=False)


def _initialize(network: nn.Module) -> None:
    """Convolutions N(0, 2 / (k^2 c_out)), norms 1 and 0, the classifier N(0, 0.01^2), biases 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | SlicedConv):
            outputs, kernel = module.weight.shape[0], module.weight.shape[-1]
            nn.init.normal_(module.weight, std=math.sqrt(2 / (kernel**2 * outputs)))
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)


# ------------------------------------------------------------------ standalone


class InvertedResidual(nn.Module):
    """Expand 1x1 (where hidden differs from inputs), depthwise, squeeze-and-excitation, linear projection."""

    def __init__(self, inputs: int, hidden: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        if hidden != inputs:
            self.expand = nn.Conv2d(inputs, hidden, 1, bias=False)
            self.expand_norm = nn.BatchNorm2d(hidden)
        self.expands = hidden != inputs
        self.depthwise = nn.Conv2d(hidden, hidden, kernel, stride, kernel // 2, groups=hidden, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(hidden)
        self.squeeze = nn.Conv2d(hidden, hidden // REDUCTION, 1)
        self.excite = nn.Conv2d(hidden // REDUCTION, hidden, 1)
        self.project = nn.Conv2d(hidden, outputs, 1, bias=False)
        self.project_norm = nn.BatchNorm2d(outputs)
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        h = functional.hardswish(self.expand_norm(self.expand(x))) if self.expands else x
        h = functional.hardswish(self.depthwise_norm(self.depthwise(h)))
        gate = self.excite(functional.relu(self.squeeze(h.mean((2, 3), keepdim=True))))
        out: Tensor = self.project_norm(self.project(h * functional.hardsigmoid(gate)))
        return x + out if self.shortcut else out


class ScaledNet(nn.Module):
    """A base network under one strategy, with weights of its own.

    `blocks` are rows of (inputs, hidden, outputs, kernel, stride). Images (B, channels, H, W) of another size
    are rendered at `resolution` first. Returns logits (B, classes).
    """

    def __init__(
        self, *, channels: int, blocks: Sequence[Sequence[int]], head: int, classes: int, resolution: int
    ) -> None:
        super().__init__()
        self.resolution = resolution
        stem, last = blocks[0][0], blocks[-1][2]
        self.stem = nn.Conv2d(channels, stem, 3, 2, 1, bias=False)
        self.stem_norm = nn.BatchNorm2d(stem)
        self.blocks = nn.ModuleList(InvertedResidual(*block) for block in blocks)
        self.last = nn.Conv2d(last, head, 1, bias=False)
        self.last_norm = nn.BatchNorm2d(head)
        self.classifier = nn.Linear(head, classes)
        _initialize(self)

    def forward(self, images: Tensor) -> Tensor:
        x = render(images, self.resolution)
        x = functional.hardswish(self.stem_norm(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        x = functional.hardswish(self.last_norm(self.last(x)))
        logits: Tensor = self.classifier(x.mean((2, 3)))
        return logits


# ------------------------------------------------------------------ layers that hold more than they use


def stored(channels: int, widest: int) -> int:
    """T: channels held for a layer that has `channels` in the base."""
    return scaled(channels, widest) + channels


def part(total: int, count: int, side: Side) -> slice:
    return slice(0, count) if side == "left" else slice(total - count, total)


class SlicedConv(nn.Module):
    """A convolution whose forward pass uses as many inputs as arrive, and as many outputs as are asked for.

    With `depthwise` both are the same channels.
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        bias: bool = False,
        depthwise: bool = False,
    ) -> None:
        super().__init__()
        self.stride, self.depthwise = stride, depthwise
        self.weight = nn.Parameter(torch.empty(outputs, 1 if depthwise else inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None

    def forward(self, x: Tensor, outputs: int, side: Side) -> Tensor:
        inputs, kernel = x.shape[1], self.weight.shape[-1]
        rows = part(self.weight.shape[0], outputs, side)
        weight = self.weight[rows]
        if not self.depthwise:
            weight = weight[:, part(self.weight.shape[1], inputs, side)]
        bias = None if self.bias is None else self.bias[rows]
        groups = inputs if self.depthwise else 1
        return functional.conv2d(x, weight, bias, self.stride, kernel // 2, groups=groups)


class SlicedBatchNorm(nn.Module):
    """Batch normalization over the slice that arrives; running statistics of that slice alone move."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, *, momentum: float = 0.1) -> None:
        super().__init__()
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor, side: Side) -> Tensor:
        used = part(self.weight.shape[0], x.shape[1], side)
        return functional.batch_norm(
            x,
            self.running_mean[used],
            self.running_var[used],
            self.weight[used],
            self.bias[used],
            self.training,
            self.momentum,
        )


class SlicedInvertedResidual(nn.Module):
    """`InvertedResidual` over stored widths; the names of its weights are the same."""

    def __init__(
        self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int, *, widest: int
    ) -> None:
        super().__init__()
        self.hidden, self.outputs, self.expands = inputs * expansion, outputs, expansion != 1
        shared_in, shared_out = stored(inputs, widest), stored(outputs, widest)
        hidden = shared_in * expansion
        if self.expands:
            self.expand = SlicedConv(shared_in, hidden)
            self.expand_norm = SlicedBatchNorm(hidden)
        self.depthwise = SlicedConv(hidden, hidden, kernel, stride, depthwise=True)
        self.depthwise_norm = SlicedBatchNorm(hidden)
        self.squeeze = SlicedConv(hidden, hidden // REDUCTION, bias=True)
        self.excite = SlicedConv(hidden // REDUCTION, hidden, bias=True)
        self.project = SlicedConv(hidden, shared_out)
        self.project_norm = SlicedBatchNorm(shared_out)
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor, width: int, side: Side) -> Tensor:
        hidden = scaled(self.hidden, width)
        h = x
        if self.expands:
            h = functional.hardswish(self.expand_norm(self.expand(x, hidden, side), side))
        h = functional.hardswish(self.depthwise_norm(self.depthwise(h, hidden, side), side))
        gate = functional.relu(self.squeeze(h.mean((2, 3), keepdim=True), hidden // REDUCTION, side))
        h = h * functional.hardsigmoid(self.excite(gate, hidden, side))
        out: Tensor = self.project_norm(self.project(h, scaled(self.outputs, width), side), side)
        return x + out if self.shortcut else out


class SlicedIdentity(nn.Module):
    """The empty slot; where stride or width change, a 1x1 convolution with norm."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, widest: int) -> None:
        super().__init__()
        self.outputs, self.changes = outputs, stride != 1 or inputs != outputs
        if self.changes:
            self.project = SlicedConv(stored(inputs, widest), stored(outputs, widest), stride=stride)
            self.project_norm = SlicedBatchNorm(stored(outputs, widest))

    def forward(self, x: Tensor, width: int, side: Side) -> Tensor:
        if not self.changes:
            return x
        out: Tensor = self.project_norm(self.project(x, scaled(self.outputs, width), side), side)
        return out


# ------------------------------------------------------------------ the super-supernet


class SuperNet(nn.Module):
    """All bases x strategies in one set of weights.

    `stages` are rows of (layers, stride, inputs, outputs, expansion). A stage of N layers has ceil(N *
    deepest) slots, each with weights of its own for every candidate. `activate` chooses the subnet, by
    default the smallest; the forward pass takes images (B, channels, r, r), already rendered, to logits
    (B, classes).
    """

    def __init__(
        self,
        *,
        channels: int,
        stem: int,
        stages: Sequence[Sequence[int]],
        head: int,
        classes: int,
        widest: int,
        deepest: int,
    ) -> None:
        super().__init__()
        self.channels, self.stem_width, self.widest, self.deepest = channels, stem, widest, deepest
        self.layers = tuple(stage[0] for stage in stages)
        shared_stem, last = stored(stem, widest), stored(stages[-1][3], widest)
        self.stem = SlicedConv(channels, shared_stem, 3, 2)
        self.stem_norm = SlicedBatchNorm(shared_stem)
        self.stages = nn.ModuleList(_slots(*stage, widest=widest, deepest=deepest) for stage in stages)
        self.last = SlicedConv(last, head)
        self.last_norm = SlicedBatchNorm(head)
        self.classifier = nn.Linear(head, classes)
        _initialize(self)
        self.activate([[KERNELS[0]]] * len(stages))

    def activate(self, base: Kernels, *, depth: int = UNIT, width: int = UNIT) -> None:
        """Chooses a base network under a strategy. Raises ValueError where there are no weights for it."""
        if len(base) != len(self.layers):
            raise ValueError(f"the super-supernet has {len(self.layers)} stages, not {len(base)}")
        for number, (ops, layers) in enumerate(zip(base, self.layers, strict=True), 1):
            if not 1 <= len(ops) <= layers or not set(ops) <= set(KERNELS):
                raise ValueError(f"stage {number}: {list(ops)} is not 1 to {layers} kernels out of {KERNELS}")
        if not UNIT <= depth <= self.deepest or not UNIT <= width <= self.widest:
            raise ValueError(
                f"depth {depth} must be {UNIT} to {self.deepest}, width {width} {UNIT} to {self.widest}"
            )
        self.kernels = deepened(base, depth)
        self.width = width

    def active(self) -> Iterator[SlicedInvertedResidual]:
        """The chosen candidates, from the image to the logits."""
        for stage, ops in enumerate(self.kernels):
            for slot, kernel in enumerate(ops):
                candidate = self.get_submodule(f"stages.{stage}.{slot}.{1 + KERNELS.index(kernel)}")
                assert isinstance(candidate, SlicedInvertedResidual)
                yield candidate

    def forward(self, images: Tensor, side: Side = "left") -> Tensor:
        x = self.stem_norm(self.stem(images, scaled(self.stem_width, self.width), side), side)
        x = functional.hardswish(x)
        for block in self.active():
            x = block(x, self.width, side)
        x = functional.hardswish(self.last_norm(self.last(x, self.last.weight.shape[0], side), side))
        logits: Tensor = self.classifier(x.mean((2, 3)))
        return logits

    def extract(self, resolution: int, side: Side = "left") -> ScaledNet:
        """A copy of the active subnet, statistics included, as a network of its own on the same device."""
        shapes = self._shapes()
        net = ScaledNet(
            channels=self.channels,
            blocks=shapes,
            head=self.last.weight.shape[0],
            classes=self.classifier.out_features,
            resolution=resolution,
        ).to(self.classifier.weight.device)
        pairs: list[tuple[nn.Module, nn.Module]] = [(net, self)]
        pairs += zip(net.blocks, self.active(), strict=True)
        with torch.no_grad():
            for alone, shared in pairs:
                held = dict([*shared.named_parameters(), *shared.named_buffers()])
                for name, tensor in [*alone.named_parameters(), *alone.named_buffers()]:
                    if name in held:
                        tensor.copy_(_sliced(held[name], tensor.shape, side))
        return net.train(self.training)

    def _shapes(self) -> list[tuple[int, int, int, int, int]]:
        """(inputs, hidden, outputs, kernel, stride) of every active layer."""
        inputs, shapes = scaled(self.stem_width, self.width), []
        for block in self.active():
            hidden, outputs = scaled(block.hidden, self.width), scaled(block.outputs, self.width)
            shapes.append((inputs, hidden, outputs, block.depthwise.weight.shape[-1], block.depthwise.stride))
            inputs = outputs
        return shapes


def deepened(base: Kernels, depth: int) -> tuple[tuple[int, ...], ...]:
    """Every stage of n layers gets ceil(n * d): the added ones repeat the operation of the last."""
    return tuple((*ops, *[ops[-1]] * (scaled(len(ops), depth) - len(ops))) for ops in base)


def _slots(
    layers: int, stride: int, inputs: int, outputs: int, expansion: int, *, widest: int, deepest: int
) -> nn.ModuleList:
    """The slots of one stage: each the identity, then an inverted residual for every kernel."""
    slots = nn.ModuleList()
    for slot in range(scaled(layers, deepest)):
        start, step = (inputs, stride) if slot == 0 else (outputs, 1)
        slots.append(
            nn.ModuleList(
                [
                    SlicedIdentity(start, outputs, step, widest=widest),
                    *(
                        SlicedInvertedResidual(start, outputs, expansion, kernel, step, widest=widest)
                        for kernel in KERNELS
                    ),
                ]
            )
        )
    return slots


def _sliced(tensor: Tensor, shape: torch.Size, side: Side) -> Tensor:
    """The part of a stored tensor that a layer of this shape uses."""
    for dim, count in enumerate(shape):
        used = part(tensor.shape[dim], count, side)
        tensor = tensor.narrow(dim, used.start, count)
    return tensor
