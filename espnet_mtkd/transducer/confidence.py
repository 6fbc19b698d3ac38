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
from espnet_mtkd.targets.embeddings import progress
from espnet_mtkd.targets.plan import Utterance
from espnet_mtkd.transducer.path import best_path, emission_frames

SCORES = "token_logp"  # beside ESPnet's text, token_int and score
DECODED = "what asr.sh's stage 12 writes"


def score_tokens(logits_TUV: torch.Tensor, labels_U, blank: int) -> torch.Tensor:
    """Log-probability of each label where the best alignment emits it.

    Args:
        logits_TUV: of `TeacherTransducer.logits`, (T, U + 1, V).
        labels_U: token ids.
        blank: id.

    Returns:
        (U,), in nats.
    """
    logp_TUV = logits_TUV.log_softmax(2).cpu()
    labels_U = torch.as_tensor(labels_U, dtype=torch.long)
    T, U = len(logp_TUV), len(labels_U)
    index_TU1 = labels_U[None, :, None].expand(T, U, 1)
    label_TU = logp_TUV[:, :U].gather(2, index_TU1)[..., 0]
    frames, positions, _ = best_path(logp_TUV[..., blank], label_TU)
    return label_TU[emission_frames(frames, positions), torch.arange(U)]


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
    lines = []
    with progress(len(tokens), str(decode_dir / SCORES), "utt") as bar:
        for utt, ids in tokens.items():
            bar.update(1)
            if utt not in audios:
                raise DataError(
                    f"{decode_dir / 'token_int'}: utterance {utt} is not in "
                    f"{data_dir / 'wav.scp'}: decode that directory again"
                )
            if utt not in lengths:  # left out, with a warning, when audio was checked
                continue
            labels = [int(x) for x in ids.split()]
            other = [x for x in labels if not 0 <= x < vocab_size]
            if other:
                raise DataError(
                    f"{decode_dir / 'token_int'}: utterance {utt}: expected tokens "
                    f"below {vocab_size}, as this teacher has, found {other[0]}: "
                    "give the teacher that decoded it (--asr_exp)"
                )
            logp = []
            if labels:
                audio = Utterance(utt, audios[utt], lengths[utt], 0)
                logits = teacher.logits_of(audio, labels)
                logp = score_tokens(logits, labels, teacher.model.blank_id).tolist()
            words = [
                utt,
                f"{lengths[utt] / SAMPLE_RATE:.3f}",
                *(f"{x:.4f}" for x in logp),
            ]
            lines.append(" ".join(words) + "\n")
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
