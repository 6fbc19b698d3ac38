#!/usr/bin/env python3
"""speechocean762, and audio without text beside it -> Kaldi data directories.

Of the corpus's train speakers every tenth, in the order of age group, gender and name,
is kept for `dev`; the rest are `train`. `train_1h` is the part of `train` in which
speakers take turns until it has an hour; `train_rest` is the audio of what is left,
without text. `test` is the corpus's own, whole or the part that the folder holds.

Audio files are where wav.scp says, or beside that place with another ending: a
re-encoded copy needs no other wav.scp.
"""

import argparse
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import soundfile
from tqdm import tqdm

ENDINGS = (".wav", ".WAV", ".flac", ".ogg", ".opus")
SAMPLE_RATE = 16000
DEV_EVERY = 10  # speakers
CHILD_BELOW = 16  # years
LABELLED_SECONDS = 3600


class PrepareError(Exception):
    """What was expected, what was found, where."""


@dataclass(frozen=True)
class Utterance:
    """One recording; text is None where it is not to be known."""

    utt_id: str
    speaker: str
    audio: Path
    seconds: float
    text: str | None = None


def read_map(path: Path) -> dict[str, str]:
    """First word of each line -> the rest.

    Raises:
        PrepareError: no such file, a line of one word, a repeated first word.
    """
    if not path.is_file():
        raise PrepareError(f"{path}: no such file: expected a Kaldi file of the corpus")
    entries = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        words = line.split(maxsplit=1)
        if len(words) != 2 or words[0] in entries:
            what = (
                "a second line of this name" if len(words) == 2 else "one word or none"
            )
            raise PrepareError(
                f"{path}:{number}: expected '<name> <value>', found {what}: "
                f"'{line[:60]}'"
            )
        entries[words[0]] = words[1].strip()
    return entries


def find_audio(path: Path) -> Path:
    """The file, or the one of the same name with another ending.

    Raises:
        PrepareError: neither is there.
    """
    if path.is_file():
        return path
    for ending in ENDINGS:
        if path.with_suffix(ending).is_file():
            return path.with_suffix(ending)
    raise PrepareError(
        f"{path}: no such file, nor one ending in {', '.join(ENDINGS)}: is the corpus "
        "unpacked whole?"
    )


def measure(path: Path) -> float:
    """Seconds of audio, by the header.

    Raises:
        PrepareError: unreadable, or not mono at 16 kHz.
    """
    try:
        info = soundfile.info(path)
    except (soundfile.LibsndfileError, RuntimeError) as e:
        raise PrepareError(f"{path}: not readable as audio: {e}") from e
    if info.samplerate != SAMPLE_RATE or info.channels != 1 or info.frames == 0:
        raise PrepareError(
            f"{path}: expected mono audio of {SAMPLE_RATE} Hz, found {info.channels} "
            f"channel(s) of {info.samplerate} Hz, {info.frames} samples"
        )
    return info.frames / info.samplerate


def read_part(corpus: Path, part: str) -> list[Utterance]:
    """Utterances of the corpus's `train` or `test`, sorted by id.

    Raises:
        PrepareError: files that disagree, audio that is missing.
    """
    scp, text, utt2spk = (
        read_map(corpus / part / name) for name in ("wav.scp", "text", "utt2spk")
    )
    for name, entries in (("text", text), ("utt2spk", utt2spk)):
        if entries.keys() != scp.keys():
            odd = min(entries.keys() ^ scp.keys())
            raise PrepareError(
                f"{corpus / part}: {odd} stands in only one of wav.scp and {name}"
            )
    utterances = []
    for utt in tqdm(sorted(scp), f"{part}"):
        audio = find_audio(corpus / scp[utt])
        words = " ".join(text[utt].upper().split())
        utterances.append(Utterance(utt, utt2spk[utt], audio, measure(audio), words))
    return utterances


