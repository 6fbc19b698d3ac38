"""Smaller steps for the pre-trained encoder than for what begins at random."""

from collections.abc import Iterable

import torch
from torch.optim import Optimizer


def scale_steps(
    optimizer: Optimizer, parameters: Iterable[torch.nn.Parameter], factor: float
) -> None:
    """Let some parameters move by a part of what each step would move them.

    For Adam and SGD that is training them with `factor` times the learning rate,
    whatever the scheduler does. Parameter groups would say it too, but schedulers with
    a learning rate of their own (one cycle) give all groups the same, and checkpoints
    of the optimiser would no longer be those of plain training.

    Args:
        optimizer: whose steps are meant; nothing of this enters its state.
        parameters: that move less.
        factor: of each step's change.
    """
    chosen = list(parameters)
    before: list[tuple[torch.Tensor, torch.Tensor]] = []

    def keep(*_):
        before[:] = [(p, p.detach().clone()) for p in chosen if p.grad is not None]

    @torch.no_grad()
    def shorten(*_):
        for parameter, old in before:
            parameter.copy_(old.lerp(parameter, factor))
        before.clear()

    optimizer.register_step_pre_hook(keep)
    optimizer.register_step_post_hook(shorten)
