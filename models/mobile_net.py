"""The network of GENIUS's ImageNet space (arXiv 2304.10970): MobileNetV3-like, thirty layers of free kind."""

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from models.conv_blocks import InvertedResidual, SqueezeExcite, conv_norm

Block = Sequence[int] | None

STAGES = ((16, 24, 2), (24, 40, 2), (40, 80, 2), (80, 96, 1), (96, 192, 2))  # channels in, out, stride
LAYERS_PER_STAGE = 6
STEM, LAST, HEAD = 16, 320, 1280


class SeparableConv(nn.Module):
    """Depthwise convolution, squeeze-and-excitation, linear 1x1 convolution; the input is added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            conv_norm(channels, channels, 3, groups=channels, activation=nn.Hardswish),
            SqueezeExcite(channels, 8),
            conv_norm(channels, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y


class MobileNet(nn.Module):
    """Images (B, 3, H, W) to logits (B, classes).

    `blocks` says what each of the thirty layers is: (expansion, kernel) of an inverted residual, or None,
    which removes it (as the first of its stage: a 1x1 convolution). A `stem_stride` of 1 suits images of 32
    or 64 pixels, whose map would else shrink to one or two.
    """

    def __init__(
        self, blocks: Sequence[Block], *, classes: int = 1000, stem_stride: int = 2, dropout: float = 0.2
    ) -> None:
        super().__init__()
        if len(blocks) != len(STAGES) * LAYERS_PER_STAGE:
            raise ValueError(f"there are {len(STAGES) * LAYERS_PER_STAGE} layers, not {len(blocks)}")
        self.features = nn.Sequential(
            conv_norm(3, STEM, 3, stem_stride, activation=nn.Hardswish),
            SeparableConv(STEM),
            *_layers(blocks),
            conv_norm(STAGES[-1][1], LAST, 1, activation=nn.Hardswish),
        )
        self.head = nn.Sequential(nn.Linear(LAST, HEAD), nn.Hardswish(), nn.Dropout(dropout))
        self.classifier = nn.Linear(HEAD, classes)
        self.apply(_initialize)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.head(self.features(images).mean((2, 3))))
        return logits


def _layers(blocks: Sequence[Block]) -> Iterator[nn.Module]:
    for index, block in enumerate(blocks):
        stage, place = divmod(index, LAYERS_PER_STAGE)
        inputs, outputs, stride = STAGES[stage] if place == 0 else (STAGES[stage][1], STAGES[stage][1], 1)
        if block is not None:
            expansion, kernel = block
            width = expansion * inputs
            yield InvertedResidual(
                inputs, width, outputs, kernel, stride, activation=nn.Hardswish, excite=True
            )
        elif place == 0:
            yield conv_norm(inputs, outputs, 1, stride)


def _initialize(module: nn.Module) -> None:
    """Normal weights that keep the variance of the gradients, as mobile networks are initialized."""
    if isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=(2.0 / fan_out) ** 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        bound = module.out_features**-0.5
        nn.init.uniform_(module.weight, -bound, bound)
        nn.init.zeros_(module.bias)
