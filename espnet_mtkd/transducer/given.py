"""Transcripts of unlabelled audio by any recogniser, as a Kaldi `text`.

Of what such a recogniser was sure of, nothing is known but what it tells: a file
`<text>.confidence` beside it, `<utterance> <0 to 1>`, is read where it is there.
"""

import json
from collections import Counter
from pathlib import Path

from espnet_mtkd.data.audio import SAMPLE_RATE
from espnet_mtkd.data.kaldi import read_lines
from espnet_mtkd.errors import DataError, name_ten
from espnet_mtkd.files import write_atomically
from espnet_mtkd.transducer.pseudo import Filters, PseudoLabel, judge

CONFIDENCE = ".confidence"  # behind the name of the text
SOURCE = "pseudo_source.json"  # in the training set: where its transcripts are from
OTHER_CHARACTERS = "characters that no transcript has"
MOST_OTHER = 0.5  # share of the transcripts


def read_given_labels(
    text: Path,
    lengths: dict[Path, dict[str, int]],
    known: dict[Path, set[str]],
    filters: Filters,
    characters: set[str],
) -> dict[Path, list[PseudoLabel]]:
    """Judge the transcripts of a `text`, set by set.

    Its tokens are characters here, without the spaces; what repeats itself are words.

    Args:
        text: `<utterance> <transcript>` lines.
        lengths: formatted data directory -> utterance -> samples, of usable audio.
        known: formatted data directory -> all its utterances.
        filters: what is kept.
        characters: that a transcript may have; none: any.

    Returns:
        Data directory -> the labels of its utterances that have a line.

    Raises:
        DataError: no line of these utterances, lines of others, a confidence that is
            none, or transcripts most of which have other characters.
    """
    transcripts = read_lines(text, "transcripts, '<utterance> <words>'")
    _check_ids(text, transcripts, known)
    confidences = read_confidences(text)
    labels = {}
    for data_dir, utts in known.items():
        labels[data_dir] = []
        for utt in sorted(utts & set(transcripts)):
            words = transcripts[utt].split()
            num_samples = lengths[data_dir].get(utt)
            label = PseudoLabel(
                utt,
                " ".join(words),
                (num_samples or 0) / SAMPLE_RATE,
                sum(map(len, words)),
                confidences.get(utt, 0.0 if confidences else 1.0),
                None,
            )
            label = judge(label, words, num_samples is not None, filters)
            others = set(label.text) - characters - {" "} if characters else set()
            if label.reason is None and others:
                label = label.because(OTHER_CHARACTERS)
            labels[data_dir].append(label)
    _check_characters(text, sum(labels.values(), []), characters)
    return labels


def read_confidences(text: Path) -> dict[str, float]:
    """Utterance -> confidence, of the file beside a text; empty where there is none.

    Raises:
        DataError: a line without a number from 0 to 1.
    """
    path = text.with_name(text.name + CONFIDENCE)
    if not path.is_file():
        return {}
    confidences = {}
    for utt, value in read_lines(path, "confidences").items():
        try:
            confidences[utt] = float(value)
        except ValueError:
            confidences[utt] = -1.0
        if not 0 <= confidences[utt] <= 1:
            raise DataError(
                f"{path}: utterance {utt}: expected a confidence from 0 to 1, found "
                f"'{value[:40]}': correct it, or remove the file, which is optional"
            )
    return confidences


def _check_ids(text: Path, transcripts, known: dict[Path, set[str]]) -> None:
    """Refuse transcripts of other utterances than those of the formatted sets."""
    ids = set().union(*known.values())
    strange = [utt for utt in transcripts if utt not in ids]
    if not strange and transcripts:
        return
    sets = ", ".join(f"{d / 'wav.scp'}" for d in known)
    begins = tuple(strange[:10]) or "\0"
    pieces = [utt for utt in sorted(ids) if utt.startswith(begins)][:3]
    raise DataError(
        f"{text}: {len(transcripts) - len(strange)} of its {len(transcripts)} ids are "
        f"those of {sets}, such as {', '.join(sorted(ids)[:3])}; {len(strange)} are "
        f"not: {name_ten(strange)}. Transcribe the formatted sets (of recordings that "
        "were cut, the pieces have ids of their own"
        + (f": {', '.join(pieces)}" if pieces else "")
        + "), and take lines of other utterances out"
    )


def _check_characters(text: Path, labels: list[PseudoLabel], characters) -> None:
    """Refuse a text in another writing than the training set's."""
    others = [x for x in labels if x.reason == OTHER_CHARACTERS]
    if len(others) <= MOST_OTHER * len(labels):
        return
    most = Counter(c for x in others for c in set(x.text) - characters - {" "})
    raise DataError(
        f"{text}: {len(others)} of {len(labels)} transcripts have characters that the "
        f"training set's text has not: {''.join(c for c, _ in most.most_common(20))}: "
        "the student would learn <unk>. Write them as the training set is: upper or "
        "lower case, no punctuation, numbers as words (mtkd_transcribe --like "
        "data/<train_set>/text does)"
    )


def write_source(text: Path, out_dir: Path) -> None:
    """Keep with a training set where its transcripts are from.

    Args:
        text: given by the user. What mtkd_transcribe wrote beside it is taken over.
        out_dir: the training set.
    """
    beside = text.with_name(text.name + ".json")
    made_by = json.loads(beside.read_text("utf-8")) if beside.is_file() else None
    source = {"text": str(text), "made_by": made_by}
    write_atomically(out_dir / SOURCE, json.dumps(source, indent=2).encode() + b"\n")
