"""examples/ as a user runs them."""

import os
import re
import shutil
import subprocess
import sys

import builders
import pytest
import soundfile
import stub_recipe
import torch
import yaml
from torch.nn.utils.rnn import pad_sequence

from espnet_mtkd.bin import mtkd_extract, mtkd_handover
from espnet_mtkd.pretraining.task import MTKDTask
from espnet_mtkd.teachers.base import parse_teachers
from espnet_mtkd.teachers.s3prl import TeacherPool


def test_both_stages_from_python_give_what_stock_espnet_decodes(
    corpus, two_teachers, tmp_path
):
    folder, exp = tmp_path / "my corpus", tmp_path / "my exp"
    for part in (corpus.train, corpus.valid):
        shutil.copytree(part, folder / part.name)
        (folder / part.name / "speech_shape").unlink()
    shutil.copy(corpus.tokens, folder / "tokens.txt")
    shutil.copy(two_teachers, folder / "teachers.yaml")
    builders.write_yaml(folder / "train_mtkd.yaml", builders.mtkd_config(max_epoch=1))
    builders.write_yaml(folder / "train_asr.yaml", builders.asr_config("conformer"))
    for part in (corpus.train, corpus.valid):
        scp = folder / part.name / "wav.scp"
        scp.write_text(scp.read_text().replace(str(part), str(folder / part.name)))

    def distil():
        subprocess.run(
            [sys.executable, builders.ROOT / "examples/distil.py", folder, exp],
            check=True,
            capture_output=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    distil()
    made = {p: p.stat().st_mtime_ns for p in exp.glob("*/1epoch.pth")}
    builders.write_yaml(folder / "train_mtkd.yaml", builders.mtkd_config(max_epoch=2))
    distil()  # stage 1 goes on, stage 2 has ended
    assert len(made) == 2 and (exp / "mtkd/2epoch.pth").is_file()
    assert made == {p: p.stat().st_mtime_ns for p in made}
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
    model = get_espnet_model("espnet_mtkd.pretraining.task.MTKDTask", config)
    speech = torch.from_numpy(builders.speech_like(1.2, 7))[None]
    lengths = torch.tensor([speech.size(1)])
    model.observe_targets(speech, lengths)
    for standardizer in model.objective.standardizers.values():
        standardizer.fit()
    loss, stats, _ = model(speech, lengths, utt_id=["u"])
    loss.backward()
    assert {"loss_whisper_l3", "loss_hubert_l1", "loss_hubert_l4"} <= stats.keys()
    assert all(p.grad is not None for p in model.encoder.parameters())


def test_the_espnet3_example_trains_what_the_reference_configs_do():
    """Its student is written out, as ESPnet3 saves the block as it stands."""
    example = builders.ROOT / "examples/espnet3/train_mtkd.yaml"
    asr = builders.ROOT / "conf/train_asr_conformer_transducer.yaml"
    mtkd = builders.ROOT / "conf/train_mtkd.yaml"
    model, asr, mtkd = (yaml.safe_load(p.read_text()) for p in (example, asr, mtkd))
    model = model["model"]
    for key in ("frontend_conf", "encoder", "encoder_conf"):
        assert model[key] == asr[key]
    for key in ("specaug", "specaug_conf"):
        assert model[key] == mtkd[key]


@pytest.mark.parametrize("mode", ["live", "stored"])
def test_stage_1_by_espnet3(corpus, two_teachers, warm_python, tmp_path, mode):
    """What is written is what ESPnet3 said it was, and stage 2 begins with it."""
    example = builders.ROOT / "examples/espnet3"
    config = yaml.safe_load((example / "train_mtkd.yaml").read_text())
    asr = builders.asr_config("conformer")
    config["model"].update(
        {k: asr[k] for k in ("frontend_conf", "encoder", "encoder_conf")}
    )
    config["model"]["teachers"] = str(two_teachers)
    # One utterance a batch: padding moves HuBERT's hidden states, by its group norm.
    for part, bins in (("train", 1), ("valid", 200000)):
        config["dataloader"][part]["iter_factory"]["batches"]["batch_bins"] = bins
    config["trainer"]["max_epochs"] = 2  # ESPnet3's mean has all epochs but the last
    if mode == "stored":
        config["model"]["targets_dir"] = str(tmp_path / "targets")
        mtkd_extract.main(
            [
                *("--teachers", str(two_teachers), "--form", "fp16", "--exact"),
                *("--data_dir", str(corpus.train), str(corpus.valid)),
                *("--out_dir", str(tmp_path / "targets")),
            ]
        )
    builders.write_yaml(tmp_path / "train_mtkd.yaml", config)
    for part in (corpus.train, corpus.valid):
        shutil.copytree(part, tmp_path / "data" / part.name)
        (tmp_path / "data" / part.name / "speech_shape").unlink()
    doctor = ["-m", "espnet_mtkd.bin.mtkd_doctor", "--teachers", two_teachers]
    doctor += ["--data_dir", "data/train", "data/valid", "--out_dir", "exp/stats"]
    run = [example / "run.py", "--stages", "train"]
    run += ["--training_config", "train_mtkd.yaml"]
    for command in (doctor, run):
        subprocess.run(
            [warm_python, *command],
            check=True,
            capture_output=True,
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    exp = tmp_path / "exp/train_mtkd"
    model_file = exp / "valid.loss.ave_1best.pth"
    model, _ = MTKDTask.build_model_from_file(exp / "config.yaml", model_file)
    pool = TeacherPool(parse_teachers(str(two_teachers)))
    frames = [pool(*read_batch([a])) for a in sorted(corpus.train.glob("*.flac"))]
    for name, standardizer in model.objective.standardizers.items():
        x = torch.cat([f[name][0][0] for f in frames])
        tolerance = dict(rtol=0.001, atol=0.001 * x.std().item())
        torch.testing.assert_close(standardizer.mean, x.mean(0), **tolerance)
        torch.testing.assert_close(
            standardizer.std, x.std(0, correction=0), **tolerance
        )
    paths = sorted(corpus.valid.glob("*.flac"))
    with torch.no_grad():
        loss, *_ = model.eval()(*read_batch(paths), utt_id=[p.stem for p in paths])
    told = re.search(
        r":1epoch:valid: .*[ ,]loss=([0-9.]+)", (exp / "train.log").read_text()
    )
    assert float(told[1]) == pytest.approx(loss.item(), rel=1e-3)
    mtkd_handover.main(
        [
            *("--checkpoint", str(model_file)),
            *("--mtkd_config", str(exp / "config.yaml")),
            *("--asr_config", str(builders.write_yaml(tmp_path / "asr.yaml", asr))),
            *("--wav_scp", str(corpus.valid / "wav.scp")),
        ]
    )


def read_batch(paths):
    """Audio files -> waveforms (B, N), samples (B,)."""
    waves = [torch.from_numpy(soundfile.read(p, dtype="float32")[0]) for p in paths]
    lengths = torch.tensor([len(w) for w in waves])
    return pad_sequence(waves, batch_first=True), lengths


def own_recordings(tmp_path, speakers: int, lines: int):
    """A recipe's folder, a folder of recordings, and the table of most of them."""
    recipe = stub_recipe.build(tmp_path)
    shutil.rmtree(recipe / "data")
    (recipe / "data").mkdir()
    script = builders.ROOT / "examples/own_recordings/data.sh"
    shutil.copy(script, recipe / "local/data.sh")
    audio = tmp_path / "recordings"
    rows = []
    for i in range(lines):
        name = f"day{i % 2}/take{i}.wav"
        (audio / name).parent.mkdir(parents=True, exist_ok=True)
        (audio / name).touch()
        rows.append(f"{name}\tspeaker{i % speakers:02}\ttext of {i}")
    (audio / "day0/nobody_wrote_this.flac").touch()
    (audio / "notes.txt").touch()
    (audio / "table.tsv").write_text("\n".join(rows) + "\n")
    return recipe, audio


def prepare(recipe, audio, code: int = 0) -> str:
    words = ["--audio", audio, "--table", audio / "table.tsv"]
    result = builders.run_group(
        ["local/data.sh", *map(str, words)], recipe, dict(os.environ)
    )
    assert result.returncode == code, result.stdout[-2000:]
    return result.stdout


@pytest.mark.parametrize("speakers", [1, 4, 20])
def test_own_recordings_become_sets(tmp_path, speakers):
    """Each line once; no speaker in two sets, where there are many."""
    recipe, audio = own_recordings(tmp_path, speakers, 40)
    prepare(recipe, audio)
    found, speakers_of = {}, {}
    for name in ("train", "valid", "test"):
        folder = recipe / "data" / name
        scp = dict(x.split() for x in (folder / "wav.scp").read_text().splitlines())
        text = (folder / "text").read_text().splitlines()
        spk = dict(x.split() for x in (folder / "utt2spk").read_text().splitlines())
        speakers_of[name] = {*spk.values()}
        assert len(scp) == len(text) == len(spk) > 0
        for line in text:
            utt, words = line.split(maxsplit=1)
            found[scp[utt]] = f"{spk[utt]}\t{words}"
    table = [x.split("\t") for x in (audio / "table.tsv").read_text().splitlines()]
    assert found == {f"{audio}/{x[0]}": f"{x[1]}\t{x[2]}" for x in table}
    if speakers >= 10:
        sets = list(speakers_of.values())
        assert all(not a & b for a in sets for b in sets if a is not b)
    (line,) = (recipe / "data/untranscribed/wav.scp").read_text().splitlines()
    assert line.split()[1] == f"{audio}/day0/nobody_wrote_this.flac"


@pytest.mark.parametrize(
    "line, message",
    [
        ("take0.wav\ttext", "line 41: expected file, speaker and text, with tabs"),
        ("gone.wav\ta\ttext", "line 41: no such recording: .*/recordings/gone.wav"),
        ("a b.wav\ta\ttext", "line 41: expected a file name without spaces"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    recipe, audio = own_recordings(tmp_path, 3, 40)
    with open(audio / "table.tsv", "a") as table:
        table.write(line + "\n")
    assert re.search(message, prepare(recipe, audio, 4))
