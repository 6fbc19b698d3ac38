"""Transcripts of unlabelled audio, by a teacher transducer, and which are used.

The confidence of a transcript is the mean (geometric) of its tokens' probabilities; see
`espnet_mtkd.transducer.confidence`. Being sure is not all: tokens that come faster or
slower than speech, and words said again and again, are what a transducer writes where
it understands nothing.
"""

import collections
import dataclasses
import math
from pathlib import Path

from espnet_mtkd.data.kaldi import read_lines, read_wav_scp
from espnet_mtkd.errors import ConfigError, DataError
from espnet_mtkd.files import write_atomically
from espnet_mtkd.transducer.confidence import DECODED, mean_probability, read_scores

FIELDS = "utterance confidence tokens kept reason text".split()
NOT_CONFIDENT = "not confident"


@dataclasses.dataclass(frozen=True)
class Filters:
    """What a transcript has to be.

    Attributes:
        min_confidence: 0 to 1.
        min_tokens_per_second, max_tokens_per_second: of the whole audio.
        max_repeats: times that the same tokens may follow each other, from 1.

    Raises:
        ConfigError: a value that means nothing.
    """

    min_confidence: float = 0.8
    min_tokens_per_second: float = 0.5
    max_tokens_per_second: float = 25.0
    max_repeats: int = 3

    def __post_init__(self):
        """Refuse values that mean nothing."""
        if not 0 <= self.min_confidence <= 1:
            raise ConfigError(
                f"--min_confidence: expected 0 to 1, found {self.min_confidence}"
            )
        if not 0 <= self.min_tokens_per_second < math.inf:
            raise ConfigError(
                "--min_tokens_per_second: expected a number from 0, found "
                f"{self.min_tokens_per_second}"
            )
        if not self.max_tokens_per_second > self.min_tokens_per_second:
            raise ConfigError(
                "--max_tokens_per_second: expected above --min_tokens_per_second "
                f"{self.min_tokens_per_second}, found {self.max_tokens_per_second}"
            )
        if self.max_repeats < 1:
            raise ConfigError(
                f"--max_repeats: expected from 1, found {self.max_repeats}"
            )


@dataclasses.dataclass(frozen=True)
class PseudoLabel:
    """One utterance's transcript, its confidence, and why it is not used (None: it is).

    Attributes:
        utt: utterance id.
        text: transcript.
        seconds: of the audio.
        num_tokens: of the transcript.
        confidence: 0 to 1.
        reason: None where it is kept; `not confident` where nothing else is wrong.
    """

    utt: str
    text: str
    seconds: float
    num_tokens: int
    confidence: float
    reason: str | None

    def because(self, reason: str) -> "PseudoLabel":
        """The same, not used for this reason."""
        return dataclasses.replace(self, reason=reason)


def judge(
    label: PseudoLabel, units: list, has_audio: bool, filters: Filters
) -> PseudoLabel:
    """A label with the reason for which it is not used, if there is one.

    Args:
        label: without a reason.
        units: tokens or words, among which repeats are looked for.
        has_audio: whether its audio can be used.
        filters: what is kept.
    """
    if not has_audio:
        return label.because("no usable audio")
    if not label.text:
        return label.because("empty")
    if label.num_tokens < filters.min_tokens_per_second * label.seconds:
        return label.because("few tokens a second")
    if label.num_tokens > filters.max_tokens_per_second * label.seconds:
        return label.because("many tokens a second")
    if count_repeats(units) > filters.max_repeats:
        return label.because("repeats itself")
    if label.confidence < filters.min_confidence:
        return label.because(NOT_CONFIDENT)
    return label


