#!/usr/bin/env python3
"""Make formatted audio mono, and cut long recordings at pauses; of stages 3 and 7.

Example:
    python -m espnet_mtkd.bin.mtkd_format_audio --data_dir dump/raw/unlabelled_es/org \\
        --out_dir dump/raw/unlabelled_es --min_duration 0.1 --max_duration 20
"""

import argparse
import logging
from pathlib import Path

from espnet_mtkd.errors import report_errors


def get_parser() -> argparse.ArgumentParser:
    """Command line of this module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data_dir",
        type=Path,
        required=True,
        help="Directory that ESPnet's format_wav_scp.sh wrote",
    )
    parser.add_argument(
        "--out_dir", type=Path, help="Where to write (default: --data_dir)"
    )
    parser.add_argument(
        "--channel",
        default="mean",
        help="Of audio with several: mean, or one of them, from 0 (default: mean)",
    )
    parser.add_argument(
        "--min_duration", type=float, default=0.0, help="Seconds; shorter is left out"
    )
    parser.add_argument(
        "--max_duration", type=float, help="Seconds; longer is cut (default: no limit)"
    )
    parser.add_argument(
        "--cut",
        choices=["true", "false"],
        default="true",
        help="Cut what is longer at pauses, or leave it out (default: true)",
    )
    parser.add_argument(
        "--perturbed",
        action="store_true",
        help="--data_dir is what stage 2 wrote: let its pipes read any path and "
        "format, and do nothing else",
    )
    parser.add_argument("--nj", type=int, default=8, help="Files beside each other")
    return parser


@report_errors
def main(cmd=None):
    """Run the command line `cmd` (default: sys.argv)."""
    args = get_parser().parse_args(cmd)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    from espnet_mtkd.data.format import Durations, format_audio

    if args.perturbed:
        from espnet_mtkd.data.perturb import rewrite_pipes

        rewrite_pipes(args.data_dir / "wav.scp")
        return
    durations = None
    if args.max_duration is not None:
        durations = Durations(args.min_duration, args.max_duration, args.cut == "true")
    format_audio(args.data_dir, args.channel, args.out_dir, durations, args.nj)


if __name__ == "__main__":
    main()
