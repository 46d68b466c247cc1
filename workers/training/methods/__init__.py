"""The training methods by name. Each is called with the network to train and the method's own options."""

from collections.abc import Callable

from workers.training.method import TrainingMethod
from workers.training.methods.diffusion import Diffusion
from workers.training.methods.scalenet import ScaleNet
from workers.training.methods.supervised import Supervised

METHODS: dict[str, Callable[..., TrainingMethod]] = {
    "diffusion": Diffusion,
    "scalenet": ScaleNet,
    "supervised": Supervised,
}
