"""Check that the ASR model of stage 2 takes over the whole encoder of stage 1.

The two configs have to agree on front end, normaliser and encoder, but for what acts in
training alone (dropout and the like).

Example:
    python -m espnet_mtkd.bin.mtkd_handover \\
        --checkpoint exp/mtkd_x/valid.loss.best.pth \\
        --mtkd_config exp/mtkd_x/config.yaml \\
        --asr_config conf/train_asr_conformer_transducer.yaml \\
        --wav_scp dump/raw/valid/wav.scp
"""

import argparse
from pathlib import Path

from espnet_mtkd.compat import require_espnet
from espnet_mtkd.errors import report_errors


def get_parser():
    """Command line of the check."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help=".pth of stage 1"
    )
    parser.add_argument(
        "--mtkd_config", type=Path, required=True, help="config.yaml of stage 1"
    )
    parser.add_argument(
        "--asr_config", type=Path, required=True, help="config of stage 2"
    )
    parser.add_argument(
        "--asr_args",
        default="",
        help="arguments of asr_train in stage 2; those of front end, normaliser and "
        "encoder are compared too",
    )
    parser.add_argument(
        "--wav_scp",
        type=Path,
        required=True,
        help="its first utterance is encoded before and after",
    )
    return parser


@report_errors
def main(cmd=None):
    """Exit code 0: handed over whole; 2: not, and the message says what is missing."""
    args = get_parser().parse_args(cmd)
    require_espnet()
    from espnet_mtkd.data.kaldi import read_wav_scp
    from espnet_mtkd.pretraining.handover import check_handover

    utt, audio = next(iter(read_wav_scp(args.wav_scp).items()))
    num = check_handover(
        args.checkpoint, args.mtkd_config, args.asr_config, audio, args.asr_args
    )
    print(
        "front end and encoder of both configs agree, field by field\n"
        f"{args.checkpoint}: {num} tensors under 'encoder.', 0 missing, 0 unexpected; "
        f"output for {utt} bit-equal before and after"
    )


if __name__ == "__main__":
    main()
