"""Decode whole inputs, some side by side, and measure it: docs/streaming.md."""

import time
from collections.abc import Callable, Iterator
from threading import Event

import numpy as np

from espnet_mtkd.errors import DataError
from espnet_mtkd.streaming.inference import Speech2TextStreamingTransducer
from espnet_mtkd.streaming.latency import LatencyMeter, summarize
from espnet_mtkd.streaming.stream import Segment, StreamError, check_samples


class Session:
    """One input while it is decoded, and what is kept of it.

    Args:
        utt: its utterance id.
        chunks: its audio, as `Stream.accept` takes it.
        speech2text: decoder.
        real_time: whether its audio comes no faster than it sounds.

    Attributes:
        stream: None after its end, so that a corpus does not fill memory.
        num_heard: samples.
        meter: its latencies.
        text: final text so far.
        fault: why it could not be decoded to its end.
    """

    def __init__(
        self,
        utt: str,
        chunks: Iterator[np.ndarray],
        speech2text: Speech2TextStreamingTransducer,
        real_time: bool,
    ):
        self.utt, self.chunks, self.real_time = utt, chunks, real_time
        self.sample_rate = speech2text.sample_rate
        self.stream = speech2text.open_stream(utt)
        self.meter = LatencyMeter(speech2text.tokens2text)
        self.begin = time.perf_counter()
        self.time_ms = 0.0
        self.num_heard = 0
        self.text = self.fault = ""

    def read(self) -> np.ndarray | None:
        """The next chunk; None at the end, and at a fault."""
        try:
            chunk = next(self.chunks, None)
            return None if chunk is None else check_samples(chunk, self.stream)
        except DataError as e:
            self.fault = str(e)
            return None

    @property
    def heard_ms(self) -> float:
        """Audio that was given."""
        return 1000 * self.num_heard / self.sample_rate

    def wait_for(self, num_samples: int) -> None:
        """Sleep until so many more samples have sounded."""
        due = self.begin + (self.stream.num_heard + num_samples) / self.sample_rate
        time.sleep(max(0.0, due - time.perf_counter()))

    def update(self, segments: list[Segment], seconds: float) -> None:
        """Take a result that took `seconds` to compute."""
        self.num_heard = self.stream.num_heard
        if self.real_time:
            self.time_ms = 1000 * (time.perf_counter() - self.begin)
        else:
            # As if the audio had come in real time: a chunk waits for its end, and for
            # the one before to be computed.
            self.time_ms = max(self.time_ms, self.heard_ms) + 1000 * seconds
        self.meter.update(segments, self.heard_ms, self.time_ms)
        for segment in segments:
            if segment.is_final:
                self.text = f"{self.text} {segment.text.strip()}".strip()


def decode(
    speech2text: Speech2TextStreamingTransducer,
    sources: dict[str, Iterator[np.ndarray]],
    num_streams: int,
    real_time: bool,
    show: Callable[[Session, list[Segment]], None],
    end: Callable[[Session], None] = lambda _: None,
    stop: Event | None = None,
) -> tuple[list[Session], float]:
    """Decode all inputs.

    Args:
        speech2text: decoder.
        sources: utterance id -> chunks of audio.
        num_streams: inputs decoded side by side.
        real_time: see `Session`.
        show: is given each result of each input as it comes.
        end: is given each session at its end. One whose `fault` is set ended early; the
            others went on.
        stop: when it is set, inputs that have not ended are left.

    Returns:
        Their sessions, in the order in which they ended, and the seconds of
        computation.
    """
    waiting = iter(sources.items())
    active, finished, total = [], [], 0.0
    while True:
        while len(active) < num_streams and (source := next(waiting, None)):
            active.append(Session(*source, speech2text, real_time))
        if not active or (stop is not None and stop.is_set()):
            return finished, total
        chunks = [session.read() for session in active]
        ended = [s for s, c in zip(active, chunks, strict=True) if c is None]
        active = [s for s in active if s not in ended]
        chunks = [chunk for chunk in chunks if chunk is not None]
        if real_time:
            for session, chunk in zip(active, chunks, strict=True):
                session.wait_for(len(chunk))
        total += _compute(active, show, speech2text.accept, chunks)
        total += _compute(ended, show, speech2text.finish)
        ended += [session for session in active if session.fault]
        active = [session for session in active if not session.fault]
        for session in ended:
            session.stream = None
            end(session)
        finished += ended


def _compute(sessions: list[Session], show, method, *args) -> float:
    """Call a method of the decoder for these sessions' streams; seconds it took."""
    if not sessions:
        return 0.0
    begin = time.perf_counter()
    try:
        found = method([session.stream for session in sessions], *args)
    except StreamError as e:
        found = e.found
        for session in sessions:
            session.fault = session.fault or session.stream.failure
    seconds = time.perf_counter() - begin
    for session, segments in zip(sessions, found, strict=True):
        session.update(segments, seconds)
        show(session, segments)
    return seconds


def statistics(sessions: list[Session], seconds: float, sample_rate: int) -> list[str]:
    """Lines with latencies and real-time factor of what `decode` gave."""
    lines = summarize([session.meter for session in sessions])
    audio = sum(session.num_heard for session in sessions) / sample_rate
    if audio:
        lines.append(f"RTF: {seconds / audio:.3f} ({seconds:.2f} s / {audio:.2f} s)")
    return lines
