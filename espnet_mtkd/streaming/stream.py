"""What is remembered of one stream."""

from dataclasses import dataclass

import numpy as np
import torch

from espnet_mtkd.errors import DataError
from espnet_mtkd.streaming.encoder import EncoderState
from espnet_mtkd.streaming.frontend import FrontendState

# Filters and codecs overshoot 1 by some decibels; floats in the range of int16 are
# beyond this as soon as there is more than silence.
MAX_SAMPLE = 4.0
TORCH_TYPES = (torch.int16, torch.float32, torch.float64)


@dataclass
class Segment:
    """Text between two cuts of a stream, or what is known of it so far.

    Attributes:
        text: best hypothesis.
        stable_text: its beginning that later audio cannot change.
        tokens, token_ids: of the best hypothesis.
        times_ms: where the encoder frame that emitted each token ends, in ms from the
            beginning of the stream (docs/streaming.md).
        num_stable: tokens of `stable_text`.
        score: log probability of the best hypothesis.
        begin_ms, end_ms: of the audio; `end_ms` of a partial segment is what was heard.
        is_final: the text will not change; the next segment is another one.
        nbest: (text, score) of the best hypotheses, each text once; the best first, by
            score a token, as ESPnet sorts them. Where several hypotheses have one text,
            the score is the best one's.
    """

    text: str
    stable_text: str
    tokens: list[str]
    token_ids: list[int]
    times_ms: list[float]
    num_stable: int
    score: float
    begin_ms: float
    end_ms: float
    is_final: bool
    nbest: list[tuple[str, float]]


class Stream:
    """One stream of audio, made by `Speech2TextStreamingTransducer.open_stream`.

    The attributes are the decoder's: it reads and sets them.
    """

    def __init__(self, speech2text, name: str):
        self.speech2text = speech2text
        self.name = name  # in messages
        self.failure = ""  # why it cannot go on
        self.audio_N = np.zeros(0, np.float32)  # from sample `audio_begin` on
        self.audio_begin = 0
        self.num_heard = 0  # samples
        self.is_closed = False
        self.begin_segment(0)

    def begin_segment(self, begin: int) -> None:
        """Forget the model's state and hear the audio again from sample `begin` on."""
        self.begin = self.num_fed = begin
        self.frontend: FrontendState = self.speech2text.frontend.init_state()
        self.encoder: EncoderState = self.speech2text.init_encoder()
        self.beam = self.speech2text.search.init_beam()
        self.num_frames = 0  # that the search has seen

    def accept(self, samples: np.ndarray | torch.Tensor) -> list[Segment]:
        """Hear more audio.

        Args:
            samples: (N,), floats in -1 to 1 or 16-bit integers, at the model's sample
                rate; N may be anything, 0 included.

        Returns:
            Segments that became final, then the one that goes on.

        Raises:
            DataError: not one channel, of another type, or a sample is NaN, infinite
                or far outside -1 to 1. The stream is as it was before.
            StreamError: the model gave NaN or infinity. The stream has ended.
            RuntimeError: the stream is finished.
        """
        return self.speech2text.accept([self], [samples])[0]

    def finish(self) -> list[Segment]:
        """End the stream.

        Returns:
            Its last segments, all final; at least one, perhaps without text.

        Raises:
            StreamError: as `accept`.
            RuntimeError: the stream is finished already.
        """
        return self.speech2text.finish([self])[0]

    def append(self, wave_N: np.ndarray) -> None:
        """Keep audio that `check_samples` let through."""
        self.audio_N = np.concatenate([self.audio_N, wave_N])
        self.num_heard += len(wave_N)

    def take(self, num_samples: int) -> np.ndarray:
        """The next samples, at most so many, that the model has not heard."""
        first = self.num_fed - self.audio_begin
        wave_N = self.audio_N[first : first + num_samples]
        self.num_fed += len(wave_N)
        return wave_N

    def forget(self, begin: int) -> None:
        """Drop the audio before sample `begin`."""
        surplus = begin - self.audio_begin
        if surplus > 0:
            self.audio_N = self.audio_N[surplus:].copy()
            self.audio_begin = begin


class StreamError(DataError):
    """Some of the streams that were computed together cannot go on; the others did.

    Attributes:
        streams: those that cannot. Each has ended.
        found: what `accept` or `finish` would have returned, for each stream that it
            was given; of those that cannot go on, the segments that had become final.
    """

    def __init__(self, streams: list[Stream], found: list[list[Segment]]):
        super().__init__("; ".join(stream.failure for stream in streams))
        self.streams, self.found = streams, found


def check_open(stream: Stream) -> None:
    """Refuse a stream that has ended.

    Raises:
        RuntimeError: it is finished, or failed.
    """
    if stream.failure:
        raise RuntimeError(f"{stream.failure}; it has ended: open another stream")
    if stream.is_closed:
        raise RuntimeError(
            f"{stream.name} is finished: open another with open_stream()"
        )


def check_failures(streams: list[Stream], found: list) -> list[list[Segment]]:
    """What was found, if all of these streams can go on.

    Raises:
        StreamError: some cannot.
    """
    failed = [stream for stream in streams if stream.failure]
    if failed:
        raise StreamError(failed, found)
    return found


def check_samples(samples, stream: Stream) -> np.ndarray:
    """Samples as float32 (N,).

    Args:
        samples: what the caller gave.
        stream: that will hear them, for the message.

    Raises:
        DataError: as in `Stream.accept`.
    """
    name = stream.name
    wanted = "expected float32 or float64 in -1 to 1, or int16"
    if isinstance(samples, torch.Tensor):
        if samples.dtype not in TORCH_TYPES:
            raise DataError(f"{name}: {wanted}, found {samples.dtype}")
        samples = samples.detach().cpu().numpy()
    try:
        samples = np.asarray(samples)
    except ValueError as e:  # lists of different lengths
        raise DataError(f"{name}: expected an array (samples,): {e}") from e
    if samples.ndim != 1:
        raise DataError(
            f"{name}: expected one channel, an array (samples,), found shape "
            f"{samples.shape}"
        )
    if samples.dtype == np.int16:
        return samples.astype(np.float32) / 32768
    if samples.dtype not in (np.float32, np.float64):
        raise DataError(f"{name}: {wanted}, found {samples.dtype}")
    bad = np.flatnonzero(~np.isfinite(samples))
    if len(bad):
        raise DataError(
            f"{name}: sample {stream.num_heard + bad[0]} of the stream is "
            f"{samples[bad[0]]}, and {len(bad) - 1} more in this chunk are NaN or "
            "infinite"
        )
    loud = np.flatnonzero(np.abs(samples) > MAX_SAMPLE)
    if len(loud):
        raise DataError(
            f"{name}: expected floats in -1 to 1, found {samples[loud[0]]:g} as sample "
            f"{stream.num_heard + loud[0]} of the stream: divide 16-bit audio by "
            "32768, or give it as int16"
        )
    return samples.astype(np.float32)