def choose_dev_speakers(corpus: Path, speakers: set[str]) -> set[str]:
    """Every tenth speaker, so that dev has train's share of children and of genders."""
    age = read_map(corpus / "train/spk2age")
    gender = read_map(corpus / "train/spk2gender")
    for speaker in speakers:
        if speaker not in age or speaker not in gender:
            raise PrepareError(
                f"{corpus}/train: speaker {speaker} is missing in spk2age or spk2gender"
            )

    def order(speaker):
        return int(age[speaker]) >= CHILD_BELOW, gender[speaker], speaker

    return set(sorted(speakers, key=order)[DEV_EVERY // 2 :: DEV_EVERY])


def take_turns(utterances: list[Utterance], seconds: float) -> list[Utterance]:
    """One utterance of each speaker, then a second of each, until the time is full."""
    turns: dict[str, int] = {}
    ranked = []
    for utterance in utterances:
        turns[utterance.speaker] = turns.get(utterance.speaker, -1) + 1
        ranked.append((turns[utterance.speaker], utterance.utt_id, utterance))
    taken, total = [], 0.0
    for _, _, utterance in sorted(ranked, key=lambda r: r[:2]):
        if total >= seconds:
            break
        taken.append(utterance)
        total += utterance.seconds
    return taken


def read_unlabelled(folder: Path, prefix: str) -> list[Utterance]:
    """All audio of a folder: by its `all/wav.scp` where it has one, else every file.

    A file of another rate, or one that cannot be read, is an error.
    """
    if (folder / "all/wav.scp").is_file():
        entries = read_map(folder / "all/wav.scp")
        paths = {f"{prefix}-{u}": find_audio(folder / a) for u, a in entries.items()}
    else:
        paths = {}
        for path in sorted(folder.rglob("*")):
            if path.suffix in ENDINGS:
                utt = f"{prefix}-{path.relative_to(folder).with_suffix('')}".replace(
                    "/", "_"
                )
                if utt in paths:
                    raise PrepareError(f"{path} and {paths[utt]} would have one name")
                paths[utt] = path
    if not paths:
        raise PrepareError(
            f"{folder}: no all/wav.scp and no {', '.join(ENDINGS)} in it"
        )
    return [
        Utterance(utt, prefix, path, measure(path))
        for utt, path in tqdm(sorted(paths.items()), prefix)
    ]


def write_kaldi_dir(folder: Path, utterances: list[Utterance]) -> None:
    """Write wav.scp, utt2spk, spk2utt and, where all have one, text; all or nothing."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    utterances = sorted(utterances, key=lambda u: u.utt_id)
    spk2utt: dict[str, list[str]] = {}
    for u in utterances:
        spk2utt.setdefault(u.speaker, []).append(u.utt_id)
    lines = {
        "wav.scp": [f"{u.utt_id} {u.audio}" for u in utterances],
        "utt2spk": [f"{u.utt_id} {u.speaker}" for u in utterances],
        "spk2utt": [" ".join([s, *utts]) for s, utts in sorted(spk2utt.items())],
    }
    if all(u.text for u in utterances):
        lines["text"] = [f"{u.utt_id} {u.text}" for u in utterances]
    for name, rows in lines.items():
        (part / name).write_text("".join(f"{row}\n" for row in rows), "utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    hours = sum(u.seconds for u in utterances) / 3600
    print(
        f"{folder}: {len(utterances)} utterances, {len(spk2utt)} speakers, "
        f"{hours:.2f} h{'' if 'text' in lines else ', no text'}"
    )


def prepare(corpus: Path, data_dir: Path, unlabelled: dict[str, Path]) -> None:
    """Write all data directories.

    Args:
        corpus: unpacked speechocean762, with WAVE, train and test.
        data_dir: of the recipe.
        unlabelled: name of a data directory -> folder with its audio.

    Raises:
        PrepareError: bad or missing input.
    """
    everyone = read_part(corpus, "train")
    test = read_part(corpus, "test")
    shared = {u.speaker for u in everyone} & {u.speaker for u in test}
    if shared:
        raise PrepareError(f"{corpus}: speaker {min(shared)} is in train and in test")
    dev_speakers = choose_dev_speakers(corpus, {u.speaker for u in everyone})
    train = [u for u in everyone if u.speaker not in dev_speakers]
    one_hour = take_turns(train, LABELLED_SECONDS)
    taken = {u.utt_id for u in one_hour}
    sets = {
        "train": train,
        "train_1h": one_hour,
        "dev": [u for u in everyone if u.speaker in dev_speakers],
        "test": test,
    }
    rest = [u for u in train if u.utt_id not in taken]
    if rest:
        sets["train_rest"] = [
            Utterance(u.utt_id, u.speaker, u.audio, u.seconds) for u in rest
        ]
    for name, folder in unlabelled.items():
        sets[name] = read_unlabelled(folder, name)
    for name, utterances in sets.items():
        write_kaldi_dir(data_dir / name, utterances)


def main() -> int:
    """Command line entry."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, required=True, help="unpacked corpus")
    parser.add_argument("--data_dir", type=Path, required=True, help="output")
    parser.add_argument(
        "--unlabelled",
        nargs="*",
        default=[],
        metavar="NAME=FOLDER",
        help="audio without text: the data directory's name, where the audio is",
    )
    args = parser.parse_args()
    unlabelled = {}
    for item in args.unlabelled:
        name, equals, folder = item.partition("=")
        if not equals or not Path(folder).is_dir():
            parser.error(f"--unlabelled: expected NAME=FOLDER, found '{item}'")
        unlabelled[name] = Path(folder).resolve()
    try:
        prepare(args.corpus.resolve(), args.data_dir, unlabelled)
    except PrepareError as e:
        print(f"error: {e}", file=sys.stderr)
        return 4
    return 0


if __name__ == "__main__":
    sys.exit(main())
