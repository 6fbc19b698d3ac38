"""examples/ as a user runs them, and ESPnet3's way to a task of ESPnet2's kind."""

import os
import shutil
import subprocess
import sys

import builders
import soundfile
import torch
import yaml


def test_both_stages_from_python_give_what_stock_espnet_decodes(
    corpus, two_teachers, tmp_path
):
    folder, exp = tmp_path / "corpus", tmp_path / "exp"
    for part in (corpus.train, corpus.valid):
        shutil.copytree(part, folder / part.name)
        (folder / part.name / "speech_shape").unlink()
    shutil.copy(corpus.tokens, folder / "tokens.txt")
    shutil.copy(two_teachers, folder / "teachers.yaml")
    builders.write_yaml(folder / "train_mtkd.yaml", builders.mtkd_config(max_epoch=1))
    builders.write_yaml(folder / "train_asr.yaml", builders.asr_config("conformer"))
    subprocess.run(
        [sys.executable, builders.ROOT / "examples/distil.py", folder, exp],
        check=True,
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    before = torch.load(exp / "mtkd/valid.loss.best.pth", weights_only=True)
    after = torch.load(exp / "asr/valid.loss.best.pth", weights_only=True)
    names = [n for n in before if n.startswith("encoder.") and n.endswith("weight")]
    assert len(names) > 20
    for name in names:  # one epoch at lr 0.002: near where it began
        assert (after[name] - before[name]).abs().max() < 0.1, name
    from espnet2.bin.asr_inference import Speech2Text

    speech2text = Speech2Text(
        exp / "asr/config.yaml", exp / "asr/valid.loss.best.pth", beam_size=1
    )
    audio = next(corpus.valid.glob("*.flac"))
    text, *_ = speech2text(soundfile.read(audio)[0])[0]
    assert isinstance(text, str)


def test_espnet3_builds_stage_1_by_its_task_key(two_teachers):
    from espnet3.utils.task_utils import get_espnet_model

    asr = builders.asr_config("conformer")
    config = {
        "teachers": yaml.safe_load(two_teachers.read_text()),
        **{k: asr[k] for k in ("frontend_conf", "encoder", "encoder_conf")},
    }
    model = get_espnet_model("espnet_mtkd.task.MTKDTask", config)
    speech = torch.from_numpy(builders.speech_like(1.2, 7))[None]
    lengths = torch.tensor([speech.size(1)])
    model.observe_targets(speech, lengths)
    for standardizer in model.standardizers.values():
        standardizer.fit()
    loss, stats, _ = model(speech, lengths, utt_id=["u"])
    loss.backward()
    assert {"loss_whisper_l3", "loss_hubert_l1", "loss_hubert_l4"} <= stats.keys()
    assert all(p.grad is not None for p in model.encoder.parameters())
