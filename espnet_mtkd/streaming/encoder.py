"""ESPnet's contextual-block Conformer, block by block, for several streams at once.

The layers are ESPnet's; here stands when a block is complete and which of its frames
are given out. The output is that of `forward_infer` over the whole segment, with two
differences: a block runs as soon as it is complete (ESPnet waits for 5 to 9 features
more), and blocks of several streams share a forward pass (ESPnet takes one stream).
"""

import math
from dataclasses import dataclass

import torch

from espnet_mtkd.errors import ConfigError


@dataclass
class EncoderState:
    """Of one segment of one stream.

    Attributes:
        feats_TF: features from the first on that the next subsampled frame needs.
        frames_TD: subsampled frames from the beginning of the next block on.
        num_blocks: blocks that were encoded.
        average_1D: the last block's average, its context's first guess.
        context_LD: the last block's context after each layer.
        tail_TD: encoded frames of the last block that the next one, if there is one,
            encodes better.
        is_final: no features will come.
        drained: all frames were given out.
    """

    feats_TF: torch.Tensor
    frames_TD: torch.Tensor
    num_blocks: int = 0
    average_1D: torch.Tensor | None = None
    context_LD: torch.Tensor | None = None
    tail_TD: torch.Tensor | None = None
    is_final: bool = False
    drained: bool = False


class StreamingEncoder(torch.nn.Module):
    """A `ContextualBlockConformerEncoder` that takes features as they come.

    Args:
        encoder: of an ESPnet model, trained.

    Raises:
        ConfigError: another encoder, or one without blocks.
    """

    def __init__(self, encoder):
        super().__init__()
        check_encoder(encoder)
        self.encoder = encoder
        self.block_size = encoder.block_size  # frames, as the next three
        self.hop_size = encoder.hop_size
        self.look_ahead = encoder.look_ahead
        self.overlap = self.block_size - self.hop_size  # of neighbouring blocks
        kernels, strides = encoder.embed.kernels, encoder.embed.strides
        self.subsampling = math.prod(strides)  # features a frame
        self.receptive_field = 1  # features that one frame sees
        step = 1
        for kernel, stride in zip(kernels, strides, strict=True):
            self.receptive_field += (kernel - 1) * step
            step *= stride

    def init_state(self, num_mels: int) -> EncoderState:
        """State before the first feature of F = `num_mels`."""
        weight = self.encoder.embed.out.weight
        return EncoderState(
            weight.new_zeros(0, num_mels),
            weight.new_zeros(0, self.encoder.output_size()),
        )

    def accept(self, feats_TF: torch.Tensor, state: EncoderState, is_final: bool):
        """Subsample new features (T, F) and keep the frames until a block is full."""
        state.is_final = is_final
        state.feats_TF = torch.cat([state.feats_TF, feats_TF.to(state.feats_TF)])
        surplus = len(state.feats_TF) - self.receptive_field
        if surplus < 0:
            return
        num_frames = surplus // self.subsampling + 1
        used = (num_frames - 1) * self.subsampling + self.receptive_field
        frames_1TD, _ = self.encoder.embed(state.feats_TF[None, :used], None)
        state.feats_TF = state.feats_TF[num_frames * self.subsampling :].clone()
        state.frames_TD = torch.cat([state.frames_TD, frames_1TD[0]])

    def has_block(self, state: EncoderState) -> bool:
        """Whether `step` will encode a block."""
        num_frames = len(state.frames_TD)
        if state.is_final:
            return num_frames > (self.overlap if state.num_blocks else 0)
        # Alone in its segment, a first block is encoded differently: see whether more
        # comes.
        return num_frames >= self.block_size + (state.num_blocks == 0)

    def step(self, states: list[EncoderState]) -> list[torch.Tensor]:
        """Encode the next block of each stream that has one.

        Args:
            states: changed in place.

        Returns:
            For each stream, the frames (T, D) that became final, perhaps none.
        """
        out = [state.frames_TD[:0] for state in states]
        short, first, later = [], [], []
        for i, state in enumerate(states):
            if self.has_block(state):
                if state.num_blocks:
                    later.append(i)
                elif len(state.frames_TD) > self.block_size:
                    first.append(i)
                else:
                    short.append(i)
            elif state.is_final and not state.drained:
                if state.tail_TD is not None:
                    out[i] = state.tail_TD
                state.drained = True
        for i in short:
            out[i] = self._encode_short(states[i])
        for group in (first, later):
            if group:
                encoded = self._encode_blocks([states[i] for i in group])
                for i, frames_TD in zip(group, encoded, strict=True):
                    out[i] = frames_TD
        return out

    def _encode_short(self, state: EncoderState) -> torch.Tensor:
        """All frames (T, D) of a segment that fits one block: it has no context."""
        x_11TD = self.encoder.pos_enc(state.frames_TD[None])[None]
        y_11TD = self.encoder.encoders(x_11TD, None, True, None, None, True)[0]
        state.frames_TD = state.frames_TD[:0]
        return self._normalize(y_11TD[0, 0])

    def _encode_blocks(self, states: list[EncoderState]) -> list[torch.Tensor]:
        """The next block of each stream: all first blocks, or none."""
        encoder, size = self.encoder, self.block_size
        is_first = states[0].num_blocks == 0
        # A block is its frames between two context vectors, that of the block before
        # and its own.
        x_B1SD = states[0].frames_TD.new_zeros(
            len(states), 1, size + 2, encoder.output_size()
        )
        for x_SD, state in zip(x_B1SD[:, 0], states, strict=True):
            frames_TD = state.frames_TD[:size]
            average_1D = frames_TD.mean(0, keepdim=True)
            if encoder.ctx_pos_enc:
                average_1D = encoder.pos_enc(average_1D[None], state.num_blocks)[0]
            x_SD[0] = average_1D if is_first else state.average_1D
            x_SD[-1] = average_1D
            x_SD[1 : len(frames_TD) + 1] = encoder.pos_enc(
                frames_TD[None], state.num_blocks * self.hop_size
            )[0]
            state.average_1D = average_1D
        mask_B1SS = x_B1SD.new_zeros(len(states), 1, size + 2, size + 2)
        mask_B1SS[:, :, 1:, :-1] = 1
        past_BLD = None if is_first else torch.stack([s.context_LD for s in states])
        y_B1SD, _, _, _, context_BLD, *_ = encoder.encoders(
            x_B1SD, mask_B1SS, True, past_BLD
        )
        y_BTD = self._normalize(y_B1SD[:, 0, 1:-1])
        out = []
        # Frames before `begin` were given out with the block before.
        begin = 0 if is_first else self.overlap - self.look_ahead
        end = size - self.look_ahead
        for y_TD, context_LD, state in zip(y_BTD, context_BLD, states, strict=True):
            out.append(y_TD[begin : min(end, len(state.frames_TD))])
            state.tail_TD = y_TD[end : len(state.frames_TD)].clone()
            state.context_LD = context_LD
            state.frames_TD = state.frames_TD[self.hop_size :].clone()
            state.num_blocks += 1
        return out

    def _normalize(self, y_TD: torch.Tensor) -> torch.Tensor:
        return self.encoder.after_norm(y_TD) if self.encoder.normalize_before else y_TD


