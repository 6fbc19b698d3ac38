"""Stage 1 by two processes (gloo, CPU) against one, on the same global batches.

BatchNorm sees its own process's half alone, in ESPnet as everywhere, so the encoder
here has no convolution modules; all utterances have one length, so that a half is
padded as the whole is.
"""

import os
import socket
import subprocess

import builders
import pytest
import soundfile
import torch

NUM_UTTS = 12
BATCH_SIZE = 5  # batches of 5, 5 and 2: halves of 3 and 2, and of 1 and 1
TOLERANCE = 1e-5


def write_data(folder, num_utts, seed):
    folder.mkdir(parents=True)
    scp, shape = [], []
    for i in range(num_utts):
        samples = builders.speech_like(1.0, seed * 100 + i)
        soundfile.write(folder / f"u{i}.wav", samples, builders.SAMPLE_RATE)
        scp.append(f"u{i:02d} {folder}/u{i}.wav\n")
        shape.append(f"u{i:02d} {len(samples)}\n")
    (folder / "wav.scp").write_text("".join(scp))
    (folder / "speech_shape").write_text("".join(shape))
    return folder


OPTIONS = {
    "default": {},
    "ladder": dict(blocks="ladder", layers="mixed", balance="uncertainty"),
    "rotated": dict(standardize="phi-s", blocks=[1], balance="running"),
}


@pytest.fixture(scope="module", params=OPTIONS)
def command(request, tmp_path_factory, two_teachers, warm_python):
    folder = tmp_path_factory.mktemp("distributed")
    train = write_data(folder / "train", NUM_UTTS, 1)
    valid = write_data(folder / "valid", 4, 2)
    asr = builders.asr_config("conformer")
    asr["encoder_conf"] = dict(
        asr["encoder_conf"],
        use_cnn_module=False,
        dropout_rate=0.0,
        positional_dropout_rate=0.0,
        attention_dropout_rate=0.0,
    )
    asr.pop("specaug", None)
    asr.pop("specaug_conf", None)
    config = builders.mtkd_config(
        max_epoch=1,
        batch_type="sorted",
        batch_size=BATCH_SIZE,
        optim="sgd",
        optim_conf=dict(lr=0.5 if request.param == "default" else 0.05),
        objective_conf=OPTIONS[request.param],
    )
    for name in ("batch_bins", "scheduler", "scheduler_conf"):
        config.pop(name, None)
    scp = "wav.scp,speech,sound"
    return [
        *(warm_python, "-m", "espnet_mtkd.bin.mtkd_train"),
        *("--config", builders.write_yaml(folder / "train_mtkd.yaml", config)),
        *("--student_config", builders.write_yaml(folder / "train_asr.yaml", asr)),
        *("--teachers", two_teachers),
        *("--train_data_path_and_name_and_type", f"{train}/{scp}"),
        *("--valid_data_path_and_name_and_type", f"{valid}/{scp}"),
        *("--train_shape_file", train / "speech_shape"),
        *("--valid_shape_file", valid / "speech_shape"),
        *("--ngpu", "0"),
    ]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def run(command, exp, world_size):
    """Final parameters and buffers, statistics of the epoch, the first one's log."""
    port = free_port()
    jobs = []
    for rank in range(world_size):
        extra = ["--output_dir", exp]
        if world_size > 1:
            extra += [
                *("--dist_backend", "gloo", "--multiprocessing_distributed", "false"),
                *("--dist_world_size", world_size, "--dist_rank", rank),
                *("--dist_master_addr", "localhost", "--dist_master_port", port),
            ]
        jobs.append(
            subprocess.Popen(
                [str(x) for x in [*command, *extra]],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        )
    logs = [job.communicate(timeout=240)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0] * world_size, logs[-1][-3000:]
    state = torch.load(exp / "1epoch.pth", weights_only=True)
    checkpoint = torch.load(exp / "checkpoint.pth", weights_only=False)
    return state, checkpoint["reporter"]["stats"][1], logs[0]


def compare(name: str, value, other) -> None:
    """To rounding; axes of nearly equal variance turn further by it than others."""
    tolerance = 1e-2 if name.endswith("rotation") else TOLERANCE
    assert torch.allclose(value, other, rtol=tolerance, atol=tolerance), name


def test_two_processes_update_as_one_does(command, tmp_path):
    one, one_stats, _ = run(command, tmp_path / "one", 1)
    two, two_stats, log = run(command, tmp_path / "two", 2)
    assert "0/2]" in log  # ESPnet's rank and number of processes
    assert one.keys() == two.keys()
    for name, value in one.items():
        compare(name, value, two[name])
    for phase in ("train", "valid"):
        names = [x for x in one_stats[phase] if x.startswith("loss")]
        assert len(names) >= 3
        for name in names:
            expected = pytest.approx(one_stats[phase][name], rel=TOLERANCE)
            assert two_stats[phase][name] == expected, (phase, name)


def test_two_processes_hear_the_noise_that_one_does(command, tmp_path):
    noise = []
    for word in ("prob=1.0", "room=0.5"):
        noise += ["--noise_conf", word]
    one, one_stats, _ = run([*command, *noise], tmp_path / "one", 1)
    two, two_stats, _ = run([*command, *noise], tmp_path / "two", 2)
    for name, value in one.items():
        compare(name, value, two[name])
    expected = pytest.approx(one_stats["train"]["loss"], rel=TOLERANCE)
    assert two_stats["train"]["loss"] == expected


def test_two_processes_learn_one_mask(command, tmp_path):
    """Each draws masks of its own share, so they are not those of one process."""
    masks = ["--mask_conf", "time_prob=0.65", "--mask_conf", "channel_prob=0.2"]
    state, stats, _ = run([*command, *masks], tmp_path / "two", 2)
    assert state["mask.embedding"].abs().max() > 0
    assert 0 < stats["train"]["loss"] < 10
