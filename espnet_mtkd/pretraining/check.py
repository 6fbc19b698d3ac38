"""What can be known of the data before the first step, by ids and lengths alone."""

import dataclasses
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import soundfile
import torch

from espnet_mtkd.data.audio import (
    SAMPLE_RATE,
    convert_command,
    judge_faults,
    open_audio,
)
from espnet_mtkd.data.kaldi import read_lengths, read_wav_scp
from espnet_mtkd.data.listed import check_listed
from espnet_mtkd.errors import ConfigError, DataError, name_ten
from espnet_mtkd.pretraining.datasets import data_set_name
from espnet_mtkd.student.lengths import MIN_FRAMES, refuse_short
from espnet_mtkd.training.position import skip
from espnet_mtkd.training.trainer import SurvivingOptions

MAX_HEADERS = 1000  # of a set's audio files, evenly spread, whose headers are read


@dataclasses.dataclass
class MTKDTrainerOptions(SurvivingOptions):
    """ESPnet's, and the arguments that say which data there are; names are ESPnet's."""

    train_data_path_and_name_and_type: list
    train_shape_file: list
    valid_data_path_and_name_and_type: list
    valid_shape_file: list
    unlabelled_wav_scp: list
    unlabelled_shape_file: list


@dataclasses.dataclass(frozen=True)
class DataSet:
    """One set: its name, its wav.scp, where its lengths stand, utterance -> samples."""

    name: str
    wav_scp: Path
    shape_file: Path
    lengths: dict[str, int]


def data_sets(options: MTKDTrainerOptions) -> Iterator[DataSet]:
    """Training, validation and unlabelled sets that have their lengths in a file.

    Raises:
        DataError: see `read_lengths`.
    """
    pairs = list(
        zip(options.unlabelled_wav_scp, options.unlabelled_shape_file, strict=True)
    )
    for part in ("valid", "train"):
        scp, *_ = getattr(options, f"{part}_data_path_and_name_and_type")[0]
        shapes = getattr(options, f"{part}_shape_file")
        if shapes:  # ESPnet takes the ids from the first
            pairs.insert(0, (scp, shapes[0]))
    for scp, shape in pairs:
        if Path(shape).is_file():  # a folder: ESPnet's --multiple_iterator
            name = data_set_name(scp)
            yield DataSet(name, Path(scp), Path(shape), read_lengths(Path(shape)))


def check_data(model, options: MTKDTrainerOptions) -> None:
    """Refuse utterances that would end the training later, or teach nothing.

    Args:
        model: `ESPnetMTKDModel`.
        options: of the training.

    Raises:
        TargetStoreError: utterances whose targets are not stored, or of other audio.
        DataError: utterances that are too long for a teacher, too short for the student
            or for `target_delay`, or audio that is not mono at 16 kHz; see
            `check_listed` too. The first ten are named.
    """
    least = model.frames.least_samples(MIN_FRAMES)
    for data in data_sets(options):
        model.teachers.check_lengths(data.name, data.lengths)
        refuse_short(data.shape_file, data.lengths, least, "this training")
        check_delay(data, model.objective.target_delay, model.frames.shift)
        check_headers(data, MAX_HEADERS)
    for data in data_sets(options):
        folder = Path(options.output_dir)
        check_listed(data.wav_scp, data.lengths, data.shape_file, folder)


def check_delay(data: DataSet, target_delay: int, frame_shift: int) -> None:
    """Refuse utterances that end before the first frame with a target.

    Args:
        data: a set.
        target_delay: student frames.
        frame_shift: samples between them.

    Raises:
        DataError: more of them than can be an accident.
    """
    least = target_delay * frame_shift
    short = [f"{u} ({n} samples)" for u, n in data.lengths.items() if n <= least]
    if target_delay > 0 and short:
        text = judge_faults(
            data.shape_file,
            f"are no longer than --target_delay {target_delay} frames ({least} "
            "samples), so that nothing is learnt from them",
            short,
            len(data.lengths),
            "lower --target_delay, or leave them out (--min_wav_duration)",
        )
        logging.warning("%s", text)


