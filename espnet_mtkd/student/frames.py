"""When an encoder's frames are: their shift, their middle, how far behind the audio."""

from collections.abc import Sequence

import torch
from torch import nn

from espnet_mtkd.errors import ConfigError
from espnet_mtkd.student.grid import FrameGrid

SAMPLES_PER_MS = 16
SHORTEST = 16000  # samples from which on frames are counted
PERIODS = 8  # frames between the two lengths that are compared


def check_grid(grid: FrameGrid, frontend: nn.Module, encoder: nn.Module) -> None:
    """Refuse an encoder that gives other frames than its grid says.

    Raises:
        ConfigError: it makes fewer of them behind its input layer, say.
    """
    found = count_frames((frontend, encoder), SHORTEST)
    expected = int(grid.num_frames(torch.tensor(SHORTEST)))
    if found != expected:
        raise ConfigError(
            f"encoder: expected {expected} frames of {SHORTEST} samples, by its front "
            f"end and input layer, found {found}: its frames cannot be placed in time"
        )


def describe_latency(encoder, grid: FrameGrid, target_delay: int) -> str:
    """How far behind the audio a student is, as a line for the log.

    Args:
        encoder: ESPnet's, contextual-block or other.
        grid: of its frames.
        target_delay: frames.
    """
    ms = grid.shift / SAMPLES_PER_MS
    frame = f"one frame each {ms:g} ms, the first around {_ms(grid.centre)}"
    delay = f"target delay {target_delay} frames ({target_delay * ms:g} ms)"
    if not getattr(encoder, "block_size", 0):
        return f"{frame}, hears the whole utterance; {delay}"
    parts = ", ".join(
        f"{name} {num} frames ({num * ms:g} ms)"
        for name, num in (
            ("block", encoder.block_size),
            ("hop", encoder.hop_size),
            ("look-ahead", encoder.look_ahead),
        )
    )
    # The first frame of a hop waits for the rest of it, the last for none.
    least = (encoder.look_ahead + target_delay) * ms
    most = least + (encoder.hop_size - 1) * ms
    return f"{frame}, {parts}; {delay}: {least:g} to {most:g} ms in all"


def describe_alignment(target, grid: FrameGrid, aligner) -> str:
    """Which of a teacher's frames a student frame predicts, as a line for the log.

    Args:
        target: `TargetSpec`.
        grid: of the student.
        aligner: `FrameAligner` of the two.
    """
    shift = target.frame_shift / SAMPLES_PER_MS
    frame = f"one frame each {shift:g} ms, the first around {_ms(target.frame_centre)}"
    if aligner.method == "linear":
        return f"{frame}; interpolated at the student's"
    r = grid.shift // target.frame_shift
    which = [f"{r} t {first:+d}" for first in (aligner.first, aligner.first + r - 1)]
    if r == 1:
        which = which[:1]
    return (
        f"{frame}; student frame t predicts {' to '.join(which)}, whose middle is "
        f"{_ms(aligner.offset)} behind its own"
    )


def _ms(samples: float) -> str:
    return f"{samples / SAMPLES_PER_MS:.1f} ms"


@torch.no_grad()
def count_frames(modules: Sequence[nn.Module], num_samples: int, device="cpu") -> int:
    """Frames that a chain of modules of ESPnet gives for an utterance by itself.

    Args:
        modules: called one after another, each with (values, lengths), in eval mode.
        num_samples: of the utterance.
        device: where they are.
    """
    were_training = [m.training for m in modules]
    for module in modules:
        module.eval()
    x = torch.linspace(-1, 1, num_samples, device=device)[None].sin()
    lengths = torch.tensor([num_samples], device=device)
    for module in modules:
        x, lengths, *_ = module(x, lengths)
    for module, was_training in zip(modules, were_training, strict=True):
        module.train(was_training)
    return int(lengths[0])


def measure_frames(*modules, device="cpu") -> tuple[int, int]:
    """When a chain of modules of ESPnet gives one more frame, exactly.

    The least lengths that give c and c + 8 frames, both found by bisection, lie eight
    shifts apart.

    Args:
        modules: called one after another, each with (values, lengths).
        device: where they are.

    Returns:
        Samples between two frames, and the least samples that give one frame, so that
        n samples give (n - least) // shift + 1 of them.

    Raises:
        ConfigError: the shift is no whole number of samples.
    """

    def count(num_samples: int) -> int:
        return count_frames(modules, num_samples, device)

    def least(num_frames: int, too_few: int) -> int:
        step = 640
        while count(too_few + step) < num_frames:
            too_few, step = too_few + step, 2 * step
        enough = too_few + step
        while enough - too_few > 1:
            middle = (too_few + enough) // 2
            if count(middle) < num_frames:
                too_few = middle
            else:
                enough = middle
        return enough

    first = count(SHORTEST) + 1
    begin = least(first, SHORTEST)
    shift, rest = divmod(least(first + PERIODS, begin) - begin, PERIODS)
    if rest:
        raise ConfigError(
            "the encoder's frames do not follow one another at a whole number of "
            f"samples: {PERIODS} of them take {PERIODS * shift + rest} samples"
        )
    return shift, begin - (first - 1) * shift


def measure_frame_shift(frontend, encoder, preencoder=None, device="cpu") -> int:
    """Samples between two frames of any front end and encoder of ESPnet, exactly.

    Raises:
        ConfigError: see `measure_frames`.
    """
    modules = [m for m in (frontend, preencoder, encoder) if m is not None]
    return measure_frames(*modules, device=device)[0]
