"""Streams give what ESPnet's own code gives for the whole utterance, however the audio
is cut into chunks."""

import math
import sys
import types
from types import SimpleNamespace

import builders
import numpy as np
import pytest
import streaming_models as models
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_mtkd.errors import ConfigError, DataError
from espnet_mtkd.streaming import Speech2TextStreamingTransducer, Stream
from espnet_mtkd.streaming.encoder import StreamingEncoder
from espnet_mtkd.streaming.frontend import StreamingFrontend
from espnet_mtkd.streaming.hypotheses import count_stable
from espnet_mtkd.streaming.latency import LatencyMeter

RATE = builders.SAMPLE_RATE
SEARCHES = [
    dict(search_type="greedy", max_symbols_per_frame=1),
    dict(search_type="greedy", max_symbols_per_frame=3),
    dict(search_type="tsd", beam_size=4, max_symbols_per_frame=1),
    dict(search_type="default", beam_size=4),
]
NO_CUTS = dict(endpoint_silence=math.inf, max_segment=math.inf)


@pytest.fixture(scope="module")
def load(files):
    """Function: options -> a decoder of the tiny model (made once for each)."""
    made = {}

    def load(**options):
        key = tuple(sorted(options.items()))
        if key not in made:
            made[key] = Speech2TextStreamingTransducer(*files, **options)
        return made[key]

    return load


def split(wave: np.ndarray, cuts: list[int]) -> list[np.ndarray]:
    """A wave in pieces, some of them empty where cuts repeat."""
    return np.split(wave, sorted(cut % (len(wave) + 1) for cut in cuts))


def run(stream: Stream, chunks) -> list:
    """All final segments of a stream that hears these chunks."""
    final = []
    for chunk in chunks:
        *done, partial = stream.accept(chunk)
        assert not partial.is_final and all(segment.is_final for segment in done)
        final += done
    return final + stream.finish()


def summary(segments) -> list:
    """What must not depend on chunks."""
    return [(s.token_ids, s.times_ms, s.text, s.begin_ms, s.end_ms) for s in segments]


def conf(**changes):
    return {**builders.ENCODERS[models.ENCODER], **changes}


CUTS = st.lists(st.integers(0, 10**6), max_size=8)


# ------------------------------------------------------------- features


@pytest.mark.parametrize(
    "options",
    [
        dict(win_length=400, hop_length=160),
        dict(hop_length=128),
        dict(hop_length=256),
        dict(n_fft=400, hop_length=160),
        dict(win_length=400, hop_length=160, center=False),
    ],
    ids=str,
)
@given(st.integers(513, 9000), st.integers(0, 9), CUTS)
@settings(max_examples=25)
def test_features_in_chunks_are_those_of_the_whole(options, num_samples, seed, cuts):
    from espnet2.asr.frontend.default import DefaultFrontend

    frontend = DefaultFrontend(n_mels=20, **options)
    streaming = StreamingFrontend(frontend, None)
    wave = builders.speech_like(num_samples / RATE, seed)
    whole, _ = frontend(torch.from_numpy(wave)[None], torch.tensor([num_samples]))
    state = streaming.init_state()
    parts = [
        streaming(torch.from_numpy(chunk), state, False) for chunk in split(wave, cuts)
    ]
    parts.append(streaming(torch.zeros(0), state, True))
    torch.testing.assert_close(torch.cat(parts), whole[0], atol=1e-4, rtol=1e-4)


def test_features_sample_by_sample(load):
    frontend = load().frontend
    wave = builders.speech_like(0.1, 4)
    state = frontend.init_state()
    parts = [frontend(torch.tensor([x]), state, False) for x in wave]
    parts.append(frontend(torch.zeros(0), state, True))
    whole = models.features_of_whole(load().asr_model, wave)
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-4, rtol=1e-4)


# ------------------------------------------------------------- encoder


