"""Features of a stream, frame for frame those of the whole utterance.

ESPnet's frontend pads an utterance by reflection at both ends and cuts it into frames.
Here the ends are padded when they come, and the frames between need no padding, so that
what ESPnet computes in one piece is computed in pieces of any size.
"""

import copy
from dataclasses import dataclass

import torch

from espnet_mtkd.errors import ConfigError


@dataclass
class FrontendState:
    """Of one segment of one stream.

    Attributes:
        wave_N: samples from the first frame on that has not been given out.
        recent_N: the newest samples, as many as the padding at the end reflects.
        started: whether the beginning was padded.
    """

    wave_N: torch.Tensor
    recent_N: torch.Tensor
    started: bool = False


class StreamingFrontend(torch.nn.Module):
    """Log-mel features and their normalisation, of `DefaultFrontend` and `GlobalMVN`.

    Args:
        frontend: of an ESPnet model.
        normalize: of an ESPnet model, or None.

    Raises:
        ConfigError: a frontend or a normaliser that needs more than a window of audio.
    """

    def __init__(self, frontend, normalize):
        super().__init__()
        check_frontend(frontend, normalize)
        self.pad = frontend.stft.n_fft // 2 if frontend.stft.center else 0
        self.frontend = copy.deepcopy(frontend)
        self.frontend.stft.center = False
        self.normalize = copy.deepcopy(normalize)
        self.num_mels = frontend.output_size()
        self.hop_length = frontend.stft.hop_length
        self.sample_rate = int(frontend.logmel.mel_options["sr"])

    @property
    def reach(self) -> int:
        """Samples from a frame's beginning, frame 0's being sample 0, to its end.

        The window is shorter than the transform and stands in its middle.
        """
        stft = self.frontend.stft
        return (stft.n_fft + stft.win_length) // 2 - self.pad

    def init_state(self) -> FrontendState:
        """State before the first sample."""
        none = self.frontend.logmel.melmat.new_zeros(0)
        return FrontendState(none, none)

    def forward(
        self, wave_N: torch.Tensor, state: FrontendState, is_final: bool
    ) -> torch.Tensor:
        """Features that these samples complete.

        Args:
            wave_N: new samples (N,), in -1 to 1; may be empty.
            state: changed in place.
            is_final: whether the segment ends here.

        Returns:
            (T, F), perhaps of no frame.
        """
        wave_N = wave_N.to(state.wave_N)
        buffer_N = torch.cat([state.wave_N, wave_N])
        state.recent_N = torch.cat([state.recent_N, wave_N])[-self.pad - 1 :]
        if not state.started and len(buffer_N) > self.pad:
            buffer_N = torch.cat([buffer_N[1 : self.pad + 1].flip(0), buffer_N])
            state.started = True
        if state.started and is_final:
            buffer_N = torch.cat([buffer_N, state.recent_N[:-1].flip(0)])
        state.wave_N = buffer_N
        n_fft = self.frontend.stft.n_fft
        num_frames = (len(buffer_N) - n_fft) // self.hop_length + 1
        if not state.started or num_frames < 1:
            return buffer_N.new_zeros(0, self.num_mels)
        state.wave_N = buffer_N[num_frames * self.hop_length :].clone()
        used = (num_frames - 1) * self.hop_length + n_fft
        lengths = torch.tensor([used], device=buffer_N.device)
        feats_1TF, lengths = self.frontend(buffer_N[None, :used], lengths)
        if self.normalize is not None:
            feats_1TF, _ = self.normalize(feats_1TF, lengths)
        return feats_1TF[0]


def check_frontend(frontend, normalize) -> None:
    """Refuse what cannot be computed from a window of audio.

    Raises:
        ConfigError: naming what was expected and found.
    """
    from espnet2.asr.frontend.default import DefaultFrontend
    from espnet2.layers.global_mvn import GlobalMVN
    from espnet2.layers.utterance_mvn import UtteranceMVN

    if not isinstance(frontend, DefaultFrontend):
        raise ConfigError(
            "streaming: expected 'frontend: default' (log-mel features), found "
            f"{type(frontend).__name__}"
        )
    enhancement = frontend.frontend
    if frontend.stft is None or (
        enhancement is not None and (enhancement.use_wpe or enhancement.use_beamformer)
    ):
        raise ConfigError(
            "streaming: expected a frontend that computes the STFT of one channel, "
            "found apply_stft: false, use_wpe or use_beamformer"
        )
    if isinstance(normalize, UtteranceMVN):
        raise ConfigError(
            "streaming: this model was trained with 'normalize: utterance_mvn', which "
            "needs the mean of the whole utterance before its first frame. Train with "
            "'normalize: global_mvn' (asr.sh --feats_normalize global_mvn), whose "
            "statistics stand before any audio is heard"
        )
    if normalize is not None and not isinstance(normalize, GlobalMVN):
        raise ConfigError(
            "streaming: expected 'normalize: global_mvn' or none, found "
            f"{type(normalize).__name__}"
        )
