"""Which of several extracting processes this one is, and with what it runs."""

import dataclasses
import os

from espnet_mtkd.errors import ConfigError


def add_process_arguments(parser) -> None:
    """Add the flags of `this_process` to a command line, and `--nj`."""
    add = parser.add_argument
    add("--ngpu", type=int, default=0, help="1: on a GPU (default: 0, the CPU)")
    add("--rank", type=int, help="this process, from 0 (default: RANK, or 0)")
    add("--world_size", type=int, help="processes (default: WORLD_SIZE, or 1)")
    add("--nj", type=int, default=1, help="processes that check audio (default: 1)")


def add_batch_arguments(parser) -> None:
    """Add `--exact` and `--batch_seconds`, as `Settings` has them."""
    add = parser.add_argument
    add(
        "--exact",
        action="store_true",
        help="batch only utterances of one length: no teacher hears padding",
    )
    add(
        "--batch_seconds",
        type=float,
        default=60.0,
        help="audio in a batch, padding included (default: 60)",
    )


def check_positive(args, *names: str) -> None:
    """Raise a ConfigError where a number on the command line is not above 0."""
    for name in names:
        value = getattr(args, name)
        if value is not None and not value > 0:
            raise ConfigError(f"--{name}: expected above 0, found {value}")


@dataclasses.dataclass(frozen=True)
class Process:
    """One of `world_size`, number `rank`, computing on `device`."""

    rank: int
    world_size: int
    device: str


def this_process(args) -> Process:
    """From the command line and torchrun's environment; takes its share of the cores.

    Args:
        args: with what `add_process_arguments` added.

    Raises:
        ConfigError: a number out of range, or no GPU where one is asked for.
    """
    import torch  # only here: a command's --help need not wait for it

    env = os.environ
    rank = int(env.get("RANK", 0)) if args.rank is None else args.rank
    world = (
        int(env.get("WORLD_SIZE", 1)) if args.world_size is None else args.world_size
    )
    if not 0 <= rank < world:
        raise ConfigError(f"--rank: expected 0 to {world - 1}, found {rank}")
    # Processes of one machine must not fight for its cores.
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(max(1, cores // int(env.get("LOCAL_WORLD_SIZE", 1))))
    if args.ngpu > 0:
        if not torch.cuda.is_available():
            raise ConfigError("--ngpu: no GPU is visible here: use --ngpu 0")
        number = int(env.get("LOCAL_RANK", 0)) % torch.cuda.device_count()
        torch.cuda.set_device(number)
        return Process(rank, world, f"cuda:{number}")
    return Process(rank, world, "cpu")


def make_settings(args):
    """`Settings` from mtkd_extract's command line and torchrun's environment.

    Raises:
        ConfigError: a number out of range, or no GPU where one is asked for.
    """
    import torch

    from espnet_mtkd.targets.plan import Settings
    from espnet_mtkd.targets.quantizer import check_num_codebooks

    process = this_process(args)
    check_num_codebooks(args.num_codebooks)
    check_positive(args, "batch_seconds", "shard_bytes")
    dtype = args.dtype
    if dtype == "auto":
        dtype = "float32" if process.device == "cpu" else "bfloat16"
    return Settings(
        form=args.form,
        num_codebooks=args.num_codebooks,
        exact=args.exact,
        batch_seconds=args.batch_seconds,
        shard_bytes=args.shard_bytes,
        device=process.device,
        dtype=getattr(torch, dtype),
        rank=process.rank,
        world_size=process.world_size,
    )
