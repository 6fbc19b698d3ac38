"""Data directories before anything is made of them: what would stop a recipe later."""

import logging
import re
import shlex
import shutil
from pathlib import Path

from espnet_mtkd.data.audio import NUM_NAMED, judge_faults
from espnet_mtkd.data.containers import find_cut
from espnet_mtkd.data.kaldi import numbered_lines
from espnet_mtkd.errors import DataError

# What libsndfile, by which ESPnet reads audio, does not know
NEEDS_PIPE = {".m4a", ".mp4", ".aac", ".wma", ".webm", ".mkv", ".amr", ".3gp"}
TIME = r"[0-9]{1,9}(\.[0-9]*)?|\.[0-9]+"  # seconds
TOOLS = {
    "sph2pipe": "build it from github.com/burrmill/sph2pipe; plain NIST files need "
    "none: '<utterance> <file.sph>'",
    "ffmpeg": "Debian: apt-get install ffmpeg",
    "sox": "Debian: apt-get install sox",
    "flac": "Debian: apt-get install flac; FLAC files need none: '<utterance> "
    "<file.flac>'",
}


def check_data_dirs(data_dirs: list[Path]) -> None:
    """Refuse data directories that ESPnet's stages would stumble over, or misread.

    Args:
        data_dirs: Kaldi directories; those without `text` are taken as unlabelled.

    Raises:
        DataError: with the file, the line and a remedy for each of the problems, the
            first ten of a directory.
    """
    problems = []
    for data_dir in data_dirs:
        try:
            found = find_problems(data_dir)
        except DataError as e:
            found = [str(e)]
        if len(found) > NUM_NAMED:
            found[NUM_NAMED:] = [f"... and {len(found) - NUM_NAMED} more in {data_dir}"]
        problems += found
    if problems:
        raise DataError("data directories:\n  " + "\n  ".join(problems))


def check_distinct(data_dirs: list[Path]) -> None:
    """Refuse directories that share an utterance id.

    Raises:
        DataError: naming the id, both directories and what to do.
    """
    seen: dict[str, Path] = {}
    for data_dir in data_dirs:
        name = "segments" if (data_dir / "segments").is_file() else "wav.scp"
        for _, utt, _ in numbered_lines(data_dir / name, f"a Kaldi {name}"):
            if utt in seen:
                files = [
                    shlex.quote(str(path))
                    for path in (data_dir / x for x in (name, "text", "utt2spk"))
                    if path.is_file()
                ]
                raise DataError(
                    f"utterance {utt} stands in {seen[utt]} and in {data_dir}, which "
                    "are to become one training set (--pseudo_labels, --pseudo_text): "
                    f"give the ids of one a prefix: sed -i 's/^/{data_dir.name}-/' "
                    f"{' '.join(files)}"
                )
            seen[utt] = data_dir


def check_ends(data_dir: Path) -> None:
    """Refuse recordings that are gone, or cut: these become files that look whole.

    Args:
        data_dir: Kaldi directory; pipes are passed over.

    Raises:
        DataError: more than can be an accident; fewer are named in the log.
    """
    faults, missing, num = [], [], 0
    for _, utt, audio in numbered_lines(data_dir / "wav.scp", "a Kaldi wav.scp"):
        num += 1
        try:
            fault = None if audio.endswith("|") else find_cut(Path(audio))
        except OSError as e:
            missing.append(f"{utt} ({audio}): {e.strerror}")
            continue
        if fault is not None:
            faults.append(f"{utt} ({audio}): {fault}")
    if len(missing) < num:  # (where none is there, ESPnet's stage 3 says so at once)
        faults += missing
    if faults:
        text = judge_faults(
            data_dir / "wav.scp",
            "end too early, or are not there",
            faults,
            num,
            "copy the files again, or take their lines out of wav.scp (and then: "
            f"utils/fix_data_dir.sh {data_dir})",
        )
        logging.warning("%s\nWhat is left of them is used.", text)


