"""What layers and blocks cost, in closed form: trainable parameters, and multiply-accumulates for one image.

Convolutions, linear layers and the matrix products of attention count; norms, activations, biases,
pooling and resampling cost parameters at most. `area` is the number of output positions (height x width),
`tokens` the number of vectors a layer is applied to.
"""

from collections.abc import Iterable

from search_spaces.space import Cost


def total(costs: Iterable[Cost]) -> Cost:
    """The sum; of nothing, Cost(0, 0)."""
    params = macs = 0
    for cost in costs:
        params += cost.params
        macs += cost.macs
    return Cost(params, macs)


# -------------------------------------------------------------------- layers


def conv2d(inputs: int, outputs: int, kernel: int, *, area: int, groups: int = 1, bias: bool = True) -> Cost:
    """A square convolution; stride and padding show in `area` alone."""
    weights = kernel * kernel * (inputs // groups) * outputs
    return Cost(weights + outputs * bias, weights * area)


def depthwise_conv2d(channels: int, kernel: int, *, area: int, bias: bool = True) -> Cost:
    return conv2d(channels, channels, kernel, area=area, groups=channels, bias=bias)


def linear(inputs: int, outputs: int, *, tokens: int = 1, bias: bool = True) -> Cost:
    return Cost(inputs * outputs + outputs * bias, inputs * outputs * tokens)


def norm(channels: int) -> Cost:
    """Batch, group or layer normalization with a learned scale and shift per channel."""
    return Cost(2 * channels, 0)


def attention_products(queries: int, keys: int, channels: int) -> Cost:
    """Queries times keys, and the weights times values, over all heads together."""
    return Cost(0, 2 * queries * keys * channels)


# -------------------------------------------------------------------- blocks of the diffusion UNet


def self_attention(channels: int, *, area: int) -> Cost:
    """Norm, joint query-key-value projection, attention over all positions, output projection."""
    return total(
        (
            norm(channels),
            linear(channels, 3 * channels, tokens=area),
            attention_products(area, area, channels),
            linear(channels, channels, tokens=area),
        )
    )


def time_residual(inputs: int, outputs: int, *, area: int, time_width: int, film: bool = True) -> Cost:
    """A residual block of two 3x3 convolutions, shifted, with `film` also scaled, by a time embedding."""
    return total(
        (
            norm(inputs),
            conv2d(inputs, outputs, 3, area=area),
            linear(time_width, 2 * outputs if film else outputs),
            norm(outputs),
            conv2d(outputs, outputs, 3, area=area),
            *([conv2d(inputs, outputs, 1, area=area)] if inputs != outputs else []),
        )
    )
