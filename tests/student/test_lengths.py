"""How short an utterance may be, against ESPnet's own layers."""

import argparse

import builders
import pytest
import torch
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import (
    TooShortUttError,
)

from espnet_mtkd.errors import DataError
from espnet_mtkd.student.build import build_student
from espnet_mtkd.student.lengths import INPUT_LAYERS, check_lengths, least_samples


@pytest.mark.parametrize("layer", INPUT_LAYERS)
@pytest.mark.parametrize(
    "conf",
    [
        dict(n_fft=512, hop_length=128),
        dict(n_fft=512, hop_length=160),
        dict(n_fft=512, hop_length=160, center=False),
        dict(n_fft=2048, hop_length=64),
        dict(n_fft=2048, hop_length=64, center=False),
        {},
    ],
)
def test_one_sample_less_is_too_few_frames(layer, conf):
    config = builders.asr_config("conformer")
    config["frontend_conf"] = conf
    config["encoder_conf"] = {**config["encoder_conf"], "input_layer": layer}
    args = {
        **vars(builders.student_args("conformer")),
        "frontend_conf": config["frontend_conf"],
        "encoder_conf": config["encoder_conf"],
    }
    frontend, _, _, encoder = build_student(argparse.Namespace(**args))

    def count(num_samples: int) -> int:
        try:
            feats, lengths = frontend(
                torch.randn(1, num_samples), torch.tensor([num_samples])
            )
            return encoder.eval()(feats, lengths)[0].size(1)
        except (RuntimeError, TooShortUttError):  # less than a window, or a kernel
            return 0

    least = least_samples(config)
    assert count(least - 1) < 2 <= count(least)


def test_a_config_without_these_names_is_left_alone():
    assert least_samples({"frontend": "mtkd_teacher"}) is None
    assert least_samples({"encoder_conf": {"input_layer": "embed"}}) is None


@pytest.mark.remedy(
    "leave them out: --min_wav_duration",
)
def test_short_utterances_are_named_and_the_option_that_helps_is_right(tmp_path):
    config = builders.write_yaml(
        tmp_path / "asr.yaml", builders.asr_config("conformer")
    )
    lengths = tmp_path / "utt2num_samples"
    least = least_samples(builders.asr_config("conformer"))
    lengths.write_text(f"a 32000\nb {least - 1}\nc {least}\n")
    with pytest.raises(
        DataError, match=rf": 1 utterances .*: b \({least - 1}\): "
    ) as e:
        check_lengths(config, [lengths])
    seconds = float(str(e.value).rpartition("--min_wav_duration ")[2])
    assert least <= seconds * 16000 < least + 400  # asr.sh keeps what is longer
    lengths.write_text(f"c {least}\n")
    check_lengths(config, [lengths])
