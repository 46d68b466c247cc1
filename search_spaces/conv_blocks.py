"""What the blocks of convolutional classifiers cost: `models.conv_blocks`, of the layers in `cost`."""

from functools import lru_cache

from search_spaces.cost import conv2d, depthwise_conv2d, norm, total
from search_spaces.space import Cost

SHAPES = 4096  # a search asks for the same few hundred shapes again and again


@lru_cache(SHAPES)
def conv_norm(inputs: int, outputs: int, kernel: int, *, area: int) -> Cost:
    """A convolution without bias and its batch norm; `area` is that of the output."""
    return total((conv2d(inputs, outputs, kernel, area=area, bias=False), norm(outputs)))


def depthwise_norm(channels: int, kernel: int, *, area: int) -> Cost:
    return total((depthwise_conv2d(channels, kernel, area=area, bias=False), norm(channels)))


def squeeze_excite(channels: int, reduced: int) -> Cost:
    """Two 1x1 convolutions with bias on the pooled map."""
    return total((conv2d(channels, reduced, 1, area=1), conv2d(reduced, channels, 1, area=1)))


@lru_cache(SHAPES)
def inverted_residual(
    inputs: int, width: int, outputs: int, kernel: int, *, area: int, stride: int, reduced: int = 0
) -> Cost:
    """Expansion to `width`, depthwise convolution, projection; `area` is that of the input.

    `reduced` is the inner width of a squeeze-and-excitation after the depthwise convolution, 0 for none.
    """
    after = area // stride**2
    return total(
        (
            conv_norm(inputs, width, 1, area=area),
            depthwise_norm(width, kernel, area=after),
            *([squeeze_excite(width, reduced)] if reduced else []),
            conv_norm(width, outputs, 1, area=after),
        )
    )


def divisible(width: float, divisor: int = 8) -> int:
    """The multiple of `divisor` nearest to `width`, at least one, and not 10% below (MobileNet's rule)."""
    nearest = max(divisor, int(width + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * width else nearest