@pytest.fixture(scope="module", params=["conv2d", "conv2d6", "conv2d8"])
def encoder(request):
    from espnet2.asr.encoder.contextual_block_conformer_encoder import (
        ContextualBlockConformerEncoder,
    )

    options = {**builders.ENCODERS[models.ENCODER], "input_layer": request.param}
    module = ContextualBlockConformerEncoder(40, **options).eval()
    builders.randomize(module, 5)
    return module


def encode_in_chunks(encoder, chunks) -> torch.Tensor:
    """(T, D) of feature chunks (T, F)."""
    streaming = StreamingEncoder(encoder)
    state = streaming.init_state(chunks[0].size(1))
    out = []
    for i, chunk in enumerate(chunks):
        streaming.accept(chunk, state, i == len(chunks) - 1)
        while streaming.has_block(state):
            out += streaming.step([state])
    while not state.drained:
        out += streaming.step([state])
    return torch.cat(out)


@torch.no_grad()
def test_every_number_of_frames_gives_the_whole_encoder_output(encoder):
    """One frame to three blocks and more: all ways in which a block can be short."""
    streaming = StreamingEncoder(encoder)
    for num_frames in range(1, 3 * encoder.block_size + 2):
        num_feats = (num_frames - 1) * streaming.subsampling + streaming.receptive_field
        feats_TF = torch.randn(num_feats, 40)
        whole = models.encode_features(encoder, feats_TF)
        assert len(whole) == num_frames
        # Everything at once; frame by frame; and with nothing left at the end, where a
        # block is complete and nobody knows yet that it is the last.
        for chunks in (
            [feats_TF],
            list(feats_TF.split(1)),
            [feats_TF, feats_TF[:0]],
        ):
            found = encode_in_chunks(encoder, chunks)
            torch.testing.assert_close(found, whole, atol=1e-4, rtol=1e-4)


