"""Masks over spans of frames and of channels of the student's features."""

import dataclasses
from collections.abc import Mapping

import torch
from torch import nn

from espnet_mtkd.augment.sections import number, read_section


@dataclasses.dataclass(frozen=True)
class MaskOptions:
    """`mask_conf`: how much is masked; off where both `prob` are 0.

    A span begins at each frame (channel) with probability prob / length, whatever the
    others do, and spans may overlap; so prob is the length of all spans together as a
    share of the utterance, as in wav2vec 2.0, and of it the share

        1 - (1 - prob / length) ** length,    about 1 - exp(-prob),

    is masked: 49 % for 0.65 and spans of 10.

    Attributes:
        time_prob: 0 to 1; 0.65 in SPEAR (arXiv 2510.25955).
        time_length: of a span, in frames of the features (10 ms each, as a rule).
        channel_prob: 0 to 1, likewise for channels, which stay masked for the whole of
            an utterance.
        channel_length: of a span, in channels (mel bins).
    """

    time_prob: float = number(0.0, 0.0, 1.0)
    time_length: int = number(10, 1, 1000)
    channel_prob: float = number(0.0, 0.0, 1.0)
    channel_length: int = number(5, 1, 1000)


def parse_mask_options(conf: Mapping | None) -> MaskOptions:
    """Read `mask_conf`.

    Raises:
        ConfigError: see `read_section`.
    """
    return read_section("mask_conf", MaskOptions, conf)


class SpanMask(nn.Module):
    """Puts a learnt vector in the place of masked frames, zeros in masked channels.

    After wav2vec 2.0 (arXiv 2006.11477), on normalised features, whose mean is zero.
    Random numbers are torch's, of the features' device; nothing is copied from it.

    Args:
        num_channels: F of the features.
        options: how much is masked.
    """

    def __init__(self, num_channels: int, options: MaskOptions):
        super().__init__()
        self.options = options
        # It begins at the features' mean; it draws no random number, so that the rest
        # of the student begins as it does without masks.
        self.embedding = None
        if options.time_prob > 0:
            self.embedding = nn.Parameter(torch.zeros(num_channels))

    @classmethod
    def of(cls, num_channels: int, options: MaskOptions | None) -> "SpanMask | None":
        """The module; None where nothing is to be masked."""
        if options is None or options.time_prob == options.channel_prob == 0:
            return None
        return cls(num_channels, options)

    def forward(self, feats_BTF, lengths_B):
        """Features with masks; frames beyond an utterance's end stay as they are.

        Args:
            feats_BTF: (B, T, F), normalised.
            lengths_B: (B,) frames.

        Returns:
            (B, T, F), in eval mode what was given.
        """
        if not self.training:
            return feats_BTF
        batch, frames, channels = feats_BTF.shape
        device, options = feats_BTF.device, self.options
        masked_BTF = feats_BTF
        if self.embedding is not None:
            masked_BT = draw_spans(
                batch, frames, options.time_prob, options.time_length, device
            )
            embedding_F = self.embedding.to(feats_BTF.dtype)
            masked_BTF = torch.where(masked_BT[:, :, None], embedding_F, masked_BTF)
        if options.channel_prob > 0:
            masked_BF = draw_spans(
                batch, channels, options.channel_prob, options.channel_length, device
            )
            masked_BTF = masked_BTF.masked_fill(masked_BF[:, None], 0.0)
        index_T = torch.arange(frames, device=device)
        is_frame_BT = index_T < lengths_B.to(device)[:, None]
        return torch.where(is_frame_BT[:, :, None], masked_BTF, feats_BTF)


def draw_spans(batch: int, size: int, prob: float, length: int, device) -> torch.Tensor:
    """Random spans; all positions are masked with one and the same probability.

    Args:
        batch, size: B rows of S positions.
        prob, length: see `MaskOptions`.
        device: of the random numbers.

    Returns:
        (B, S) bool, True where masked.
    """
    # Spans may begin before the first position: else the first ones were seldom masked.
    starts = torch.rand(batch, size + length - 1, device=device) < prob / length
    return spread(starts, length)


def spread(starts: torch.Tensor, length: int) -> torch.Tensor:
    """Spans from where they begin.

    Args:
        starts: (B, S + length - 1) bool; the first length - 1 are before position 0.
        length: of a span.

    Returns:
        (B, S) bool.
    """
    count = starts.long().cumsum(1)
    ended = nn.functional.pad(count, (1, 0))[:, : count.size(1) - length + 1]
    return count[:, length - 1 :] > ended
