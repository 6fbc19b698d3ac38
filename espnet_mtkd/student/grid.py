"""Where a student's frames lie, by arithmetic: without PyTorch, in no time."""

import dataclasses

from espnet_mtkd.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class FrameGrid:
    """Where a student's frames lie; all in samples at 16 kHz.

    Frame t of the encoder is computed from a window of audio whose middle is sample
    `shift * t + centre`. Both follow from the front end's hop and from kernel and
    stride of the convolutions behind it (receptive field arithmetic: Araujo et al.,
    Distill 2019, doi:10.23915/distill.00021).

    Attributes:
        hop: between two feature frames.
        half_window: half of the short-time transform, on both sides of a feature frame.
        first: middle of the first feature frame.
        convolutions: (kernel, stride) in time, the one that hears features first.
    """

    hop: int
    half_window: int
    first: int
    convolutions: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, frontend, encoder) -> "FrameGrid":
        """The grid of ESPnet's default front end and an encoder of its.

        Raises:
            ConfigError: a front end or input layer whose frames are not known.
        """
        from torch import nn

        stft = getattr(frontend, "stft", None)
        if stft is None:
            raise ConfigError(
                "frontend: expected ESPnet's 'default' with its short-time transform, "
                f"found {type(frontend).__name__}: its frames cannot be placed in time"
            )
        layers = list(encoder.embed.modules()) if encoder.embed is not None else []
        known = [x for x in layers if isinstance(x, nn.Conv2d)]
        other = [x for x in layers if isinstance(x, (nn.Embedding, nn.Conv1d))]
        if other or any(conv.padding[0] for conv in known):
            raise ConfigError(
                "encoder_conf.input_layer: expected convolutions over features without "
                "padding (conv2d, conv2d6, ...) or linear, found "
                f"{type((other or known)[0]).__name__}"
            )
        half_window = stft.n_fft // 2
        return cls(
            hop=stft.hop_length,
            half_window=half_window,
            first=0 if stft.center else half_window,
            convolutions=tuple((c.kernel_size[0], c.stride[0]) for c in known),
        )

    @property
    def shift(self) -> int:
        """Samples between two frames."""
        shift = self.hop
        for _, stride in self.convolutions:
            shift *= stride
        return shift

    def num_features(self, num_frames: int = 1) -> int:
        """Feature frames that so many frames are computed from."""
        num = num_frames
        for kernel, stride in reversed(self.convolutions):
            num = (num - 1) * stride + kernel
        return num

    @property
    def centre(self) -> float:
        """Sample in the middle of what frame 0 is computed from."""
        return self.first + self.hop * (self.num_features() - 1) / 2

    def least_samples(self, num_frames: int = 1) -> int:
        """Samples of the shortest utterance that gives so many frames."""
        last = self.first + self.hop * (self.num_features(num_frames) - 1)
        # The second: what the short-time transform mirrors at an utterance's ends.
        return max(last + self.first, self.half_window + 1)

    def num_frames(self, num_samples):
        """Frames that an utterance by itself gives, those at its ends included.

        Args:
            num_samples: (B,) tensor.

        Returns:
            (B,) tensor of frames.
        """
        num = (num_samples - 2 * self.first) // self.hop + 1
        for kernel, stride in self.convolutions:
            num = (num - kernel) // stride + 1
        return num.clamp(min=0)

    def num_valid_frames(self, num_samples):
        """Frames whose features saw only real audio, whatever the padding.

        Args:
            num_samples: (B,) tensor.

        Returns:
            (B,) tensor of frames.
        """
        num = (num_samples - self.half_window - self.first) // self.hop + 1
        for kernel, stride in self.convolutions:
            num = (num - kernel) // stride + 1
        return num.clamp(min=0)
