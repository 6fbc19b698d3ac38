"""mini_an4's recipe on ESPnet's own archive."""

import os

import builders
import pytest
import soundfile

WORDS = {  # of ESPnet's archive
    "train_nodev": ["GO", "MARCH THIRD NINETEEN TWENTY EIGHT", "START"]
    + ["ELEVEN SEVENTEEN FIFTY ONE"],
    "train_dev": ["YES"],
    "test": ["ELEVEN TWENTY SEVEN FIFTY SEVEN", "OCTOBER TWENTY FOUR NINETEEN SEVENTY"],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory, warm_python):
    """Function: run.sh with options -> its output; it has to end well."""
    recipe = builders.mirror_recipe(tmp_path_factory.mktemp("an4"), "mini_an4")
    builders.give_python(recipe, warm_python)

    def run(*options) -> str:
        command = ["./run.sh", "--python", warm_python, "--num_threads", "1", *options]
        result = builders.run_group(command, recipe)
        assert result.returncode == 0, result.stdout[-6000:]
        return result.stdout

    run.recipe = recipe
    return run


@pytest.fixture(scope="module")
def prepared(run):
    """The recipe's directory after stages 1 to 6, and what they told."""
    text = run("--rows", "scratch", "--stop_stage", "6")
    return run.recipe, text


def lines_of(path) -> dict[str, str]:
    return dict(x.split(maxsplit=1) for x in path.read_text().splitlines())


def test_sets_are_those_of_espnets_recipe(prepared):
    recipe, _ = prepared
    for dset, texts in WORDS.items():
        assert list(lines_of(recipe / "data" / dset / "text").values()) == texts
        scp = lines_of(recipe / "data" / dset / "wav.scp")
        for utt, path in scp.items():
            speaker, *name = utt.split("-")
            assert path.endswith(f"/{speaker}/{name[0]}-{speaker}-{name[1]}.sph")
            assert soundfile.info(recipe / path).samplerate == builders.SAMPLE_RATE
    assert lines_of(recipe / "data/test_seg/text") == lines_of(
        recipe / "data/test/text"
    )


def test_stages_1_to_6_run_once(prepared, run):
    recipe, text = prepared
    for stage in (1, 3, 4, 5, 6):  # (2 is for speed perturbation)
        assert f"run_stage) Stage {stage}: " in text
    assert len(lines_of(recipe / "dump/raw/train_nodev/wav.scp")) == 4
    assert (recipe / "exp/asr_stats_raw_en_char/train/feats_stats.npz").is_file()
    # Segments are cut: 2.9 and 2.3 s.
    lengths = lines_of(recipe / "dump/raw/test_seg/utt2num_samples")
    assert sorted(lengths.values()) == ["36800", "46400"]
    again = run("--rows", "scratch", "--stop_stage", "6")
    # 3: train, valid, two test sets; 4: the first two together, the others
    assert again.count(": finished before") == 1 + 4 + 3 + 1 + 1


@pytest.mark.skipif(
    "MTKD_TEACHER_MIRROR" not in os.environ, reason="fetches the two teachers"
)
def test_both_teachers_pretrain_an_epoch(prepared, run):
    recipe, _ = prepared
    run("--rows", "live", "--stop_stage", "10")
    log = (recipe / "exp/mtkd_conformer_teachers/train.log").read_text()
    assert "cosine_whisper_base_l4=" in log and "cosine_whisper_tiny_en_l3=" in log
    assert (recipe / "exp/mtkd_conformer_teachers/valid.loss.best.pth").is_file()
