"""ESPnet's trainer, made to survive kills, full disks and bad numbers.

Both stages train by it. What it saves of the model is what ESPnet's saves.
docs/reliability.md says what is promised.
"""

import contextlib
import dataclasses
import logging
from pathlib import Path

from espnet2.train.reporter import Average
from espnet2.train.trainer import Trainer, TrainerOptions
from filelock import FileLock, Timeout

from espnet_mtkd.errors import ConfigError
from espnet_mtkd.files import own_name
from espnet_mtkd.machine import machine
from espnet_mtkd.training.checkpoints import read_newest, repair
from espnet_mtkd.training.position import (
    length_of,
    set_random_state,
    set_report_state,
    skip,
)
from espnet_mtkd.training.saves import Saves
from espnet_mtkd.training.schedule import load_schedulers
from espnet_mtkd.training.watch import StepWatch, check_validation

LOCK = ".training.lock"


@dataclasses.dataclass
class SurvivingOptions(TrainerOptions):
    """ESPnet's, and how often is saved within an epoch."""

    save_interval_minutes: float


class SurvivingTrainer(Trainer):
    """ESPnet's trainer with atomic saves, saves within an epoch, and watched steps."""

    saves: Saves | None = None  # of the run that goes on

    @classmethod
    def add_arguments(cls, parser):
        """ESPnet's, and those of this trainer."""
        super().add_arguments(parser)
        parser.add_argument(
            "--save_interval_minutes",
            type=float,
            default=30.0,
            help="Save within an epoch too, when the last save is so long ago",
        )

    @classmethod
    def run(cls, model, trainer_options, distributed_option, **kwargs):
        """Same arguments as `Trainer.run`.

        Raises:
            ConfigError: another run trains into this folder, or no checkpoint in it is
                whole.
            NonFiniteError: too many steps, or the validation loss, were not finite.
            PreemptedError: SIGTERM was received; all is saved.
            DiskError: no space for a checkpoint; what was there still is.
        """
        options = trainer_options
        folder = Path(options.output_dir)
        rank = (distributed_option.dist_rank or 0) if distributed_option else 0
        size = (distributed_option.dist_world_size or 1) if distributed_option else 1
        if options.save_interval_minutes <= 0:
            raise ConfigError(
                "--save_interval_minutes: expected above 0, found "
                f"{options.save_interval_minutes}"
            )
        device = next(model.parameters()).device
        logging.info("machine: %s", machine(str(device)))  # (the report reads this)
        with held(folder) if rank == 0 else contextlib.nullcontext():
            state = read_newest(folder) if options.resume else None
            cls.saves = Saves(folder, options, rank, size, state)
            try:
                with cls.saves.installed():
                    super().run(
                        model=model,
                        trainer_options=options,
                        distributed_option=distributed_option,
                        **kwargs,
                    )
            finally:
                cls.saves = None

    @classmethod
    def resume(
        cls, checkpoint, model, optimizers, schedulers, reporter, scaler, **kwargs
    ):
        """Take over the state that `run` has read; see `Trainer.resume`."""
        state = cls.saves.state
        model.load_state_dict(state["model"], strict=kwargs.get("strict", True))
        reporter.load_state_dict(state["reporter"])
        for optimizer, values in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        load_schedulers(schedulers, state["schedulers"])
        if scaler is not None and state["scaler"]:  # (empty: of AMP without a GPU)
            scaler.load_state_dict(state["scaler"])
        if cls.saves.rank == 0:
            options = cls.saves.options
            kept = options.keep_nbest_models
            repair(
                cls.saves.folder,
                reporter,
                options.best_model_criterion,
                kept if isinstance(kept, int) else max(kept, default=1),
                state["model"] if cls.saves.position is None else None,
            )

    @classmethod
    def train_one_epoch(
        cls,
        model,
        iterator,
        optimizers,
        schedulers,
        scaler,
        reporter,
        options,
        distributed_option,
        **kwargs,
    ):
        """ESPnet's epoch, from where it was saved."""
        if scaler is not None and not scaler.is_enabled():
            # Of --use_amp without a GPU. ESPnet leaves it to the scaler not to step
            # where a gradient is not finite, and this one steps.
            scaler = None
        saves = cls.saves
        position, saves.position = saves.position, None
        if position is not None and position["epoch"] != reporter.get_epoch():
            position = None
        watch = StepWatch(
            model,
            optimizers,
            saves.folder,
            length_of(iterator),
            options.accum_grad,
            scaler,
            writes=saves.rank == 0,
        )

        def save_if_due(number: int, total: int | None) -> None:
            is_step = number % options.accum_grad == 0 or number == total
            if is_step and saves.is_due(number, number == total):
                saves.save_within(
                    number, model, optimizers, schedulers, scaler, reporter
                )

        steps = Steps(iterator, watch, save_if_due, position, saves.rank)
        if position is not None:
            set_report_state(reporter, position["report"])
        try:
            none_was_valid = super().train_one_epoch(
                model=model,
                iterator=steps,
                optimizers=optimizers,
                schedulers=schedulers,
                scaler=scaler,
                reporter=reporter,
                options=options,
                distributed_option=distributed_option,
                **kwargs,
            )
        finally:
            watch.close()
        # Of the whole epoch, so no mean over its steps.
        reporter.stats["skipped_steps"] = [Average(float(watch.num_skipped))]
        # (Where none was a fault, it is the scaler that still looks for its scale.)
        return none_was_valid and position is None and watch.num_skipped > 0

    @classmethod
    def validate_one_epoch(cls, model, iterator, reporter, **kwargs):
        """ESPnet's; a loss that is not finite ends the training."""
        seen = []

        def remembered():
            for utt_ids, batch in iterator:
                seen.append(list(utt_ids))
                yield utt_ids, batch

        super().validate_one_epoch(
            model=model, iterator=remembered(), reporter=reporter, **kwargs
        )
        check_validation(reporter, seen, cls.saves.folder)


@contextlib.contextmanager
def held(folder: Path):
    """A training's folder for this process alone.

    Raises:
        ConfigError: another one trains into it; who it is and since when.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock, card = FileLock(folder / LOCK), folder / f"{LOCK}.holder"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        holder = card.read_text().strip() if card.is_file() else "unknown"
        raise ConfigError(
            f"{folder}: another training writes to it ({holder}): wait for it, end it, "
            "or give this one another --output_dir"
        ) from None
    try:
        card.write_text(own_name())
        yield
    finally:
        card.unlink(missing_ok=True)
        lock.release()


class Steps:
    """Batches of an epoch, each step looked after.

    Args:
        batches: of the whole epoch; gives (utterance ids, batch).
        watch: told before and after each batch.
        save_if_due: called with the number of batches used, and of all.
        position: in the epoch, of `Saves.save_within`; None for its beginning.
        rank: of this process.
    """

    def __init__(self, batches, watch: StepWatch, save_if_due, position, rank: int):
        self.total = length_of(batches)
        self.first = 0 if position is None else position["num_batches"]
        self.batches = batches if position is None else skip(batches, self.first)
        self.watch, self.save_if_due = watch, save_if_due
        self.random = None if position is None else position["random"][rank]

    def __len__(self) -> int:
        if self.total is None:
            raise TypeError("batches whose number nobody knows")
        return self.total - self.first

    def __iter__(self):
        iterator = iter(self.batches)
        if self.random is not None:
            set_random_state(self.random)
        for number, (utt_ids, batch) in enumerate(iterator, self.first + 1):
            self.watch.before(utt_ids, batch)
            yield utt_ids, batch
            self.watch.after()
            self.save_if_due(number, self.total)
