"""A student of this package as an s3prl upstream: for SUPERB, and as a teacher."""

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

from espnet_mtkd.errors import ConfigError


class UpstreamExpert(torch.nn.Module):
    """s3prl's interface around `load_student`.

    Args:
        ckpt: folder, model file or hub name, as `load_student` takes it.
        model_config: must be None: the config is found beside the model file.

    Raises:
        ConfigError: no `ckpt`, a `model_config`, or see `load_student`.
    """

    def __init__(self, ckpt: str | None = None, model_config: str | None = None):
        super().__init__()
        if not ckpt:
            raise ConfigError(
                "mtkd_student: expected a folder of stage 1 or 2, a model file or a "
                "name on the Hugging Face Hub: give it as path_or_url, or as -k of "
                "run_downstream"
            )
        if model_config is not None:
            raise ConfigError(
                f"mtkd_student: expected no model_config (-g), found {model_config}: "
                "config.yaml is read from beside the model file"
            )
        from espnet_mtkd.student import load_student  # needs ESPnet

        # s3prl's upstreams can be fine-tuned.
        self.student = load_student(ckpt).requires_grad_(True)

    def get_downsample_rates(self, key: str | None = None) -> int:
        """Samples (16 kHz) between two frames, of every hidden state."""
        return self.student.frame_shift

    @property
    def frame_centre(self) -> float:
        """Sample in the middle of what frame 0 is computed from."""
        return self.student.frames.centre

    def num_valid_frames(self, num_samples):
        """Frames that saw only real audio; see `Student.num_valid_frames`."""
        return self.student.num_valid_frames(num_samples)

    def forward(self, wavs: list[torch.Tensor]) -> dict:
        """Hidden states of a batch.

        Args:
            wavs: B waveforms (N_i,) at 16 kHz; those shorter than one frame are padded.

        Returns:
            `hidden_states`: the input of each block, and last the encoder's output,
            each (B, T, D); T is that of the longest waveform, ceil(samples / frame
            shift), for which the last frame is repeated, as s3prl would do.
        """
        lengths_B = torch.tensor([len(wav) for wav in wavs])
        T = -(-int(lengths_B.max()) // self.student.frame_shift)
        wav_BN = pad_sequence(list(wavs), batch_first=True)
        missing = max(0, self.student.min_samples - wav_BN.size(1))
        hidden, _ = self.student(
            F.pad(wav_BN, (0, missing)),
            lengths_B.clamp(min=self.student.min_samples),
            layers=True,
        )
        return {"hidden_states": [fit_frames(h_BTD, T) for h_BTD in hidden]}


def fit_frames(h_BTD: torch.Tensor, num_frames: int) -> torch.Tensor:
    """A hidden state of so many frames: cut, or its last frame repeated."""
    missing = max(0, num_frames - h_BTD.size(1))
    tail = h_BTD[:, -1:].expand(-1, missing, -1)
    return torch.cat([h_BTD[:, :num_frames], tail], 1)


def mtkd_student(ckpt: str | None = None, refresh: bool = False, **kwargs):
    """s3prl hub entry: a folder, model file or name on the Hugging Face Hub."""
    return UpstreamExpert(ckpt, **kwargs)


def checkpoint_files(ckpt: str) -> tuple:
    """The files that are read at a path: config and model file.

    Raises:
        ConfigError: one of them is missing.
    """
    from espnet_mtkd.student.locate import find_files

    return find_files(ckpt)


HUB_ENTRIES = (mtkd_student,)
