"""The student in stage 1: ESPnet's encoder with a prediction head per target."""

import torch
from espnet2.asr.encoder.abs_encoder import AbsEncoder
from espnet2.asr.frontend.abs_frontend import AbsFrontend
from espnet2.asr.specaug.abs_specaug import AbsSpecAug
from espnet2.layers.abs_normalize import AbsNormalize
from espnet2.torch_utils.device_funcs import force_gatherable
from espnet2.train.abs_espnet_model import AbsESPnetModel
from torch import nn

from espnet_mtkd.augment.masks import MaskOptions, SpanMask
from espnet_mtkd.objective.losses import CodebookLoss, EmbeddingLoss
from espnet_mtkd.objective.objective import DEFAULTS, DistillationObjective
from espnet_mtkd.objective.options import ObjectiveOptions
from espnet_mtkd.student.blocks import BlockOutputs
from espnet_mtkd.student.frames import check_grid
from espnet_mtkd.student.grid import FrameGrid


def objective_on(encoder, frames: FrameGrid, targets, **options):
    """The `DistillationObjective` of a student, in either stage.

    Args:
        encoder: the student's.
        frames: of its output.
        targets: list of `TargetSpec`.
        options: `loss`, `align`, `target_delay` and `options`.

    Raises:
        ConfigError: see `DistillationObjective`.
    """
    return DistillationObjective(
        targets,
        encoder.output_size(),
        frames.shift,
        frames.centre,
        num_blocks=len(encoder.encoders),
        **options,
    )


