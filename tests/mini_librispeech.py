"""LibriSpeech in miniature, and its recipe shrunk to it."""

from pathlib import Path

import builders
import numpy as np
import soundfile
import yaml

RECIPE = builders.ROOT / "egs2/librispeech_100/mtkd1"
LABELLED = {
    "train-clean-100": 9,
    "dev-clean": 2,
    "dev-other": 2,
    "test-clean": 2,
    "test-other": 2,
}
UNLABELLED = {"train-clean-360": 3, "train-other-500": 2}


def build_librispeech(folder: Path) -> None:
    """<folder>/LibriSpeech with two speakers a part, one chapter each.

    The transcripts of the parts that are to be unlabelled are links that lead nowhere:
    whoever opens one fails.
    """
    root = folder / "LibriSpeech"
    root.mkdir(parents=True)
    (root / "LICENSE.TXT").write_text("CC BY 4.0\n")
    rng = np.random.default_rng(0)
    speakers = [";ID  |SEX| SUBSET           |MINUTES| NAME\n"]
    speaker = 14
    for part, num_utts in (LABELLED | UNLABELLED).items():
        for number in range(2):
            speaker += 5
            sex = "MF"[number]
            speakers.append(f"{speaker:<5}| {sex} | {part:<17}| 25.03 | A Reader\n")
            chapter = root / part / str(speaker) / str(200 + speaker)
            chapter.mkdir(parents=True)
            name = f"{speaker}-{200 + speaker}"
            lines = []
            for i in range(number, num_utts, 2):
                wave = builders.speech_like(rng.uniform(1.2, 1.8), 100 * speaker + i)
                path = chapter / f"{name}-{i:04d}.flac"
                soundfile.write(path, wave, builders.SAMPLE_RATE)
                lines.append(f"{path.stem} {' '.join(rng.choice(builders.WORDS, 3))}\n")
            trans = chapter / f"{name}.trans.txt"
            if part in UNLABELLED:
                trans.symlink_to("nowhere")
            else:
                trans.write_text("".join(lines))
    (root / "SPEAKERS.TXT").write_text("".join(speakers))


def shrink(conf: Path, checkpoints: dict[str, Path]) -> None:
    """Tiny teachers and students in the place of a copy's; all other settings stay."""

    def local(name: str) -> dict:
        upstream = f"{name}_local"
        return dict(upstream=upstream, path_or_url=str(checkpoints[upstream]))

    training = dict(batch_bins=120000, num_workers=0, log_interval=1)
    tiny_asr = dict(training, num_iters_per_epoch=2, accum_grad=1, keep_nbest_models=1)
    parts = ("encoder_conf", "decoder_conf", "joint_net_conf")
    for path in conf.glob("*.yaml"):
        config = yaml.safe_load(path.read_text())
        if path.name.startswith("teacher"):
            for teacher in config:
                teacher.update(local(teacher["name"]))
        elif path.name.startswith("train_asr"):
            tiny = builders.asr_config(config["encoder"])
            config.update({k: {**config[k], **tiny[k]} for k in parts}, **tiny_asr)
        elif path.name == "train_mtkd.yaml":
            config.update(training, keep_nbest_models=1, use_matplotlib=False)
        elif path.name == "train_teacher_transducer.yaml":
            tiny = builders.asr_config("conformer")
            config.update({k: {**config[k], **tiny[k]} for k in parts}, **tiny_asr)
            config["encoder_conf"]["input_layer"] = "linear"
            config["frontend_conf"].update(local("hubert"), layer=3)
            config["preencoder_conf"].update(
                input_size=2 * builders.DIM, output_size=builders.DIM
            )
        builders.write_yaml(path, config)
