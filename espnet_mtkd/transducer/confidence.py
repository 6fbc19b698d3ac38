"""How sure a teacher transducer is of the tokens of its hypotheses.

ESPnet's `asr_inference` writes one score for a hypothesis, in which the blanks between
the tokens, and a language model that took part in the search, count too. So each
hypothesis is aligned to its audio once more, and the probability of a token is that of
the joint network at the node where the best alignment emits it: pauses cost nothing.
"""

import json
import math
import re
from pathlib import Path

import torch

from espnet_mtkd.data.audio import SAMPLE_RATE, prepare_audio
from espnet_mtkd.data.kaldi import read_lines
from espnet_mtkd.errors import DataError
from espnet_mtkd.files import sha256_of, write_atomically
from espnet_mtkd.targets.embeddings import load_batches, progress
from espnet_mtkd.targets.plan import Settings, Utterance, plan_batches
from espnet_mtkd.transducer.lattice_paths import align
from espnet_mtkd.transducer.path import emission_frames

SCORES = "token_logp"  # beside ESPnet's text, token_int and score
DECODED = "what asr.sh's stage 12 writes"


def score_tokens(frames_N, positions_N, label_TU: torch.Tensor) -> torch.Tensor:
    """Log-probability of each label where the best alignment emits it.

    Args:
        frames_N, positions_N, label_TU: of `lattice_paths.align`.

    Returns:
        (U,), in nats.
    """
    positions_U = torch.arange(label_TU.size(1), device=label_TU.device)
    return label_TU[emission_frames(frames_N, positions_N), positions_U]


@torch.inference_mode()
def score_batch(teacher, batch, speech, labels) -> list[list[float]]:
    """`score_tokens` of each utterance of a batch.

    Args:
        teacher: `TeacherTransducer`.
        batch, speech: of `load_batches`.
        labels: token ids of each utterance.

    Raises:
        ConfigError: see `TeacherTransducer.check_finite`.
    """
    hs, gs, labels = teacher.encode(speech, labels)
    model = teacher.model
    paths = align(model.joint_network, hs, gs, labels, model.blank_id)
    teacher.check_finite(batch, torch.stack([x for *_, x in paths]).tolist())
    return [score_tokens(*path).tolist() for *path, _ in paths]


def score_hypotheses(
    teacher, data_dir: Path, decode_dir: Path, shape_dir: Path, nj: int = 1
) -> None:
    """Write `token_logp` beside the hypotheses of a data set.

    A line is the utterance, its seconds, and the log-probability of each token of
    `token_int`. What is there of the same teacher, hypotheses and audio stays.

    Args:
        teacher: the `TeacherTransducer` that made the hypotheses.
        data_dir: with `wav.scp`.
        decode_dir: with `token_int`.
        shape_dir, nj: see `prepare_audio`.

    Raises:
        ConfigError: logits that are not finite.
        DataError: no hypotheses, or not of this audio or of this teacher's tokens; see
            `prepare_audio` and `read_audio`.
    """
    tokens = read_lines(decode_dir / "token_int", DECODED)
    lengths, audios = prepare_audio(data_dir, shape_dir, nj)
    made_of = {
        "model": teacher.fingerprint["model"],
        "token_int": sha256_of(decode_dir / "token_int"),
        "num_samples": lengths,
    }
    record = decode_dir / f"{SCORES}.json"
    if (decode_dir / SCORES).is_file() and record.is_file():
        if json.loads(record.read_text()) == made_of:
            return
    vocab_size = len(teacher.model.token_list)
    labels = {}
    for utt, ids in tokens.items():
        if utt not in audios:
            raise DataError(
                f"{decode_dir / 'token_int'}: utterance {utt} is not in "
                f"{data_dir / 'wav.scp'}: decode that directory again"
            )
        if utt not in lengths:  # left out, with a warning, when audio was checked
            continue
        labels[utt] = [int(x) for x in ids.split()]
        other = [x for x in labels[utt] if not 0 <= x < vocab_size]
        if other:
            raise DataError(
                f"{decode_dir / 'token_int'}: utterance {utt}: expected tokens "
                f"below {vocab_size}, as this teacher has, found {other[0]}: "
                "give the teacher that decoded it (--asr_exp)"
            )
    utts = [
        Utterance(utt, audios[utt], lengths[utt], 0) for utt, x in labels.items() if x
    ]
    batches = plan_batches(utts, round(Settings.batch_seconds * SAMPLE_RATE))
    logp = {utt: [] for utt in labels}
    with progress(len(utts), str(decode_dir / SCORES), "utt") as bar:
        for batch, speech in load_batches(batches, teacher.device):
            texts = [labels[u.utt] for u in batch]
            found = score_batch(teacher, batch, speech, texts)
            logp.update(zip([u.utt for u in batch], found, strict=True))
            bar.update(len(batch))
    lines = [
        " ".join(
            [
                utt,
                f"{lengths[utt] / SAMPLE_RATE:.3f}",
                *(f"{x:.4f}" for x in values),
            ]
        )
        + "\n"
        for utt, values in logp.items()
    ]
    write_atomically(decode_dir / SCORES, "".join(lines).encode())
    write_atomically(record, json.dumps(made_of).encode())


