"""Both stages from Python, without a recipe.

    python examples/distil.py <corpus> <exp>

<corpus> holds train/ and valid/ (Kaldi directories whose wav.scp names audio files),
the token list tokens.txt, and three configs as in conf/: teachers.yaml,
train_mtkd.yaml, train_asr.yaml. <exp>/asr is what stock ESPnet decodes. The same
command goes on where it was stopped.
"""

import sys
from pathlib import Path

from espnet2.tasks.asr import ASRTask

from espnet_mtkd.data.audio import check_data_dir
from espnet_mtkd.errors import report_errors
from espnet_mtkd.pretraining.task import MTKDTask


@report_errors
def main(corpus: Path, exp: Path):
    """Stage 1 of `corpus` into `exp`/mtkd, stage 2 into `exp`/asr."""
    audio, text = [], []
    for part in ("train", "valid"):
        folder, shape = corpus / part, exp / part / "speech_shape"
        check_data_dir(folder, shape)  # looks at every file
        data = f"--{part}_data_path_and_name_and_type"
        audio += [data, f"{folder}/wav.scp,speech,sound"]
        audio += [f"--{part}_shape_file", f"{shape}"]
        text += [data, f"{folder}/text,text,text"]
    resume = ["--resume", "true"]  # from the last epoch, if there is one

    # Stage 1: the encoder of train_asr.yaml learns what the teachers say of the audio.
    options = {
        "--config": corpus / "train_mtkd.yaml",
        "--teachers": corpus / "teachers.yaml",
        "--student_config": corpus / "train_asr.yaml",
        "--output_dir": exp / "mtkd",
    }
    words = [str(x) for pair in options.items() for x in pair]
    MTKDTask.main(cmd=[*words, *audio, *resume])

    # Stage 2: ESPnet's own task, which begins with that encoder.
    options = {
        "--config": corpus / "train_asr.yaml",
        "--token_type": "char",
        "--token_list": corpus / "tokens.txt",
        "--output_dir": exp / "asr",
        "--init_param": f"{exp}/mtkd/valid.loss.best.pth:encoder:encoder",
    }
    words = [str(x) for pair in options.items() for x in pair]
    ASRTask.main(cmd=[*words, *audio, *text, *resume])


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
