"""Channel-Bench-Macro's networks: a ResNet and a MobileNet of two stages in which seven widths are free."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from models.conv_blocks import InvertedResidual, conv_norm


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; the input is added where the stride is 1 (which keeps the width here)."""

    def __init__(self, inputs: int, width: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.residual = stride == 1
        self.layers = nn.Sequential(
            conv_norm(inputs, width, 3, stride, activation=nn.ReLU), conv_norm(width, outputs, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return functional.relu(x + y if self.residual else y)


class _Classifier(nn.Module):
    features: nn.Sequential
    classifier: nn.Linear

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images).mean((2, 3)))
        return logits


class ChannelResNet(_Classifier):
    """Images (B, 3, H, W) to logits (B, classes).

    `widths`: stage 1, inside its blocks 1 and 2, inside block 3, stage 2, inside its blocks 4 and 5.
    """

    def __init__(self, widths: Sequence[int], *, classes: int = 10) -> None:
        super().__init__()
        first, inner1, inner2, inner3, second, inner4, inner5 = widths
        self.features = nn.Sequential(
            conv_norm(3, first, 3, stride=2, activation=nn.ReLU),
            BasicBlock(first, inner1, first, 1),
            BasicBlock(first, inner2, first, 1),
            BasicBlock(first, inner3, second, 2),
            BasicBlock(second, inner4, second, 1),
            BasicBlock(second, inner5, second, 1),
        )
        self.classifier = nn.Linear(second, classes)


class ChannelMobileNet(_Classifier):
    """Images (B, 3, H, W) to logits (B, classes).

    `widths`: stage 1, inside its blocks 1 and 2, inside block 3, stage 2, inside its block 4, the head.
    """

    def __init__(self, widths: Sequence[int], *, classes: int = 10) -> None:
        super().__init__()
        first, inner1, inner2, inner3, second, inner4, head = widths
        self.features = nn.Sequential(
            conv_norm(3, first, 3, stride=2, activation=nn.ReLU),
            InvertedResidual(first, inner1, first, 3, 1, activation=nn.ReLU),
            InvertedResidual(first, inner2, first, 3, 1, activation=nn.ReLU),
            InvertedResidual(first, inner3, second, 3, 2, activation=nn.ReLU),
            InvertedResidual(second, inner4, second, 3, 1, activation=nn.ReLU),
            conv_norm(second, head, 1, activation=nn.ReLU),
        )
        self.classifier = nn.Linear(head, classes)
