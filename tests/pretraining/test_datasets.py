"""Utterances are known by data set and id, in training as in the stores."""

import builders
import pytest
import soundfile

from espnet_mtkd.bin.mtkd_train import main
from espnet_mtkd.errors import ConfigError
from espnet_mtkd.pretraining.datasets import NamedCollateFn, check_names
from espnet_mtkd.results.report import read_curve


def test_the_collate_function_gives_names_and_lengths_and_nothing_else():
    calls = []

    def espnets(data):
        calls.append(data)
        return [utt for utt, _ in data], {"speech": "padded"}

    collate = NamedCollateFn("dev", espnets)
    first, second = {"speech": [0.0] * 3}, {"speech": [0.0] * 5}
    utts, batch = collate([("a/b", first), ("c", second)])
    assert utts == ["dev/a/b", "dev/c"]
    assert batch == {"speech": "padded", "num_samples": (3, 5)}
    assert calls == [[("dev/a/b", first), ("dev/c", second)]]


@pytest.mark.remedy(
    "by which their utterances are told apart: rename one",
)
def test_two_sets_of_one_name_are_refused():
    check_names(["x/train/wav.scp", "y/dev/wav.scp", "x/train/wav.scp"])
    with pytest.raises(ConfigError, match="x/train/wav.scp, y/train/wav.scp: .*rename"):
        check_names(["x/train/wav.scp", "y/train/wav.scp"])
    check_names(["x/train/wav.scp", "y/other/wav.scp"])


def test_shared_ids_change_no_loss(stage1_command, two_teachers, corpus, tmp_path):
    """Two recordings of one id and length in training and validation set."""
    for name, seed in (("train", 1), ("dev", 2), ("renamed", 2)):
        folder = tmp_path / name
        folder.mkdir()
        ids = "own" if name == "renamed" else "clip"
        scp, shape = [], []
        for i in range(3):
            path = folder / f"{i}.flac"
            wave = builders.speech_like(1.5, 10 * seed + i)
            soundfile.write(path, wave, builders.SAMPLE_RATE)
            scp.append(f"{ids}{i} {path}\n")
            shape.append(f"{ids}{i} {len(wave)}\n")
        (folder / "wav.scp").write_text("".join(scp))
        (folder / "speech_shape").write_text("".join(shape))
    losses = []
    for valid in ("dev", "renamed"):
        words = stage1_command(tmp_path / f"exp_{valid}", two_teachers)
        changes = [(str(corpus.train), "train"), (str(corpus.valid), valid)]
        for old, new in changes:
            words = [x.replace(old, str(tmp_path / new)) for x in words]
        main(words)
        losses.append(
            [read_curve(tmp_path / f"exp_{valid}", x) for x in ("train", "valid")]
        )
    assert losses[0] == losses[1]