def check_encoder(encoder) -> None:
    """Refuse an encoder that cannot stream.

    Raises:
        ConfigError: naming what was expected and found.
    """
    from espnet2.asr.encoder.contextual_block_conformer_encoder import (
        ContextualBlockConformerEncoder,
    )
    from espnet2.legacy.nets.pytorch_backend.transformer import (
        subsampling_without_posenc as subsampling,
    )

    if not isinstance(encoder, ContextualBlockConformerEncoder):
        raise ConfigError(
            "streaming: expected 'encoder: contextual_block_conformer', found "
            f"{type(encoder).__name__}, which attends to the whole utterance: decode "
            "it with espnet2.bin.asr_inference"
        )
    if not isinstance(encoder.embed, subsampling.Conv2dSubsamplingWOPosEnc):
        raise ConfigError(
            "streaming: expected 'input_layer: conv2d', 'conv2d6' or 'conv2d8' in "
            f"encoder_conf, found {type(encoder.embed).__name__}"
        )
    sizes = encoder.block_size, encoder.hop_size, encoder.look_ahead
    if not encoder.block_size >= encoder.hop_size + encoder.look_ahead > 0:
        raise ConfigError(
            "streaming: expected block_size of at least hop_size + look_ahead in "
            "encoder_conf, found block_size {}, hop_size {}, look_ahead {}".format(
                *sizes
            )
        )
