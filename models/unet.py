"""The UNet of diffusion models: Improved DDPM's (arXiv 2102.09672) and, by its options, DDPM's.

Every level has its own width, depth and attention. An untrained network returns exactly zero: the last
convolution of every residual block, every attention's projection and the output convolution start at zero.
"""

import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

Layer = TypeVar("Layer", bound=nn.Module)


def sinusoidal(timesteps: Tensor, width: int) -> Tensor:
    """Cosines, then sines, of time-steps (B,) at width / 2 frequencies from 1 down to 1e-4: (B, width)."""
    half = width // 2
    indices = torch.arange(half, device=timesteps.device, dtype=torch.float32)
    frequencies = torch.exp(-math.log(10_000) / half * indices)
    angles = timesteps.float()[:, None] * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=1)


class GroupNorm(nn.GroupNorm):
    """Group normalization computed in float32, whatever the precision around it."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.float(), self.bias.float()
        return functional.group_norm(x.float(), self.num_groups, weight, bias, self.eps).to(x.dtype)


class ResidualBlock(nn.Module):
    """Norm, SiLU, convolution, twice; the time shifts what is between, or scales and shifts it (FiLM)."""

    def __init__(
        self, inputs: int, outputs: int, *, time_width: int, groups: int, film: bool, dropout: float
    ) -> None:
        super().__init__()
        self.film = film
        self.norm1 = GroupNorm(groups, inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.condition = nn.Linear(time_width, 2 * outputs if film else outputs)
        self.norm2 = GroupNorm(groups, outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = _zeroed(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h: Tensor = self.conv1(functional.silu(self.norm1(x)))
        condition = self.condition(time)[:, :, None, None]
        if self.film:
            scale, shift = condition.chunk(2, dim=1)
            h = self.norm2(h) * (1 + scale) + shift
        else:
            h = self.norm2(h + condition)
        h = self.conv2(self.dropout(functional.silu(h)))
        h = self.shortcut(x) + h
        return h


class Attention(nn.Module):
    """Self-attention over all positions of a feature map, added to it."""

    def __init__(self, channels: int, *, heads: int, groups: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = GroupNorm(groups, channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.project = _zeroed(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).mT  # (B, T, C)
        qkv = self.qkv(tokens).unflatten(2, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, T, C / heads) each
        mixed = functional.scaled_dot_product_attention(q, k, v)
        tokens = self.project(mixed.transpose(1, 2).flatten(2))
        change: Tensor = tokens.mT.unflatten(2, x.shape[2:])
        return x + change


class Block(nn.Module):
    """A residual block, and what follows it: attention, upsampling, both or neither."""

    def __init__(self, residual: ResidualBlock, *after: nn.Module) -> None:
        super().__init__()
        self.residual = residual
        self.after = nn.Sequential(*after)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h: Tensor = self.after(self.residual(x, time))
        return h


class Downsample(nn.Module):
    """Halves the side. Takes the time unused, so that all parts of the encoder are called alike."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor, _time: Tensor) -> Tensor:
        h: Tensor = self.conv(x)
        return h


class Upsample(nn.Module):
    """Doubles the side by nearest neighbours, then convolves."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
        return h


class UNet(nn.Module):
    """Predicts the noise, and with `learned_sigma` the interpolated variance, of noisy images.

    `channels`, `blocks` and `attention` hold one entry per level, from the full resolution down; each level
    halves the side, so the image's side must be a multiple of 2 ** (levels - 1). The stem is as wide as the
    first level (as in ADM), the decoder has one block more than the encoder at every level, and the middle
    always attends. `base` is the width of the sinusoidal embedding, `time_width` that of the learned one.

    Raises ValueError where the lists differ in length, or a width cannot be split into the groups or heads.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        channels: Sequence[int],
        blocks: Sequence[int],
        attention: Sequence[bool],
        heads: int = 4,
        base: int = 128,
        time_width: int = 512,
        groups: int = 32,
        film: bool = True,
        learned_sigma: bool = True,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        _check(channels, blocks, attention, heads=heads, base=base, groups=groups)

        def block(inputs: int, outputs: int, attends: bool, *after: nn.Module) -> Block:
            residual = ResidualBlock(
                inputs, outputs, time_width=time_width, groups=groups, film=film, dropout=dropout
            )
            if attends:
                return Block(residual, Attention(outputs, heads=heads, groups=groups), *after)
            return Block(residual, *after)

        self.base = base
        self.embed = nn.Sequential(
            nn.Linear(base, time_width), nn.SiLU(), nn.Linear(time_width, time_width), nn.SiLU()
        )
        levels = list(enumerate(zip(channels, blocks, attention, strict=True)))

        width, skips = channels[0], [channels[0]]
        self.stem = nn.Conv2d(in_channels, width, 3, padding=1)
        self.encoder = nn.ModuleList()
        for level, (outputs, depth, attends) in levels:
            if level:
                self.encoder.append(Downsample(width))
                skips.append(width)
            for _ in range(depth):
                self.encoder.append(block(width, outputs, attends))
                width = outputs
                skips.append(width)

        self.middle = nn.ModuleList((block(width, width, True), block(width, width, False)))

        self.decoder = nn.ModuleList()
        for level, (outputs, depth, attends) in reversed(levels):
            for left in reversed(range(depth + 1)):
                up = () if left or not level else (Upsample(outputs),)
                self.decoder.append(block(width + skips.pop(), outputs, attends, *up))
                width = outputs

        self.norm = GroupNorm(groups, width)
        self.out = _zeroed(nn.Conv2d(width, in_channels * (2 if learned_sigma else 1), 3, padding=1))

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        """Noisy images (B, C, H, W) in [-1, 1] and time-steps (B,) on the scale 0..1000, whole or not.

        Returns the noise (B, C, H, W), with learned sigma (B, 2C, H, W): noise, then v of Eq. 15.
        """
        time = self.embed(sinusoidal(timesteps, self.base).to(x.dtype))
        h: Tensor = self.stem(x)
        skips = [h]
        for part in self.encoder:
            h = part(h, time)
            skips.append(h)
        for part in self.middle:
            h = part(h, time)
        for part in self.decoder:
            h = part(torch.cat((h, skips.pop()), dim=1), time)
        noise: Tensor = self.out(functional.silu(self.norm(h)))
        return noise


def _check(
    channels: Sequence[int],
    blocks: Sequence[int],
    attention: Sequence[bool],
    *,
    heads: int,
    base: int,
    groups: int,
) -> None:
    if not channels or not len(channels) == len(blocks) == len(attention):
        raise ValueError(
            "channels, blocks and attention need one entry per level, "
            f"not {len(channels)}, {len(blocks)} and {len(attention)}"
        )
    if any(depth < 1 for depth in blocks):
        raise ValueError(f"blocks {list(blocks)}: every level needs one or more")
    if base < 2 or base % 2:
        raise ValueError(f"base {base}: sines and cosines need an even width")
    for width in channels:
        if width < 1 or width % groups:
            raise ValueError(f"width {width} is no multiple of {groups} groups")
    for width, attends in zip(channels, (*attention[:-1], True), strict=True):
        if attends and width % heads:
            raise ValueError(f"width {width} is no multiple of {heads} heads")


def _zeroed(layer: Layer) -> Layer:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
