"""Models that give NaN, models that never say blank, streams that are given wrongly: an
error that names the stream, in finite time, and nothing lost of the others."""

import logging
import math

import builders
import numpy as np
import pytest
import streaming_models as models
import torch

from espnet_mtkd.errors import ConfigError, DataError
from espnet_mtkd.streaming import Speech2TextStreamingTransducer, StreamError

SEARCHES = ["greedy", "tsd", "default"]
NO_CUTS = dict(endpoint_silence=math.inf, max_segment=math.inf)
NAN = float("nan")


@pytest.fixture(scope="module")
def decoder(files):
    return Speech2TextStreamingTransducer(*files)


@pytest.fixture
def load(files, tmp_path):
    """Function: a parameter, a place in it, its value there, options -> decoder."""

    def load(name, place, value, **options):
        weights = torch.load(files[1])
        weights[name][place] = value
        torch.save(weights, tmp_path / "model.pth")
        return Speech2TextStreamingTransducer(
            files[0], tmp_path / "model.pth", **options
        )

    return load


# ------------------------------------------------------------- NaN and infinity


@pytest.mark.parametrize("value", [NAN, math.inf, -math.inf])
@pytest.mark.parametrize("search", SEARCHES)
def test_logits_that_are_no_numbers_end_the_stream_with_its_name(load, search, value):
    speech2text = load(
        "joint_network.lin_out.bias", 5, value, search_type=search, **NO_CUTS
    )
    stream = speech2text.open_stream("utterance_7")
    with pytest.raises(DataError, match=r"utterance_7: at 0\.00 s the logits") as error:
        stream.accept(builders.speech_like(1, 0))
    assert error.value.exit_code == 4
    for call in (stream.finish, lambda: stream.accept(np.zeros(10))):
        with pytest.raises(RuntimeError, match="utterance_7.*open another stream"):
            call()


def test_features_that_are_no_numbers_end_the_stream_with_its_name(files, tmp_path):
    statistics = np.zeros(20)
    statistics[3] = np.nan
    path = tmp_path / "stats.npz"
    np.savez(path, count=100, sum=statistics, sum_square=8000 * np.ones(20))
    bad = models.build(
        tmp_path / "model", can_stream=False, normalize_conf=dict(stats_file=str(path))
    )
    stream = Speech2TextStreamingTransducer(*bad).open_stream()
    with pytest.raises(DataError, match="stream 1: at 0.00 s the features are not fi"):
        stream.accept(builders.speech_like(1, 0))


def test_numbers_too_large_for_the_dtype_are_no_empty_text(load):
    """Finite in the file, infinite in half precision."""
    speech2text = load("joint_network.lin_out.bias", 5, 1e5, dtype="float16")
    with pytest.raises(StreamError, match="float32 has the widest range"):
        speech2text.open_stream().accept(builders.speech_like(1, 0))


