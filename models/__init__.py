"""The networks by name. A search space names one with its arguments (`ModelSpec`); `build` makes it."""

from collections.abc import Callable
from typing import Any

from torch import nn

from models.cell_net import CellNet
from models.channel_net import ChannelMobileNet, ChannelResNet
from models.macro_net import MacroNet
from models.mobile_net import MobileNet
from models.supernet import ScaledNet, SuperNet
from models.unet import UNet

MODELS: dict[str, Callable[..., nn.Module]] = {
    "cell": CellNet,
    "channel-mobilenet": ChannelMobileNet,
    "channel-resnet": ChannelResNet,
    "macro": MacroNet,
    "mobile": MobileNet,
    "scalenet": ScaledNet,
    "scalenet-supernet": SuperNet,
    "unet": UNet,
}


class UnknownModel(LookupError):
    """No model of that name."""


def build(name: str, **kwargs: Any) -> nn.Module:
    """The network called `name`, untrained. Raises UnknownModel, and what the model says to its arguments."""
    if name not in MODELS:
        raise UnknownModel(f"no model {name!r}; known: {', '.join(sorted(MODELS))}")
    return MODELS[name](**kwargs)
