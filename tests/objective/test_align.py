"""Frame alignment against plain loops and numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from espnet_mtkd.errors import ConfigError, DataError
from espnet_mtkd.objective.align import FrameAligner

WHOLE_RATIOS = [(320, 640), (160, 640), (320, 320), (160, 320), (640, 640)]
ANY_RATIOS = [*WHOLE_RATIOS, (320, 480), (320, 400), (256, 640), (640, 512)]
counts = st.lists(st.integers(0, 60), min_size=1, max_size=4)


def make_targets(lengths, num_dims=3, extra=0):
    """(B, T, E) random targets with NaN behind each utterance."""
    generator = torch.Generator().manual_seed(sum(lengths))
    target = torch.randn(
        len(lengths), max(lengths) + extra, num_dims, generator=generator
    )
    for b, length in enumerate(lengths):
        target[b, length:] = float("nan")
    return target, torch.tensor(lengths)


@given(counts, st.sampled_from(WHOLE_RATIOS), st.integers(0, 70), st.integers(0, 5))
def test_concat_gives_the_frames_that_begin_within_a_student_frame(
    lengths, shifts, num_student, extra
):
    target, lengths_B = make_targets(lengths, extra=extra)
    aligner = FrameAligner(*shifts, "concat")
    out, out_lengths = aligner(target, lengths_B, num_student)
    r = shifts[1] // shifts[0]
    assert aligner.num_per_frame == r
    assert out.shape == (len(lengths), num_student, r, 3)
    for b, length in enumerate(lengths):
        whole = 0  # student frames all of whose teacher frames are real
        while whole < num_student and (whole + 1) * r <= length:
            for i in range(r):
                assert torch.equal(out[b, whole, i], target[b, whole * r + i])
            whole += 1
        assert int(out_lengths[b]) == whole


@given(counts, st.sampled_from(WHOLE_RATIOS), st.integers(1, 70))
def test_mean_is_the_average_of_the_frames_of_concat(lengths, shifts, num_student):
    target, lengths_B = make_targets(lengths)
    out, out_lengths = FrameAligner(*shifts, "mean")(target, lengths_B, num_student)
    r = shifts[1] // shifts[0]
    assert out.shape == (len(lengths), num_student, 1, 3)
    for b, length in enumerate(lengths):
        assert int(out_lengths[b]) == min(num_student, length // r)
        for t in range(int(out_lengths[b])):
            expected = sum(target[b, t * r + i] for i in range(r)) / r
            torch.testing.assert_close(out[b, t, 0], expected)


@given(counts, st.sampled_from(ANY_RATIOS), st.integers(1, 70))
def test_linear_is_numpys_interpolation_at_the_frames_middles(
    lengths, shifts, num_student
):
    target, lengths_B = make_targets(lengths, extra=1)
    out, out_lengths = FrameAligner(*shifts, "linear")(target, lengths_B, num_student)
    assert out.shape == (len(lengths), num_student, 1, 3)
    for b, length in enumerate(lengths):
        # A frame stands for the middle of its shift, in samples.
        middles = (np.arange(num_student) + 0.5) * shifts[1]
        known = (np.arange(length) + 0.5) * shifts[0]
        num_valid = int(out_lengths[b])
        if length == 0:
            assert num_valid == 0
            continue
        inside = (middles <= known[-1] + 1e-6).sum()
        assert num_valid == max(inside, 1)
        for e in range(3):
            expected = np.interp(middles, known, target[b, :length, e].numpy())
            np.testing.assert_allclose(
                out[b, :num_valid, 0, e].numpy(), expected[:num_valid], atol=1e-4
            )


@given(st.integers(1, 400), st.sampled_from(WHOLE_RATIOS), st.integers(-1, 1))
def test_one_student_frame_of_difference_is_accepted(num_student, shifts, difference):
    ratio = shifts[1] // shifts[0]
    teacher = max(0, num_student + difference) * ratio
    aligner = FrameAligner(*shifts)
    aligner.check(torch.tensor([teacher]), torch.tensor([num_student]), "t")


@given(st.integers(1, 400), st.sampled_from([-3, -2, 2, 3, 100]))
def test_more_than_one_frame_names_utterance_and_both_counts(num_student, difference):
    student = num_student + 3
    teacher = 2 * (student + difference)
    aligner = FrameAligner(320, 640)
    good = torch.tensor([2 * student, teacher])
    with pytest.raises(DataError) as error:
        aligner.check(
            good, torch.tensor([student] * 2), "hubert_l9", ["utt_a", "utt_b"]
        )
    message = str(error.value)
    for part in ("utt_b", "hubert_l9", str(teacher), str(student)):
        assert part in message
    assert "utt_a" not in message


def test_without_ids_the_place_in_the_batch_is_named():
    aligner = FrameAligner(320, 640)
    with pytest.raises(DataError, match="number 1 of the batch"):
        aligner.check(torch.tensor([100, 10]), torch.tensor([50, 50]), "t")


@pytest.mark.parametrize("method", ["concat", "mean"])
@pytest.mark.remedy(
    "use `align: linear`",
)
def test_rates_without_whole_ratio_are_refused_with_the_remedy(method):
    with pytest.raises(ConfigError, match="320.*align: linear|align: linear"):
        FrameAligner(320, 480, method)
    FrameAligner(320, 480, "linear")


def test_unknown_method_names_the_known_ones():
    with pytest.raises(ConfigError, match="concat.*mean.*linear.*nearest"):
        FrameAligner(320, 640, "nearest")


centres = st.floats(-700, 1500)


def nearest_frames(shifts, centre_t, centre_s, t):
    """First of the R teacher frames whose middle is nearest to student frame t's."""
    r = shifts[1] // shifts[0]
    middle = shifts[1] * t + centre_s

    def distance(first):
        return abs(shifts[0] * (first + (r - 1) / 2) + centre_t - middle)

    candidates = range(t * r - 20, t * r + 20)
    least = min(map(distance, candidates))
    return {first for first in candidates if distance(first) <= least + 1e-6}


