"""An ESPnet recogniser's encoder as a teacher, against ESPnet's own."""

import shutil

import builders
import pytest
import soundfile
import torch
from espnet_models import CONFIGS, build

from espnet_mtkd.bin import mtkd_doctor, mtkd_extract
from espnet_mtkd.student.blocks import join_blocks
from espnet_mtkd.student.grid import FrameGrid
from espnet_mtkd.targets.fingerprint import compare_config, teacher_fingerprint
from espnet_mtkd.targets.teacher import CachedTeacher
from espnet_mtkd.teachers.base import TeacherConfig
from espnet_mtkd.teachers.espnet import UpstreamExpert
from espnet_mtkd.teachers.espnet_model import find_relative
from espnet_mtkd.teachers.hub import import_s3prl_hub, upstream_names
from espnet_mtkd.teachers.s3prl import S3PRLTeacher, read_teachers


def waves(*seconds):
    return [torch.from_numpy(builders.speech_like(s, i)) for i, s in enumerate(seconds)]


def layers_of(model, wave):
    """Hidden states of one utterance by ESPnet's `encode`, block by block."""
    kept = []
    blocks = list(model.encoder.encoders)

    def keep(module, args, kwargs=None):
        x = args[0]
        kept.append(x[0] if isinstance(x, tuple) else x)

    handles = [block.register_forward_pre_hook(keep) for block in blocks]
    with torch.no_grad():
        out, _ = model.encode(wave[None], torch.tensor([len(wave)]))
    for handle in handles:
        handle.remove()
    return [*kept, out[0] if isinstance(out, tuple) else out]


@pytest.mark.parametrize("name", [*CONFIGS, "over_whisper"])
def test_the_last_layer_is_what_espnet_encodes(models, name):
    folder, model = models(name)
    (wave,) = waves(2.3)
    hidden = UpstreamExpert(str(folder))([wave])["hidden_states"]
    expected = layers_of(model, wave)
    T = expected[-1].size(1)
    assert len(hidden) == len(model.encoder.encoders) + 1
    torch.testing.assert_close(hidden[-1][:, :T], expected[-1])
    for ours, theirs in zip(hidden, expected, strict=True):
        assert ours.shape == hidden[-1].shape
        if theirs.dim() == 3 and name != "conditioned":
            torch.testing.assert_close(ours[:, :T], theirs)


def test_the_blocks_of_a_streaming_encoder_are_put_in_order(models):
    """The last block's frames, normalised, are the output that ESPnet puts together."""
    folder, model = models("contextual_block_conformer")
    (wave,) = waves(2.3)
    kept = []
    handle = model.encoder.encoders[-1].register_forward_hook(
        lambda module, args, output: kept.append(output[0])
    )
    with torch.no_grad():
        out, _ = model.encode(wave[None], torch.tensor([len(wave)]))
        handle.remove()
        joined = join_blocks(kept[0], out.size(1), model.encoder)
        torch.testing.assert_close(model.encoder.after_norm(joined), out)
    hidden = UpstreamExpert(str(folder))([wave])["hidden_states"]
    assert not torch.allclose(hidden[1], hidden[2])


@pytest.mark.parametrize("name", [*CONFIGS, "over_whisper"])
def test_padding_changes_nothing(models, name):
    folder, _ = models(name)
    teacher = S3PRLTeacher(
        TeacherConfig("t", "espnet_local", path_or_url=str(folder), layers=(0, 1, -1))
    )
    speech = waves(1.1, 2.3, 0.7)
    lengths = torch.tensor([len(w) for w in speech])
    batch = torch.randn(3, int(lengths.max()))
    for row, wave in zip(batch, speech, strict=True):
        row[: len(wave)] = wave
    together = teacher(batch, lengths)
    for i, wave in enumerate(speech):
        alone = teacher(wave[None], lengths[i : i + 1])
        for key, (target, num_frames) in alone.items():
            T = int(num_frames)
            assert T == int(together[key][1][i]) > 0
            torch.testing.assert_close(
                together[key][0][i, :T], target[0], atol=1e-4, rtol=1e-4
            )


def test_utterances_are_run_together_as_far_as_that_changes_nothing(models):
    modes = {
        name: UpstreamExpert(str(models(name)[0])).batch_mode
        for name in ("conformer", "contextual_block_conformer", "over_whisper")
    }
    assert modes == {
        "conformer": "features alone",
        "contextual_block_conformer": "alone",
        "over_whisper": "together",
    }


@pytest.mark.parametrize("name", list(CONFIGS))
def test_frames_are_where_receptive_fields_say(models, name):
    folder, model = models(name)
    upstream = UpstreamExpert(str(folder))
    grid = FrameGrid.of(model.frontend, model.encoder)
    assert (upstream.frame_shift, upstream.frame_centre) == (grid.shift, grid.centre)
    samples = torch.arange(300, 40000, 77)
    theirs = grid.num_valid_frames(samples)
    difference = upstream.num_valid_frames(samples) - theirs
    # The grid counts the transform's 512 samples; a window of 400 hears 56 less ahead.
    assert int(difference.min()) >= 0 and int(difference.max()) <= 1
    assert float(difference.float().mean()) == pytest.approx(57 / 640, abs=0.01)
    with torch.no_grad():
        for num in (2000, 16000, 23456):
            _, frames = model.encode(torch.randn(1, num), torch.tensor([num]))
            assert upstream.num_valid_frames(torch.tensor(num)) <= int(frames)