def find_problems(data_dir: Path) -> list[str]:
    """What is wrong with a directory; empty where nothing is.

    Raises:
        DataError: a file that cannot be read as Kaldi's tools would.
    """
    problems, ids = [], {}
    names = ["wav.scp"]
    is_labelled = (data_dir / "text").is_file()
    if is_labelled:
        names += ["text", "utt2spk"]
    if (data_dir / "segments").is_file():
        names.append("segments")
    for name in names:
        path = data_dir / name
        if name == "utt2spk" and not path.is_file():
            problems.append(
                f"{path}: no such file: expected the speaker of each utterance; where "
                f"it is not known: awk '{{ print $1, $1 }}' {data_dir}/text > {path}"
            )
            continue
        lines = list(numbered_lines(path, f"a Kaldi {name}"))
        if not lines:
            problems.append(f"{path}: empty: expected at least one utterance")
        ids[name] = [utt for _, utt, _ in lines]
        if is_labelled:
            problems += find_disorder(path, lines, data_dir)
            problems += [
                f"{path}:{number}: {utt}: sclite takes ids apart at '(' and ')': give "
                "it one without them"
                for number, utt, _ in lines
                if {*"()"} & {*utt}
            ]
        if name == "wav.scp":
            problems += find_audio_problems(path, lines)
        elif name == "utt2spk":
            problems += [
                f"{path}:{number}: expected '<utterance> <speaker>', found "
                f"'{utt} {speaker[:80]}'"
                for number, utt, speaker in lines
                if len(speaker.split()) != 1
            ]
        elif name == "segments":
            problems += find_segment_problems(path, lines, set(ids["wav.scp"]))
    source = "segments" if "segments" in ids else "wav.scp"
    for name in ("text", "utt2spk"):
        if name not in ids:
            continue
        for here, there in ((source, name), (name, source)):
            lacking = sorted(set(ids[here]) - set(ids[there]))
            if lacking:
                problems.append(
                    f"{data_dir / there}: {len(lacking)} utterances of {here} are not "
                    f"in it: {', '.join(lacking[:3])}{', ...' * (len(lacking) > 3)}: "
                    f"add them, or take them away: utils/fix_data_dir.sh {data_dir}"
                )
    return problems


def find_segment_problems(path: Path, lines: list[tuple], recordings: set[str]):
    """Lines that name no part of a recording, as Kaldi's validation sees them."""
    problems = []
    for number, utt, rest in lines:
        recording, *times = rest.split() or [""]
        if len(times) != 2 or not all(re.fullmatch(TIME, x) for x in times):
            problems.append(
                f"{path}:{number}: expected '<utterance> <recording> <begin> <end>', "
                f"times in seconds, found '{utt} {rest[:80]}'"
            )
        elif float(times[0]) >= float(times[1]):
            problems.append(
                f"{path}:{number}: utterance {utt} ends at {times[1][:20]} s, which is "
                f"not behind its beginning, {times[0][:20]} s: take its line out: "
                f"utils/fix_data_dir.sh {path.parent} takes it out of the other files"
            )
        elif recording not in recordings:
            problems.append(
                f"{path}:{number}: recording {recording} of utterance {utt} is not in "
                f"{path.with_name('wav.scp')}: add it, or take the line out"
            )
    return problems


def find_disorder(path: Path, lines: list[tuple], data_dir: Path) -> list[str]:
    """The first line that is not in the order of `LC_ALL=C sort`."""
    keys = [utt.encode() for _, utt, _ in lines]
    for (number, utt, _), before, key in zip(lines[1:], keys, keys[1:], strict=False):
        if key < before:
            return [
                f"{path}:{number}: {utt} is not in the order of LC_ALL=C sort, which "
                f"Kaldi's tools need: utils/fix_data_dir.sh {data_dir}"
            ]
    return []


def find_audio_problems(path: Path, lines: list[tuple]) -> list[str]:
    """Files that ESPnet cannot read, and tools of pipes that are not on PATH."""
    problems, missing_tools = [], set()
    for number, utt, audio in lines:
        if audio.endswith("|"):
            if not re.sub(r"\b\w+=\S*|[|\s]", "", audio):
                problems.append(
                    f"{path}:{number}: expected '<utterance> <command> |', found "
                    f"'{utt} {audio[:80]}'"
                )
            for part in audio.strip("|").split("|"):
                words = [w for w in part.split() if not re.match(r"\w+=", w)]
                tool = words[0] if words else ""
                if tool and tool not in missing_tools and not shutil.which(tool):
                    missing_tools.add(tool)
                    remedy = TOOLS.get(Path(tool).name, "install it")
                    problems.append(
                        f"{path}:{number}: utterance {utt} needs '{tool}', which is "
                        f"not on PATH: {remedy}"
                    )
        elif not audio:
            problems.append(
                f"{path}:{number}: expected '<utterance> <audio file>', found '{utt}'"
            )
        elif re.search(r":\d+$", audio):
            continue  # an offset in a Kaldi archive
        elif Path(audio).suffix.lower() in NEEDS_PIPE:
            problems.append(
                f"{path}:{number}: utterance {utt}: ESPnet cannot read "
                f"{Path(audio).suffix} files: give it as a pipe: '{utt} ffmpeg -v "
                f'error -i "{audio}" -f wav - |\''
            )
    return problems