@given(st.integers(0, 300), st.integers(0, 9), CUTS)
@settings(max_examples=40)
@torch.no_grad()
def test_encoder_output_in_chunks_is_that_of_the_whole(load, num_feats, seed, cuts):
    feats_TF = torch.randn(
        7 + num_feats, 20, generator=torch.Generator().manual_seed(seed)
    )
    encoder = load().asr_model.encoder
    points = sorted(cut % (len(feats_TF) + 1) for cut in cuts)
    found = encode_in_chunks(encoder, feats_TF.tensor_split(points))
    whole = models.encode_features(encoder, feats_TF)
    torch.testing.assert_close(found, whole, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_block_is_given_out_as_soon_as_it_is_complete(load):
    """Blocks of 12 frames, 4 apart; 4 n + 3 features make n frames. The first needs a
    frame more: alone it would be encoded differently."""
    streaming = load().encoder
    state, espnet_state = streaming.init_state(20), None
    ours, espnets = [], []  # features that had come when frames were given out
    for num_feats in range(1, 4 * 24):
        feats_TF = torch.randn(1, 20)
        streaming.accept(feats_TF, state, False)
        if sum(map(len, streaming.step([state]))):
            ours.append(num_feats)
        out, _, espnet_state = streaming.encoder(
            feats_TF[None], torch.tensor([1]), espnet_state, False, infer_mode=True
        )
        if out.size(1):
            espnets.append(num_feats)
    assert ours == [4 * n + 3 for n in (13, 16, 20)]
    assert espnets == [60, 76, 92]


def test_a_token_waits_for_its_block_and_no_longer(load):
    """Blocks of 12 frames give out 4, with 4 ahead: 160 to 280 ms; the first gives out
    8 after 13. To this come a chunk of 10 ms, and 3.5 ms by which the STFT is longer
    than its window."""
    speech2text = load(**NO_CUTS)
    waits = {}  # which block gave a token out -> how long it waited
    for seed in range(3):
        meter = LatencyMeter(speech2text.tokens2text)
        stream = speech2text.open_stream()
        wave = builders.speech_like(3, seed)
        for chunk in np.split(wave, range(160, len(wave), 160)):
            meter.update(stream.accept(chunk), stream.num_heard / 16, 0)
        final = stream.finish()
        meter.update(final, stream.num_heard / 16, 0)
        for (wait, _), end in zip(meter.tokens_ms, final[0].times_ms, strict=True):
            frame = round((end - 72.5) / 40)
            if frame < 65:  # the end of the audio hastens the last block
                waits.setdefault("first" if frame < 8 else "later", []).append(wait)
    for name, (low, high) in {"first": (200, 480), "later": (160, 280)}.items():
        assert low <= min(waits[name]) and max(waits[name]) < high + 13.5


# ------------------------------------------------------------- search


@pytest.mark.parametrize("seconds", [0.06, 0.2, 0.48, 0.56, 1.0, 4.0])
@pytest.mark.parametrize("seed", range(3))
def test_greedy_tokens_and_times_are_those_of_a_plain_loop(load, seconds, seed):
    speech2text = load(max_symbols_per_frame=1, **NO_CUTS)
    wave = builders.speech_like(seconds, seed)
    encoded_TD = models.encode_whole(speech2text.asr_model, wave)
    expected = models.greedy_of_whole(speech2text.asr_model, encoded_TD)
    (segment,) = run(speech2text.open_stream(), np.split(wave, range(160, 9600, 160)))
    assert segment.token_ids == [token for token, _ in expected]
    # Frame j sees features 4 j to 4 j + 6, a feature 12.5 ms on both sides.
    ends = [10 * (4 * frame + 6) + 12.5 for _, frame in expected]
    assert segment.times_ms == pytest.approx([min(x, 1000 * seconds) for x in ends])
    assert segment.tokens == [models.TOKENS[i] for i in segment.token_ids]
    assert segment.text == "".join(segment.tokens).replace("<space>", " ")
    assert (segment.begin_ms, segment.end_ms) == pytest.approx((0, 1000 * seconds))


def test_the_random_model_says_something(load):
    """Or the tests here would compare nothing with nothing."""
    speech2text = load(max_symbols_per_frame=1, **NO_CUTS)
    wave = builders.speech_like(4, 0)
    (segment,) = run(speech2text.open_stream(), [wave])
    num_frames = len(models.encode_whole(speech2text.asr_model, wave))
    assert 0.2 * num_frames < len(segment.tokens) < 0.8 * num_frames
    assert len(set(segment.tokens)) >= 4


@pytest.mark.parametrize("seed", range(3))
def test_greedy_is_espnets_greedy(load, seed):
    from espnet2.asr.transducer.beam_search_transducer import BeamSearchTransducer

    speech2text = load(max_symbols_per_frame=1, **NO_CUTS)
    model = speech2text.asr_model
    wave = builders.speech_like(3, seed)
    search = BeamSearchTransducer(model.decoder, model.joint_network, beam_size=1)
    with torch.no_grad():
        (expected,) = search(models.encode_whole(model, wave))
    (segment,) = run(speech2text.open_stream(), [wave])
    assert [0, *segment.token_ids] == expected.yseq
    assert segment.score == pytest.approx(expected.score, abs=1e-3)


@pytest.mark.parametrize("beam_size", [2, 3, 6])
def test_best_first_search_is_espnets_default(files, beam_size):
    """Several streams at once, each as ESPnet decodes it alone."""
    from espnet2.asr.transducer.beam_search_transducer import BeamSearchTransducer

    speech2text = Speech2TextStreamingTransducer(
        *files,
        search_type="default",
        beam_size=beam_size,
        nbest=beam_size,
        **NO_CUTS,
    )
    model = speech2text.asr_model
    search = BeamSearchTransducer(
        model.decoder, model.joint_network, beam_size=beam_size, nbest=beam_size
    )
    waves = [builders.speech_like(seconds, 7) for seconds in (2.0, 1.2, 2.7)]
    streams = [speech2text.open_stream() for _ in waves]
    for begin in range(0, 48000, 2560):
        speech2text.accept(streams, [wave[begin : begin + 2560] for wave in waves])
    to_text, repeated = speech2text.tokens2text, []
    for wave, segments in zip(waves, speech2text.finish(streams), strict=True):
        with torch.no_grad():
            expected = search(models.encode_whole(model, wave))
        assert segments[-1].token_ids == expected[0].yseq[1:]
        # ESPnet lists alignments of one text; here each text stands once.
        best = {}
        for hyp in expected:
            text = to_text([models.TOKENS[i] for i in hyp.yseq[1:]])
            best.setdefault(text, hyp.score)
        repeated.append(len(expected) - len(best))
        assert [text for text, _ in segments[-1].nbest] == list(best)
        scores = [score for _, score in segments[-1].nbest]
        assert scores == pytest.approx(list(best.values()), abs=1e-3)
    assert beam_size < 6 or max(repeated) > 0


def test_a_frame_of_best_first_search_ends_where_the_limit_says(load):
    """With few tokens allowed, no hypothesis has more of them in one frame."""
    stream = load(
        search_type="default", beam_size=3, max_symbols_per_frame=2, **NO_CUTS
    ).open_stream()
    (segment,) = run(stream, [builders.speech_like(2, 5)])
    counts = [segment.times_ms.count(t) for t in set(segment.times_ms)]
    assert counts and max(counts) <= 2


@pytest.mark.parametrize("max_symbols", [1, 2])
@pytest.mark.parametrize("beam_size", [1, 3, 6])
def test_beam_search_is_espnets_tsd(files, beam_size, max_symbols):
    from espnet2.asr.transducer.beam_search_transducer import BeamSearchTransducer

    speech2text = Speech2TextStreamingTransducer(
        *files,
        search_type="tsd",
        beam_size=beam_size,
        max_symbols_per_frame=max_symbols,
        nbest=beam_size,
        **NO_CUTS,
    )
    model = speech2text.asr_model
    wave = builders.speech_like(2.5, 7)
    search = BeamSearchTransducer(
        model.decoder,
        model.joint_network,
        beam_size=max(2, beam_size),  # ESPnet takes 1 for greedy search
        search_type="tsd",
        max_sym_exp=max_symbols + 1,
        nbest=beam_size,
    )
    search.beam_size = beam_size
    with torch.no_grad():
        expected = search(models.encode_whole(model, wave))
    (segment,) = run(speech2text.open_stream(), np.split(wave, range(0, 40000, 2560)))
    assert segment.token_ids == expected[0].yseq[1:]
    to_text = speech2text.tokens2text
    texts = [to_text([models.TOKENS[i] for i in hyp.yseq[1:]]) for hyp in expected]
    assert [text for text, _ in segment.nbest] == texts
    scores = [score for _, score in segment.nbest]
    assert scores == pytest.approx([hyp.score for hyp in expected], abs=1e-3)


@pytest.mark.parametrize(
    "beam, expected",
    [(["ABC", "ABD", "AB"], 2), (["ABC", "AC"], 1), (["A", "B"], 0), (["AB"], 2)],
)
def test_stable_is_what_all_hypotheses_begin_with(beam, expected):
    assert count_stable([SimpleNamespace(tokens=tuple(x)) for x in beam]) == expected


def test_what_is_called_stable_never_changes(load):
    stream = load(search_type="tsd", beam_size=4, **NO_CUTS).open_stream()
    partials = []
    for chunk in np.split(builders.speech_like(4, 2), range(0, 64000, 1600)):
        partials += stream.accept(chunk)
    (final,) = stream.finish()
    assert any(0 < p.num_stable < len(p.tokens) for p in partials)
    for partial in partials:
        stable = partial.token_ids[: partial.num_stable]
        assert stable == final.token_ids[: partial.num_stable]
        assert partial.text.startswith(partial.stable_text)
    assert final.num_stable == len(final.tokens) and final.stable_text == final.text


def test_all_of_greedy_is_stable(load):
    stream = load().open_stream()
    partial = stream.accept(builders.speech_like(2, 2))[-1]
    assert partial.tokens and partial.num_stable == len(partial.tokens)


# ------------------------------------------------------------- chunks and streams


@pytest.mark.parametrize("options", SEARCHES, ids=str)
@given(st.integers(0, 40000), st.integers(0, 5), CUTS)
@settings(max_examples=15)
def test_segments_do_not_depend_on_chunks(load, options, num_samples, seed, cuts):
    speech2text = load(**options, endpoint_silence=0.2, max_segment=1.2)
    wave = builders.speech_like(num_samples / RATE, seed)
    once = run(speech2text.open_stream(), [wave])
    found = run(speech2text.open_stream(), split(wave, cuts))
    assert summary(found) == summary(once)


def test_sample_by_sample(load):
    speech2text = load(**NO_CUTS)
    wave = builders.speech_like(0.6, 1)
    expected = run(speech2text.open_stream(), [wave])
    assert expected[0].tokens
    found = run(speech2text.open_stream(), wave[:, None])
    assert summary(found) == summary(expected)


@pytest.mark.parametrize("options", SEARCHES, ids=str)
def test_streams_decoded_together_are_as_each_alone(load, options):
    """Streams of different lengths, chunks and ends."""
    speech2text = load(**options, endpoint_silence=0.2, max_segment=1.2)
    waves = [builders.speech_like(s, i) for i, s in enumerate((3.0, 0.3, 2.2, 1.1))]
    alone = [run(speech2text.open_stream(), [wave]) for wave in waves]
    streams = [speech2text.open_stream() for _ in waves]
    chunks = [
        np.split(wave, range(0, len(wave), size))
        for wave, size in zip(waves, (2560, 700, 5000, 1600), strict=True)
    ]
    found = [[] for _ in waves]
    active = list(range(len(waves)))
    step = 0
    while active:
        ended = [i for i in active if step == len(chunks[i])]
        active = [i for i in active if i not in ended]
        for i, last in zip(
            ended, speech2text.finish([streams[i] for i in ended]), strict=True
        ):
            found[i] += last
        results = speech2text.accept(
            [streams[i] for i in active], [chunks[i][step] for i in active]
        )
        for i, segments in zip(active, results, strict=True):
            found[i] += segments[:-1]
        step += 1
    assert [summary(x) for x in found] == [summary(x) for x in alone]
    assert sum(len(x) for x in found) > len(waves)  # there were cuts


def expected_segments(model, wave, endpoint_frames: int, max_frames: int):
    """Segments by encoding all the audio that is left, again after each cut.

    Returns:
        (tokens, first sample) of each segment that has tokens.
    """
    begin, segments = 0, []
    while True:
        rest = wave[begin:]
        encoded_TD = models.encode_whole(model, rest) if len(rest) >= 960 else []
        pairs = models.greedy_of_whole(model, encoded_TD)
        emitted = dict((frame, token) for token, frame in pairs)
        tokens, silence = [], 0
        for frame in range(len(encoded_TD)):
            silence += 1
            if frame in emitted:
                tokens.append(emitted[frame])
                silence = 0
            if (tokens and silence == endpoint_frames) or frame + 1 == max_frames:
                break
        else:
            return segments + ([(tokens, begin)] if tokens else [])
        if tokens:
            segments.append((tokens, begin))
        begin += models.FRAME_SHIFT * (frame + 1 - min(silence // 2, 38))  # 1.52 s


@pytest.mark.parametrize("endpoint_frames, max_frames", [(5, 60), (3, 30), (8, 25)])
def test_cuts_are_where_silence_or_length_says(load, endpoint_frames, max_frames):
    speech2text = load(
        max_symbols_per_frame=1,
        endpoint_silence=0.04 * endpoint_frames,
        max_segment=0.04 * max_frames,
    )
    wave = np.concatenate([builders.speech_like(3, 3), np.zeros(16000, np.float32)])
    wave = np.concatenate([wave, builders.speech_like(3, 4)])
    expected = expected_segments(
        speech2text.asr_model, wave, endpoint_frames, max_frames
    )
    assert len(expected) > 2
    found = run(speech2text.open_stream(), np.split(wave, range(0, len(wave), 2560)))
    found = [(s.token_ids, round(s.begin_ms * 16)) for s in found if s.tokens]
    assert found == expected


def num_bytes(value, seen=None) -> int:
    """Memory of all tensors and arrays that can be reached, shared ones once."""
    seen = set() if seen is None else seen
    if isinstance(value, Speech2TextStreamingTransducer) or id(value) in seen:
        return 0
    if isinstance(value, torch.Tensor):
        storage = value.untyped_storage()
        new = storage.data_ptr() not in seen
        seen.add(storage.data_ptr())
        return storage.nbytes() if new else 0
    if isinstance(value, np.ndarray):
        return num_bytes(value.base, seen) if value.base is not None else value.nbytes
    if isinstance(value, (list, tuple)):
        return sum(num_bytes(x, seen) for x in value)
    if isinstance(value, dict):
        return sum(num_bytes(x, seen) for x in value.values())
    slots = getattr(type(value), "__slots__", ())
    parts = {**getattr(value, "__dict__", {}), **{k: getattr(value, k) for k in slots}}
    return sum(num_bytes(x, seen) for x in parts.values())


def test_ten_minutes_take_no_more_memory_than_the_first(tmp_path):
    """Each with half a minute of speech and half a minute of silence."""
    blocks = conf(block_size=40, hop_size=16, look_ahead=16)
    files = models.build(tmp_path / "model", encoder_conf=blocks)
    speech2text = Speech2TextStreamingTransducer(*files, max_segment=10.0)
    stream = speech2text.open_stream()
    minute = np.concatenate([builders.speech_like(30, 8), np.zeros(30 * RATE)])
    sizes, num_segments = [], 0
    for _ in range(10):
        peak = 0
        for chunk in np.split(minute, range(0, len(minute), 10240)):
            num_segments += len(stream.accept(chunk)) - 1
            tokens = sum(len(hyp.tokens) for hyp in stream.beam)
            peak = max(peak, num_bytes(stream) + 16 * tokens)
        sizes.append(peak)
    assert max(sizes[1:]) <= 1.05 * sizes[0] < 500_000
    assert num_segments >= 30
    # The encoder's table of positions grows with the longest segment.
    assert speech2text.asr_model.encoder.pos_enc.pe.size(1) == 5000


# ------------------------------------------------------------- traps and bad input


def test_an_utterance_within_one_block_has_text(load):
    """`forward_infer` says that it has no frames."""
    model = load().asr_model
    wave = builders.speech_like(0.45, 0)
    feats_TF = models.features_of_whole(model, wave)
    with torch.no_grad():
        out, lengths, _ = model.encoder(
            feats_TF[None], torch.tensor([len(feats_TF)]), infer_mode=True
        )
    assert lengths.tolist() == [0] and out.size(1) > 0  # ESPnet's trap is still there
    (segment,) = run(load().open_stream(), [wave])
    assert segment.tokens


@pytest.mark.parametrize("num_samples", [0, 1, 200, 256, 257, 400, 959])
def test_too_little_audio_for_a_frame_is_empty_text(load, num_samples):
    """The convolutions need 7 features: 960 samples."""
    (segment,) = run(load().open_stream(), [builders.speech_like(1, 0)[:num_samples]])
    assert (segment.text, segment.tokens, segment.is_final) == ("", [], True)


def test_silence_is_empty_text(tmp_path):
    files = models.build(tmp_path / "model", blank_bias=30.0)
    speech2text = Speech2TextStreamingTransducer(*files, max_segment=2.0)
    segments = run(speech2text.open_stream(), np.zeros((10, 16000)))
    assert [segment.text for segment in segments] == [""]


@pytest.mark.parametrize("input_layer", ["conv2d", "conv2d6", "conv2d8"])
def test_a_cut_in_silence_hears_the_last_second_and_a_half_again(tmp_path, input_layer):
    """A word may have begun there whose first token is yet to come."""
    files = models.build(
        tmp_path / "model",
        blank_bias=50.0,
        encoder_conf=conf(input_layer=input_layer),
    )
    speech2text = Speech2TextStreamingTransducer(*files, max_segment=4.0)
    stream, begins = speech2text.open_stream(), [0.0]
    for heard_ms in range(100, 12001, 100):
        begin = stream.accept(np.zeros(1600))[-1].begin_ms
        if begin != begins[-1]:
            begins.append(begin)
            assert heard_ms - begin >= 1500
    steps = np.diff(begins)
    assert len(steps) >= 3 and np.all(np.abs(steps - 2500) <= 120)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_sample_that_is_no_number_is_named_and_the_stream_goes_on(load, bad):
    wave = builders.speech_like(1, 0)
    stream = load().open_stream()
    stream.accept(wave[:5000])
    chunk = wave[5000:].copy()
    chunk[[77, 100]] = bad
    with pytest.raises(DataError, match=f"sample 5077 of the stream is {bad}, and 1 m"):
        stream.accept(chunk)
    found = run(stream, [wave[5000:]])
    assert summary(found) == summary(run(load().open_stream(), [wave]))


def test_a_bad_chunk_changes_none_of_the_streams(load):
    streams = [load().open_stream() for _ in range(2)]
    with pytest.raises(DataError):
        load().accept(streams, [np.zeros(100), np.full(100, np.nan)])
    assert [stream.num_heard for stream in streams] == [0, 0]


def test_other_kinds_of_samples(load):
    wave = builders.speech_like(1, 0)
    pcm = np.round(wave * 32768).astype(np.int16)
    expected = summary(run(load().open_stream(), [pcm / 32768]))
    for samples in (pcm, torch.from_numpy(pcm / 32768), (pcm / 32768).tolist()):
        assert summary(run(load().open_stream(), [samples])) == expected
    for bad, message in (
        (np.zeros((100, 2)), "one channel"),
        (np.zeros(100, np.int32), "found int32"),
    ):
        with pytest.raises(DataError, match=message):
            load().open_stream().accept(bad)


def test_a_finished_stream_says_so(load):
    stream = load().open_stream()
    stream.finish()
    for call in (stream.finish, lambda: stream.accept(np.zeros(10))):
        with pytest.raises(RuntimeError, match=r"finished.*open_stream"):
            call()


# ------------------------------------------------------------- models


REFUSED = {
    "offline encoder": (
        dict(encoder="conformer", encoder_conf=builders.ENCODERS["conformer"]),
        "expected 'encoder: contextual_block_conformer', found ConformerEncoder",
    ),
    "attention decoder": (
        dict(decoder="transformer", decoder_conf={}),
        "expected 'decoder: transducer', found 'transformer'",
    ),
    "utterance_mvn": (
        dict(normalize="utterance_mvn", normalize_conf={}),
        "normalize: utterance_mvn.*--feats_normalize global_mvn",
    ),
    "no subsampling": (
        dict(encoder_conf=conf(input_layer="linear")),
        "expected 'input_layer: conv2d'.*found Sequential",
    ),
    "no blocks": (dict(encoder_conf=conf(block_size=0)), "found block_size 0"),
    "dereverberation": (
        dict(frontend_conf=dict(n_mels=20, frontend_conf=dict(use_wpe=True))),
        "found apply_stft: false, use_wpe",
    ),
    "raw windows": (
        dict(
            frontend="sliding_window",
            frontend_conf=dict(win_length=400, hop_length=160, channels=1),
            normalize=None,
        ),
        "expected 'frontend: default'.*found SlidingWindow",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_cannot_stream_is_refused(tmp_path, name):
    changes, message = REFUSED[name]
    files = models.build(tmp_path / "model", can_stream=False, **changes)
    with pytest.raises(ConfigError, match=message) as error:
        Speech2TextStreamingTransducer(*files)
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    "options, message",
    [
        (
            dict(search_type="alsd"),
            "expected one of greedy, tsd, default, found 'alsd'",
        ),
        (dict(beam_size=0, search_type="tsd"), "beam_size"),
        (dict(max_symbols_per_frame=0), "max_symbols_per_frame"),
        (dict(endpoint_silence=0.0), "endpoint_silence: expected above 0"),
        (dict(endpoint_silence=math.nan), "endpoint_silence: expected above 0"),
        (dict(max_segment=0.5), "two of the encoder's blocks, 0.96 s, found 0.5 s"),
        (dict(asr_model_file="no/such.pth"), "no such file: no/such.pth"),
        (dict(token_type="bpe"), "bpemodel: no such file: None"),
    ],
    ids=str,
)
def test_an_option_out_of_range_is_refused(files, options, message):
    with pytest.raises(ConfigError, match=message):
        Speech2TextStreamingTransducer(
            **{"asr_train_config": files[0], "asr_model_file": files[1], **options}
        )


def test_the_encoders_latency_in_ms(load):
    expected = dict(block_size=480, hop_size=160, look_ahead=160)
    assert load().latency_ms() == expected


def test_half_precision_decodes(files):
    speech2text = Speech2TextStreamingTransducer(*files, dtype="bfloat16")
    wave = builders.speech_like(2, 0)
    (segment,) = run(speech2text.open_stream(), [wave])
    assert segment.tokens


def test_a_gru_decoder_without_normalisation_streams_too(tmp_path):
    files = models.build(
        tmp_path / "model",
        decoder_conf=dict(rnn_type="gru", num_layers=2, hidden_size=16),
    )
    speech2text = Speech2TextStreamingTransducer(
        *files, max_symbols_per_frame=1, **NO_CUTS
    )
    wave = builders.speech_like(2, 0)
    encoded_TD = models.encode_whole(speech2text.asr_model, wave)
    expected = models.greedy_of_whole(speech2text.asr_model, encoded_TD)
    (segment,) = run(speech2text.open_stream(), [wave])
    assert segment.token_ids == [token for token, _ in expected] != []


def test_a_published_model_is_loaded_by_its_tag(files, monkeypatch):
    """espnet_model_zoo, which downloads, stands aside; ESPnet asks it for a tag."""
    found = dict(asr_train_config=str(files[0]), asr_model_file=str(files[1]))
    downloader = SimpleNamespace(
        download_and_unpack=lambda tag: {**found, "lm_file": "lm.pth"}
    )
    module = types.ModuleType("espnet_model_zoo.downloader")
    module.ModelDownloader = lambda: downloader
    monkeypatch.setitem(sys.modules, "espnet_model_zoo", types.ModuleType("zoo"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    from_tag = Speech2TextStreamingTransducer.from_pretrained("a/tag", beam_size=2)
    wave = builders.speech_like(1, 0)
    direct = Speech2TextStreamingTransducer(*files)
    assert summary(run(from_tag.open_stream(), [wave])) == summary(
        run(direct.open_stream(), [wave])
    )


# ------------------------------------------------------------- latency


def partial(text, times_ms, is_final=False):
    return SimpleNamespace(
        token_ids=list(text), tokens=list(text), times_ms=times_ms, is_final=is_final
    )


def test_latency_counts_from_when_a_token_stays(load):
    meter = LatencyMeter("".join)
    meter.update([partial("AB", [100, 200])], 500, 510)
    meter.update([partial("AX", [100, 200])], 600, 620)
    meter.update([partial("AX C", [100, 200, 300, 400])], 700, 730)
    meter.update([partial("AX CD", [100, 200, 300, 400, 650], True)], 800, 840)
    assert meter.tokens_ms == [
        (400, 410),
        (400, 420),
        (400, 430),
        (300, 330),
        (150, 190),
    ]
    assert meter.words_ms == [(400, 420), (150, 190)]
    # The next segment begins anew.
    meter.update([partial("A", [900], True), partial("", [])], 1000, 1010)
    assert meter.words_ms[2:] == [(100, 110)]
