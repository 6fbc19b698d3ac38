#!/usr/bin/env python3
"""Write an audio file as WAV to standard output, for pipes in a wav.scp.

Example:
    python -m espnet_mtkd.bin.mtkd_cat_wav --audio speech.mp3 > speech.wav
"""

import argparse
import sys

from espnet_mtkd.errors import DataError, report_errors


def get_parser() -> argparse.ArgumentParser:
    """Command line of this module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--audio", required=True, help="That libsndfile reads: mp3, FLAC, Ogg ..."
    )
    return parser


@report_errors
def main(cmd=None):
    """Run the command line `cmd` (default: sys.argv)."""
    args = get_parser().parse_args(cmd)
    import soundfile

    from espnet_mtkd.data.perturb import cat_wav

    try:
        cat_wav(args.audio, sys.stdout.buffer)
    except (soundfile.SoundFileError, OSError) as e:
        raise DataError(f"{args.audio}: cannot be read: {e}") from e


if __name__ == "__main__":
    main()
