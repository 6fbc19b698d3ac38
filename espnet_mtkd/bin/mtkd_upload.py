#!/usr/bin/env python3
"""Upload a packed student to the Hugging Face Hub, in one commit."""

import argparse
from pathlib import Path

from espnet_mtkd.errors import report_errors


def str2bool(value: str) -> bool:
    """`true` or `false`, as the recipes' scripts write it."""
    if value not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected true or false, found '{value}'")
    return value == "true"


def get_parser() -> argparse.ArgumentParser:
    """Build the command line parser."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=(
            "In a recipe's directory, after stage 14; example:\n"
            "  python -m espnet_mtkd.bin.mtkd_upload \\\n"
            "      --archive exp/asr_x/asr_x_valid.loss.ave.zip \\\n"
            "      --hf_repo user/model --dry_run true --out_dir exp/hf_user_model\n"
            "The token is that of `hf auth login`, or HF_TOKEN."
        ),
    )
    add = parser.add_argument
    add("--archive", type=Path, required=True, help="what mtkd_pack wrote")
    add("--hf_repo", required=True, metavar="USER/MODEL", help="made if not there")
    add(
        "--dry_run",
        type=str2bool,
        default=False,
        metavar="true|false",
        help="write into --out_dir what would be uploaded, and ask nobody "
        "(default: false)",
    )
    add(
        "--out_dir",
        type=Path,
        help="of a dry run (default: hf_<user>_<model> beside the archive)",
    )
    add(
        "--private",
        type=str2bool,
        default=False,
        metavar="true|false",
        help="a repository that is made is private; one that is public already is "
        "refused (default: false)",
    )
    add(
        "--ignore_names",
        nargs="*",
        default=[],
        help="user or host names and e-mail addresses that may stand in the files",
    )
    return parser


@report_errors
def main(argv: list[str] | None = None) -> None:
    """Command line entry."""
    args = get_parser().parse_args(argv)
    from espnet_mtkd.publish.upload import dry_run, upload

    if not args.dry_run:
        url = upload(args.archive, args.hf_repo, args.private, args.ignore_names)
        print(f"{args.hf_repo}: {url}")
        return
    out_dir = args.out_dir
    if out_dir is None:
        out_dir = args.archive.parent / f"hf_{args.hf_repo.replace('/', '_')}"
    files = dry_run(args.archive, args.hf_repo, out_dir, args.ignore_names)
    print(f"{args.hf_repo}: this would be uploaded; it lies in {out_dir}")
    for name, size in files:
        print(f"{size:12,d} bytes  {name}")
    print(f"{sum(size for _, size in files):12,d} bytes  in all")


if __name__ == "__main__":
    main()