def count_repeats(tokens) -> int:
    """How often the same tokens, one or more, follow each other at most.

    1 where nothing is said twice in a row, 0 without a token.
    """
    most = min(1, len(tokens))
    for n in range(1, len(tokens) // 2 + 1):
        run = 0  # of tokens that are the one n before
        for a, b in zip(tokens, tokens[n:], strict=False):
            run = run + 1 if a == b else 0
            most = max(most, run // n + 1)
    return most


def read_pseudo_labels(
    decode_dir: Path, filters: Filters, scores: dict | None = None
) -> list[PseudoLabel]:
    """Judge the hypotheses of one data set.

    Args:
        decode_dir: with `text`, `token_int` and, of `score_hypotheses`, `token_logp`.
        filters: what is kept.
        scores: those of `espnet_scores` in the place of `token_logp`.

    Returns:
        One for each utterance, in the order of `text`.

    Raises:
        DataError: a file is missing, or they are of different hypotheses.
    """
    texts, all_tokens = (
        read_lines(decode_dir / name, DECODED) for name in ("text", "token_int")
    )
    if scores is None:
        scores = read_scores(decode_dir)
    labels = []
    for utt, text in texts.items():
        tokens = all_tokens.get(utt, "").split()
        seconds, logp = scores.get(utt, (0.0, []))
        if utt in scores and len(logp) != len(tokens):
            raise DataError(
                f"{decode_dir}: utterance {utt}: {len(tokens)} tokens in token_int, "
                f"{len(logp)} in token_logp: remove that, it is then written anew"
            )
        label = PseudoLabel(
            utt, text, seconds, len(tokens), mean_probability(logp), None
        )
        labels.append(judge(label, tokens, utt in scores, filters))
    return labels


def describe_kept(labels: list[PseudoLabel]) -> str:
    """How many are kept, and of the others how many for which reason, for the log."""
    reasons = collections.Counter(x.reason for x in labels if x.reason is not None)
    others = ", ".join(f"{num} {reason}" for reason, num in reasons.most_common())
    num_kept = len(labels) - reasons.total()
    text = f"{num_kept} of {len(labels)} transcripts kept"
    return f"{text} (not: {others})" if others else text


def write_training_set(
    labelled: Path,
    unlabelled: dict[Path, list[PseudoLabel]],
    out_dir: Path,
    alone: bool = False,
) -> None:
    """A Kaldi directory of transcribed and pseudo-labelled audio, and the whole list.

    Args:
        labelled: formatted data directory with `wav.scp` and `text`.
        unlabelled: formatted data directory -> its pseudo-labels.
        out_dir: `wav.scp`, `text`, `feats_type` and `audio_format` are written there,
            and `pseudo_labels.tsv`, with every utterance and its confidence.
        alone: leave the transcribed audio out.

    Raises:
        DataError: one utterance id in two of the directories, or nothing to train on.
    """
    scp = read_wav_scp(labelled / "wav.scp")
    text = read_lines(labelled / "text", "the transcripts of the labelled set")
    own = set(scp) if alone else set()
    rows = ["\t".join(FIELDS)]
    for data_dir, labels in unlabelled.items():
        audio = read_wav_scp(data_dir / "wav.scp")
        for label in sorted(labels, key=lambda x: -x.confidence):
            rows.append(
                f"{label.utt}\t{label.confidence:.4f}\t{label.num_tokens}\t"
                f"{int(label.reason is None)}\t{label.reason or ''}\t{label.text}"
            )
            if label.reason is not None:
                continue
            if label.utt in scp:
                raise DataError(f"utterance {label.utt} stands in two data directories")
            if label.utt not in audio:
                raise DataError(
                    f"{data_dir / 'wav.scp'}: no utterance {label.utt}, which has a "
                    "hypothesis: decode that directory again"
                )
            scp[label.utt], text[label.utt] = audio[label.utt], label.text
    utts = sorted(set(scp) - own, key=str.encode)
    if not utts:
        raise DataError(
            f"{', '.join(map(str, unlabelled))}: no transcript is kept, and they were "
            "to be trained on alone: loosen the filters (--pseudo_args)"
        )
    out_dir.mkdir(parents=True, exist_ok=True)
    for name in ("feats_type", "audio_format"):
        if (labelled / name).is_file():
            write_atomically(out_dir / name, (labelled / name).read_bytes())
    write_atomically(
        out_dir / "pseudo_labels.tsv", "".join(f"{r}\n" for r in rows).encode()
    )
    write_atomically(
        out_dir / "text", "".join(f"{u} {text[u]}\n" for u in utts).encode()
    )
    write_atomically(
        out_dir / "wav.scp", "".join(f"{u} {scp[u]}\n" for u in utts).encode()
    )
