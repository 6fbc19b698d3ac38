"""Memory of trainings of 250 steps, by the whole command, in a process of its own."""

import json
import os
import subprocess

import builders
import pytest
import soundfile

FIRST, LAST = 50, 250  # steps: warmed up, and 200 later
GROWTH = 0.02

# Looks at the process after two of the optimiser's steps.
PROGRAM = """
import ctypes, gc, json, runpy, sys
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

out, first, last, module = sys.argv[1:5]
found, count = [], [0]


def look():
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is free is given back
    with open("/proc/self/status") as f:
        (rss,) = (int(x.split()[1]) for x in f if x.startswith("VmRSS"))
    tensors = [x for x in gc.get_objects() if issubclass(type(x), torch.Tensor)]
    num_bytes = sum(x.nbytes for x in tensors)
    return {"rss": rss, "tensors": len(tensors), "bytes": num_bytes}


def count_step(*_):
    count[0] += 1
    if count[0] in (int(first), int(last)):
        found.append(look())
        with open(out, "w") as f:
            json.dump(found, f)


register_optimizer_step_post_hook(count_step)
sys.argv = [module, *sys.argv[5:]]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Function: number of utterances, all of one second -> training and validation."""

    def write(num_utts: int):
        folder = tmp_path_factory.mktemp("memory")
        files = []
        for i in range(4):
            files.append(folder / f"{i}.flac")
            wave = builders.speech_like(1.0, i)
            soundfile.write(files[-1], wave, builders.SAMPLE_RATE)
        for name, num in (("train", num_utts), ("valid", 2)):
            (folder / name).mkdir()
            utts = [f"{name}{i:03d}" for i in range(num)]
            for file, values in {
                "wav.scp": [str(files[i % 4]) for i in range(num)],
                "text": ["ONE TWO"] * num,
                "speech_shape": ["16000"] * num,
            }.items():
                lines = zip(utts, values, strict=True)
                text = "".join(f"{utt} {value}\n" for utt, value in lines)
                (folder / name / file).write_text(text)
        builders.write_tokens(folder / "tokens.txt")
        return folder

    return write


def run(python, tmp_path, module: str, command: list) -> list[dict]:
    """What was found after the two steps of a training."""
    out = tmp_path / "found.json"
    words = [python, "-c", PROGRAM, out, FIRST, LAST, module, *command]
    ran = subprocess.run(
        [str(x) for x in words],
        capture_output=True,
        text=True,
        cwd=builders.ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads(out.read_text())


def assert_flat(found: list[dict]) -> None:
    before, after = found
    assert after["rss"] < (1 + GROWTH) * before["rss"], found
    # What no allocator hides.
    assert after["tensors"] <= before["tensors"], found
    assert after["bytes"] <= (1 + GROWTH) * before["bytes"], found


def data_words(folder, *names: str) -> list:
    words = []
    for part in ("train", "valid"):
        for name, kind in (("wav.scp", "speech,sound"), ("text", "text,text")):
            if name in names:
                flag = f"--{part}_data_path_and_name_and_type"
                words += [flag, f"{folder / part / name},{kind}"]
        words += [f"--{part}_shape_file", folder / part / "speech_shape"]
    return words


def stage1_words(folder, teachers, exp, **changes) -> list:
    changes = dict(batch_type="unsorted", batch_size=1, **changes)
    config = {**builders.mtkd_config(**changes), "optim_conf": dict(lr=1e-4)}
    del config["batch_bins"]
    asr = builders.asr_config("conformer")
    return [
        *("--config", builders.write_yaml(folder / "mtkd.yaml", config)),
        *("--student_config", builders.write_yaml(folder / "asr.yaml", asr)),
        *("--teachers", teachers, "--ngpu", "0", "--output_dir", exp),
        *data_words(folder, "wav.scp"),
    ]


@pytest.mark.parametrize("kind", ["live", "remembered", "cached"])
def test_stage_1_is_flat(data, two_teachers, warm_python, tmp_path, kind):
    """Within an epoch; of live teachers that remember over many of them."""
    num_utts = 10 if kind == "remembered" else LAST + 5
    folder = data(num_utts)
    changes = dict(max_epoch=-(-LAST // num_utts) + (kind == "remembered"))
    if kind == "live":
        changes["teacher_memory_mb"] = 0
    words = stage1_words(folder, two_teachers, tmp_path / "exp", **changes)
    if kind == "cached":
        from espnet_mtkd.bin import mtkd_extract

        targets = ["--teachers", two_teachers, "--out_dir", tmp_path / "targets"]
        targets += ["--form", "fp16", "--data_dir", folder / "train", folder / "valid"]
        mtkd_extract.main([str(x) for x in targets])
        words += ["--targets_dir", tmp_path / "targets"]
    assert_flat(run(warm_python, tmp_path, "espnet_mtkd.bin.mtkd_train", words))


def test_stage_2_is_flat(data, warm_python, tmp_path):
    folder = data(LAST + 5)
    config = builders.asr_config("conformer", batch_type="unsorted", batch_size=1)
    config = {**config, "optim_conf": dict(lr=1e-4)}
    del config["batch_bins"]
    words = [
        *("-m", "espnet2.bin.asr_train", "--ngpu", "0"),
        *("--config", builders.write_yaml(folder / "asr.yaml", config)),
        *("--token_list", folder / "tokens.txt", "--token_type", "char"),
        *("--output_dir", tmp_path / "exp"),
        *data_words(folder, "wav.scp", "text"),
    ]
    assert_flat(run(warm_python, tmp_path, "espnet_mtkd.bin.mtkd_espnet", words))
