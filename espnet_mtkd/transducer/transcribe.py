"""A data directory's audio through a recogniser: text, reasons, and who wrote it."""

import dataclasses
import json
import logging
from collections.abc import Callable, Iterable
from pathlib import Path

from espnet_mtkd.data.audio import SAMPLE_RATE
from espnet_mtkd.errors import DataError
from espnet_mtkd.files import write_atomically
from espnet_mtkd.targets.embeddings import progress, read_audio
from espnet_mtkd.targets.plan import Utterance
from espnet_mtkd.teachers.whisper import MAX_SAMPLES
from espnet_mtkd.transducer.curve import draw_curve
from espnet_mtkd.transducer.pseudo import FIELDS, PseudoLabel
from espnet_mtkd.transducer.recogniser import Hypothesis

TOO_LONG = "longer than 30 s"
HYPOTHESES = ".hypotheses"  # behind the name of the text: what was recognised so far


def transcribe(
    recogniser, audio: list[Utterance], kept: Path, batch_size: int
) -> dict[str, Hypothesis]:
    """Recognise utterances; what is kept of the same model and audio is not done again.

    Args:
        recogniser: with `fingerprint`, called with waveforms.
        audio: utterances; those above 30 s are left out.
        kept: file of what was recognised, one JSON a line, which grows batch by batch.
        batch_size: utterances at once.

    Raises:
        DataError: audio that cannot be read.
    """
    found = read_kept(kept, recogniser.fingerprint)
    todo = [
        x
        for x in sorted(audio, key=lambda x: x.num_samples)
        if (x.utt, x.num_samples) not in found and x.num_samples <= MAX_SAMPLES
    ]
    lines = [json.dumps(recogniser.fingerprint)]  # without what a cut run left
    lines += [_line(*key, hypothesis) for key, hypothesis in found.items()]
    write_atomically(kept, "".join(f"{line}\n" for line in lines).encode())
    with open(kept, "a", encoding="utf-8") as file:
        with progress(len(todo), "", "utt") as bar:
            for i in range(0, len(todo), batch_size):
                batch = todo[i : i + batch_size]
                heard = recogniser([read_audio(x) for x in batch])
                for x, hypothesis in zip(batch, heard, strict=True):
                    found[x.utt, x.num_samples] = hypothesis
                    file.write(_line(x.utt, x.num_samples, hypothesis) + "\n")
                file.flush()
                bar.update(len(batch))
    return {
        x.utt: found[x.utt, x.num_samples]
        for x in audio
        if (x.utt, x.num_samples) in found
    }


def _line(utt: str, num_samples: int, hypothesis: Hypothesis) -> str:
    return json.dumps([utt, num_samples, dataclasses.asdict(hypothesis)])


def read_kept(path: Path, fingerprint: dict) -> dict[tuple[str, int], Hypothesis]:
    """(Utterance, samples) -> what this model recognised before; a cut line is none."""
    if not path.is_file():
        return {}
    found, rows = {}, []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break  # a run was ended there
    if not rows or rows[0] != fingerprint:
        if rows:
            logging.warning("%s: of another model or search: begun anew", path)
        return {}
    for utt, num_samples, row in rows[1:]:
        found[utt, num_samples] = Hypothesis(**row)
    return found


def label_all(
    audio: list[Utterance],
    hypotheses: dict[str, Hypothesis],
    judge: Callable[[str, Hypothesis, float], PseudoLabel],
) -> list[PseudoLabel]:
    """One label for each utterance; those that are too long to hear have a reason."""
    labels = []
    for x in audio:
        seconds = x.num_samples / SAMPLE_RATE
        if x.utt in hypotheses:
            labels.append(judge(x.utt, hypotheses[x.utt], seconds))
        else:
            labels.append(PseudoLabel(x.utt, "", seconds, 0, 0.0, TOO_LONG))
    return labels


def write_labels(labels: Iterable[PseudoLabel], out: Path, made_by: dict) -> None:
    """Write the kept transcripts, all of them with their reasons, and their maker.

    Args:
        labels: of all utterances.
        out: a Kaldi `text`; `<out>.tsv` and `<out>.json` go beside it.
        made_by: what wrote them, for the model card.

    Raises:
        DataError: none is kept.
    """
    rows = ["\t".join(FIELDS)]
    lines = []
    for x in labels:
        kept = x.reason is None
        row = (x.utt, f"{x.confidence:.4f}", x.num_tokens, int(kept), x.reason or "")
        rows.append("\t".join(map(str, (*row, x.text))))
        if kept:
            lines.append(f"{x.utt} {x.text}\n")
    write_atomically(
        out.with_name(out.name + ".tsv"), "".join(f"{r}\n" for r in rows).encode()
    )
    if not lines:
        raise DataError(
            f"{out}: no transcript is kept of {len(rows) - 1}: {out}.tsv has the reason"
            " of each: loosen the filters, or give --like a text in the same language"
        )
    write_atomically(out, "".join(lines).encode())
    made_by = json.dumps(made_by, indent=2).encode() + b"\n"
    write_atomically(out.with_name(out.name + ".json"), made_by)


def describe_quality(labels: list[PseudoLabel], references: dict[str, str]) -> str:
    """Yield, precision and WER of what is kept, and the WER of all, as two lines.

    Args:
        labels: of all utterances.
        references: utterance -> transcript that the recogniser has not seen.

    Raises:
        DataError: an utterance without a reference.
    """
    usable = [dataclasses.replace(x, reason=None, confidence=1.0) for x in labels]
    (everything,) = draw_curve(usable, references, [0.0])
    kept = [
        dataclasses.replace(x, reason="left out") if x.reason else x for x in labels
    ]
    (point,) = draw_curve(kept, references, [0.0])
    if not point.num_utts:
        return f"kept: none; all: WER {100 * (everything.wer or 0):.1f} %"
    return (
        f"kept: {point.num_utts} of {len(labels)} utterances, "
        f"{100 * point.seconds_share:.1f} % of the audio, "
        f"{100 * point.word_precision:.1f} % of the words right, WER "
        f"{100 * point.wer:.1f} %, {100 * point.exact_share:.1f} % without an error\n"
        f"all: WER {100 * everything.wer:.1f} %, {100 * everything.exact_share:.1f} % "
        "without an error"
    )
