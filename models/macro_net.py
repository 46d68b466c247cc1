"""NAS-Bench-Macro's network (arXiv 2103.11922): a chain of inverted residuals and identities."""

from collections.abc import Sequence

from torch import Tensor, nn

from models.conv_blocks import InvertedResidual, conv_norm

Block = Sequence[int] | None
Layer = Sequence[int]


class MacroNet(nn.Module):
    """Images (B, in_channels, H, W) to logits (B, classes).

    `layers` are (channels in, channels out, stride); `blocks` says what each is: None for an identity (a 1x1
    convolution where it changes the shape), else (expansion, kernel) of an inverted residual.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        layers: Sequence[Layer],
        *,
        head: int = 1280,
        in_channels: int = 3,
        classes: int = 10,
    ) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv_norm(in_channels, layers[0][0], 3, activation=nn.ReLU),
            *(_layer(block, *layer) for block, layer in zip(blocks, layers, strict=True)),
            conv_norm(layers[-1][1], head, 1, activation=nn.ReLU),
        )
        self.classifier = nn.Linear(head, classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images).mean((2, 3)))
        return logits


def _layer(block: Block, inputs: int, outputs: int, stride: int) -> nn.Module:
    if block is not None:
        expansion, kernel = block
        return InvertedResidual(inputs, expansion * inputs, outputs, kernel, stride, activation=nn.ReLU)
    if inputs != outputs or stride != 1:
        return conv_norm(inputs, outputs, 1, stride)
    return nn.Identity()