DAMAGES = {  # of a stream that is being decoded
    "logits": lambda stream: stream.beam[0].decoder_J.fill_(NAN),
    "features": lambda stream: stream.frontend.wave_N.fill_(math.inf),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("search", SEARCHES)
def test_one_bad_stream_does_not_lose_the_others(files, search, damage):
    """Nor their segments that end in the same call."""
    speech2text = Speech2TextStreamingTransducer(
        *files, search_type=search, endpoint_silence=0.2, max_segment=1.2
    )
    waves = [builders.speech_like(2.5, seed) for seed in range(3)]
    expected = []
    for wave in waves:
        stream = speech2text.open_stream()
        expected.append(stream.accept(wave)[:-1] + stream.finish())
    streams = [speech2text.open_stream(f"utt{i}") for i in range(3)]
    found = [[] for _ in waves]

    def take(results):
        for segments, result in zip(found, results, strict=True):
            segments += [segment for segment in result if segment.is_final]

    take(speech2text.accept(streams, [wave[:16000] for wave in waves]))
    DAMAGES[damage](streams[1])
    with pytest.raises(StreamError, match=f"^utt1: at .*{damage}") as error:
        speech2text.accept(streams, [wave[16000:] for wave in waves])
    assert error.value.streams == [streams[1]] and "utt0" not in str(error.value)
    assert not any(segment.is_final for segment in error.value.found[1])
    take(error.value.found)
    good = speech2text.finish([streams[0], streams[2]])
    take([good[0], [], good[1]])
    for i in (0, 2):
        assert len(expected[i]) > 1
        assert [s.text for s in found[i]] == [s.text for s in expected[i]]
        assert [s.times_ms for s in found[i]] == [s.times_ms for s in expected[i]]


# ------------------------------------------------------------- models without blanks


@pytest.mark.parametrize("blank_bias", [-5.0, -50.0])
def test_a_model_that_never_says_blank_ends_and_is_said(tmp_path, caplog, blank_bias):
    """ESPnet's search would not: the number of hypotheses grows from token to token."""
    files = models.build(tmp_path / "model", blank_bias=blank_bias)
    speech2text = Speech2TextStreamingTransducer(
        *files, search_type="default", beam_size=2, **NO_CUTS
    )
    expanded = []  # in each frame
    score, step = speech2text.search._score, speech2text.search.step

    def count_expanded(encoded, index, hyps):
        expanded[-1] += len(hyps)
        return score(encoded, index, hyps)

    def new_frame(*args):
        expanded.append(0)
        return step(*args)

    speech2text.search._score, speech2text.search.step = count_expanded, new_frame
    stream = speech2text.open_stream()
    with caplog.at_level(logging.WARNING):
        stream.accept(builders.speech_like(0.8, 0))
        (segment,) = stream.finish()
    assert max(expanded) == 64 and len(expanded) > 10  # 32 for each of the beam
    assert segment.text and math.isfinite(segment.score)
    warnings = [r.message for r in caplog.records if "blank" in r.message]
    assert len(warnings) == 1 and "after 64 expanded" in warnings[0]


def test_a_model_that_never_says_blank_does_not_hold_others_up(tmp_path):
    """Two streams are searched together; each is bounded by itself."""
    files = models.build(tmp_path / "model", blank_bias=-50.0)
    speech2text = Speech2TextStreamingTransducer(
        *files, search_type="default", beam_size=2, **NO_CUTS
    )
    waves = [builders.speech_like(0.7, seed) for seed in range(2)]
    alone = []
    for wave in waves:
        stream = speech2text.open_stream()
        stream.accept(wave)
        alone.append(stream.finish()[0].text)
    streams = [speech2text.open_stream() for _ in waves]
    speech2text.accept(streams, waves)
    assert [x[0].text for x in speech2text.finish(streams)] == alone


# ------------------------------------------------------------- streams given wrongly


def test_a_stream_twice_is_refused_and_nothing_is_heard(decoder):
    wave = builders.speech_like(1, 0)
    a, b = decoder.open_stream(), decoder.open_stream()
    with pytest.raises(ValueError, match="one of them twice"):
        decoder.accept([a, b, a], [wave] * 3)
    assert (a.num_heard, b.num_heard) == (0, 0)
    with pytest.raises(ValueError, match="one of them twice"):
        decoder.finish([a, a])
    a.accept(wave)
    assert a.finish()[-1].text


def test_another_decoders_stream_is_refused_by_name(files, decoder):
    other = Speech2TextStreamingTransducer(*files, search_type="tsd")
    own, foreign = other.open_stream(), decoder.open_stream("call 3")
    for call in (
        lambda: other.accept([own, foreign], [np.zeros(100)] * 2),
        lambda: other.finish([own, foreign]),
    ):
        with pytest.raises(ValueError, match="call 3 was opened by another decoder"):
            call()
    assert own.num_heard == foreign.num_heard == 0
    assert not own.is_closed and not foreign.is_closed


@pytest.mark.parametrize("num_chunks", [1, 3])
def test_chunks_and_streams_in_different_numbers_are_refused(decoder, num_chunks):
    streams = [decoder.open_stream() for _ in range(2)]
    with pytest.raises(ValueError, match=f"each of 2 streams, found {num_chunks}"):
        decoder.accept(streams, [np.zeros(100)] * num_chunks)
    assert [stream.num_heard for stream in streams] == [0, 0]


WAVE = builders.speech_like(0.5, 0)
BAD_SAMPLES = {
    "range of int16": (
        WAVE * 32768,
        "in -1 to 1, found .*divide 16-bit audio by 32768",
    ),
    "quiet, range of int16": (0.001 * WAVE * 32768, "divide 16-bit audio by 32768"),
    "too large for float32": (np.full(100, 1e300), "found 1e.300 as sample 0"),
    "bfloat16": (torch.from_numpy(WAVE).bfloat16(), "found torch.bfloat16"),
    "half": (torch.from_numpy(WAVE).half(), "found torch.float16"),
    "half of numpy": (WAVE.astype(np.float16), "found float16"),
    "complex": (WAVE.astype(np.complex64), "found complex64"),
    "text": (["a", "b"], "found <U1"),
    "uneven lists": ([[0.0], [0.0, 1.0]], r"expected an array \(samples,\)"),
    "nothing": (None, r"found shape \(\)"),
}


@pytest.mark.parametrize("kind", BAD_SAMPLES)
def test_samples_of_another_kind_are_refused_and_nothing_is_heard(decoder, kind):
    samples, message = BAD_SAMPLES[kind]
    stream = decoder.open_stream("call 3")
    with pytest.raises(DataError, match=f"call 3: .*{message}"):
        stream.accept(samples)
    assert stream.num_heard == 0 and not stream.is_closed
    stream.accept(1.5 * WAVE / abs(WAVE).max())  # a codec's overshoot is no other range
    assert stream.num_heard == len(WAVE)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(dtype="fp16"), "dtype: expected one of float32, bfloat16.*'fp16'"),
        (dict(nbest=0), "nbest: expected a whole number of at least 1, found 0"),
        (dict(nbest=1.5), "nbest: expected a whole number"),
        (dict(beam_size=2.5, search_type="tsd"), "beam_size: .* found 2.5"),
        (dict(max_symbols_per_frame=1.5), "max_symbols_per_frame: .* found 1.5"),
        (dict(device="no_such"), "device: expected 'cpu' or 'cuda', found 'no_such'"),
    ],
    ids=str,
)
def test_an_option_of_another_kind_is_refused(files, options, message):
    with pytest.raises(ConfigError, match=message):
        Speech2TextStreamingTransducer(*files, **options)