def test_over_whisper_a_frame_is_two_of_whispers(models):
    upstream = UpstreamExpert(str(models("over_whisper")[0]))
    assert (upstream.frame_shift, upstream.frame_centre) == (640, 160)
    assert upstream.num_valid_frames(torch.tensor([639, 640, 16000])).tolist() == [
        *(0, 1, 25)
    ]
    assert upstream.max_samples == 30 * 16000


def test_no_block_is_run_that_nobody_asked_for(models):
    folder, _ = models("conformer")
    config = TeacherConfig("t", "espnet_local", path_or_url=str(folder), layers=(1,))
    teacher = S3PRLTeacher(config)
    blocks = teacher._network.upstream._blocks
    blocks[1].register_forward_pre_hook(lambda *args: pytest.fail("it was run"))
    speech = torch.stack(waves(1.0))
    target, _ = teacher(speech, torch.tensor([16000]))["t_l1"]
    assert not target.requires_grad and not blocks[0].training


def test_it_is_in_the_list_of_upstreams():
    assert "espnet_local" in upstream_names(import_s3prl_hub())


def test_the_doctor_tells_what_it_is(models, tmp_path, capsys):
    entry = dict(name="asr", upstream="espnet_local", layers=[0, -1])
    entry["path_or_url"] = str(models("conformer")[0])
    teachers = builders.write_yaml(tmp_path / "teachers.yaml", [entry])
    mtkd_doctor.main(["--teachers", str(teachers)])
    rows = [x.split() for x in capsys.readouterr().out.splitlines()]
    rows = {row[0]: row[1:] for row in rows if row}
    for name in (
        "asr_l0",
        "asr_l2",
    ):  # upstream, parameters, hidden, dim, shift, centre
        assert rows[name][0] == "espnet_local"
        assert rows[name][2:6] == ["3", "16", "40", "30.0"]
    assert "licence unknown: check; it has learnt from transcripts" in " ".join(
        rows["teacher"]
    )


def test_a_packed_model_is_read(models, tmp_path):
    folder, _ = models("conformer")
    inner = tmp_path / "pack/exp/asr_x"
    shutil.copytree(folder, inner)
    (inner / "valid.loss.ave.pth").rename(inner / "valid.acc.ave_10best.pth")
    meta = dict(
        files=dict(asr_model_file="exp/asr_x/valid.acc.ave_10best.pth"),
        yaml_files=dict(asr_train_config="exp/asr_x/config.yaml"),
    )
    builders.write_yaml(tmp_path / "pack/meta.yaml", meta)
    (wave,) = waves(1.0)
    expected = UpstreamExpert(str(folder))([wave])["hidden_states"]
    for where in (tmp_path / "pack", inner, inner / "valid.acc.ave_10best.pth"):
        found = UpstreamExpert(str(where))([wave])["hidden_states"]
        torch.testing.assert_close(found[-1], expected[-1])


def test_files_are_looked_for_above_the_config(tmp_path):
    config = tmp_path / "recipe/exp/asr_x/config.yaml"
    (tmp_path / "recipe/downloads/w").mkdir(parents=True)
    options = dict(path_or_url="downloads/w", extra_conf=dict(a=["b/c"]), url="hub/x")
    found = find_relative(options, config)
    assert found == {**options, "path_or_url": str(tmp_path / "recipe/downloads/w")}


def test_stored_targets_of_other_weights_are_refused(models, tmp_path):
    folder = tmp_path / "exp"
    shutil.copytree(models("conformer")[0], folder)
    config = TeacherConfig("t", "espnet_local", path_or_url=str(folder))
    fingerprint = teacher_fingerprint(S3PRLTeacher(config))
    (folder / "train.log").write_text("what a training or decoding adds\n")
    (folder / "RESULTS.md").write_text("...\n")
    assert compare_config(config, fingerprint) is None
    other = build(tmp_path / "other", CONFIGS["conformer"], seed=4)
    torch.save(other.state_dict(), folder / "valid.loss.ave.pth")
    assert "checkpoint: expected that of" in compare_config(config, fingerprint)
    weights = teacher_fingerprint(S3PRLTeacher(config))["weights"]
    assert weights != fingerprint["weights"]


def test_what_is_stored_is_what_it_teaches_live(models, corpus, tmp_path):
    entry = dict(name="asr", upstream="espnet_local", layers=[0, -1])
    entry["path_or_url"] = str(models("conformer")[0])
    teachers = builders.write_yaml(tmp_path / "teachers.yaml", [entry])
    command = ["--teachers", teachers, "--data_dir", corpus.valid]
    command += ["--out_dir", tmp_path / "targets", "--form", "fp16"]
    mtkd_extract.main([str(x) for x in command])
    (config,) = read_teachers(str(teachers))
    live, stored = S3PRLTeacher(config), CachedTeacher(config, tmp_path / "targets")
    assert stored.targets == live.targets
    for line in (corpus.valid / "wav.scp").read_text().splitlines():
        utt, path = line.split()
        wave = torch.from_numpy(soundfile.read(path, dtype="float32")[0])
        batch = wave[None], torch.tensor([len(wave)]), [utt]
        expected, found = live(*batch), stored(*batch)
        for name, (target, num_frames) in expected.items():
            assert torch.equal(found[name][1], num_frames)
            torch.testing.assert_close(found[name][0], target, rtol=2e-3, atol=2e-3)
