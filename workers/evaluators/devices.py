"""Where a trial computes."""

import torch


def device_of(name: str) -> torch.device:
    """The device called `name`, as PyTorch names it; "auto" is the GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)
