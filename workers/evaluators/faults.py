"""What a training run's own errors mean for its trial."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from workers.training.fit import NonFiniteLoss
from workers.trial import Diverged, TrialFailed

CPU_ALLOCATOR = "DefaultCPUAllocator"  # how PyTorch's CPU allocator signs its RuntimeError


@contextmanager
def trial_faults() -> Iterator[None]:
    """Turns a loss that is not finite into Diverged, and memory that ran out into TrialFailed."""
    try:
        yield
    except NonFiniteLoss as error:
        raise Diverged(str(error)) from error
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise TrialFailed(f"out of memory: {_first_line(error)}") from error
    except RuntimeError as error:
        if CPU_ALLOCATOR not in str(error):
            raise
        raise TrialFailed(f"out of memory: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
