"""Targets kept in memory: equal to the teacher's, within the bound, asked once."""

import builders
import pytest
import torch

from espnet_mtkd.teachers.base import TargetSpec, TeacherConfig
from espnet_mtkd.teachers.memory import TargetMemory
from espnet_mtkd.teachers.s3prl import S3PRLTeacher

DIM = builders.DIM


class Counting:
    """A real teacher that writes down which utterances it was asked for."""

    def __init__(self, teacher):
        self.teacher = teacher
        self.targets = teacher.targets
        self.asked = []

    def __call__(self, speech, lengths, utt_ids=None):
        self.asked.append(utt_ids)
        return self.teacher(speech, lengths, utt_ids)


@pytest.fixture(scope="module")
def whisper(checkpoints):
    """Whisper's unpadded encoder: its values do not depend on the batch."""
    path = str(checkpoints["whisper_local"])
    return S3PRLTeacher(
        TeacherConfig("t", "whisper_local", path_or_url=path, layers=(1, 4))
    )


WAVES = {
    f"utt{i}": torch.from_numpy(builders.speech_like(0.4 + 0.13 * i, i))
    for i in range(8)
}


def batch(*utt_ids):
    """(speech, lengths, ids), padded to the longest."""
    lengths = torch.tensor([len(WAVES[u]) for u in utt_ids])
    speech = torch.zeros(len(utt_ids), int(lengths.max()))
    for b, utt in enumerate(utt_ids):
        speech[b, : lengths[b]] = WAVES[utt]
    return speech, lengths, list(utt_ids)


def assert_like_the_teacher(out, whisper, utt_ids):
    for b, utt in enumerate(utt_ids):
        speech, lengths, ids = batch(utt)
        for name, (expected, num_frames) in whisper(speech, lengths, ids).items():
            target, out_frames = out[name]
            n = int(num_frames[0])
            assert int(out_frames[b]) == n
            torch.testing.assert_close(
                target[b, :n], expected[0, :n], atol=2e-3, rtol=2e-3
            )


def test_the_second_epoch_equals_the_first_and_asks_nobody(whisper):
    counting = Counting(whisper)
    memory = TargetMemory(counting, 10**8)
    epochs = []
    for _ in range(2):
        epochs.append([memory(*batch("utt0", "utt5")), memory(*batch("utt3", "utt2"))])
    assert counting.asked == [["utt0", "utt5"], ["utt3", "utt2"]]
    for first, second in zip(*epochs, strict=True):
        assert list(first) == list(second) == ["t_l1", "t_l4"]
        for name in first:
            assert torch.equal(first[name][0], second[name][0])
            assert torch.equal(first[name][1], second[name][1])
            assert first[name][0].dtype == torch.float32
    assert_like_the_teacher(epochs[1][0], whisper, ["utt0", "utt5"])


def test_hits_and_misses_of_one_batch_come_in_its_order(whisper):
    counting = Counting(whisper)
    memory = TargetMemory(counting, 10**8)
    memory(*batch("utt1", "utt4", "utt6"))
    order = ["utt7", "utt4", "utt0", "utt1", "utt6", "utt2"]
    out = memory(*batch(*order))
    assert counting.asked[1:] == [["utt7", "utt0", "utt2"]]
    assert_like_the_teacher(out, whisper, order)
    assert_like_the_teacher(memory(*batch(*order[::-1])), whisper, order[::-1])
    assert len(counting.asked) == 2


def test_two_recordings_of_one_id_and_length_are_told_apart(whisper):
    memory = TargetMemory(Counting(whisper), 10**8)
    speech, lengths, _ = batch("utt5")
    other = speech.flip(1).roll(7) * 0.9
    first, second = memory(speech, lengths, ["0001"]), memory(other, lengths, ["0001"])
    for out, wave in ((first, speech), (second, other)):
        for name, (expected, _) in whisper(wave, lengths, None).items():
            torch.testing.assert_close(out[name][0], expected, atol=2e-3, rtol=2e-3)
    again = memory(torch.nn.functional.pad(speech, (0, 999)), lengths, ["0001"])
    assert len(memory.teacher.asked) == 2  # padding is not part of an utterance
    assert torch.equal(again["t_l1"][0], first["t_l1"][0])


@pytest.mark.remedy(
    "Main memory in stage 1",
)
def test_the_bound_in_bytes_is_respected_and_what_does_not_fit_is_asked_again(whisper):
    # Two targets of 16 dimensions in fp16, a frame each 320 samples.
    sizes = {u: 2 * 2 * DIM * (len(w) // 320) for u, w in WAVES.items()}
    bound = sizes["utt2"] + sizes["utt3"] + sizes["utt4"] // 2
    counting = Counting(whisper)
    memory = TargetMemory(counting, bound)
    for _ in range(2):
        for utt in ("utt2", "utt3", "utt4"):
            assert_like_the_teacher(memory(*batch(utt)), whisper, [utt])
            assert memory.num_bytes <= bound
    assert memory.num_bytes == sizes["utt2"] + sizes["utt3"]
    assert counting.asked == [["utt2"], ["utt3"], ["utt4"], ["utt4"]]


@pytest.mark.parametrize("max_bytes, with_ids", [(0, True), (10**8, False)])
def test_nothing_is_kept_with_a_bound_of_0_or_without_ids(whisper, max_bytes, with_ids):
    counting = Counting(whisper)
    memory = TargetMemory(counting, max_bytes)
    speech, lengths, ids = batch("utt0", "utt1")
    for _ in range(2):
        out = memory(speech, lengths, ids if with_ids else None)
        assert_like_the_teacher(out, whisper, ids)
    assert len(counting.asked) == 2
    assert memory.num_bytes == 0


def test_an_utterance_of_another_length_is_another_utterance(whisper):
    """Speed perturbation or cutting must not be answered with the old targets."""
    counting = Counting(whisper)
    memory = TargetMemory(counting, 10**8)
    speech, lengths, ids = batch("utt5")
    memory(speech, lengths, ids)
    cut = lengths - 3200
    out = memory(speech[:, : int(cut)], cut, ids)
    assert len(counting.asked) == 2
    assert int(out["t_l4"][1]) == int(cut) // 320


def test_kept_targets_hold_no_padding(whisper):
    memory = TargetMemory(whisper, 10**8)
    memory(*batch("utt0", "utt7"))
    stored = [values for row in memory._store.values() for values, _ in row.values()]
    assert memory.num_bytes == sum(t.untyped_storage().nbytes() for t in stored)


class Loud:
    """A teacher that a tensor stands for: values beyond fp16's range."""

    def __init__(self, target_BTE):
        self.target = target_BTE
        spec = TargetSpec("t_l0", "t", 0, target_BTE.size(-1), 320, 0.0, 1.0)
        self.targets = [spec]

    def __call__(self, speech, lengths, utt_ids=None):
        frames = torch.full((len(speech),), self.target.size(1))
        return {"t_l0": (self.target[: len(speech)], frames)}


@pytest.mark.parametrize("largest", [1.0, 65504.0, 7e4, 3e9])
def test_values_beyond_half_precision_are_kept(largest):
    target = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(0))
    target[1, 3, 2] = largest
    memory = TargetMemory(Loud(target), 10**6)
    for _ in range(2):
        out, _ = memory(*batch("utt0", "utt1"))["t_l0"]
        torch.testing.assert_close(out[0], target[0], rtol=1e-3, atol=1e-4)
        loud = largest / 65504 * 1e-3  # where a factor is needed, the small ones lose
        torch.testing.assert_close(out[1], target[1], rtol=1e-3, atol=max(1e-4, loud))
