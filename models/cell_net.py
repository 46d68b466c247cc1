"""NAS-Bench-201's network (arXiv 2001.00326): three stages of one repeated cell of four nodes."""

from collections.abc import Sequence

from torch import Tensor, nn

from models.conv_blocks import conv_norm

EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
NODES = 4


class Cell(nn.Module):
    """Node 0 is the input, node 3 the output, a node the sum over its incoming edges (zero without any)."""

    def __init__(self, edges: Sequence[str], channels: int) -> None:
        super().__init__()
        self.operations = nn.ModuleDict(
            {
                f"{source}{target}": operation(name, channels)
                for name, (source, target) in zip(edges, EDGES, strict=True)
                if name != "none"
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        nodes = [x]
        for node in range(1, NODES):
            total = x * 0
            for source in range(node):
                if (edge := f"{source}{node}") in self.operations:
                    total = total + self.operations[edge](nodes[source])
            nodes.append(total)
        return total


class Reduction(nn.Module):
    """A residual block that halves the map: two 3x3 convolutions beside an average and a 1x1 convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.ReLU(),
            conv_norm(inputs, outputs, 3, stride=2),
            nn.ReLU(),
            conv_norm(outputs, outputs, 3),
        )
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(inputs, outputs, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.shortcut(x) + self.convolutions(x)
        return y


class CellNet(nn.Module):
    """Images (B, 3, H, W), H and W divisible by 4, to logits (B, classes).

    `edges` names the operation of each of EDGES; stages have `cells` cells of 1, 2 and 4 times `channels`.
    """

    def __init__(
        self, edges: Sequence[str], *, channels: int = 16, cells: int = 5, classes: int = 10
    ) -> None:
        super().__init__()
        widths = (channels, 2 * channels, 4 * channels)
        layers: list[nn.Module] = [conv_norm(3, channels, 3)]
        for stage, width in enumerate(widths):
            if stage:
                layers.append(Reduction(widths[stage - 1], width))
            layers += [Cell(edges, width) for _ in range(cells)]
        self.features = nn.Sequential(*layers, nn.BatchNorm2d(widths[-1]), nn.ReLU())
        self.classifier = nn.Linear(widths[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images).mean((2, 3)))
        return logits


def operation(name: str, channels: int) -> nn.Module:
    """The operation of an edge. Raises ValueError for an unknown one."""
    match name:
        case "skip":
            return nn.Identity()
        case "conv1x1":
            return nn.Sequential(nn.ReLU(), conv_norm(channels, channels, 1))
        case "conv3x3":
            return nn.Sequential(nn.ReLU(), conv_norm(channels, channels, 3))
        case "avgpool3x3":
            return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    raise ValueError(f"no operation {name!r}; an edge is none, skip, conv1x1, conv3x3 or avgpool3x3")
