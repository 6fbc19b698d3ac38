"""Run mtkd.sh for every row of a ladder of results, then write RESULTS.md.

ladder.sh calls it in a recipe's directory, with its own options as NAME=VALUE and those
of mtkd.sh behind `--`.

Example:
    python -m espnet_mtkd.bin.mtkd_ladder --template ../../TEMPLATE/mtkd1 --plan \\
        --set "rows=scratch teachers" encoders=conformer seeds=0 expdir=exp ...
"""

import argparse
import sys
from pathlib import Path

from espnet_mtkd.errors import ConfigError, report_errors

NEEDED = """
    rows rows_config jobs encoders seeds teachers single_teachers kd_teacher_config
    kd_teacher_args kd_teacher_tag unlabelled_sets pretrain_epochs head_epochs
    finetune_epochs expdir python note command report_mb
""".split()


def get_parser():
    """Command line of the ladder."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--template", type=Path, required=True, help="folder of ladder.sh, options.txt"
    )
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="ladder.sh's options; all of them",
    )
    parser.add_argument("--cuda_cmd", default="run.pl", help="of cmd.sh")
    parser.add_argument(
        "--plan", action="store_true", help="print the rows, tabs between; run none"
    )
    parser.add_argument("passed", nargs="*", help="mtkd.sh's options, behind --")
    return parser


@report_errors
def main(cmd=None):
    """Plan, run, report; the exit code is the first failing run's."""
    args = get_parser().parse_args(cmd)
    from espnet_mtkd.ladder.jobs import Jobs, choose_number
    from espnet_mtkd.ladder.options import check_passed
    from espnet_mtkd.ladder.plan import Plan, describe
    from espnet_mtkd.report.size import read_megabytes

    values = {}
    for word in args.set:
        name, equals, value = word.partition("=")
        if not equals:
            raise ConfigError(f"--set: expected NAME=VALUE, found '{word}'")
        values[name] = value
    missing = [name for name in NEEDED if name not in values]
    if missing:
        raise ConfigError(f"--set: expected {', '.join(missing)} too: call ladder.sh")
    check_passed(args.passed)
    read_megabytes(values["report_mb"])  # mtkd_report reads it, but hours later
    plan = Plan(values, args.template)
    jobs = Jobs(plan, values, args.passed)
    num_rows = len(plan.rows) * len(plan.encoders) * len(plan.seeds)
    num = choose_number(values, args.passed, num_rows)
    if args.plan:
        print(describe(plan))
        return
    plan.write_teachers()
    code = run(jobs, num, args.cuda_cmd)
    if code:
        sys.exit(code)


def run(jobs, num: int, cuda_cmd: str) -> int:
    """Run the jobs, `num` beside each other; the exit code."""
    from espnet_mtkd.ladder.jobs import devices_of_each, threads_of_each
    from espnet_mtkd.ladder.options import given
    from espnet_mtkd.ladder.page import Page
    from espnet_mtkd.ladder.schedule import (
        Ended,
        Runner,
        run_beside,
        run_in_order,
        say,
    )

    values = jobs.values
    whole = jobs.whole()
    rows = [job.result for job in whole]
    why = jobs.why_one_at_a_time() if num > 1 else ""
    if why:
        say(f"After each other: {why}")
        num = 1
    devices = devices_of_each(jobs.passed, num, cuda_cmd, values["python"])
    codes = []
    try:
        with Runner() as runner:
            if given(jobs.passed, "dry_run") == "true":
                return run_in_order(runner, whole, lambda job: None)
            page = Page(runner, values, jobs.pairs(), rows if num > 1 else ())

            def tell(job):
                if job.result is not None:
                    codes.append(page.add(job.result))

            if num == 1:
                code = run_in_order(runner, whole, tell)
                if code:
                    return code
            else:
                threads = threads_of_each(jobs.passed, num)
                parts = jobs.split(threads)
                each = f"{threads} thread(s)"
                if devices:
                    each = f"GPUs {' | '.join(devices)}"
                say(f"{len(parts)} runs of mtkd.sh, {num} at a time, each with {each}")
                logs = Path(values["expdir"]) / "log_ladder"
                code = run_beside(runner, parts, num, logs, devices, tell)
            codes.append(page.finish(rows, lost=code != 0))
    except Ended as e:
        what = "run the same command again: it goes on from what is finished"
        say(f"Ended by {e}; {what}")
        return e.code
    return next((x for x in [code, *codes] if x), 0)


if __name__ == "__main__":
    main()
