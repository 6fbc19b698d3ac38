"""What the recipes submit to Slurm; `sbatch`, `srun` and `squeue` are recording stubs.

They stand for a cluster, which cannot be had here: `sbatch` runs the job at once, as
ESPnet's slurm.pl wrote it; `srun` runs nothing.
"""

import json
import os
import subprocess
import sys

import builders
import pytest

SBATCH = """#!{python}
import json, os, re, subprocess, sys
script = sys.argv[-1]
with open("{record}", "a") as f:
    f.write(json.dumps(dict(sbatch=sys.argv[1:-1], script=open(script).read())) + "\\n")
array = re.search(r"--array[= ](\\d+)-(\\d+)", " ".join(sys.argv))
tasks = range(int(array[1]), int(array[2]) + 1) if array else [None]
for task in tasks:
    # of the caller's environment only PATH goes to the job, as --export=PATH says
    env = dict(PATH=os.environ["PATH"])
    if task is not None:
        env["SLURM_ARRAY_TASK_ID"] = str(task)
    subprocess.Popen(
        ["bash", script],
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
print("Submitted batch job 1")
"""
SRUN = """#!{python}
import json, sys
with open("{record}", "a") as f:
    f.write(json.dumps(dict(srun=sys.argv[1:])) + "\\n")
"""


@pytest.fixture
def cluster(tmp_path, checkpoints):
    """A recipe whose cmd.sh says slurm; function: run mtkd.sh -> (result, records)."""
    recipe = builders.mirror_recipe(tmp_path, "asterisk")
    setup = builders.ROOT / "egs2/TEMPLATE/mtkd1/setup.sh"
    subprocess.run([setup, recipe], check=True, capture_output=True)
    cmd = (recipe / "cmd.sh").read_text()
    assert "cmd_backend='local'" in cmd
    (recipe / "cmd.sh").unlink()
    (recipe / "cmd.sh").write_text(cmd.replace("'local'", "'slurm'"))
    builders.write_yaml(
        recipe / "conf/teachers.yaml",
        [
            dict(
                name="tiny",
                upstream="whisper_local",
                path_or_url=str(checkpoints["whisper_local"]),
            )
        ],
    )
    for name, seed in (("train", 1), ("valid", 2)):
        (recipe / "dump/raw").mkdir(parents=True, exist_ok=True)
        folder = builders.build_data_dir(recipe / f"dump/raw/{name}", 6, seed)
        (folder / "feats_type").write_text("raw\n")
        (folder / "audio_format").write_text("flac\n")
    stubs = tmp_path / "stubs"
    stubs.mkdir()
    record = tmp_path / "record"
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("squeue", "#!/bin/sh\n")):
        (stubs / name).write_text(text.format(python=sys.executable, record=record))
        (stubs / name).chmod(0o755)

    def run(*options):
        result = subprocess.run(
            [
                *("./mtkd.sh", "--train_set", "train", "--valid_set", "valid"),
                *("--test_sets", "test", "--lang", "en", "--token_type", "char"),
                *options,
            ],
            cwd=recipe,
            env={**os.environ, "PATH": f"{stubs}:{os.environ['PATH']}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        lines = record.read_text().splitlines() if record.exists() else []
        return result, [json.loads(line) for line in lines]

    run.recipe = recipe
    return run


def values(arguments: list[str], option: str) -> list[str]:
    """What follows an option on a command line, each time it is there."""
    return [arguments[i + 1] for i, x in enumerate(arguments) if x == option]


def test_all_trainings_go_to_all_nodes_and_gpus(cluster):
    (cluster.recipe / "data/en_token_list/char").mkdir(parents=True)
    builders.write_tokens(cluster.recipe / "data/en_token_list/char/tokens.txt")
    result, records = cluster(
        *("--stage", "9", "--stop_stage", "11", "--skip_stages", "10"),
        *("--ngpu", "4", "--num_nodes", "2", "--mtkd_tag", "m", "--asr_tag", "a"),
    )
    assert result.returncode == 0, result.stdout[-3000:]
    jobs = [r["sbatch"] for r in records if "sbatch" in r]
    tasks = [r["srun"] for r in records if "srun" in r]
    assert len(jobs) == len(tasks) == 3
    for job in jobs:
        assert values(job, "--nodes") == ["2"]
        assert "--gres=gpu:4" in job
    first, head, rest = tasks
    assert "espnet_mtkd.bin.mtkd_train" in first
    assert "espnet2.bin.asr_train" in head and "espnet2.bin.asr_train" in rest
    for task in tasks:
        assert values(task, "--ngpu")[-1] == "4"
        assert values(task, "--multiprocessing_distributed") == ["true"]
        assert values(task, "--dist_launcher") == ["slurm"]
        (method,) = values(task, "--dist_init_method")
        assert method.startswith("file://") and "exp/" in method
    assert values(first, "--output_dir") == ["exp/mtkd_m"]
    assert values(head, "--output_dir") == ["exp/asr_a/head"]
    assert values(rest, "--output_dir") == ["exp/asr_a"]
    handed_over = "exp/mtkd_m/valid.loss.best.pth:encoder:encoder"
    assert values(head, "--init_param") == [handed_over]
    assert values(head, "--freeze_param") == ["encoder"]
    assert values(rest, "--init_param") == ["exp/asr_a/head/valid.loss.best.pth"]
    assert values(rest, "--freeze_param") == []


def test_the_extraction_is_a_job_array_whose_tasks_make_one_store(cluster):
    for name in ("train", "valid"):
        shape = cluster.recipe / f"exp/mtkd_stats/{name}"
        shape.mkdir(parents=True)
        source = cluster.recipe / f"dump/raw/{name}/speech_shape"
        (shape / "speech_shape").write_text(source.read_text())
    result, records = cluster(
        *("--stage", "8", "--stop_stage", "8", "--teacher_mode", "cached"),
        *("--ngpu", "0", "--extract_nj", "2", "--extract_args", "--form fp16"),
    )
    assert result.returncode == 0, result.stdout[-3000:]
    (job,) = (r for r in records if "sbatch" in r)
    assert values(job["sbatch"], "--array") == ["1-2"]
    targets = cluster.recipe / "exp/mtkd_targets_formfp16"
    logs = [(targets / f"log/extract.{i}.log").read_text() for i in (1, 2)]
    assert all("--world_size 2" in log for log in logs)
    assert ["--rank 0" in logs[0], "--rank 1" in logs[1]] == [True, True]
    from espnet_mtkd.targets.store import TargetStore

    store = TargetStore(targets / "tiny/train")
    assert len(store) == 6