def check_headers(data: DataSet, most: int | None = None) -> None:
    """Refuse audio that is not mono at 16 kHz, by the files' headers.

    Args:
        data: a set.
        most: files that are looked at, evenly spread; None: all.

    Raises:
        DataError: naming the first ten.
    """
    paths = read_wav_scp(data.wav_scp)
    utts = list(data.lengths)
    step = 1 if most is None else -(-len(utts) // most)
    faults, convertible = [], []
    for utt in utts[::step]:
        if utt not in paths:
            raise DataError(
                f"{data.wav_scp}: no line for utterance {utt} of {data.shape_file}: "
                "run mtkd_doctor for this directory again"
            )
        try:
            with open_audio(paths[utt]) as header:
                found = header.samplerate, header.channels
        except (soundfile.SoundFileError, OSError) as e:
            faults.append(f"{utt} ({paths[utt]}): unreadable ({e})")
            continue
        if found != (SAMPLE_RATE, 1):
            faults.append(f"{utt} ({found[0]} Hz, channels: {found[1]})")
            convertible.append(paths[utt])
    if faults:
        remedy = "let stage 3 of mtkd.sh write them anew"
        if convertible:
            remedy += f", or do it: {convert_command(convertible[0])}"
        raise DataError(
            f"{data.wav_scp}: expected {SAMPLE_RATE} Hz and one channel, found "
            f"{len(faults)} of {len(utts[::step])} files otherwise: "
            f"{name_ten(faults)}: {remedy}"
        )


def check_accumulation(num_batches: int, accum_grad: int) -> None:
    """Refuse more batches for a step than an epoch has: there would be no step.

    Raises:
        ConfigError: naming both numbers.
    """
    if num_batches < accum_grad:
        raise ConfigError(
            f"accum_grad: expected at most {num_batches}, the batches of an epoch, "
            f"found {accum_grad}: the student would never be updated: lower it, or the "
            "size of the batches"
        )


class CheckedBatches:
    """Batches of a loader, each looked at before it is used.

    Args:
        batches: gives (utterance ids, batch) as ESPnet's data loaders do.
        explain: called where ESPnet finds files of different sampling rates; may raise
            an error that names them.
    """

    def __init__(self, batches: Iterable, explain=lambda: None):
        self.batches, self.explain = batches, explain

    def __len__(self) -> int:
        return len(self.batches)

    def skip(self, num_batches: int) -> "CheckedBatches":
        """What comes behind the first batches, which are not read."""
        return CheckedBatches(skip(self.batches, num_batches), self.explain)

    def __iter__(self) -> Iterator:
        """The batches.

        Raises:
            DataError: audio with several channels, or with NaN or infinite samples,
                named by its utterance; or what a loader's worker has found.
        """
        # Now, not with the first batch: a loader draws its seed when that is made.
        return self._look_at(iter(self.batches))

    def _look_at(self, batches: Iterator) -> Iterator:
        try:
            for utt_ids, batch in batches:
                check_speech(utt_ids, batch["speech"])
                yield utt_ids, batch
        except DataError as e:
            # PyTorch puts the traceback of a loader's worker before the message.
            head, _, message = str(e).rpartition(f"{DataError.__name__}: ")
            raise DataError(message.strip()) if "Traceback" in head else e from None
        except RuntimeError as e:
            if "Sampling rates are mismatched" in str(e):
                self.explain()
            raise


def check_speech(utt_ids: list[str], speech: torch.Tensor) -> None:
    """Refuse waveforms that no student can be trained on.

    Args:
        utt_ids: B ids.
        speech: (B, N), on the CPU.

    Raises:
        DataError: see `CheckedBatches`.
    """
    if speech.dim() != 2:
        raise DataError(
            f"utterance {utt_ids[0]}: expected one channel, found {speech.size(-1)}: "
            "let stage 3 of mtkd.sh write mono audio, or sox <file> -c 1 <new file>"
        )
    bad = ~speech.isfinite().all(1)
    if bool(bad.any()):
        names = [utt for utt, is_bad in zip(utt_ids, bad, strict=True) if is_bad]
        raise DataError(
            f"{len(names)} utterances of a batch have samples that are NaN or "
            f"infinite: {name_ten(names)}: repair the files, or take the utterances "
            "out of the data directory; mtkd_doctor names all of them"
        )
