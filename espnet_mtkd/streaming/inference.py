"""Decode streams of audio with an ESPnet transducer, many streams with one model."""

import itertools
import math
from pathlib import Path

import torch

from espnet_mtkd.errors import ConfigError
from espnet_mtkd.streaming.encoder import EncoderState, StreamingEncoder
from espnet_mtkd.streaming.frontend import StreamingFrontend
from espnet_mtkd.streaming.hypotheses import (
    Hypothesis,
    count_stable,
    distinct,
    sort_beam,
)
from espnet_mtkd.streaming.model import DTYPES, load_model, load_tokenizer
from espnet_mtkd.streaming.search import NonFiniteLogits, build_search, check_count
from espnet_mtkd.streaming.stream import (
    Segment,
    Stream,
    check_failures,
    check_open,
    check_samples,
)
from espnet_mtkd.student.grid import FrameGrid

# s before a cut that the next segment hears again, at most: a word of a second whose
# first token comes half a second after its end has begun so long before.
OVERLAP = 1.5


class Speech2TextStreamingTransducer:
    """Streaming counterpart of ESPnet's `Speech2Text` for transducers.

    The model is shared, and what is remembered of a stream stands in the stream.

    Args:
        asr_train_config: `config.yaml` of an ESPnet ASR model.
        asr_model_file: its weights, `.pth`.
        token_type, bpemodel: None: as in the config.
        device: `cpu`, `cuda`, `cuda:1`, ...
        dtype: `float32`, `bfloat16` or `float16`.
        search_type: `greedy`; `default` or `tsd`, the beam searches of these names in
            ESPnet.
        beam_size: of a beam search.
        nbest: hypotheses in `Segment.nbest`, at most.
        max_symbols_per_frame: tokens that one encoder frame may emit (default: 4, of
            `default` 32).
        endpoint_silence: seconds without a token, after the first one, that end a
            segment; `math.inf`: never.
        max_segment: seconds after which a segment without such a pause is cut; bounds
            memory, and the encoder's positions by what training has seen. `math.inf`:
            never.

    Raises:
        ConfigError: a file is missing, an option is out of range, or the model is no
            transducer that can stream; the message says what was expected and found.

    Example:
        >>> speech2text = Speech2TextStreamingTransducer("config.yaml", "model.pth")
        >>> stream = speech2text.open_stream()
        >>> for chunk in chunks:  # (samples,), of any length
        ...     print(stream.accept(chunk)[-1].text)
        >>> print(stream.finish()[-1].text)
    """

    def __init__(
        self,
        asr_train_config: Path | str,
        asr_model_file: Path | str,
        token_type: str | None = None,
        bpemodel: Path | str | None = None,
        device: str = "cpu",
        dtype: str = "float32",
        search_type: str = "greedy",
        beam_size: int = 5,
        nbest: int = 1,
        max_symbols_per_frame: int | None = None,
        endpoint_silence: float = 1.0,
        max_segment: float = 30.0,
    ):
        from espnet2.text.token_id_converter import TokenIDConverter

        if dtype not in DTYPES:
            raise ConfigError(
                f"dtype: expected one of {', '.join(DTYPES)}, found {dtype!r}"
            )
        check_count("nbest", nbest)
        model, args = load_model(asr_train_config, asr_model_file, device)
        # Features are float32 whatever the model's type: half precision would hear its
        # own rounding.
        self.frontend = StreamingFrontend(model.frontend, model.normalize).eval()
        model.to(dtype=getattr(torch, dtype)).eval()
        self.asr_model, self.asr_train_args = model, args
        self.encoder = StreamingEncoder(model.encoder)
        self.search = build_search(
            search_type,
            model.decoder,
            model.joint_network,
            beam_size,
            max_symbols_per_frame,
        )
        self.converter = TokenIDConverter(token_list=model.token_list)
        self.tokenizer = load_tokenizer(
            token_type or args.token_type, bpemodel or args.bpemodel
        )
        self.nbest = nbest
        self._numbers = itertools.count(1)
        self.frame_shift = FrameGrid.of(model.frontend, model.encoder).shift
        self.piece = self.encoder.hop_size * self.frame_shift  # samples fed at once
        frames_per_second = self.sample_rate / self.frame_shift
        if not endpoint_silence > 0:
            raise ConfigError(
                f"endpoint_silence: expected above 0 s, found {endpoint_silence}"
            )
        two_blocks = 2 * self.encoder.block_size / frames_per_second
        if not max_segment >= two_blocks:
            raise ConfigError(
                "max_segment: expected at least two of the encoder's blocks, "
                f"{two_blocks:g} s, found {max_segment} s"
            )
        self.endpoint_frames = endpoint_silence * frames_per_second
        self.max_frames = max_segment * frames_per_second
        self.overlap_frames = math.ceil(OVERLAP * frames_per_second)

    @staticmethod
    def from_pretrained(model_tag: str, **kwargs) -> "Speech2TextStreamingTransducer":
        """A model that was published with ESPnet; `kwargs` as for the class."""
        from espnet2.utils.pretrained import download_pretrained

        found = download_pretrained(model_tag)
        for name in ("asr_train_config", "asr_model_file"):
            if name not in found:
                raise ConfigError(
                    f"{model_tag}: expected an ASR model, found no {name}"
                )
            kwargs[name] = found[name]
        return Speech2TextStreamingTransducer(**kwargs)

    @property
    def sample_rate(self) -> int:
        """Hz."""
        return self.frontend.sample_rate

    def latency_ms(self) -> dict[str, float]:
        """`block_size`, `hop_size` and `look_ahead` of the encoder in ms."""
        shift = 1000 * self.frame_shift / self.sample_rate
        return {
            name: getattr(self.encoder, name) * shift
            for name in ("block_size", "hop_size", "look_ahead")
        }

    def open_stream(self, name: str | None = None) -> Stream:
        """A stream that has heard nothing.

        Args:
            name: what messages call it (default: `stream 1`, `stream 2`, ...).
        """
        with torch.no_grad():
            return Stream(self, name or f"stream {next(self._numbers)}")

    def accept(self, streams: list[Stream], chunks: list) -> list[list[Segment]]:
        """`Stream.accept` of several streams, computed together.

        Args:
            streams: different ones of this object.
            chunks: samples (N,) of each; lengths may differ.

        Returns:
            As `Stream.accept`, for each stream.

        Raises:
            DataError: a chunk is refused: see `Stream.accept`. No stream has heard
                anything.
            StreamError: the model gave NaN or infinity in some of the streams; it has
                what was found in the others, which go on.
            RuntimeError: a stream is finished.
            ValueError: a stream stands there twice or is another object's, or there are
                not as many chunks as streams. No stream has heard anything.
        """
        self._check_streams(streams)
        if len(chunks) != len(streams):
            raise ValueError(
                f"expected a chunk for each of {len(streams)} streams, found "
                f"{len(chunks)}"
            )
        waves = [
            check_samples(chunk, stream)
            for stream, chunk in zip(streams, chunks, strict=True)
        ]
        for stream, wave_N in zip(streams, waves, strict=True):
            stream.append(wave_N)
        found = self._decode(streams)
        for segments, stream in zip(found, streams, strict=True):
            if not stream.failure:
                segments.append(self._describe(stream, False, stream.num_heard))
        return check_failures(streams, found)

    def finish(self, streams: list[Stream]) -> list[list[Segment]]:
        """`Stream.finish` of several streams, computed together.

        Raises:
            StreamError, RuntimeError, ValueError: as `accept`.
        """
        self._check_streams(streams)
        for stream in streams:
            stream.is_closed = True
        found = self._decode(streams)
        for segments, stream in zip(found, streams, strict=True):
            if not stream.failure and (
                sort_beam(stream.beam)[0].tokens or not segments
            ):
                segments.append(self._describe(stream, True, stream.num_heard))
        return check_failures(streams, found)

    def _check_streams(self, streams: list[Stream]) -> None:
        """Refuse what cannot be computed together, before anything is changed.

        Raises:
            RuntimeError, ValueError: as `accept`.
        """
        if len(set(map(id, streams))) < len(streams):
            raise ValueError("expected different streams, found one of them twice")
        for stream in streams:
            if stream.speech2text is not self:
                raise ValueError(
                    f"{stream.name} was opened by another decoder, with a state of its "
                    "own: give it to that one, or open_stream() of this one"
                )
            check_open(stream)

    def init_encoder(self) -> EncoderState:
        """The encoder's state before the first feature."""
        return self.encoder.init_state(self.frontend.num_mels)

    @torch.no_grad()
    def _decode(self, streams: list[Stream]) -> list[list[Segment]]:
        """Work until all streams wait for audio; the segments that became final."""
        found = {id(stream): [] for stream in streams}
        busy = streams
        while busy := [stream for stream in busy if self._has_work(stream)]:
            for stream in busy:
                self._feed(stream)
            busy = [stream for stream in busy if not stream.failure]
            encoded = self.encoder.step([stream.encoder for stream in busy])
            self._search(busy, encoded, found)
        for stream in streams:
            kept = max(0, stream.num_frames - self.overlap_frames)
            stream.forget(stream.begin + kept * self.frame_shift)
        return list(found.values())

    def _num_waiting(self, stream: Stream) -> int:
        return stream.num_heard - stream.num_fed

    def _has_work(self, stream: Stream) -> bool:
        if stream.failure:
            return False
        if stream.is_closed:
            return not stream.encoder.drained
        return self._num_waiting(
            stream
        ) >= self.frontend.hop_length or self.encoder.has_block(stream.encoder)

    def _feed(self, stream: Stream) -> None:
        """Give the encoder audio if it has no block to work on."""
        if stream.encoder.is_final or self.encoder.has_block(stream.encoder):
            return
        wave_N = torch.from_numpy(stream.take(self.piece))
        is_final = stream.is_closed and not self._num_waiting(stream)
        feats_TF = self.frontend(wave_N, stream.frontend, is_final)
        if not feats_TF.isfinite().all():
            self._fail(stream, "features are")
            return
        self.encoder.accept(feats_TF, stream.encoder, is_final)

    def _search(self, streams: list, encoded: list, found: dict) -> None:
        """Search frame by frame through what was encoded; cut where a segment ends."""
        projected = {
            id(stream): self.search.project(encoded_TD)
            for stream, encoded_TD in zip(streams, encoded, strict=True)
            if len(encoded_TD)
        }
        active = [stream for stream in streams if id(stream) in projected]
        t = 0
        while active:
            try:
                beams = self.search.step(
                    [stream.beam for stream in active],
                    torch.stack([projected[id(stream)][t] for stream in active]),
                    [stream.num_frames for stream in active],
                )
            except NonFiniteLogits as e:
                for s in e.streams:
                    self._fail(active[s], "logits of the joint network are")
                active = [stream for stream in active if not stream.failure]
                continue
            t += 1
            going_on = []
            for stream, beam in zip(active, beams, strict=True):
                stream.beam = beam
                stream.num_frames += 1
                if self._cut(stream, found[id(stream)]):
                    continue  # what was encoded beyond the cut is another segment's
                if t < len(projected[id(stream)]):
                    going_on.append(stream)
            active = going_on

    def _fail(self, stream: Stream, what: str) -> None:
        """End a stream whose `what` are not finite; the others go on."""
        seconds = (stream.begin + stream.num_frames * self.frame_shift) / (
            self.sample_rate
        )
        stream.failure = (
            f"{stream.name}: at {seconds:.2f} s the {what} not finite: the model's "
            "weights or statistics hold NaN or infinity (take another checkpoint), or "
            "its numbers are too large for the dtype (float32 has the widest range)"
        )
        stream.is_closed = True

    def _cut(self, stream: Stream, segments: list[Segment]) -> bool:
        """End the segment if it is time; whether it was."""
        best = sort_beam(stream.beam)[0]
        silence = stream.num_frames - (best.frames[-1] + 1 if best.frames else 0)
        is_endpoint = best.tokens and silence >= self.endpoint_frames
        if not is_endpoint and stream.num_frames < self.max_frames:
            return False
        # A token comes somewhat later than its sound, so a word may have begun before
        # the cut, and its beginning is needed. But the word before must not be heard
        # again: the next segment begins in the second half of the silence.
        back = min(silence // 2, self.overlap_frames)
        begin = stream.begin + (stream.num_frames - back) * self.frame_shift
        if best.tokens:
            segments.append(self._describe(stream, True, begin))
        stream.begin_segment(begin)
        return True

    def _describe(self, stream: Stream, is_final: bool, end: int) -> Segment:
        """The stream's segment as the caller sees it; `end` in samples."""
        hyps = sort_beam(stream.beam)
        best = hyps[0]
        tokens = self.converter.ids2tokens(best.tokens)
        num_stable = len(tokens) if is_final else count_stable(hyps)
        to_ms = 1000 / self.sample_rate
        return Segment(
            text=self.tokens2text(tokens),
            stable_text=self.tokens2text(tokens[:num_stable]),
            tokens=tokens,
            token_ids=list(best.tokens),
            times_ms=[self._frame_end(stream, frame) * to_ms for frame in best.frames],
            num_stable=num_stable,
            score=best.score,
            begin_ms=stream.begin * to_ms,
            end_ms=end * to_ms,
            is_final=is_final,
            nbest=distinct(hyps, self._text_of)[: self.nbest],
        )

    def _frame_end(self, stream: Stream, frame: int) -> int:
        """Sample of the stream where the audio of a frame of its segment ends."""
        last_feature = frame * self.encoder.subsampling + self.encoder.receptive_field
        end = (last_feature - 1) * self.frontend.hop_length + self.frontend.reach
        return min(stream.begin + end, stream.num_heard)

    def _text_of(self, hyp: Hypothesis) -> str:
        return self.tokens2text(self.converter.ids2tokens(hyp.tokens))

    def tokens2text(self, tokens: list[str]) -> str:
        """Text of a token sequence."""
        if self.tokenizer is None:
            return " ".join(tokens)
        return self.tokenizer.tokens2text(tokens)
