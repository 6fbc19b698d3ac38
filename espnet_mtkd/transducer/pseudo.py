"""Transcripts of unlabelled audio by a teacher transducer, filtered by confidence.

The confidence of a transcript is the mean (geometric) of its tokens' probabilities, the
blanks between them included: exp(log-probability of the hypothesis / number of tokens),
with the log-probability that ESPnet's `asr_inference` writes.
"""

import dataclasses
import math
import re
from pathlib import Path

from espnet_mtkd.data.kaldi import read_lines, read_wav_scp
from espnet_mtkd.errors import DataError
from espnet_mtkd.files import write_atomically

FIELDS = "utterance confidence tokens kept reason text".split()


@dataclasses.dataclass(frozen=True)
class PseudoLabel:
    """One utterance's transcript, its confidence, and why it is not used (None: it is).

    Attributes:
        utt: utterance id.
        text: transcript.
        num_tokens: of it.
        confidence: 0 to 1.
        reason: None where it is kept.
    """

    utt: str
    text: str
    num_tokens: int
    confidence: float
    reason: str | None


def read_pseudo_labels(decode_dir: Path, min_confidence: float) -> list[PseudoLabel]:
    """Judge the hypotheses of one data set.

    Args:
        decode_dir: with `text`, `token_int` and `score`.
        min_confidence: 0 to 1; below it a transcript is dropped.

    Returns:
        One for each utterance, in the order of `text`.

    Raises:
        DataError: a file is missing, or a score is no number.
    """
    texts, tokens, scores = (
        read_lines(decode_dir / name, "what asr.sh's stage 12 writes")
        for name in ("text", "token_int", "score")
    )
    labels = []
    for utt, text in texts.items():
        # ESPnet writes a number, or the text of a tensor that holds one.
        found = re.fullmatch(r"(?:tensor\()?(-?[\d.]+(?:e-?\d+)?)\)?", scores[utt])
        if found is None:
            raise DataError(
                f"{decode_dir / 'score'}: utterance {utt}: expected a log-probability, "
                f"found '{scores[utt]}'"
            )
        num_tokens = len(tokens.get(utt, "").split())
        confidence = math.exp(min(0.0, float(found[1]) / max(1, num_tokens)))
        reason = None
        if not text:
            reason = "empty"
        elif confidence < min_confidence:
            reason = "not confident"
        labels.append(PseudoLabel(utt, text, num_tokens, confidence, reason))
    return labels


def write_training_set(
    labelled: Path, unlabelled: dict[Path, list[PseudoLabel]], out_dir: Path
) -> None:
    """A Kaldi directory of transcribed and pseudo-labelled audio, and the whole list.

    Args:
        labelled: formatted data directory with `wav.scp` and `text`.
        unlabelled: formatted data directory -> its pseudo-labels.
        out_dir: `wav.scp`, `text`, `feats_type` and `audio_format` are written there,
            and `pseudo_labels.tsv`, with every utterance and its confidence.

    Raises:
        DataError: one utterance id in two of the directories.
    """
    scp = read_wav_scp(labelled / "wav.scp")
    text = read_lines(labelled / "text", "the transcripts of the labelled set")
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
            scp[label.utt], text[label.utt] = audio[label.utt], label.text
    out_dir.mkdir(parents=True, exist_ok=True)
    utts = sorted(scp, key=str.encode)
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
