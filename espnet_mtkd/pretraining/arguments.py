"""Flags of stage 1 beside ESPnet's; apart from the task, which takes long to import."""

from espnet2.utils.nested_dict_action import NestedDictAction
from espnet2.utils.types import str_or_none


def add_distillation_arguments(group) -> None:
    """Add what teachers, targets, alignment and loss are configured by.

    Args:
        group: of an `argparse` parser.
    """
    group.add_argument(
        "--teachers",
        default=None,
        help="The teachers: a list in the config, or a YAML file's path. Keys: "
        "name, upstream, path_or_url, layers, normalize, extra_conf, weight",
    )
    group.add_argument(
        "--student_config",
        type=str_or_none,
        default=None,
        help="An ESPnet ASR config (stage 2's); frontend and encoder are read from "
        "it, whatever else this task's config says about them",
    )
    group.add_argument(
        "--teacher_memory_mb",
        type=int,
        default=4096,
        help="Live teachers' targets kept in main memory after the first epoch, in "
        "MB per process; 0 computes them in every epoch",
    )
    group.add_argument(
        "--teacher_dtype",
        type=str,
        default="float32",
        choices=["float32", "bfloat16", "float16"],
        help="Of the live teachers' computation; the targets are float32 in any case. "
        "Another type than float32 is compared with it before the first step, and a "
        "teacher that is off by more than 10 %% is refused",
    )
    group.add_argument(
        "--targets_dir",
        type=str_or_none,
        default=None,
        help="Read the targets that mtkd_extract wrote there; no teacher is loaded",
    )
    group.add_argument(
        "--target_type",
        type=str,
        default="embedding",
        choices=["embedding", "codes"],
        help="codes: learn the stored codes by cross-entropy (needs --targets_dir; "
        "loss_conf is not used)",
    )
    group.add_argument(
        "--unlabelled_wav_scp",
        type=str,
        nargs="*",
        default=[],
        help="wav.scp of audio without text, mixed with the training data",
    )
    group.add_argument(
        "--unlabelled_shape_file",
        type=str,
        nargs="*",
        default=[],
        help="Lengths of that audio, one file for each wav.scp",
    )
    group.add_argument(
        "--unlabelled_ratio",
        type=float,
        default=1.0,
        help="Batches of unlabelled audio for each batch of the training data",
    )
    group.add_argument(
        "--align",
        type=str,
        default="concat",
        choices=["concat", "mean", "linear"],
        help="How teacher frames are brought to the student's frame rate",
    )
    group.add_argument(
        "--target_delay",
        type=int,
        default=0,
        help="Student frames by which it may be later than the teachers; for "
        "streaming students",
    )
    group.add_argument(
        "--loss_conf",
        action=NestedDictAction,
        default=dict(),
        help="Weights of the loss's parts: l1, mse, cosine; and codes, of the stored "
        "codes' cross-entropy beside them (needs --targets_dir)",
    )
    group.add_argument(
        "--objective_conf",
        action=NestedDictAction,
        default=dict(),
        help="How targets are scaled, predicted and weighed: standardize, clip, head, "
        "hidden, blocks, layers, balance (docs/method.md)",
    )
    group.add_argument(
        "--mask_conf",
        action=NestedDictAction,
        default=dict(),
        help="Spans of the student's features that are masked: time_prob (0), "
        "time_length (10 frames), channel_prob (0), channel_length (5 channels)",
    )
    group.add_argument(
        "--noise_conf",
        action=NestedDictAction,
        default=dict(),
        help="What the student hears and the teachers do not: prob (0: share of the "
        "utterances), snr (5 to 20 dB), babble (0.4), voices (3 to 7), colour (0.2), "
        "slope (0 to 2), files (0), noise_dir, room (0.3), decay (0.1 to 0.6 s), "
        "direct (0 to 12 dB), gain (-6 to 6 dB)",
    )
    group.add_argument(
        "--init",
        type=lambda x: str_or_none(x.lower()),
        default=None,
        choices=[
            "xavier_uniform",
            "xavier_normal",
            "kaiming_uniform",
            "kaiming_normal",
            None,
        ],
        help="The initialization method of the student",
    )
