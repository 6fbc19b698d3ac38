"""Fixtures that build tiny real teachers, data and trainings, once per session."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import builders
import hypothesis
import pytest
import torch

from espnet_mtkd.compat import check_types_lazily

os.environ["MPLBACKEND"] = "Agg"
check_types_lazily()  # as the commands do
# No test fails because the machine is busy.
hypothesis.settings.register_profile(
    "patient",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("patient")


# What tests/run.sh --quick leaves out: recipes, processes that import everything anew,
# and trainings of ten seconds and more. Parts of a test's id.
WHOLE = (
    *("tests/egs2/", "tests/test_examples.py", "tests/test_second_device.py"),
    "tests/test_gpu_benchmark.py",
    "tests/report/test_browser.py",
    *("tests/pretraining/test_distributed.py", "tests/student/test_s3prl_upstream.py"),
    *(f"tests/publish/test_{x}.py" for x in ("upload", "stages", "from_pretrained")),
    *("test_torchrun_makes_the_same_store", "test_ten_minutes_take_no_more_memory"),
    *("test_the_seed_chooses_the_students_weights", "test_stock_espnet_trains_from"),
    *("test_codes_are_learnt_by_cross_entropy", "test_paths_change_the_training"),
    *("test_stored_targets_teach_what_live", "test_first_two_epochs_and_the_resumed"),
    *("test_a_learnt_mask_stays_behind", "test_noise_depends_on_neither"),
    "test_teachers_hear_clean_audio",
    *("test_options_of_run_sh_exist", "test_launch.py", "test_ctrl_c_"),
    *("test_lines_are_there_before_the_end", "test_a_second_extraction_changes"),
    *("tests/transducer/test_kept.py", "test_paths_and_kept_teachers_go"),
    *("test_intervals_by_speaker_hold", "test_the_shift_is_hop_times_strides"),
    *(f"{x}/test_remedies.py" for x in ("data", "pretraining", "publish", "streaming")),
    *(f"{x}/test_remedies.py" for x in ("targets", "teachers", "training")),
    *("test_what_messages_on", "test_paths_that_are_not_there", "test_paths_of_"),
    *("tests/training/test_trainer.py", "tests/targets/test_drift.py"),
    "tests/training/test_amp.py",
    *("tests/training/test_memory.py", "tests/targets/test_precision.py"),
    *("test_utterances_without_a_path_are_taken_out", "test_a_reference_is_whole"),
)


# The longest files, the longest first: begun last, they would keep one process at work
# while the others have none left.
LONGEST = [
    *("tests/egs2/test_recipe.py", "tests/egs2/test_page_commands.py"),
    *("tests/egs2/test_librispeech_100.py", "tests/egs2/test_stages.py"),
    *("tests/egs2/test_ladder.py", "tests/egs2/test_ordinary_corpus.py"),
    *("tests/pretraining/test_launch.py", "tests/egs2/test_remedies.py"),
    *("tests/test_second_device.py", "tests/test_gpu_benchmark.py"),
]


def pytest_itemcollected(item):
    """Mark what `-m 'not whole'` leaves out."""
    if any(part in item.nodeid for part in WHOLE):
        item.add_marker(pytest.mark.whole)


@pytest.hookimpl(trylast=True)  # after pytest-randomly has shuffled
def pytest_collection_modifyitems(items):
    """Begin with the longest files."""
    places = {file: i for i, file in enumerate(LONGEST)}
    items.sort(key=lambda x: places.get(x.nodeid.partition("::")[0], len(LONGEST)))


@pytest.fixture(autouse=True)
def few_threads():
    """ESPnet and s3prl may change it; tiny tensors are fastest on one thread."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    """Upstream name -> tiny random checkpoint that its loader reads."""
    from espnet_mtkd.teachers.hub import import_s3prl_hub

    import_s3prl_hub()
    folder = tmp_path_factory.mktemp("checkpoints")
    paths = {}
    for name in ("hubert", "wav2vec2", "wavlm", "data2vec"):
        paths[f"{name}_local"] = folder / f"{name}.pt"
        getattr(builders, f"build_{name}")(folder / f"{name}.pt")
    paths["whisper_local"] = folder / "whisper"
    model = builders.build_whisper(folder / "whisper")
    paths["whisper_openai"] = folder / "whisper.pt"
    builders.save_as_openai(model, folder / "whisper.pt")
    return paths


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> SimpleNamespace:
    """Train (12 utterances) and valid (4) directories, and a token list."""
    folder = tmp_path_factory.mktemp("corpus")
    return SimpleNamespace(
        train=builders.build_data_dir(folder / "train", 12, 1),
        valid=builders.build_data_dir(folder / "valid", 4, 2),
        tokens=builders.write_tokens(folder / "tokens.txt"),
    )


@pytest.fixture(scope="session")
def two_teachers(tmp_path_factory, checkpoints) -> Path:
    """A `teachers:` file with Whisper (one layer) and HuBERT (two layers)."""
    return builders.write_yaml(
        tmp_path_factory.mktemp("teachers") / "teachers.yaml",
        [
            dict(
                name="whisper",
                upstream="whisper_local",
                path_or_url=str(checkpoints["whisper_local"]),
            ),
            dict(
                name="hubert",
                upstream="hubert_local",
                path_or_url=str(checkpoints["hubert_local"]),
                layers=[1, -1],
                weight=0.5,
            ),
        ],
    )


@pytest.fixture(scope="session")
def store_targets(two_teachers, corpus, tmp_path_factory):
    """Function: form -> a folder of the corpus's stored targets (made once for each).

    Further arguments are those of `mtkd_extract`.
    """
    made = {}

    def store(form: str, *extra: str) -> Path:
        if (form, extra) not in made:
            from espnet_mtkd.bin.mtkd_extract import main

            folder = made[form, extra] = tmp_path_factory.mktemp(form)
            command = ["--teachers", str(two_teachers), "--form", form, *extra]
            command += ["--data_dir", str(corpus.train), str(corpus.valid)]
            main([*command, "--out_dir", str(folder)])
        return made[form, extra]

    return store


@pytest.fixture(scope="session")
def stage1_command(corpus, tmp_path_factory):
    """Function: the command line of `mtkd_train` on the tiny corpus."""

    def command(
        output_dir: Path, teachers, encoder="conformer", asr=None, config=None, extra=()
    ) -> list[str]:
        folder = tmp_path_factory.mktemp("configs")
        asr_yaml = builders.write_yaml(
            folder / "train_asr.yaml", asr or builders.asr_config(encoder)
        )
        mtkd_yaml = builders.write_yaml(
            folder / "train_mtkd.yaml", config or builders.mtkd_config()
        )
        scp = "wav.scp,speech,sound"
        return [
            *("--config", str(mtkd_yaml)),
            *("--student_config", str(asr_yaml)),
            *("--teachers", str(teachers)),
            *("--train_data_path_and_name_and_type", f"{corpus.train}/{scp}"),
            *("--valid_data_path_and_name_and_type", f"{corpus.valid}/{scp}"),
            *("--train_shape_file", f"{corpus.train}/speech_shape"),
            *("--valid_shape_file", f"{corpus.valid}/speech_shape"),
            *("--output_dir", str(output_dir)),
            *("--ngpu", "0"),
            *extra,
        ]

    return command


@pytest.fixture(scope="session")
def stage1(stage1_command, two_teachers, tmp_path_factory):
    """Function: encoder name -> a finished stage 1 of two epochs (made once)."""
    runs = {}

    def run(encoder: str) -> SimpleNamespace:
        if encoder not in runs:
            from espnet_mtkd.bin.mtkd_train import main

            folder = tmp_path_factory.mktemp(f"stage1_{encoder}")
            # What the command names is removed afterwards: the result has to stand
            # on its own.
            teachers = shutil.copy(two_teachers, folder / "teachers.yaml")
            asr_yaml = builders.write_yaml(
                folder / "train_asr.yaml", builders.asr_config(encoder)
            )
            command = stage1_command(folder / "exp", teachers, encoder)
            main(command)
            for flag in ("--config", "--student_config", "--teachers"):
                Path(command[command.index(flag) + 1]).unlink()
            runs[encoder] = SimpleNamespace(
                exp=folder / "exp",
                best=folder / "exp/valid.loss.best.pth",
                config=folder / "exp/config.yaml",
                asr_config=asr_yaml,
                targets=["whisper_l3", "hubert_l1", "hubert_l4"],
            )
        return runs[encoder]

    return run


@pytest.fixture(scope="session")
def warm_python(tmp_path_factory) -> Path:
    """An interpreter that starts at once: see `warm_python.py`."""
    program = Path(__file__).with_name("warm_python.py")
    folder = tmp_path_factory.mktemp("warm")
    path = folder / "socket"
    with open(folder / "log", "w") as log:
        server = subprocess.Popen(
            [sys.executable, program, "serve", path], stdout=log, stderr=log
        )
    try:
        while not path.exists():
            assert server.poll() is None, (folder / "log").read_text()
            time.sleep(0.1)
        command = folder / "python3"
        # (what has flags of the interpreter's own gets a new one)
        command.write_text(
            f"""#!/bin/sh
python="{sys.executable}"
case "$1" in
    -m | -c | - | [!-]* | "") exec "$python" -IS "{program}" run "{path}" "$@" ;;
    *) exec "$python" "$@" ;;
esac
"""
        )
        command.chmod(0o755)
        yield command
    finally:
        server.kill()
        server.wait()


@pytest.fixture(scope="session")
def whisper(tmp_path_factory):
    """A directory that CTranslate2 reads, and the `transformers` model of it."""
    pytest.importorskip("ctranslate2")
    from tiny_whisper import build_model, save_ct2

    folder = tmp_path_factory.mktemp("ct2") / "whisper_tiny"
    folder.mkdir()
    model = build_model()
    save_ct2(model, folder)
    return folder, model
