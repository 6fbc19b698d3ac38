"""A recipe's directory with a finished student, as stages 5 to 13 leave it."""

import shutil
from pathlib import Path

import builders
import streaming_models
import torch
import yaml

COMMAND = [
    *("--asr_exp", "exp/asr_tiny", "--mtkd_exp", "exp/mtkd_tiny"),
    *("--kd_teacher_exp", "exp/asr_paths"),
    *("--license", "cc-by-sa-3.0", "--language", "en", "--corpus", "A Corpus"),
    *("--inference_args", "--beam_size 1"),
]
# Of a student that `from_scratch` has made of it.
SCRATCH_COMMAND = [*COMMAND[:2], *COMMAND[6:]]
# Raw counts as sclite prints them: sentences, words; correct, substituted, deleted,
# inserted, errors, sentences with errors.
COUNTS = {
    "wer": (20, 123, 80, 30, 13, 4, 47, 15),
    "cer": (20, 700, 600, 60, 40, 5, 105, 15),
}
TEACHERS = [
    dict(
        name="whisper", upstream="whisper_local", path_or_url="downloads/whisper_base"
    ),
    dict(name="wavlm", upstream="wavlm_large", layers=[9, 18], path_or_url=None),
    dict(name="mms", upstream="hf_wav2vec2_custom", path_or_url="facebook/mms-1b"),
]


def write_score(folder: Path, counts: dict) -> None:
    """Tables of sclite with these counts."""
    for unit, (sent, words, *rest) in counts.items():
        path = folder / f"score_{unit}" / "result.txt"
        path.parent.mkdir(parents=True)
        row = f"| Sum | {sent} {words} | {' '.join(map(str, rest))} |"
        path.write_text(f"| SPKR | # Snt # Wrd | Corr Sub |\n{row}\n")


def write_recipe(root: Path) -> None:
    """What stages 5 to 13 leave: paths partly absolute, keys of this package, logs."""
    stats = root / "exp/asr_stats/train"
    stats.mkdir(parents=True)
    config_file, model_file = streaming_models.build(stats)
    asr, mtkd = root / "exp/asr_tiny", root / "exp/mtkd_tiny"
    for folder in (asr, mtkd):
        (folder / "images").mkdir(parents=True)
        shutil.copy(builders.ROOT / "egs2/asterisk/mtkd1/curves.png", folder / "images")
    config = yaml.safe_load(config_file.read_text())
    config.update(
        output_dir=str(asr),
        train_data_path_and_name_and_type=[
            ["dump/raw/train/wav.scp", "speech", "sound"]
        ],
        train_shape_file=["exp/stats/speech_shape"],
        init_param=[f"{mtkd}/valid.loss.best.pth:encoder:encoder"],
        dist_master_addr="a.host.example",
        wandb_entity="somebody",
        path_targets_dir=f"{root}/exp/paths",
        transducer_loss="sliced",
        version="202611",
    )
    builders.write_yaml(asr / "config.yaml", config)
    shutil.move(model_file, asr / "valid.loss.ave_5best.pth")
    (asr / "valid.loss.ave.pth").symlink_to("valid.loss.ave_5best.pth")
    (stats / "stats.npz").rename(stats / "feats_stats.npz")
    config["normalize_conf"]["stats_file"] = str(stats / "feats_stats.npz")
    builders.write_yaml(asr / "config.yaml", config)
    (asr / "RESULTS.md").write_text(f"# RESULTS\n## {asr}\n|dataset|\n")
    (asr / "train.log").write_text(f"# {root} on a.host.example\n")
    (root / "exp/stats").mkdir()
    (root / "exp/stats/speech_shape").write_text("a 16000\nb 32000\n")
    write_score(asr / "decode_asr_asr_model_valid.loss.ave/test", COUNTS)

    (root / "exp/asr_paths").mkdir()
    whisper = dict(upstream="whisper_local", path_or_url="downloads/whisper_small")
    builders.write_yaml(
        root / "exp/asr_paths/config.yaml",
        dict(frontend="mtkd_teacher", frontend_conf=whisper),
    )
    keys = ("frontend", "frontend_conf", "normalize", "normalize_conf", "encoder")
    stage1 = {k: config[k] for k in (*keys, "encoder_conf")}
    stage1.update(teachers=TEACHERS, align="concat", output_dir=str(mtkd))
    builders.write_yaml(mtkd / "config.yaml", stage1)
    state = torch.load(asr / "valid.loss.ave.pth", weights_only=True)
    state = {
        k: v + 0
        for k, v in state.items()
        if k.split(".")[0] in ("encoder", "normalize")
    }
    state["heads.whisper_l4.weight"] = torch.ones(3, 3)
    torch.save(state, mtkd / "valid.loss.best.pth")


def from_scratch(root: Path) -> None:
    """Let the student's config name nothing that it learnt from."""
    path = root / "exp/asr_tiny/config.yaml"
    config = yaml.safe_load(path.read_text())
    del config["init_param"], config["path_targets_dir"]
    builders.write_yaml(path, config)
