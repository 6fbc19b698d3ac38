"""A teacher over audio files: batches read ahead, embeddings checked."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import soundfile
import torch
from tqdm import tqdm

from espnet_mtkd.data.audio import SAMPLE_RATE
from espnet_mtkd.errors import ConfigError, DataError
from espnet_mtkd.targets.host import HostCopy
from espnet_mtkd.targets.plan import Utterance

PREFETCH = 4  # batches of audio read ahead


def progress(total: int, label: str, unit: str) -> tqdm:
    """A progress bar; in a log file a line every ten seconds, not ten a second."""
    interval = 0.5 if sys.stderr.isatty() else 10.0
    return tqdm(
        total=total, desc=label, unit=unit, unit_scale=True, mininterval=interval
    )


def read_audio(utt: Utterance) -> torch.Tensor:
    """Waveform (N,) of an utterance.

    Raises:
        DataError: unreadable, or not as long as it was when it was checked.
    """
    try:
        wave, rate = soundfile.read(utt.audio, dtype="float32")
    except (soundfile.SoundFileError, OSError) as e:
        raise DataError(f"utterance {utt.utt}: {utt.audio}: unreadable ({e})") from e
    if rate != SAMPLE_RATE or wave.shape != (utt.num_samples,):
        raise DataError(
            f"utterance {utt.utt}: {utt.audio}: expected {utt.num_samples} samples at "
            f"{SAMPLE_RATE} Hz, found an array {wave.shape} at {rate} Hz: the audio "
            "has changed since it was checked; run mtkd_doctor again"
        )
    return torch.from_numpy(wave)


def load_batches(batches, device: str) -> Iterator[tuple[list[Utterance], tuple]]:
    """Read batches ahead in other threads; gives (batch, (speech, lengths))."""
    pin = torch.device(device).type == "cuda"

    def load(batch):
        speech_BN = torch.nn.utils.rnn.pad_sequence(
            [read_audio(u) for u in batch], batch_first=True
        )
        return speech_BN.pin_memory() if pin else speech_BN

    with ThreadPoolExecutor(2) as pool:
        waiting, rest = [], iter(batches)
        try:
            while True:
                while len(waiting) < PREFETCH and (batch := next(rest, None)):
                    waiting.append((batch, pool.submit(load, batch)))
                if not waiting:
                    return
                batch, future = waiting.pop(0)
                speech_BN = future.result().to(device, non_blocking=True)
                lengths_B = torch.tensor([u.num_samples for u in batch])
                yield batch, (speech_BN, lengths_B)
        finally:
            for _, future in waiting:
                future.cancel()


@torch.inference_mode()
def embed(teacher, batch, speech) -> list[dict[str, torch.Tensor]]:
    """Embeddings of a batch: for each utterance, target name -> (frames, E).

    Raises:
        ConfigError, DataError: see `check_frames`.
    """
    frames, checks = embed_frames(teacher, batch, speech)
    check_frames(teacher, batch, HostCopy(checks).wait())
    sizes = [utt.num_frames for utt in batch]
    parts = {name: x_NE.split(sizes) for name, x_NE in frames.items()}
    return [{name: part[b] for name, part in parts.items()} for b in range(len(batch))]


def embed_frames(teacher, batch, speech):
    """Embeddings of a batch, its utterances' frames one after another.

    Nothing here reads what the device computed: `check_frames` does, once it is there.

    Returns:
        target name -> (N, E); and, for `check_frames`, `<target name>.lengths` -> (B,)
        and `<target name>.finite` -> (N,) bool.
    """
    frames, checks = {}, {}
    for name, (target_BTE, lengths_B) in teacher(
        *speech, [u.utt for u in batch]
    ).items():
        x_NE = torch.cat(
            [
                row_TE[: utt.num_frames]
                for row_TE, utt in zip(target_BTE, batch, strict=True)
            ]
        )
        frames[name] = x_NE
        checks[f"{name}.lengths"] = lengths_B
        checks[f"{name}.finite"] = x_NE.isfinite().all(1)
    return frames, checks


def check_frames(teacher, batch, checks: dict[str, np.ndarray]) -> None:
    """Refuse embeddings that are not what was planned.

    Args:
        teacher, batch: of `embed_frames`.
        checks: what it gives besides, in main memory.

    Raises:
        ConfigError: the teacher gives values that are not finite.
        DataError: another number of frames than planned.
    """
    for spec in teacher.targets:
        lengths_B = checks[f"{spec.name}.lengths"].tolist()
        for utt, num_frames in zip(batch, lengths_B, strict=True):
            if num_frames != utt.num_frames:
                raise DataError(
                    f"utterance {utt.utt}: '{spec.name}': expected {utt.num_frames} "
                    f"frames, found {num_frames}"
                )
        utt = first_bad(batch, checks[f"{spec.name}.finite"])
        if utt is not None:
            raise ConfigError(
                f"teacher '{teacher.config.name}': '{spec.name}' is not finite for "
                f"utterance {utt.utt} in {teacher.dtype}"
                + (
                    ": use --dtype float32"
                    if teacher.dtype != torch.float32
                    else ": is the checkpoint damaged?"
                )
            )


def first_bad(batch, is_good_N: np.ndarray) -> Utterance | None:
    """The first utterance of a batch with a frame that is not good; None: all are.

    Args:
        batch: of `embed_frames`.
        is_good_N: (N,) bool, of its utterances' frames one after another.
    """
    if is_good_N.all():
        return None
    ends = np.cumsum([utt.num_frames for utt in batch])
    return batch[int(np.searchsorted(ends, is_good_N.argmin(), side="right"))]
