"""Blocks of convolutional classifiers: convolution with norm, squeeze-and-excitation, inverted residual."""

from collections.abc import Callable

from torch import Tensor, nn

Activation = Callable[[], nn.Module]


def conv_norm(
    inputs: int,
    outputs: int,
    kernel: int,
    stride: int = 1,
    *,
    groups: int = 1,
    activation: Activation | None = None,
) -> nn.Sequential:
    """A convolution without bias that keeps the map's side (or divides it by the stride), and batch norm."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([activation()] if activation else []))


def divisible(width: float, divisor: int = 8) -> int:
    """The multiple of `divisor` nearest to `width`, at least one, and not 10% below (MobileNet's rule)."""
    nearest = max(divisor, int(width + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * width else nearest


class SqueezeExcite(nn.Module):
    """Scales every channel by a gate in [0, 1] computed from all channels' means (MobileNetV3's form)."""

    def __init__(self, channels: int, reduced: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, reduced, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(reduced, channels, 1),
            nn.Hardsigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor = self.gate(x)
        return x * gate


class InvertedResidual(nn.Module):
    """Expansion to `width`, depthwise convolution, linear projection; the input is added where shapes agree.

    `excite` puts squeeze-and-excitation, to a quarter of the width, behind the depthwise convolution.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        outputs: int,
        kernel: int,
        stride: int,
        *,
        activation: Activation,
        excite: bool = False,
    ) -> None:
        super().__init__()
        self.residual = inputs == outputs and stride == 1
        self.layers = nn.Sequential(
            conv_norm(inputs, width, 1, activation=activation),
            conv_norm(width, width, kernel, stride, groups=width, activation=activation),
            *([SqueezeExcite(width, divisible(width / 4))] if excite else []),
            conv_norm(width, outputs, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.residual else y