class ESPnetMTKDModel(AbsESPnetModel):
    """Predict the embeddings of several frozen teachers from audio.

    `frontend`, `normalize` and `encoder` are ESPnet's own modules under the names that
    its ASR model uses, so that `--init_param model.pth:encoder:encoder` is exact.

    Args:
        frontend, specaug, normalize, encoder: as in `ESPnetASRModel`.
        teachers: object with `.targets` (list of `TargetSpec`) and
            `__call__(speech, lengths, utt_ids)`; must not be an `nn.Module`, so that
            it stays out of `state_dict()`, `parameters()` and DDP.
        loss, align, target_delay, options: of `DistillationObjective`.
        extract_feats_in_collect_stats: ESPnet's option of that name.
        masks: over spans of the features; the learnt vector is no part of the student.

    Attributes:
        frames: `FrameGrid`, where the encoder's frames lie in the audio.

    Raises:
        ConfigError: see `FrameGrid` and `DistillationObjective`.
    """

    def __init__(
        self,
        frontend: AbsFrontend,
        specaug: AbsSpecAug | None,
        normalize: AbsNormalize | None,
        encoder: AbsEncoder,
        teachers,
        loss: EmbeddingLoss | CodebookLoss,
        align: str = "concat",
        target_delay: int = 0,
        options: ObjectiveOptions = DEFAULTS,
        extract_feats_in_collect_stats: bool = True,
        masks: MaskOptions | None = None,
    ):
        super().__init__()
        assert not isinstance(teachers, nn.Module), "a teacher would enter checkpoints"
        self.frontend = frontend
        self.specaug = specaug
        self.normalize = normalize
        self.encoder = encoder
        self.teachers = teachers
        self.extract_feats_in_collect_stats = extract_feats_in_collect_stats
        self.frames = FrameGrid.of(frontend, encoder)
        check_grid(self.frames, frontend, encoder)
        self.objective = objective_on(
            encoder,
            self.frames,
            teachers.targets,
            loss=loss,
            align=align,
            target_delay=target_delay,
            options=options,
        )
        self.mask = SpanMask.of(frontend.output_size(), masks)

    def forward(self, speech, speech_lengths, **kwargs):
        """Loss of one batch.

        Args:
            speech: (B, N) waveforms at 16 kHz.
            speech_lengths: (B,) samples.
            kwargs: `utt_id`, list of B strings; `num_samples`, the lengths once more,
                on the host (without it a GPU is waited for); `heard`, (B, N), what the
                student hears where it is not `speech`, which the teachers hear; and
                `is_unlabelled`, (1,) bool, where labelled and unlabelled batches are
                mixed; the rest is not used.

        Returns:
            Scalar loss, statistics, and their weight, as ESPnet's trainer expects them.
            The statistic `loss` is the mean by the configured weights, whatever the
            balance, so that it falls with what is learnt and tells epochs apart.
            The loss is a mean over frames, so the weight is the number of frames (the
            targets' mean): then the mean over processes is that over all frames.

        Raises:
            DataError: teacher and student frames do not belong together.
        """
        utt_ids = kwargs.get("utt_id")
        num_samples = torch.tensor(kwargs.get("num_samples") or speech_lengths.tolist())
        N = max(num_samples.tolist())
        speech = speech[:, :N]
        targets = self.teachers(speech, num_samples, utt_ids)
        heard = kwargs.get("heard", speech)[:, :N]
        h, h_lengths, unused = self._encode_for_heads(heard, speech_lengths)

        loss, stats, num_frames = self.objective(
            h, h_lengths, targets, utt_ids, self.frames.num_frames(num_samples).tolist()
        )
        stats["loss"] = self.objective.weighted_mean(stats)
        if unused is not None:
            # Each parameter gets a gradient, which DDP waits for; this one is 0.
            # (A sum in half precision could be infinite, and 0 times that is NaN.)
            loss = loss + 0.0 * unused.float().sum()
        if "is_unlabelled" in kwargs:
            # None is left out of the epoch's mean.
            unlabelled = bool(kwargs["is_unlabelled"])
            stats["loss_labelled"] = None if unlabelled else stats["loss"]
            stats["loss_unlabelled"] = stats["loss"] if unlabelled else None
        weight = num_frames.clamp(min=1.0)
        return force_gatherable((loss, stats, weight), loss.device)

    def _encode_for_heads(self, speech, speech_lengths):
        """What the objective wants of the encoder.

        Returns:
            Encoder output (B, T, D) or a list of blocks' outputs, (B,) frames, and the
            encoder's output where no head sits on it, else None.
        """
        numbers = self.objective.blocks
        if numbers is None:
            return *self._encode(speech, speech_lengths), None
        with BlockOutputs(self.encoder, numbers) as blocks:
            h_BTD, lengths = self._encode(speech, speech_lengths)
        has_last = numbers[-1] == len(self.encoder.encoders)
        return blocks.with_output(h_BTD), lengths, None if has_last else h_BTD

    def encode(self, speech, speech_lengths):
        """Waveforms (B, N), (B,) -> encoder output (B, T, D), (B,).

        SpecAugment and span masks fall on what the student hears alone, and only in
        training mode.
        """
        return self._encode(speech[:, : speech_lengths.max()], speech_lengths)

    def _encode(self, speech, speech_lengths):
        """`encode` of a batch that is as long as its longest waveform."""
        with torch.autocast(speech.device.type, enabled=False):
            feats, lengths = self.frontend(speech, speech_lengths)
            if self.specaug is not None and self.training:
                feats, lengths = self.specaug(feats, lengths)
            if self.normalize is not None:
                feats, lengths = self.normalize(feats, lengths)
            if self.mask is not None:
                feats = self.mask(feats, lengths)
        h_BTD, lengths, _ = self.encoder(feats, lengths)
        if isinstance(h_BTD, tuple):  # with interctc_layer_idx
            h_BTD = h_BTD[0]
        return h_BTD, lengths

    def collect_feats(self, speech, speech_lengths, **kwargs):
        """Features for ESPnet's statistics (global MVN) stage."""
        feats, lengths = self.frontend(
            speech[:, : speech_lengths.max()], speech_lengths
        )
        return {"feats": feats, "feats_lengths": lengths}

    @torch.no_grad()
    def observe_targets(self, speech, speech_lengths, utt_ids=None) -> None:
        """Add a batch to the sample from which the targets' statistics are taken."""
        self.objective.observe(self.teachers(speech, speech_lengths.cpu(), utt_ids))
