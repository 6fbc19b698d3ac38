"""The encoder of an ESPnet model as an s3prl upstream: a teacher that can recognise.

Our own teacher transducers, students of stage 2, and models of ESPnet's zoo. They are
trained on transcripts: what they teach contains them.
"""

import contextlib
import logging

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from espnet_mtkd.errors import ConfigError, MTKDError
from espnet_mtkd.teachers.student import fit_frames

TOLERANCE = 1e-4  # of the largest value: beside float32's rounding
TRIAL = (24000, 17000)  # samples of the two sounds on which an encoder is tried
PROBED = (10, 20)  # frames whose place in the audio is measured
# How a batch is run, the fastest first: as one; with each utterance's features computed
# alone; each utterance alone.
TOGETHER, FEATURES_ALONE, ALONE = "together", "features alone", "alone"


class _Stop(Exception):
    pass


class UpstreamExpert(nn.Module):
    """s3prl's interface around an ESPnet encoder.

    Hidden state 0 is the input of the first block (behind subsampling and pre-encoder),
    k the output of block k, the last the encoder's output. Frame shift, the frames'
    place in the audio and how a batch may be run are measured on noise.

    Args:
        ckpt: see `find_model`.

    Attributes:
        batch_mode: `together`, where an utterance's embeddings do not depend on its
            neighbours; else `features alone` or `alone`.

    Raises:
        ConfigError: see `load_parts` and `blocks_of`.
    """

    def __init__(self, ckpt: str):
        super().__init__()
        # The one place where teachers look upwards; it needs ESPnet.
        from espnet_mtkd.student.blocks import join_blocks
        from espnet_mtkd.student.frames import measure_frames
        from espnet_mtkd.teachers.espnet_model import (
            blocks_of,
            load_parts,
            trial_batch,
        )

        self.parts = load_parts(ckpt)
        self._join = join_blocks
        self._blocks = blocks_of(self.parts.encoder, ckpt)
        self._last = len(self._blocks)
        self._mask = None
        self._hide_padding()
        try:
            self.frame_shift, self._least = measure_frames(self.parts)
            self._end = self._find_frames(trial_batch(TRIAL[0])[0])
            self.batch_mode = self._choose_mode(trial_batch(*TRIAL))
        except MTKDError:
            raise
        except Exception as e:
            message = (str(e).strip() or type(e).__name__).splitlines()[0]
            raise ConfigError(
                f"{ckpt}: its encoder cannot be run on waveforms: {type(e).__name__}: "
                f"{message}"
            ) from e
        self.max_samples = getattr(self.parts.frontend, "max_samples", None)

    # --------------------------------------------------------- what s3prl asks for

    def get_downsample_rates(self, key: str | None = None) -> int:
        """Samples (16 kHz) between two frames, of every hidden state."""
        return self.frame_shift

    def num_valid_frames(self, num_samples):
        """Frames that saw only real audio.

        Args:
            num_samples: (B,) tensor.
        """
        frames = (num_samples - self._least) // self.frame_shift + 1
        if self._end is not None:
            inside = (num_samples - 1 - self._end) // self.frame_shift + 1
            frames = torch.minimum(frames, inside)
        return frames.clamp(min=0)

    def stop_after(self, index: int) -> None:
        """From now on give the hidden states 0 to `index` and compute no others."""
        self._last = index

    def forward(self, wavs: list[torch.Tensor]) -> dict:
        """Hidden states of a batch.

        Args:
            wavs: B waveforms (N_i,) at 16 kHz; short ones are padded to one frame.

        Returns:
            `hidden_states`: each (B, T, D), T = ceil(longest / frame shift), for which
            the last frame is repeated, as s3prl would do.
        """
        T = -(-max(map(len, wavs)) // self.frame_shift)
        least = max(self._least, self.frame_shift)
        wavs = [F.pad(wav, (0, max(0, least - len(wav)))) for wav in wavs]
        hidden = self._run(wavs, self.batch_mode)
        return {"hidden_states": [fit_frames(h_BTD, T) for h_BTD in hidden]}

    # --------------------------------------------------------- one batch

    def _run(self, wavs: list[torch.Tensor], mode: str) -> list[torch.Tensor]:
        if mode == ALONE:
            rows = [self._run([wav], TOGETHER) for wav in wavs]
            return [
                pad_sequence([h[0] for h in layer], batch_first=True)
                for layer in zip(*rows, strict=True)
            ]
        lengths_B = torch.tensor([len(wav) for wav in wavs], device=wavs[0].device)
        if mode == TOGETHER:
            wav_BN = pad_sequence(wavs, batch_first=True)
            feats, lengths_B = self.parts.features(wav_BN, lengths_B)
        else:
            alone = [
                self.parts.features(wav[None], lengths_B[i : i + 1])
                for i, wav in enumerate(wavs)
            ]
            lengths_B = torch.cat([num for _, num in alone])
            feats = pad_sequence(
                [f[0, : int(num)] for f, num in alone], batch_first=True
            )
        return self._hidden(feats, lengths_B)

    def _hidden(self, feats, lengths_B) -> list[torch.Tensor]:
        """Features -> hidden states 0 to the last that is asked for."""
        hidden, out = [], None
        handles = [
            self._blocks[0].register_forward_pre_hook(
                lambda module, args: self._take_input(args, hidden)
            )
        ]
        handles += [
            block.register_forward_hook(
                lambda module, args, output: self._take(output[0], hidden)
            )
            for block in self._blocks[:-1]
        ]
        try:
            out, _ = self.parts.encode(feats, lengths_B)
        except _Stop:
            pass
        finally:
            self._mask = None
            for handle in handles:
                handle.remove()
        if out is not None:
            encoder, T = self.parts.encoder, out.size(1)
            hidden = [*(self._join(x, T, encoder) for x in hidden), out]
            hidden = hidden[: self._last + 1]
        lengths = sorted({x.size(1) for x in hidden})
        if len(hidden) != self._last + 1 or len(lengths) != 1:
            raise ConfigError(
                f"encoder: {type(self.parts.encoder).__name__}: expected "
                f"{self._last + 1} hidden states of one length, found {len(hidden)} of "
                f"{lengths} frames: its frame rate changes, or it gives several "
                "sequences (of speakers): name a model whose encoder does neither"
            )
        return hidden

    def _take_input(self, args, hidden: list) -> None:
        mask = args[1] if len(args) > 1 else None
        is_mask = isinstance(mask, torch.Tensor) and mask.dtype == torch.bool
        self._mask = mask if is_mask and mask.dim() == 3 else None
        self._take(args[0], hidden)

    def _take(self, x, hidden: list) -> None:
        x = x[0] if isinstance(x, tuple) else x  # without positions
        hidden.append(x)
        is_enough = len(hidden) == self._last + 1 and self._last < len(self._blocks)
        # Overlapping blocks are put in order by the number of frames of the output.
        if is_enough and x.dim() == 3:
            raise _Stop

    # --------------------------------------------------------- padding

    def _hide_padding(self) -> None:
        """Let convolutions over time find zeros behind an utterance, as alone.

        ESPnet masks attention only: a Conformer's convolution reaches into what the
        blocks before it have made of the padding.
        """
        for block in self._blocks:
            for module in block.modules():
                if isinstance(module, nn.Conv1d) and module.kernel_size[0] > 1:
                    module.register_forward_pre_hook(self._zero_padding)

    def _zero_padding(self, module, args):
        x = args[0]
        mask = self._mask
        if mask is None or x.dim() != 3 or mask.shape != (len(x), 1, x.size(2)):
            return None
        return (x * mask, *args[1:])

    def _choose_mode(self, wavs: list[torch.Tensor]) -> str:
        """The fastest way to run a batch that changes nobody's embeddings."""
        with torch.no_grad():
            alone = self._run(wavs, ALONE)
            frames = [int(self.num_valid_frames(torch.tensor(len(w)))) for w in wavs]
            for mode in (TOGETHER, FEATURES_ALONE):
                with contextlib.suppress(RuntimeError, IndexError):
                    if self._is_same(self._run(wavs, mode), alone, frames):
                        return mode
        logging.info(
            "its encoder sees an utterance's padding: a batch is run one by one"
        )
        return ALONE

    @staticmethod
    def _is_same(hidden, expected, frames: list[int]) -> bool:
        return all(
            float((a[i, :num] - b[i, :num]).abs().max()) <= TOLERANCE * b[i].abs().max()
            for a, b in zip(hidden, expected, strict=True)
            for i, num in enumerate(frames)
        )

    # --------------------------------------------------------- frames in time

    def _find_frames(self, wav_N: torch.Tensor) -> float | None:
        """Where frames lie: sets `frame_centre`, as far as it can be known.

        Returns:
            The last sample that frame 0 hears; None where each hears all.
        """
        heard = [self._heard_by(wav_N, frame) for frame in PROBED]
        if all(heard):
            middles = [
                (first + last) / 2 - self.frame_shift * frame
                for frame, (first, last) in zip(PROBED, heard, strict=True)
            ]
            if middles[0] == middles[1]:
                self.frame_centre = middles[0]
                return heard[0][1] - self.frame_shift * PROBED[0]
        known = getattr(self.parts.frontend, "frame_centre", None)
        if known is not None and self.parts.frontend.frame_shift == self.frame_shift:
            self.frame_centre = known
            return None
        logging.warning(
            "an encoder over %s: where its frames lie cannot be measured; the usual "
            "convolutions are assumed. If you know better: frame_centre: SAMPLES in "
            "the teacher's entry",
            type(self.parts.frontend).__name__,
        )
        return None

    def _heard_by(self, wav_N: torch.Tensor, frame: int) -> tuple[int, int] | None:
        """First and last sample that the first block's input at a frame depends on.

        None where it depends on nothing that has a gradient, or on (nearly) all.
        """
        last, self._last = self._last, 0
        normalize, self.parts.normalize = self.parts.normalize, None  # may be global
        try:
            with torch.enable_grad():
                wav = wav_N[None].clone().requires_grad_()
                feats, num = self.parts.features(wav, torch.tensor([len(wav_N)]))
                (h_1TD,) = self._hidden(feats, num)
                if not h_1TD.requires_grad:
                    return None
                weights = torch.linspace(1, 2, h_1TD.size(2)).sin()
                (gradient,) = torch.autograd.grad(
                    (h_1TD[0, frame] * weights).sum(), wav, allow_unused=True
                )
        finally:
            self._last, self.parts.normalize = last, normalize
        if gradient is None:
            return None
        samples = gradient[0].nonzero()
        if len(samples) == 0 or len(samples) > 0.9 * len(wav_N):
            return None
        return int(samples[0]), int(samples[-1])


def espnet_local(ckpt: str, refresh: bool = False, **kwargs):
    """s3prl hub entry: a directory of asr_train, a model file, or an unpacked model."""
    return UpstreamExpert(ckpt, **kwargs)


def checkpoint_files(ckpt: str) -> tuple:
    """The files that are read at a path: config and model file.

    Raises:
        ConfigError: see `find_model`.
    """
    from espnet_mtkd.teachers.espnet_model import find_model

    return find_model(ckpt)


HUB_ENTRIES = (espnet_local,)
