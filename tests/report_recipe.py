"""A recipe's experiments with all that a page can show, small, by the real sclite."""

import shutil
from pathlib import Path

import builders
import numpy as np
import soundfile
from sclite_scores import HYPOTHESES, REFERENCE, score

RATE = 16000
EVIL = "<script>document.title='taken'</script>"
STREAM_LOG = """\
# python3 -m espnet_mtkd.bin.mtkd_asr_stream --asr_model_file exp/asr_stream/x.pth
encoder: block_size 480 ms, hop_size 160 ms, look_ahead 160 ms
first token latency (2): algorithmic median 500 ms, p90 600 ms; with computation \
median 510 ms, p90 620 ms
word latency (12): algorithmic median 480 ms, p90 720 ms; with computation median \
495 ms, p90 741 ms
word latency, algorithmic, words by 80 ms: 400:3 480:7 720:2
RTF: 0.075 (0.25 s / 3.30 s)
"""
CURVES = {  # of stage 1: tag -> values of the validation set
    "cosine_hubert_l2": [0.1, 0.5],
    "loss_hubert_l2": [1.5, 0.9],
    "cosine_wavlm_l10": [0.2, 0.75],
    "loss_wavlm_l10": [1.4, 0.6],
}


def write_curve(run_dir: Path, curves: dict[str, list[float]], loss: list[float]):
    """What ESPnet's trainer leaves for tensorboard, three updates an epoch."""
    from torch.utils.tensorboard import SummaryWriter

    for phase in ("train", "valid"):
        with SummaryWriter(str(run_dir / "tensorboard" / phase)) as writer:
            for epoch, value in enumerate(loss, 1):
                writer.add_scalar("loss", value, 3 * epoch)
                if phase == "train":
                    writer.add_scalar("iter_epoch", epoch, 3 * epoch)
                for tag, values in curves.items():
                    writer.add_scalar(tag, values[epoch - 1], 3 * epoch)


def write_audio(recipe: Path, seconds=0.5) -> list[Path]:
    """A tone for each scored utterance, in dump/raw/test, pitch by number."""
    folder = recipe / "dump/raw/test"
    folder.mkdir(parents=True)
    lines, files = [], []
    time = np.arange(int(seconds * RATE)) / RATE
    for i in range(len(REFERENCE)):
        path = folder / f"utt{i}.flac"
        soundfile.write(path, 0.3 * np.sin(2 * np.pi * (300 + 200 * i) * time), RATE)
        lines.append(f"utt{i} dump/raw/test/utt{i}.flac\n")
        files.append(path)
    (folder / "wav.scp").write_text("".join(lines))
    (folder / "utt2spk").write_text("".join(f"utt{i} spk\n" for i in range(4)))
    return files


def build(recipe: Path) -> list[tuple[str, Path]]:
    """Rows: from scratch, two teachers (offline and streamed), without one of them."""
    exp = recipe / "exp"
    evil = [f"{EVIL} PRESS", *HYPOTHESES["scratch"][1:]]
    hypotheses = dict(
        scratch=HYPOTHESES["scratch"],
        taught=HYPOTHESES["taught"],
        stream=HYPOTHESES["taught"],
        less=evil,
    )
    for name, texts in hypotheses.items():
        folder = exp / f"asr_{name}"
        score(folder, texts)
        log = f"# python3 -m espnet2.bin.asr_train --tag {name}\n"
        log += "[vm] 2026-11-28 (trainer:77) INFO: machine: 2 cores of A, Linux\n"
        log += "Number of model parameters: 2.87 M\n"
        (folder / "train.log").write_text(log)
        config = dict(optim_conf=dict(lr=0.1 if name == "scratch" else 0.001))
        if name != "scratch":
            mtkd = exp / f"mtkd_{name}"
            config["init_param"] = [f"{mtkd}/valid.loss.best.pth:encoder:encoder"]
            mtkd.mkdir()
            teachers = [dict(name="hubert", layers=[2]), dict(name="wavlm")]
            curves = CURVES
            if name == "less":  # without hubert
                teachers = teachers[1:]
                curves = {k: v for k, v in CURVES.items() if "hubert" not in k}
            builders.write_yaml(mtkd / "config.yaml", dict(teachers=teachers))
            write_curve(mtkd, curves, [1.45, 0.75])
        builders.write_yaml(folder / "config.yaml", config)
        write_curve(folder, {}, [9.0, 5.0, 4.0])
    shutil.copytree(exp / "asr_stream/decode_asr", exp / "asr_stream/decode_stream")
    (exp / "asr_stream/decode_stream/test/stream.log").write_text(STREAM_LOG)
    (exp / "asr_taught/RESULTS.md").write_text(
        "# RESULTS\n## Environments\n- date: `today`\n- pytorch version: `2.11`\n\n"
        "## exp/asr_taught\n"
    )
    (exp / "stage_times.tsv").write_text(
        "asr_scratch\t11\ttransducer training: a -> exp/asr_scratch\t3700\n"
        "asr_taught\t9\tpre-training: a -> exp/mtkd_taught\t75\n"
        "asr_other\t9\tpre-training: a -> b\t9999\n"
    )
    return [
        ("conformer: from scratch", exp / "asr_scratch"),
        ("conformer: two teachers", exp / "asr_taught"),
        ("conformer: without hubert", exp / "asr_less"),
        ("conformer: streaming", exp / "asr_stream"),
    ]


PAIRS = [
    ("conformer: two teachers", "conformer: from scratch"),
    ("conformer: without hubert", "conformer: two teachers"),
]
