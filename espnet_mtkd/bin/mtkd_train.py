"""Stage 1: train a student's encoder to predict the embeddings of several teachers.

Example:
    python -m espnet_mtkd.bin.mtkd_train --config conf/train_mtkd.yaml \\
        --teachers conf/teachers.yaml --output_dir exp/mtkd \\
        --train_data_path_and_name_and_type dump/raw/train/wav.scp,speech,sound \\
        --valid_data_path_and_name_and_type dump/raw/valid/wav.scp,speech,sound \\
        --train_shape_file dump/raw/train/utt2num_samples \\
        --valid_shape_file dump/raw/valid/utt2num_samples
"""

import argparse
import sys

from espnet_mtkd.compat import require_espnet
from espnet_mtkd.errors import report_errors
from espnet_mtkd.files import check_config_option


def get_parser():
    """ESPnet's own flags and this task's."""
    from espnet_mtkd.pretraining.task import MTKDTask

    parser = MTKDTask.get_parser()
    parser.epilog = __doc__[__doc__.index("Example:") :]
    return parser


def get_help_parser():
    """The flags of this package alone, for a --help that need not import the task."""
    from espnet_mtkd.pretraining.arguments import add_distillation_arguments

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_distillation_arguments(parser.add_argument_group("distillation"))
    parser.add_argument(
        "--help_all",
        action="store_true",
        help="also the student's flags (--frontend, --normalize, --specaug, --encoder "
        "and their _conf) and all of ESPnet's (--config, --output_dir, --optim, ...)",
    )
    return parser


@report_errors
def main(cmd=None):
    """Run the task; exit codes as in `espnet_mtkd.errors`."""
    cmd = list(sys.argv[1:] if cmd is None else cmd)
    require_espnet()
    if {"-h", "--help"} & set(cmd):
        get_help_parser().parse_args(["--help"])
    if "--help_all" in cmd:
        cmd = ["--help"]
    from espnet_mtkd.pretraining.task import MTKDTask

    check_config_option(cmd)
    MTKDTask.main(args=get_parser().parse_args(cmd))


if __name__ == "__main__":
    main()
