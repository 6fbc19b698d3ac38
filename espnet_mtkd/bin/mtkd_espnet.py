"""Run a command of ESPnet that knows this package's classes.

For `asr.sh --python "python3 -m espnet_mtkd.bin.mtkd_espnet"`. The module
`espnet2.bin.asr_train` becomes this package's task (`--path_targets_dir`,
`--path_kd_conf`, `--keep_teachers_from`, `--keep_teachers_conf`, `--transducer_loss`);
every other module runs as it is, with the frontend `mtkd_teacher` known to ESPnet's ASR
task.

Example:
    python -m espnet_mtkd.bin.mtkd_espnet -m espnet2.bin.asr_train --help
"""

import argparse
import runpy
import sys

from espnet_mtkd.compat import require_espnet
from espnet_mtkd.errors import ConfigError, report_errors
from espnet_mtkd.files import check_config_option


def get_parser():
    """Command line; what comes behind the module or script is that one's own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-m", metavar="MODULE", help="module to run, or give a script")
    return parser


@report_errors
def main(cmd=None):
    """Run `-m <module> <arguments>` or `<script> <arguments>`."""
    cmd = list(sys.argv[1:] if cmd is None else cmd)
    if cmd and not cmd[0].startswith("-"):
        sys.argv = cmd
        runpy.run_path(cmd[0], run_name="__main__")
        return
    args, rest = get_parser().parse_known_args(cmd[:2])
    if args.m is None:
        raise ConfigError(
            f"expected -m <module> or a script, found '{' '.join(rest)}' (--help)"
        )
    rest = cmd[2:]
    require_espnet()
    if args.m == "espnet2.bin.asr_train":
        from espnet_mtkd.transducer.task import MTKDASRTask

        check_config_option(rest)
        MTKDASRTask.main(cmd=rest)
        return
    if args.m.startswith("espnet2.bin.asr_inference"):
        from espnet_mtkd.transducer.task import register

        register()
    sys.argv = [args.m, *rest]
    runpy.run_module(args.m, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
