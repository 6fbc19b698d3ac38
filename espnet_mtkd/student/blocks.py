"""What a student's blocks give, beside what its encoder gives."""

from collections.abc import Sequence

import torch
from torch import nn


class BlockOutputs:
    """Listens to blocks of an ESPnet encoder while it is called; changes nothing of it.

        with BlockOutputs(encoder, [3, 6]) as blocks:
            h_BTD, lengths, _ = encoder(feats, feats_lengths)
        third, sixth = blocks.frames(h_BTD.size(1))

    Args:
        encoder: Conformer or contextual block Conformer.
        numbers: of the blocks, from 1; 0 is what the first one is given.
    """

    def __init__(self, encoder: nn.Module, numbers: Sequence[int]):
        self.encoder, self.numbers = encoder, list(numbers)
        self._outputs, self._handles = {}, []

    def __enter__(self) -> "BlockOutputs":
        for number in self.numbers:
            block = self.encoder.encoders[max(0, number - 1)]
            self._handles.append(block.register_forward_hook(self._listener(number)))
        return self

    def __exit__(self, *error) -> None:
        for handle in self._handles:
            handle.remove()

    def _listener(self, number: int):
        def listen(block, inputs, output):
            x = (inputs if number == 0 else output)[0]
            # With relative positions a pair of frames and encoded positions.
            self._outputs[number] = x[0] if isinstance(x, tuple) else x

        return listen

    def with_output(self, h_BTD) -> list:
        """What heads on these blocks are given: the last block's is the encoder's own.

        Args:
            h_BTD: the encoder's output.

        Returns:
            (B, T, D) for each block, in the order of `numbers`.
        """
        hs = self.frames(h_BTD.size(1))
        last = len(self.encoder.encoders)
        return [
            h_BTD if n == last else h for n, h in zip(self.numbers, hs, strict=True)
        ]

    def frames(self, num_frames: int) -> list:
        """The blocks' outputs in order of time, before the norm at the encoder's end.

        Args:
            num_frames: T, of the encoder's output.

        Returns:
            (B, T, D) for each block, in the order of `numbers`.
        """
        outputs = [self._outputs[number] for number in self.numbers]
        return [join_blocks(x, num_frames, self.encoder) for x in outputs]


def join_blocks(x, num_frames: int, encoder: nn.Module):
    """A hidden state in order of time, of an encoder that works on chunks or not.

    Args:
        x: (B, T, D), which is given back, or (B, C, S, D) as for `join_chunks`.
        num_frames: T.
        encoder: that gave it.
    """
    return x if x.dim() == 3 else join_chunks(x, encoder, num_frames)


def join_chunks(x_BCSD, encoder: nn.Module, num_frames: int):
    """Frames of overlapping chunks, each once, as the encoder joins its last block's.

    Between its two context vectors a chunk has `block_size` frames: those of the past,
    `hop_size` of its own, and the look-ahead. The first chunk gives its past too, the
    last one what is left of its look-ahead.

    Args:
        x_BCSD: (B, C, block_size + 2, D), C at least 2.
        encoder: contextual block Conformer.
        num_frames: T, of all chunks together.

    Returns:
        (B, T, D).
    """
    frames = x_BCSD[:, :, 1:-1]
    past = encoder.block_size - encoder.hop_size - encoder.look_ahead
    end = past + encoder.hop_size
    first, last = frames[:, 0, :end], frames[:, -1, past:]
    between = frames[:, 1:-1, past:end].flatten(1, 2)
    return torch.cat([first, between, last], 1)[:, :num_frames]
