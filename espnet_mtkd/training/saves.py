"""What a training saves, when, and how it is told to."""

import contextlib
import logging
import signal
import threading
import time
from pathlib import Path

import espnet2.train.trainer as espnet_trainer
import torch
from espnet2.train.reporter import Reporter

from espnet_mtkd.errors import PreemptedError
from espnet_mtkd.training.averages import average_nbest_models
from espnet_mtkd.training.checkpoints import CHECKPOINT, save, save_checkpoint
from espnet_mtkd.training.position import random_state, report_state

EVERY = 10  # steps after which several processes agree on whether to save


class Saves:
    """The saves of one run of a training.

    Args:
        folder: of the training.
        options: of the training, `SurvivingOptions`.
        rank, world_size: of this process.
        state: of the checkpoint that the run resumes from, or None.
    """

    def __init__(self, folder: Path, options, rank=0, world_size=1, state=None):
        self.folder, self.options = folder, options
        self.interval = 60 * options.save_interval_minutes  # s
        self.rank, self.world_size = rank, world_size
        self.state = state
        self.position = (state or {}).get("position")
        # Of the epochs that are finished.
        self.reporter_state = (state or {}).get("reporter") or Reporter().state_dict()
        self.is_told_to_end = False
        self._last = time.monotonic()

    # ----------------------------------------------------------- ESPnet's own saves

    @contextlib.contextmanager
    def installed(self):
        """Let ESPnet's trainer save through this object, and SIGTERM end the run."""
        own = espnet_trainer.torch, espnet_trainer.average_nbest_models
        espnet_trainer.torch = _TorchThatSaves(self.save)
        espnet_trainer.average_nbest_models = average_nbest_models
        handler = None
        in_main_thread = threading.current_thread() is threading.main_thread()
        if in_main_thread:
            handler = signal.signal(signal.SIGTERM, self._on_term)
        try:
            yield self
        finally:
            espnet_trainer.torch, espnet_trainer.average_nbest_models = own
            if in_main_thread:
                signal.signal(signal.SIGTERM, handler)

    def save(self, state, path) -> None:
        """Stands in for `torch.save` at the end of an epoch."""
        path = Path(path)
        if path.name == CHECKPOINT:
            self.reporter_state = state["reporter"]
            save_checkpoint({**state, "position": None}, path.parent)
            self._last = time.monotonic()
        else:
            save(state, path)

    # ----------------------------------------------------------- within an epoch

    def _on_term(self, *_) -> None:
        self.is_told_to_end = True

    def is_due(self, number: int, is_last: bool) -> bool:
        """Whether the state after a step is to be saved; the same in all processes.

        Args:
            number: of the step's last batch.
            is_last: whether it is the epoch's.
        """
        due = self.is_told_to_end or time.monotonic() - self._last > self.interval
        if self.world_size == 1:
            return due
        if number % EVERY and not is_last:
            return False
        flags = [None] * self.world_size
        torch.distributed.all_gather_object(flags, (due, self.is_told_to_end))
        self.is_told_to_end = any(told for _, told in flags)
        return flags[0][0] or self.is_told_to_end

    def save_within(self, number, model, optimizers, schedulers, scaler, reporter):
        """Save the state within an epoch; where it was told to, end the run.

        Args:
            number: batches of the epoch that were used.
            model, optimizers, schedulers, scaler: of the training.
            reporter: ESPnet's `SubReporter` of the epoch.

        Raises:
            PreemptedError: SIGTERM was received.
            DiskError: no space; the checkpoint before is still there.
        """
        states = [None] * self.world_size
        if self.world_size == 1:
            states = [random_state()]
        else:
            torch.distributed.all_gather_object(states, random_state())
        if self.rank == 0:
            position = {
                "epoch": reporter.get_epoch(),
                "num_batches": number,
                "random": states,
                "report": report_state(reporter),
            }
            save_checkpoint(
                {
                    "model": getattr(model, "module", model).state_dict(),
                    "reporter": self.reporter_state,
                    "optimizers": [o.state_dict() for o in optimizers],
                    "schedulers": [s and s.state_dict() for s in schedulers],
                    "scaler": scaler.state_dict() if scaler is not None else None,
                    "position": position,
                },
                self.folder,
            )
            logging.info("saved after batch %d of the epoch", number)
        self._last = time.monotonic()
        if self.is_told_to_end:
            raise PreemptedError(
                f"told to end (SIGTERM); all is saved in {self.folder}: run the same "
                "command again to go on"
            )


class _TorchThatSaves:
    """`torch` as ESPnet's trainer sees it: `save` is another one's."""

    def __init__(self, save_to):
        self.save = save_to

    def __getattr__(self, name):
        return getattr(torch, name)
