#!/usr/bin/env python3
"""Pack a student for ESPnet's model zoo: transducer, encoder of stage 1, model card."""

import argparse
import re
from pathlib import Path

from espnet_mtkd.compat import require_espnet
from espnet_mtkd.errors import ConfigError, report_errors


def get_parser() -> argparse.ArgumentParser:
    """Build the command line parser."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=(
            "In a recipe's directory, after stage 13; example:\n"
            "  python -m espnet_mtkd.bin.mtkd_pack --asr_exp exp/asr_x \\\n"
            "      --mtkd_exp exp/mtkd_x --out exp/asr_x/asr_x.zip \\\n"
            "      --license cc-by-sa-3.0 --language en --corpus 'Asterisk prompts'\n"
            "docs/publish.md says what is packed."
        ),
    )
    add = parser.add_argument
    add("--asr_exp", type=Path, required=True, help="directory of stage 2")
    add(
        "--asr_model_file",
        default="valid.loss.ave.pth",
        help="name of its weights (default: valid.loss.ave.pth)",
    )
    add("--mtkd_exp", type=Path, help="directory of stage 1 (where there was one)")
    add(
        "--mtkd_model_file",
        default="valid.loss.best.pth",
        help="name of its weights (default: valid.loss.best.pth)",
    )
    add(
        "--kd_teacher_exp",
        type=Path,
        help="directory of the teacher transducer whose paths were learnt",
    )
    add("--out", type=Path, required=True, help="archive to write, .zip")
    card = parser.add_argument_group("what the model card says")
    add = card.add_argument
    add("--license", required=True, help="of the model: an id of the Hub, e.g. mit")
    add(
        "--language",
        required=True,
        nargs="+",
        help="ISO codes of what it recognises, e.g. en, or multilingual",
    )
    add("--corpus", required=True, help="what it was trained on, for people")
    add("--dataset", default="", help="id of the corpus on the Hub, if it is there")
    add("--title", help="(default: the name of --asr_exp)")
    add("--limits", action="append", default=[], help="a sentence; may be repeated")
    add(
        "--teacher",
        action="append",
        default=[],
        metavar="NAME=HUB_ID,LICENCE",
        help="what you know of a teacher, or unknown; may be repeated. The teacher "
        "transducer's name is path_teacher, that of initial weights which are no stage "
        "1 of this package initialisation",
    )
    add("--inference_config", type=Path, help="of the decoding that was scored")
    add("--inference_args", default="", help="further arguments of it")
    parser.add_argument(
        "--ignore_names",
        nargs="*",
        default=[],
        help="user or host names and e-mail addresses that may stand in the files",
    )
    return parser


def check_languages(languages: list[str]) -> None:
    """Refuse what the Hub does not know as a language.

    Raises:
        ConfigError: not of the form of an ISO 639 code.
    """
    for language in languages:
        if not re.fullmatch(r"[a-z]{2,3}|multilingual", language):
            raise ConfigError(
                "--language: expected ISO codes such as en, or multilingual, found "
                f"'{language}'"
            )


@report_errors
def main(argv: list[str] | None = None) -> None:
    """Command line entry."""
    args = get_parser().parse_args(argv)
    check_languages(args.language)
    require_espnet()
    from espnet_mtkd.publish.licences import hub_licence
    from espnet_mtkd.publish.pack import Description, Student, pack
    from espnet_mtkd.publish.teachers import parse_corrections

    student = Student(
        args.asr_exp,
        args.asr_model_file,
        args.mtkd_exp,
        args.mtkd_model_file,
        args.kd_teacher_exp,
    )
    description = Description(
        licence=hub_licence(args.license),
        languages=args.language,
        corpus=args.corpus,
        dataset=args.dataset,
        title=args.title or "",
        limits=args.limits,
        corrections=parse_corrections(args.teacher),
        inference_config=args.inference_config,
        inference_args=args.inference_args,
    )
    names = pack(student, description, args.out, args.ignore_names)
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB")
    for name in ["meta.yaml", *names]:
        print(f"    {name}")


if __name__ == "__main__":
    main()
