"""Decode streams of audio with an ESPnet transducer, many streams with one model."""

from pathlib import Path

import torch

from espnet_mtkd.errors import ConfigError
from espnet_mtkd.streaming.encoder import EncoderState, StreamingEncoder
from espnet_mtkd.streaming.frontend import StreamingFrontend
from espnet_mtkd.streaming.hypotheses import count_stable, sort_beam
from espnet_mtkd.streaming.search import build_search
from espnet_mtkd.streaming.stream import Segment, Stream, check_samples
from espnet_mtkd.student.frames import FrameGrid

OVERLAP = 0.5  # s before a cut that the next segment hears again, at most


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
        nbest: hypotheses in `Segment.nbest`.
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
        from espnet2.tasks.asr import ASRTask
        from espnet2.text.token_id_converter import TokenIDConverter

        for path in (asr_train_config, asr_model_file):
            if not Path(path).is_file():
                raise ConfigError(f"no such file: {path}")
        model, args = ASRTask.build_model_from_file(
            str(asr_train_config), str(asr_model_file), device
        )
        check_model(model, args)
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
        self.overlap_frames = int(OVERLAP * frames_per_second)

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

    def open_stream(self) -> Stream:
        """A stream that has heard nothing."""
        with torch.no_grad():
            return Stream(self)

    def accept(self, streams: list[Stream], chunks: list) -> list[list[Segment]]:
        """`Stream.accept` of several streams, computed together.

        Args:
            streams: different ones of this object.
            chunks: samples (N,) of each; lengths may differ.

        Returns, raises: as `Stream.accept`, for each stream. Where a chunk is refused,
            no stream has heard anything.
        """
        for stream in streams:
            check_open(stream)
        waves = [
            check_samples(chunk, stream.num_heard)
            for stream, chunk in zip(streams, chunks, strict=True)
        ]
        for stream, wave_N in zip(streams, waves, strict=True):
            stream.append(wave_N)
        found = self._decode(streams)
        for segments, stream in zip(found, streams, strict=True):
            segments.append(self._describe(stream, False, stream.num_heard))
        return found

    def finish(self, streams: list[Stream]) -> list[list[Segment]]:
        """`Stream.finish` of several streams, computed together."""
        for stream in streams:
            check_open(stream)
        for stream in streams:
            stream.is_closed = True
        found = self._decode(streams)
        for segments, stream in zip(found, streams, strict=True):
            if sort_beam(stream.beam)[0].tokens or not segments:
                segments.append(self._describe(stream, True, stream.num_heard))
        return found

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
            encoded = self.encoder.step([stream.encoder for stream in busy])
            self._search(busy, encoded, found)
        for stream in streams:
            kept = max(0, stream.num_frames - self.overlap_frames)
            stream.forget(stream.begin + kept * self.frame_shift)
        return list(found.values())

    def _num_waiting(self, stream: Stream) -> int:
        return stream.num_heard - stream.num_fed

    def _has_work(self, stream: Stream) -> bool:
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
            beams = self.search.step(
                [stream.beam for stream in active],
                torch.stack([projected[id(stream)][t] for stream in active]),
                [stream.num_frames for stream in active],
            )
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

    def _cut(self, stream: Stream, segments: list[Segment]) -> bool:
        """End the segment if it is time; whether it was."""
        best = sort_beam(stream.beam)[0]
        silence = stream.num_frames - (best.frames[-1] + 1 if best.frames else 0)
        is_endpoint = best.tokens and silence >= self.endpoint_frames
        if not is_endpoint and stream.num_frames < self.max_frames:
            return False
        # A token comes somewhat later than its sound, so a word may have begun before
        # the cut: the next segment begins in the silence, but nearer to its end.
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
            nbest=[
                (self.tokens2text(self.converter.ids2tokens(hyp.tokens)), hyp.score)
                for hyp in hyps[: self.nbest]
            ],
        )

    def _frame_end(self, stream: Stream, frame: int) -> int:
        """Sample of the stream where the audio of a frame of its segment ends."""
        last_feature = frame * self.encoder.subsampling + self.encoder.receptive_field
        end = (last_feature - 1) * self.frontend.hop_length + self.frontend.reach
        return min(stream.begin + end, stream.num_heard)

    def tokens2text(self, tokens: list[str]) -> str:
        """Text of a token sequence."""
        if self.tokenizer is None:
            return " ".join(tokens)
        return self.tokenizer.tokens2text(tokens)


def check_open(stream: Stream) -> None:
    """Refuse a finished stream.

    Raises:
        RuntimeError: it is finished.
    """
    if stream.is_closed:
        raise RuntimeError("this stream is finished: open another with open_stream()")


def check_model(model, args) -> None:
    """Refuse a model that is no transducer, or has parts beside it.

    Raises:
        ConfigError: naming what was expected and found.
    """
    if not model.use_transducer_decoder:
        raise ConfigError(
            f"streaming: expected 'decoder: transducer', found '{args.decoder}': "
            "decode it with espnet2.bin.asr_inference or asr_inference_streaming"
        )
    if getattr(model, "transducer_multi_blank_durations", None):
        raise ConfigError(
            "streaming: expected one blank symbol, found "
            "transducer_multi_blank_durations in model_conf"
        )
    for name in ("preencoder", "postencoder"):
        if getattr(model, name) is not None:
            raise ConfigError(
                f"streaming: expected no {name}, found {getattr(args, name)}"
            )


def load_tokenizer(token_type: str | None, bpemodel: Path | str | None):
    """ESPnet's tokenizer, or None where the tokens are words of their own.

    Raises:
        ConfigError: a BPE model is needed and missing.
    """
    from espnet2.text.build_tokenizer import build_tokenizer

    if token_type is None:
        return None
    if token_type == "bpe":
        if bpemodel is None or not Path(bpemodel).is_file():
            raise ConfigError(f"bpemodel: no such file: {bpemodel}: give its path")
        return build_tokenizer(token_type="bpe", bpemodel=str(bpemodel))
    return build_tokenizer(token_type=token_type)
