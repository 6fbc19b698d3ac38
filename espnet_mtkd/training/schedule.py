"""Learning-rate schedules that end with the training, without counting its updates.

`scheduler_conf: {total_steps: auto}` stands for the number of updates of the whole
training: batches of an epoch, divided by `accum_grad`, times `max_epoch`. Schedulers
want that number, which nobody knows before the batches are made. `max_lr: auto` is
`optim_conf.lr`, so that a learning rate is written once.
"""

import argparse
import inspect
import logging

import torch
from espnet2.tasks.abs_task import scheduler_classes
from espnet2.train.distributed_utils import DistributedOption
from torch.optim.lr_scheduler import OneCycleLR

from espnet_mtkd.errors import ConfigError, unknown_key

AUTO = "auto"
# Of onecyclelr and exponentialdecaywarmup, tristagelr, cosineannealingwarmuprestarts.
TOTALS = ("total_steps", "max_steps", "first_cycle_steps")
# Of OneCycleLR, which refuses to step beyond the end that it was built with.
CYCLE = ("total_steps", "_schedule_phases")


class AutomaticSteps:
    """Put before ESPnet's task among the bases of a task: `auto` becomes a number."""

    @classmethod
    def build_optimizers(cls, args: argparse.Namespace, model):
        """ESPnet's; it is called before the schedulers are built.

        Raises:
            ConfigError: `auto` where it stands for nothing, or a key that the
                scheduler has not.
        """
        conf = known_keys(args.scheduler, args.scheduler_conf)
        if conf.get("max_lr") == AUTO:
            conf["max_lr"] = args.optim_conf["lr"]
        args.scheduler_conf = conf
        keys = [key for key, value in conf.items() if value == AUTO]
        for key in keys:
            if key not in TOTALS:
                raise ConfigError(
                    f"scheduler_conf.{key}: expected a number, found auto, which "
                    f"stands for the number of updates in {', '.join(TOTALS)}, and for "
                    "optim_conf.lr in max_lr"
                )
        if keys:
            # (nothing is updated while statistics are collected)
            steps = 1 if args.collect_stats else count_updates(cls, args)
            if conf.get("pct_start", 0.0) * steps == 1.0:
                steps += 1  # OneCycleLR divides by the length of the way up, less 1
            args.scheduler_conf = {**conf, **dict.fromkeys(keys, steps)}
            logging.info("scheduler_conf.%s: auto, %d updates", keys[0], steps)
        return super().build_optimizers(args, model)


def known_keys(scheduler: str | None, conf: dict) -> dict:
    """What a scheduler understands, without what a config says to another one.

    Args:
        scheduler: ESPnet's name; None: no scheduler, whose section is not looked at.
        conf: `scheduler_conf`. Options merge with a config file, so what that file
            leaves to `auto`, or is set to null, may belong to the file's scheduler.

    Raises:
        ConfigError: any other key that the scheduler has not.
    """
    if scheduler is None:
        return dict(conf)
    known = [*inspect.signature(scheduler_classes[scheduler]).parameters][1:]
    for key, value in conf.items():
        if key not in known and value not in (AUTO, None):
            raise ConfigError(
                f"{unknown_key(f'scheduler_conf of {scheduler}', key, known)}; set "
                f"{key}=null to take out what a config says to another scheduler"
            )
    return {key: value for key, value in conf.items() if key in known}


def count_updates(task, args: argparse.Namespace) -> int:
    """Updates of a whole training.

    Args:
        task: ESPnet's task, whose batches are counted.
        args: its arguments.

    Raises:
        ConfigError: several iterators, whose lengths differ from epoch to epoch.
    """
    if args.multiple_iterator:
        raise ConfigError(
            "scheduler_conf: auto: the batches of --multiple_iterator cannot be "
            "counted: give the number of updates"
        )
    factory = task.build_iter_factory(args, distributed_option(), mode="train")
    num_batches = len(factory.build_iter(1, shuffle=False))
    return max(1, num_batches // args.accum_grad) * args.max_epoch


def distributed_option() -> DistributedOption:
    """What ESPnet knows of the processes of this training, as it stands."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return DistributedOption()
    return DistributedOption(
        distributed=True,
        dist_rank=distributed.get_rank(),
        dist_world_size=distributed.get_world_size(),
    )


def is_first_process() -> bool:
    """Whether this process is the one that writes, of several or alone."""
    return distributed_option().dist_rank in (None, 0)


def load_schedulers(schedulers, states) -> None:
    """Go on with schedules; one of more epochs than before stretches its cycle.

    Args:
        schedulers: as they were built; None where there is none.
        states: of a checkpoint.
    """
    for scheduler, state in zip(schedulers, states, strict=True):
        if scheduler is None:
            continue
        is_cycle = isinstance(scheduler, OneCycleLR)
        built = {k: vars(scheduler)[k] for k in CYCLE} if is_cycle else {}
        scheduler.load_state_dict({**state, **built})