@given(counts, st.sampled_from(WHOLE_RATIOS), st.integers(1, 70), centres, centres)
def test_a_student_frame_gets_the_teacher_frames_around_its_own_centre(
    lengths, shifts, num_student, centre_t, centre_s
):
    target, lengths_B = make_targets(lengths)
    aligner = FrameAligner(*shifts, "concat", centre_t, centre_s)
    r = shifts[1] // shifts[0]
    assert abs(aligner.offset) <= shifts[0] / 2 + 1e-6
    out, out_lengths = aligner(target, lengths_B, num_student)
    for b, length in enumerate(lengths):
        valid = int(out_lengths[b])
        for t in range(num_student):
            firsts = nearest_frames(shifts, centre_t, centre_s, t)
            (first,) = firsts if len(firsts) == 1 else {r * t + aligner.first}
            assert first in firsts
            assert (t < valid) == (length > 0 and first + r <= length)
            for i in range(r if t < valid else 0):
                expected = target[b, max(0, first + i)]
                assert torch.equal(out[b, t, i], expected)


@given(counts, st.sampled_from(ANY_RATIOS), st.integers(1, 70), centres, centres)
def test_linear_is_numpys_interpolation_at_the_student_frames_centres(
    lengths, shifts, num_student, centre_t, centre_s
):
    target, lengths_B = make_targets(lengths)
    aligner = FrameAligner(*shifts, "linear", centre_t, centre_s)
    out, out_lengths = aligner(target, lengths_B, num_student)
    wanted = np.arange(num_student) * shifts[1] + centre_s
    for b, length in enumerate(lengths):
        known = np.arange(length) * shifts[0] + centre_t
        valid = int(out_lengths[b])
        if length == 0:
            assert valid == 0
            continue
        assert valid in (
            max(1, (wanted <= known[-1] - 1e-3).sum()),
            max(1, (wanted <= known[-1] + 1e-3).sum()),
        )
        for e in range(3):
            expected = np.interp(wanted, known, target[b, :length, e].numpy())
            np.testing.assert_allclose(
                out[b, :valid, 0, e].numpy(), expected[:valid], atol=1e-4
            )