def read_scores(decode_dir: Path) -> dict[str, tuple[float, list[float]]]:
    """Utterance -> its seconds, and the log-probability of each token.

    Raises:
        DataError: no such file, or something else than numbers in it.
    """
    path = decode_dir / SCORES
    scores = {}
    for utt, line in read_lines(path, "what score_hypotheses writes").items():
        try:
            seconds, *logp = [float(x) for x in line.split()]
            if any(math.isnan(x) for x in (seconds, *logp)):
                raise ValueError("NaN")
        except ValueError as e:
            raise DataError(
                f"{path}: utterance {utt}: expected seconds and log-probabilities, "
                f"found '{line[:60]}': remove the file, it is then written anew"
            ) from e
        scores[utt] = seconds, logp
    return scores


def espnet_scores(
    data_dir: Path, decode_dir: Path, shape_dir: Path, nj: int = 1
) -> dict[str, tuple[float, list[float]]]:
    """What `read_scores` gives, by ESPnet's own score of each hypothesis.

    For hypotheses whose teacher is not at hand. The score is shared out over the
    tokens, and since the blanks, and a language model, are in it, pauses make a
    transcript look worse than it is.

    Args:
        data_dir: with `wav.scp`.
        decode_dir: with `token_int` and `score`.
        shape_dir, nj: see `prepare_audio`.

    Raises:
        DataError: no hypotheses, or a score that is no number up to 0.
    """
    tokens = read_lines(decode_dir / "token_int", DECODED)
    totals = read_lines(decode_dir / "score", DECODED)
    lengths, _ = prepare_audio(data_dir, shape_dir, nj)
    scores = {}
    for utt in tokens.keys() & lengths.keys():
        found = re.fullmatch(r"(?:tensor\()?(-?[\d.e+-]+)\)?", totals.get(utt, ""))
        try:
            total = float(found[1]) if found else math.nan
        except ValueError:
            total = math.nan
        if not total <= 0:
            raise DataError(
                f"{decode_dir / 'score'}: utterance {utt}: expected a log-probability "
                f"up to 0, found '{totals.get(utt, '')}': decode without a bonus, or "
                "give the teacher that decoded it (--asr_exp)"
            )
        num_tokens = len(tokens[utt].split())
        logp = [total / num_tokens] * num_tokens if num_tokens else []
        scores[utt] = lengths[utt] / SAMPLE_RATE, logp
    return scores


def mean_probability(logp: list[float]) -> float:
    """Geometric mean of the tokens' probabilities, 0 to 1; 0 without a token."""
    return math.exp(min(0.0, sum(logp) / len(logp))) if logp else 0.0
