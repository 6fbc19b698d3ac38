"""A foundation model as the frontend of an ESPnet ASR model: the teacher transducer."""

import torch
from espnet2.asr.frontend.abs_frontend import AbsFrontend

from espnet_mtkd.data.audio import SAMPLE_RATE
from espnet_mtkd.errors import ConfigError
from espnet_mtkd.teachers.base import TeacherConfig
from espnet_mtkd.teachers.s3prl import S3PRLTeacher


class TeacherFrontend(AbsFrontend):
    """One hidden state of an s3prl upstream, Whisper included, as features.

    Unlike ESPnet's `s3prl` frontend it knows this package's upstreams, stops after the
    layer that it gives, and counts only frames that saw real audio.

    Args:
        upstream, path_or_url, normalize, extra_conf: as in `teachers.yaml`.
        layer: index into the hidden states; -1 is the last.
        stack: frames that are put side by side; 2 makes the student's 25 Hz of 50.
        frozen: False trains the upstream too, with dropout off; lower `optim_conf.lr`.
            What the layer does not depend on stays frozen.
        fs: sampling rate, which must be 16 kHz; `asr.sh` passes it.

    Raises:
        ConfigError: see `S3PRLTeacher`; or another sampling rate.
    """

    def __init__(
        self,
        upstream: str,
        path_or_url: str | None = None,
        layer: int = -1,
        stack: int = 2,
        normalize: bool = False,
        extra_conf: dict | None = None,
        frozen: bool = True,
        fs: int | str = SAMPLE_RATE,
    ):
        super().__init__()
        if str(fs).lower() not in ("16000", "16k"):
            raise ConfigError(f"frontend_conf.fs: expected 16000, found {fs}")
        config = TeacherConfig(
            "frontend",
            upstream,
            path_or_url=path_or_url,
            layers=(layer,),
            normalize=normalize,
            extra_conf=extra_conf or {},
        )
        self._teacher = S3PRLTeacher(config)
        # Registered, so that it moves, is saved and, not frozen, trained.
        self.upstream = self._teacher._network
        self.upstream.requires_grad_(not frozen)
        self.frozen = frozen
        self.stack = stack
        (self._target,) = self._teacher.targets
        if not frozen:
            self._freeze_unreached()

    def _freeze_unreached(self) -> None:
        """Freeze parameters without a gradient, for which DDP would wait in vain.

        These are the blocks above the layer, and what only pre-training uses: which,
        the upstream itself tells.
        """
        speech = torch.linspace(-100, 100, SAMPLE_RATE)[None].sin()
        with torch.enable_grad():
            feats, _ = self(speech, torch.tensor([SAMPLE_RATE]))
            feats.sum().backward()
        for parameter in self.upstream.parameters():
            parameter.requires_grad_(parameter.grad is not None)
            parameter.grad = None

    @property
    def max_samples(self) -> int | None:
        """The longest audio that the upstream takes, None where it has no limit."""
        return self._teacher.max_samples

    @property
    def frame_shift(self) -> int:
        """Samples between two frames of the features."""
        return self.stack * self._target.frame_shift

    @property
    def frame_centre(self) -> float:
        """Sample in the middle of what frame 0 is put together from."""
        inner = self._target.frame_shift * (self.stack - 1) / 2
        return self._target.frame_centre + inner

    def output_size(self) -> int:
        """Dimension of the features, `stack` times the upstream's."""
        return self.stack * self._target.dim

    def forward(self, speech, speech_lengths):
        """Waveforms (B, N), (B,) -> features (B, T, stack * E), (B,)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            out = self._teacher.embed(speech, speech_lengths.cpu())
        feats_BTE, lengths_B = out[self._target.name]
        lengths_B = lengths_B // self.stack
        T = max(lengths_B.tolist())
        feats_BTE = feats_BTE[:, : T * self.stack].reshape(len(feats_BTE), T, -1)
        return feats_BTE, lengths_B.to(speech.device, non_blocking=True)
