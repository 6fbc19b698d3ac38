#!/usr/bin/env python3
"""Convert a pre-trained checkpoint of fairseq into s3prl's form, without fairseq.

Nothing in the checkpoint is run. The result is a teacher's path_or_url.

Example:
    python -m espnet_mtkd.bin.mtkd_convert_checkpoint --upstream hubert_local \\
        --checkpoint hubert_base_ls960.pt --out hubert_base_ls960.converted.pt
"""

import argparse
from pathlib import Path

from espnet_mtkd.errors import report_errors

UPSTREAMS = ("hubert_local", "wav2vec2_local", "data2vec_local")


def get_parser() -> argparse.ArgumentParser:
    """Command line of this module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, help="file that fairseq wrote")
    add(
        "--upstream",
        choices=UPSTREAMS,
        required=True,
        help="which of s3prl's upstreams is to read it",
    )
    add("--out", type=Path, required=True, help="file to write")
    return parser


@report_errors
def main(argv: list[str] | None = None) -> None:
    """Command line entry."""
    args = get_parser().parse_args(argv)
    from espnet_mtkd.teachers.convert import convert

    converted = convert(args.checkpoint, args.upstream, args.out)
    for note in converted.notes:
        print(f"note: {note}")
    print(
        f"{args.out}: {converted.num_parameters / 1e6:.1f} M parameters. A teacher of "
        f"it: upstream: {args.upstream}, path_or_url: {args.out}"
    )


if __name__ == "__main__":
    main()
