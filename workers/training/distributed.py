"""Which process of a data-parallel training this is, and what the processes share. PyTorch alone."""

from dataclasses import dataclass

import torch.distributed
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Ranks:
    """A process's place among `size` that train one network together; rank 0 leads."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process reports and keeps files for all."""
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """The mean of a tensor over all processes, each of which must ask for it."""
        if self.size == 1:
            return values
        total = values.clone()
        torch.distributed.all_reduce(total)
        return total / self.size


ALONE = Ranks()


def ranks() -> Ranks:
    """The place of this process in the default process group; alone where there is none."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return ALONE
    return Ranks(torch.distributed.get_rank(), torch.distributed.get_world_size())
