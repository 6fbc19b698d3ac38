"""Whisper's encoder as an upstream, against `transformers`."""

import os
from pathlib import Path

import builders
import numpy as np
import pytest
import torch

from espnet_mtkd.errors import ConfigError, DataError
from espnet_mtkd.teachers.hub import import_s3prl_hub
from espnet_mtkd.teachers.whisper import LogMel, UpstreamExpert

MIRROR = "MTKD_TEACHER_MIRROR"


def audio(*seconds):
    """List of speech-like waveforms (N,)."""
    return [torch.from_numpy(builders.speech_like(s, i)) for i, s in enumerate(seconds)]


@pytest.fixture(scope="module")
def feature_extractor():
    from transformers import WhisperFeatureExtractor

    return WhisperFeatureExtractor(feature_size=80)


@pytest.fixture(scope="module")
def reference(checkpoints):
    """`transformers`' model of the same directory."""
    from transformers import WhisperModel

    return WhisperModel.from_pretrained(checkpoints["whisper_local"]).eval()


def extract(extractor, waves):
    return extractor(
        [w.numpy() for w in waves], sampling_rate=16000, return_tensors="pt"
    ).input_features


@torch.no_grad()
def test_hidden_states_over_30_s_are_those_of_transformers(
    checkpoints, reference, feature_extractor
):
    waves = audio(2.0, 3.7, 0.4)
    expert = UpstreamExpert(str(checkpoints["whisper_local"]), pad_to_30s=True).eval()
    hidden = expert(waves)["hidden_states"]
    expected = reference.encoder(
        extract(feature_extractor, waves), output_hidden_states=True
    ).hidden_states
    assert len(hidden) == len(expected) == builders.NUM_LAYERS + 1
    frames = -(-len(waves[1]) // 320)  # as many as the longest has, begun ones counted
    for ours, theirs in zip(hidden, expected, strict=True):
        assert ours.shape == (3, frames, builders.DIM)
        torch.testing.assert_close(ours, theirs[:, :frames], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("seconds", [0.5, 3.21, 30.0])
def test_log_mel_is_the_feature_extractors(feature_extractor, seconds):
    (wave,) = audio(seconds)
    padded = torch.nn.functional.pad(wave, (0, 30 * 16000 - len(wave)))
    ours = LogMel(80)(padded)
    expected = extract(feature_extractor, [wave])[0]
    assert ours.shape == expected.shape == (80, 3000)
    np.testing.assert_allclose(ours.numpy(), expected.numpy(), atol=2e-4)


@torch.no_grad()
def test_hugging_face_directory_and_openai_file_give_the_same(checkpoints):
    waves = audio(1.0, 0.6)
    ours = UpstreamExpert(str(checkpoints["whisper_local"])).eval()(waves)
    openai = UpstreamExpert(str(checkpoints["whisper_openai"])).eval()(waves)
    for a, b in zip(ours["hidden_states"], openai["hidden_states"], strict=True):
        assert torch.equal(a, b)


@torch.no_grad()
@pytest.mark.parametrize("pad_to_30s", [False, True])
def test_values_do_not_depend_on_neighbours(checkpoints, pad_to_30s):
    expert = UpstreamExpert(str(checkpoints["whisper_local"]), pad_to_30s).eval()
    waves = audio(1.0, 2.6, 0.43)
    together = expert(waves)["hidden_states"]
    for b, wave in enumerate(waves):
        n = expert.num_valid_frames(len(wave))
        for h, alone in zip(together, expert([wave])["hidden_states"], strict=True):
            torch.testing.assert_close(h[b, :n], alone[0, :n], atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_shortest_audio_gives_one_frame_and_longest_1500(checkpoints):
    expert = UpstreamExpert(str(checkpoints["whisper_local"])).eval()
    for num_samples, frames in ((1, 1), (320, 1), (400, 1), (640, 2), (480000, 1500)):
        wave = torch.from_numpy(builders.speech_like(30.0, 3)[:num_samples])
        hidden = expert([wave])["hidden_states"]
        assert hidden[-1].shape == (1, frames, builders.DIM)
        assert hidden[-1].isfinite().all()


def test_more_than_30_s_is_a_data_error(checkpoints):
    expert = UpstreamExpert(str(checkpoints["whisper_local"]))
    with pytest.raises(DataError, match="480000 samples .30 s., found 480001") as error:
        expert([torch.zeros(16000), torch.zeros(480001)])
    assert error.value.exit_code == 4


def test_all_sizes_are_upstreams_of_s3prl():
    names = import_s3prl_hub().options()
    for size in ("tiny", "tiny_en", "base", "base_en", "small", "medium", "large_v3"):
        assert f"whisper_{size}" in names
    assert "whisper_local" in names


def test_an_incomplete_directory_names_the_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="config.json"):
        UpstreamExpert(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="model.safetensors"):
        UpstreamExpert(str(tmp_path))


def test_weights_of_another_size_are_refused_by_name(checkpoints, tmp_path):
    import json
    import shutil

    folder = tmp_path / "whisper"
    shutil.copytree(checkpoints["whisper_local"], folder)
    config = json.loads((folder / "config.json").read_text())
    config["encoder_layers"] += 1
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="missing .*layers.4"):
        UpstreamExpert(str(folder))


@pytest.mark.skipif(MIRROR not in os.environ, reason=f"{MIRROR} is not set")
@torch.no_grad()
@pytest.mark.parametrize("name", ["whisper_tiny_en", "whisper_base"])
def test_leaving_out_the_padding_keeps_most_of_the_embeddings(name):
    """A loose bound: silence changes what attention sees, but not the speech's gist."""
    folder = str(Path(os.environ[MIRROR]) / name)
    waves = audio(4.0)
    full = UpstreamExpert(folder, pad_to_30s=True).eval()(waves)["hidden_states"]
    cut = UpstreamExpert(folder).eval()(waves)["hidden_states"]
    for layer, (a, b) in enumerate(zip(full, cut, strict=True)):
        cosine = torch.nn.functional.cosine_similarity(a[0, :200], b[0], dim=-1)
        assert cosine.mean() > (0.99 if layer == 0 else 0.5), layer


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("gain", [1.0, 0.003])
def test_log_mel_is_computed_in_fp32_under_autocast(dtype, gain):
    """Half precision has no numbers as small as the energies of quiet audio."""
    wave = gain * torch.from_numpy(builders.speech_like(1.0, 0))
    with torch.autocast("cpu", dtype):
        found = LogMel(80)(wave)
    torch.testing.assert_close(found, LogMel(80)(wave), rtol=0, atol=0)
