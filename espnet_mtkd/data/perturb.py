"""Pipes of speed perturbation that can read any file: ESPnet's name its path bare."""

import io
import re
import shlex
import sys
from pathlib import Path

import soundfile

from espnet_mtkd.data.kaldi import numbered_lines
from espnet_mtkd.files import write_atomically

# As utils of Kaldi write it for an entry that is a file
BARE = re.compile(r"sox (?!-t |')(.*) -t wav - speed (\S+) \|")
READ_BY_SOX = {".wav"}  # whatever its packages are; others go through libsndfile


def rewrite_pipes(wav_scp: Path) -> int:
    """Let the pipes that `perturb_data_dir_speed.sh` wrote read what they should.

    It writes `sox <path> -t wav - speed <factor> |`, which the shell takes apart where
    a path has a space, and which fails where sox has not the format (mp3, Ogg, FLAC
    are packages of their own).

    Args:
        wav_scp: of the perturbed set; rewritten where it has such entries.

    Returns:
        Number of entries that were changed.
    """
    lines, num_changed = [], 0
    for _, utt, entry in numbered_lines(wav_scp, "a Kaldi wav.scp"):
        match = BARE.fullmatch(entry)
        if match:
            path, factor = match.groups()
            quoted = shlex.quote(path)
            new = f"sox {quoted} -t wav - speed {factor} |"
            if Path(path).suffix.lower() not in READ_BY_SOX:
                python = shlex.quote(sys.executable)
                reader = f"{python} -m espnet_mtkd.bin.mtkd_cat_wav --audio {quoted}"
                new = f"{reader} | sox -t wav - -t wav - speed {factor} |"
            num_changed += new != entry
            entry = new
        lines.append(f"{utt} {entry}\n")
    if num_changed:
        write_atomically(wav_scp, "".join(lines).encode())
    return num_changed


def cat_wav(audio: str, out) -> None:
    """Write any file that libsndfile reads as WAV.

    Args:
        audio: path.
        out: binary file.

    Raises:
        soundfile.SoundFileError: it cannot be read.
    """
    samples, rate = soundfile.read(audio, always_2d=True)
    buffer = io.BytesIO()  # the header needs to be sought
    soundfile.write(buffer, samples, rate, "PCM_16", format="WAV")
    out.write(buffer.getvalue())
