"""Frames of a target, from which its statistics are taken."""

import torch

MAX_FRAMES = 8_192  # of the sample, all processes together


class FrameSample:
    """Valid frames of batches, at even distances; `MAX_FRAMES` at most.

    Of more than that every second one is kept, of twice as many every fourth, and so
    on.
    """

    def __init__(self):
        self._parts, self._num_seen, self._stride = [], 0, 1

    @torch.no_grad()
    def add(self, target_BTE, lengths_B) -> None:
        """Add the valid frames of a batch (B, T, E), (B,)."""
        T = target_BTE.size(1)
        valid = torch.arange(T, device=target_BTE.device) < lengths_B[:, None]
        x = target_BTE[valid].float()  # (frames, E)
        begin = -self._num_seen % self._stride
        self._num_seen += len(x)
        self._parts.append(x[begin :: self._stride].cpu())
        while sum(map(len, self._parts)) > MAX_FRAMES // num_processes():
            self._parts = [torch.cat(self._parts)[::2]]
            self._stride *= 2

    def take(self, dim: int):
        """The frames of all processes, which are then forgotten.

        Args:
            dim: E.

        Returns:
            (N, E) in fp32 on the CPU.
        """
        x_NE = torch.cat([*self._parts, torch.zeros(0, dim)])
        self.__init__()
        if num_processes() == 1:
            return x_NE
        parts = [None] * num_processes()
        torch.distributed.all_gather_object(parts, x_NE)
        return torch.cat(parts)


def num_processes() -> int:
    """Processes that train together; 1 where there is no such group."""
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size()
    return 1
