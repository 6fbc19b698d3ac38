"""Extraction: plan, resume, shared work, and targets equal to the live teacher's."""

import hashlib
import itertools
import os
import re
import shutil
import subprocess
import sys

import builders
import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from espnet_mtkd.bin import mtkd_extract
from espnet_mtkd.errors import ConfigError, DiskError, TargetStoreError
from espnet_mtkd.targets import plan
from espnet_mtkd.targets import writer as writer_module
from espnet_mtkd.targets.extract import BatchTargets
from espnet_mtkd.targets.plan import Utterance, plan_batches, plan_shards, share_of
from espnet_mtkd.targets.precision import check_precision, standardised_error
from espnet_mtkd.targets.quantizer import read_codebooks
from espnet_mtkd.targets.store import MANIFEST, TargetStore
from espnet_mtkd.targets.teacher import CachedTeacher
from espnet_mtkd.teachers.base import parse_teachers
from espnet_mtkd.teachers.s3prl import TeacherPool

# ------------------------------------------------------------- plan


@given(
    st.lists(st.integers(400, 50_000), min_size=1, max_size=60),
    st.integers(1_000, 200_000),
    st.booleans(),
)
def test_batches_hold_everything_once_with_little_padding(lengths, limit, exact):
    utts = [Utterance(f"u{i}", "", n, n // 320) for i, n in enumerate(lengths)]
    batches = plan_batches(utts, limit, exact)
    assert sorted(u.utt for b in batches for u in b) == sorted(u.utt for u in utts)
    for batch in batches:
        longest = max(u.num_samples for u in batch)
        padded = longest * len(batch)
        assert padded <= limit or len(batch) == 1
        padding = 1 - sum(u.num_samples for u in batch) / padded
        assert padding <= (0 if exact else plan.MAX_PADDING)
    assert plan_batches(utts[::-1], limit, exact) == batches


@given(
    st.lists(st.integers(0, 5000), min_size=1, max_size=200),
    st.one_of(st.none(), st.integers(1, 100_000)),
)
def test_shards_hold_all_batches_in_order_within_the_limit(frames, shard_bytes):
    batches = [[Utterance(f"u{i}", "", 1, n)] for i, n in enumerate(frames)]
    shards = plan_shards(batches, 16, shard_bytes)
    assert list(itertools.chain(*shards)) == batches
    assert all(shards)
    sizes = [16 * sum(u.num_frames for b in shard for u in b) for shard in shards]
    limit = shard_bytes or max(plan.MIN_SHARD_BYTES, -(-sum(sizes) // plan.NUM_SHARDS))
    for shard, size in zip(shards, sizes, strict=True):
        assert size <= limit or len(shard) == 1
    for left, right in itertools.pairwise(shards):
        assert 16 * sum(u.num_frames for b in [*left, right[0]] for u in b) > limit


@given(st.lists(st.integers(1, 500), max_size=40), st.integers(1, 6))
def test_processes_share_the_shards_evenly(lengths, world_size):
    shards = [[[Utterance(f"u{i}", "", n, 1)]] for i, n in enumerate(lengths)]
    shares = [share_of(shards, rank, world_size) for rank in range(world_size)]
    assert sorted(itertools.chain(*shares)) == list(range(len(shards)))
    loads = [sum(lengths[i] for i in share) for share in shares]
    assert max(loads) - min(loads) <= max(lengths, default=0)


# ------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two data directories with enough frames to train codebooks on."""
    folder = tmp_path_factory.mktemp("data")
    return [
        builders.build_data_dir(folder / "train", 16, 11),
        builders.build_data_dir(folder / "valid", 3, 12),
    ]


@pytest.fixture(scope="module")
def command(data, two_teachers):
    """Function: the command line that writes to a folder."""

    def make(out_dir, *extra):
        return [
            *("--teachers", str(two_teachers)),
            *("--data_dir", *map(str, data)),
            *("--out_dir", str(out_dir)),
            *("--num_codebooks", "4"),
            *("--batch_seconds", "5", "--shard_bytes", "1000"),
            *extra,
        ]

    return make


@pytest.fixture(scope="module")
def codes(command, tmp_path_factory):
    """Codes of both teachers, written by one process."""
    folder = tmp_path_factory.mktemp("codes")
    mtkd_extract.main(command(folder))
    return folder


def waves(data_dir):
    for line in (data_dir / "wav.scp").read_text().splitlines():
        utt, audio = line.split()
        yield utt, torch.from_numpy(soundfile.read(audio, dtype="float32")[0])


def files_of(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


def test_fp16_targets_are_the_live_teachers(command, data, two_teachers, tmp_path):
    mtkd_extract.main(command(tmp_path, "--form", "fp16", "--exact"))
    configs = parse_teachers(str(two_teachers))
    live = TeacherPool(configs)
    cached = TeacherPool(configs, lambda c: CachedTeacher(c, tmp_path))
    assert cached.targets == live.targets
    for utt, wave in waves(data[0]):
        batch = wave[None], torch.tensor([len(wave)]), [utt]
        expected, found = live(*batch), cached(*batch)
        for name, (target, num_frames) in expected.items():
            assert torch.equal(found[name][1], num_frames)
            torch.testing.assert_close(found[name][0], target, rtol=1e-3, atol=1e-3)


def test_codes_decode_to_what_their_own_codebooks_say(codes, data, two_teachers):
    """Nearest of all sums that a change of one entry could reach, by a plain loop."""
    configs = parse_teachers(str(two_teachers))
    live = TeacherPool(configs)
    cached = TeacherPool(configs, lambda c: CachedTeacher(c, codes))
    books = read_codebooks(codes / "whisper/codebooks.safetensors")["whisper_l3"]
    utt, wave = next(waves(data[1]))
    batch = wave[None], torch.tensor([len(wave)]), [utt]
    (expected, _), (found, _) = (x(*batch)["whisper_l3"] for x in (live, cached))
    store = TargetStore(codes / "whisper/valid")
    entries = books.entries_MKE.numpy() * books.std_E.numpy()
    for t, row in enumerate(store.read(utt, len(wave))["whisper_l3"]):
        total = books.mean_E.numpy() + sum(entries[m, k] for m, k in enumerate(row))
        np.testing.assert_allclose(found[0, t].numpy(), total, atol=1e-4)
    x, y = ((v[0] - books.mean_E) / books.std_E for v in (expected, found))
    assert (x - y).square().sum() < 0.5 * x.square().sum()


def test_codes_take_a_byte_for_each_codebook_and_frame(codes):
    for path in codes.glob(f"*/*/{MANIFEST}"):
        store = TargetStore(path.parent)
        assert all(t.bytes_per_frame == 4 for t in store.targets)
        assert store.fingerprint["form"] == "codes"
        assert store.verify() == []


def test_a_second_run_changes_nothing(codes, command):
    before = files_of(codes)
    mtkd_extract.main(command(codes, "--info", "--verify"))
    assert files_of(codes) == before


def test_a_killed_run_goes_on_and_ends_byte_identical(codes, command, tmp_path):
    folder = tmp_path / "again"
    shutil.copytree(codes, folder)
    store = folder / "hubert/train"
    (store / MANIFEST).unlink()
    shards = sorted(store.glob("shard_*"))
    assert len(shards) > 4
    kept = shards[0].stat().st_mtime_ns
    shards[1].unlink()
    shards[2].write_bytes(shards[2].read_bytes()[:-7])
    mtkd_extract.main(command(folder))
    assert files_of(folder) == files_of(codes)
    assert shards[0].stat().st_mtime_ns == kept


@pytest.mark.parametrize("what", ["removed", "cut", "manifest"])
@pytest.mark.remedy(
    "damaged",
    "remove that file and extract again",
)
def test_the_remedy_for_a_damaged_file_helps(codes, command, tmp_path, capsys, what):
    """The file is named; without it, the same command makes it again."""
    folder = tmp_path / "again"
    shutil.copytree(codes, folder)
    name = MANIFEST if what == "manifest" else "shard_00001.safetensors"
    path = folder / "hubert/train" / name
    if what == "removed":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(SystemExit) as end:
        mtkd_extract.main(["--out_dir", str(folder), "--verify"])
    message = capsys.readouterr().err
    assert end.value.code == 5 and str(path) in message
    assert "remove that file and extract again" in message
    path.unlink(missing_ok=True)
    mtkd_extract.main(command(folder, "--verify"))
    assert files_of(folder) == files_of(codes)


def test_one_id_in_two_data_sets_has_the_targets_of_each(two_teachers, tmp_path):
    dirs = []
    for seed, name in ((1, "train"), (2, "valid")):
        folder = builders.build_data_dir(tmp_path / name, 2, seed)
        lines = (folder / "wav.scp").read_text().split("\n")
        paths = [line.split()[1] for line in lines if line]
        scp = "".join(f"{i:04d} {path}\n" for i, path in enumerate(paths))
        (folder / "wav.scp").write_text(scp)
        dirs.append(folder)
    command = ["--teachers", str(two_teachers), "--form", "fp16", "--exact"]
    command += ["--data_dir", *map(str, dirs), "--out_dir", str(tmp_path / "t")]
    mtkd_extract.main(command)
    config = parse_teachers(str(two_teachers))[0]
    live, stored = TeacherPool([config]), CachedTeacher(config, tmp_path / "t")
    for folder in dirs:
        for utt, wave in waves(folder):
            batch = wave[None], torch.tensor([len(wave)])
            (expected,) = live(*batch, [utt]).values()
            (found,) = stored(*batch, [f"{folder.name}/{utt}"]).values()
            num = int(found[1])
            torch.testing.assert_close(
                found[0][0, :num], expected[0][0, :num], atol=2e-3, rtol=2e-3
            )
    with pytest.raises(TargetStoreError, match="0000: .*train and .*valid: expected"):
        stored(*batch, ["0000"])


@pytest.mark.remedy(
    "Extraction",
)
def test_shares_of_two_processes_make_the_same_store(codes, command, tmp_path, capsys):
    mtkd_extract.main(command(tmp_path, "--rank", "1", "--world_size", "2"))
    assert "not yet whole" in capsys.readouterr().out
    assert not list(tmp_path.glob(f"hubert/train/{MANIFEST}"))
    mtkd_extract.main(command(tmp_path, "--rank", "0", "--world_size", "2"))
    assert files_of(tmp_path) == files_of(codes)


@pytest.mark.slow
def test_torchrun_makes_the_same_store(command, tmp_path, monkeypatch):
    # Sums in another number of threads differ in their last bits.
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(len(os.sched_getaffinity(0))))
    mtkd_extract.main(command(tmp_path / "alone"))
    monkeypatch.undo()
    subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", "-m", "espnet_mtkd.bin.mtkd_extract"),
            *command(tmp_path / "together"),
        ],
        check=True,
        cwd=builders.ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert files_of(tmp_path / "together") == files_of(tmp_path / "alone")


def test_other_settings_in_the_same_folder_are_refused(codes, command, capsys):
    for extra, message in (
        (["--num_codebooks", "8"], "number of codebooks"),
        (["--exact"], "exact: expected True, found False"),
    ):
        with pytest.raises(SystemExit) as end:
            mtkd_extract.main(command(codes, *extra))
        assert end.value.code == 5
        assert message in capsys.readouterr().err


def test_too_small_a_disk_is_said_before_anything_is_written(
    command, tmp_path, monkeypatch
):
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(writer_module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DiskError, match="0 MB are free"):
        writer_module.check_disk(tmp_path, 1_000)
    with pytest.raises(SystemExit) as end:
        mtkd_extract.main(command(tmp_path, "--form", "fp16"))
    assert end.value.code == 6
    assert not list(tmp_path.rglob("shard_*"))


@pytest.mark.remedy(
    "free some and run the same command again",
)
def test_a_disk_that_fills_up_leaves_a_store_that_resumes(
    codes, command, tmp_path, monkeypatch
):
    write, calls = writer_module.write_shard, []

    def fills_up(*job):
        calls.append(job)
        if len(calls) == 3:
            raise DiskError("no space left")
        write(*job)

    monkeypatch.setattr(writer_module, "write_shard", fills_up)
    with pytest.raises(SystemExit) as end:
        mtkd_extract.main(command(tmp_path))
    assert end.value.code == 6
    monkeypatch.undo()
    mtkd_extract.main(command(tmp_path))
    assert files_of(tmp_path) == files_of(codes)


def test_a_teacher_that_half_precision_breaks_is_named(two_teachers, data):
    """Its values leave fp16's range, as data2vec's do."""
    teacher = TeacherPool(parse_teachers(str(two_teachers))).teachers[0]
    run = teacher._run

    def loud(wavs):
        scale = 1.0 if teacher.dtype == torch.float32 else float("inf")
        return [h * scale for h in run(wavs)]

    teacher._run = loud
    utt, wave = next(waves(data[0]))
    batch = [Utterance(utt, "", len(wave), len(wave) // 320)]
    speech = wave[None], torch.tensor([len(wave)])
    check_precision(teacher, speech)
    teacher.dtype = torch.bfloat16
    with pytest.raises(ConfigError, match="'whisper'.* use --dtype float32"):
        check_precision(teacher, speech)
    teacher.dtype = torch.float32
    teacher._run = lambda wavs: [1e6 * h for h in run(wavs)]
    with pytest.raises(ConfigError, match=f"{utt}.*more than fp16 holds"):
        BatchTargets(teacher, batch, speech, None).rows()


def test_the_error_of_low_precision_is_that_of_standardised_ordinary_frames():
    """A few huge values would hide that all the others are noise."""
    generator = torch.Generator().manual_seed(0)
    exact = torch.randn(2000, 16, generator=generator)
    exact[::50, 0] += 1e5
    noise = torch.randn(2000, 16, generator=generator)
    noise[::50] = 0
    found = exact + 0.3 * noise
    assert float((exact - found).norm() / exact.norm()) < 1e-3
    ordinary = torch.arange(2000) % 50 != 0
    x, y = exact[ordinary].numpy(), found[ordinary].numpy()
    z = (x - x.mean(0)) / x.std(0)
    expected = np.linalg.norm((x - y) / x.std(0)) / np.linalg.norm(z)
    assert standardised_error(exact, found) == pytest.approx(expected, rel=1e-3)
    assert expected > 0.25


@pytest.mark.parametrize(
    "extra, code, message",
    [
        (["--num_codebooks", "3"], 2, "expected 4 to 32, found 3"),
        (["--rank", "2", "--world_size", "2"], 2, "expected 0 to 1, found 2"),
        (["--batch_seconds", "0"], 2, "--batch_seconds: expected above 0"),
        (["--shard_bytes", "0"], 2, "--shard_bytes: expected above 0, found 0"),
    ],
)
def test_wrong_numbers_are_refused(command, tmp_path, capsys, extra, code, message):
    with pytest.raises(SystemExit) as end:
        mtkd_extract.main(command(tmp_path, *extra))
    assert end.value.code == code
    assert message in capsys.readouterr().err


# ------------------------------------------------------------- reading them in training


def test_utterances_that_are_not_stored_are_named(codes, two_teachers):
    config = parse_teachers(str(two_teachers))[0]
    teacher = CachedTeacher(config, codes)
    with pytest.raises(TargetStoreError, match="utterance new: .* mtkd_extract"):
        teacher(torch.zeros(1, 800), torch.tensor([800]), ["new"])


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(normalize=True), "normalize: expected True, found False"),
        (dict(layers=[1]), "layers: expected .1., found .3."),
        (dict(upstream="fbank"), "upstream: expected 'fbank'"),
        (dict(path_or_url="whisper_openai"), "checkpoint: expected that of"),
        (dict(extra_conf={"pad_to_30s": True}), "extra_conf: "),
        (dict(name="nobody"), "no finished targets"),
    ],
)
def test_targets_of_another_teacher_are_refused(
    codes, two_teachers, checkpoints, change, message
):
    entry = vars(parse_teachers(str(two_teachers))[0]) | change
    if "path_or_url" in change:
        entry["path_or_url"] = str(checkpoints[change["path_or_url"]])
    config = parse_teachers([entry])[0]
    with pytest.raises(TargetStoreError, match=message):
        CachedTeacher(config, codes)


def test_one_of_the_stored_layers_is_enough(codes, two_teachers):
    entry = vars(parse_teachers(str(two_teachers))[1])
    teacher = CachedTeacher(parse_teachers([entry | dict(layers=[-1])])[0], codes)
    assert [t.name for t in teacher.targets] == ["hubert_l4"]


def test_where_the_frames_lie_is_stored_with_them(codes, two_teachers, tmp_path):
    configs = parse_teachers(str(two_teachers))
    live = [spec.frame_centre for spec in TeacherPool(configs).targets]
    pool = TeacherPool(configs, lambda c: CachedTeacher(c, codes))
    assert [spec.frame_centre for spec in pool.targets] == live == [0.0, 199.5, 199.5]
    corrected = parse_teachers([vars(configs[1]) | dict(frame_centre=279.5)])[0]
    assert CachedTeacher(corrected, codes).targets[0].frame_centre == 279.5


@pytest.mark.remedy(
    "it is not stored where the frames of",
)
def test_a_store_that_does_not_say_it_asks_for_it(codes, two_teachers, tmp_path):
    """As earlier versions wrote them; what the message names helps."""
    config = parse_teachers(str(two_teachers))[0]
    shutil.copytree(codes, tmp_path / "targets")
    for folder in (tmp_path / "targets" / config.name).glob("*/"):
        body = (folder / MANIFEST).read_bytes().partition(b"\n")[2]
        body = re.sub(rb',"frame_centre":[0-9.]+', b"", body)
        digest = hashlib.sha256(body).hexdigest()
        head = f'{{"sha256":"{digest}",\n'.encode()
        (folder / MANIFEST).write_bytes(head + body)
    with pytest.raises(TargetStoreError, match="frame_centre.*: 0 for Whisper"):
        CachedTeacher(config, tmp_path / "targets")
    given = parse_teachers([vars(config) | dict(frame_centre=0)])[0]
    assert CachedTeacher(given, tmp_path / "targets").targets[0].frame_centre == 0
