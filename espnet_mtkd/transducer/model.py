"""ESPnet's ASR model while it is trained: path distillation, kept teachers, slices.

What it saves is a stock ESPnet model: heads of kept teachers are no part of its files.
Under autocast encoder, decoder and CTC are computed in half precision, but features,
the joint network and all that follows it in fp32: a logit of 20 in bf16 is off by up to
0.06, and over a path's nodes that adds up.
"""

import dataclasses
import logging
import math

import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.asr_transducer.utils import get_transducer_task_io

from espnet_mtkd.errors import ConfigError, shown
from espnet_mtkd.objective.options import is_number
from espnet_mtkd.student.blocks import BlockOutputs
from espnet_mtkd.student.frames import measure_frame_shift
from espnet_mtkd.transducer.kd import VARIANTS, path_kd_loss, place_nodes
from espnet_mtkd.transducer.kept import (
    NAME,
    KeptTeachers,
    hide_from_state_dict,
    mean_over_processes,
)
from espnet_mtkd.transducer.paths import PathStores
from espnet_mtkd.transducer.rnnt import sliced_transducer_loss


@dataclasses.dataclass(frozen=True)
class PathKDConfig:
    """How the student follows the teacher's best path.

    Attributes:
        weight: of the loss, summed over a path's nodes, beside the transducer's.
        temperature, variant: of `path_kd_loss`.
        time_shift: whole frames, from 0, by which the student may be later than the
            teacher; for streaming students.

    Raises:
        ConfigError: a value that means nothing; its key is named.
    """

    weight: float = 0.5
    temperature: float = 1.0
    variant: str = "topk"
    time_shift: int = 0

    def __post_init__(self):
        """Refuse values that mean nothing."""
        if not isinstance(self.variant, str) or self.variant not in VARIANTS:
            raise ConfigError(
                f"path_kd_conf.variant: expected one of {VARIANTS}, found "
                f"{shown(self.variant)}"
            )
        for name in ("weight", "temperature"):
            value = getattr(self, name)
            if not is_number(value) or not 0 < value < math.inf:
                raise ConfigError(
                    f"path_kd_conf.{name}: expected above 0, found {shown(value)}; it "
                    "is a finite number, without quotes"
                )
        if type(self.time_shift) is not int or self.time_shift < 0:
            raise ConfigError(
                "path_kd_conf.time_shift: expected a whole number of frames from 0, "
                f"found {shown(self.time_shift)}"
            )


class ESPnetMTKDTransducerModel(ESPnetASRModel):
    """`ESPnetASRModel` with a transducer, distilled; see the module."""

    paths: PathStores | None = None
    kd = PathKDConfig()
    is_sliced = False
    _batch = None
    _kd_loss = None
    _encoded = None

    @property
    def kept(self) -> KeptTeachers | None:
        """Teachers of stage 1 whose loss goes on, if there are any."""
        return self._modules.get(NAME)

    def keep_teachers(self, kept: KeptTeachers) -> None:
        """Add stage 1's objective to the training loss."""
        self.add_module(NAME, kept)
        hide_from_state_dict(self)

    def distil_from(self, paths: PathStores, kd: PathKDConfig) -> None:
        """Add the distance to stored teacher paths to the training loss.

        Raises:
            ConfigError: a time shift beyond the end of every path.
        """
        self.paths, self.kd = paths, kd
        self.frame_shift = measure_frame_shift(
            self.frontend, self.encoder, self.preencoder
        )
        longest = paths.max_num_nodes * paths.frame_shift // self.frame_shift
        if kd.time_shift and kd.time_shift >= longest:
            raise ConfigError(
                f"path_kd_conf.time_shift: expected below {longest}, as no path of "
                f"{paths.stores[0].folder.parent} has more frames, found "
                f"{kd.time_shift}"
            )
        if kd.temperature != 1 and paths.num_tokens < len(paths.tokens):
            logging.warning(
                "path_kd_conf.temperature: %s softens the %d stored tokens and their "
                "rest as one outcome, not the distributions of all %d tokens; for "
                "these, extract the paths with --num_tokens %d",
                kd.temperature,
                paths.num_tokens,
                len(paths.tokens),
                len(paths.tokens),
            )

    def forward(
        self, speech, speech_lengths, text, text_lengths, unlabelled=(), **kwargs
    ):
        """As `ESPnetASRModel.forward`; `utt_id` of `kwargs` finds paths and targets.

        Validation leaves both out of the loss, so that models trained with and without
        them are selected alike.

        Args:
            speech, speech_lengths, text, text_lengths, kwargs: as ESPnet's.
            unlabelled: batches {`speech`, `speech_lengths`, `utt_id`}, of which the
                kept teachers' loss alone is learnt.

        Raises:
            TargetStoreError, DataError: see `PathStores.read`, `path_kd` and
                `KeptTeachers`.
        """
        self._batch = kwargs.get("utt_id"), speech_lengths.tolist()
        self._kd_loss = self._encoded = None
        loss, stats, weight = super().forward(
            speech, speech_lengths, text, text_lengths, **kwargs
        )
        if self._kd_loss is not None:
            loss = loss + self.kd.weight * self._kd_loss
            stats["loss_path_kd"] = self._kd_loss.detach()[None]
            stats["loss"] = loss.detach()
        if self.kept is not None:
            added, more = self.kept_loss(
                dict(
                    speech=speech,
                    speech_lengths=speech_lengths,
                    utt_id=self.kept.name_ids(kwargs["utt_id"]),
                ),
                unlabelled,
            )
            stats.update(more)
            if self.training:
                loss = loss + added
                stats["loss"] = loss.detach()
        self._batch = self._kd_loss = self._encoded = None
        return loss, stats, weight

    def _extract_feats(self, speech, speech_lengths):
        """As `ESPnetASRModel._extract_feats`, without autocast on any device.

        ESPnet asks for that on CUDA alone.
        """
        if self.autocast_frontend:
            return super()._extract_feats(speech, speech_lengths)
        with torch.autocast(speech.device.type, enabled=False):
            return super()._extract_feats(speech, speech_lengths)

    def encode(self, speech, speech_lengths):
        """As `ESPnetASRModel.encode`; the output is there for the kept teachers too."""
        if self.kept is None:
            return super().encode(speech, speech_lengths)
        numbers = self.kept.objective.blocks
        with BlockOutputs(self.encoder, numbers or ()) as blocks:
            out, lengths = super().encode(speech, speech_lengths)
        # A pair with the blocks' outputs, for intermediate CTC.
        h_BTD = out[0] if isinstance(out, tuple) else out
        h = h_BTD if numbers is None else blocks.with_output(h_BTD)
        self._encoded = h, lengths
        return out, lengths

    def kept_loss(self, labelled: dict, unlabelled):
        """The kept teachers' loss, weighted, over the frames of all these batches.

        Args:
            labelled: the batch whose encoder output `encode` has left.
            unlabelled: as in `forward`.

        Returns:
            Scalar, and statistics of the labelled batch.
        """
        kept = self.kept
        if not kept.is_wanted:
            return kept.nothing(), {}
        loss, stats, num_frames = kept(*self._encoded, **labelled)
        total = loss * num_frames
        for batch in unlabelled:
            self.encode(batch["speech"], batch["speech_lengths"])
            loss, _, more = kept(*self._encoded, **batch)
            total, num_frames = total + loss * more, num_frames + more
        loss = total / num_frames.clamp(min=1)
        if self.training:
            batch_size = len(labelled["speech"])
            loss = mean_over_processes(loss, num_frames, batch_size)
        stats = {k: v.reshape(1) for k, v in stats.items()}
        stats["loss_kept"] = loss.detach().reshape(1)
        return kept.weight * loss, stats

    def _calc_transducer_loss(self, encoder_out, encoder_out_lens, labels):
        decoder_in, target, t_len, u_len = get_transducer_task_io(
            labels,
            encoder_out_lens,
            ignore_id=self.ignore_id,
            blank_id=self.blank_id,
        )
        self.decoder.set_device(encoder_out.device)
        decoder_out = self.decoder(decoder_in)
        with torch.autocast(encoder_out.device.type, enabled=False):
            dtype = self.joint_network.lin_out.weight.dtype
            h_BTD, g_BUD = encoder_out.to(dtype), decoder_out.to(dtype)
            loss = self._lattice_loss(h_BTD, g_BUD, target, t_len, u_len)
            if self.training and self.paths is not None:
                self._kd_loss = self.path_kd(h_BTD, t_len, g_BUD, target, u_len)
        cer = wer = None
        if not self.training and self.error_calculator_trans is not None:
            cer, wer = self.error_calculator_trans(encoder_out, target)
        return loss, cer, wer

    def _lattice_loss(self, h_BTD, g_BUD, target, t_len, u_len):
        """The transducer loss, in slices or of all logits at once."""
        joint, criterion = self.joint_network, self.criterion_transducer
        if self.is_sliced:
            return sliced_transducer_loss(
                joint, criterion, h_BTD, g_BUD, target, t_len, u_len
            )
        return criterion(
            joint(h_BTD.unsqueeze(2), g_BUD.unsqueeze(1)), target, t_len, u_len
        )

    def path_kd(self, h_BTD, num_frames_B, g_BUD, labels_BU, num_labels_B):
        """Distance to the teacher at its nodes: T + U joint evaluations an utterance.

        Args:
            h_BTD, num_frames_B: encoder output.
            g_BUD: decoder output, (B, U + 1, D).
            labels_BU, num_labels_B: the transcripts.

        Returns:
            Scalar: summed over the nodes, mean over the batch.
        """
        parts = []
        frames, labels = num_frames_B.tolist(), num_labels_B.tolist()
        for b, (utt, num_samples) in enumerate(zip(*self._batch, strict=True)):
            path = self.paths.read(
                utt, num_samples, labels_BU[b, : labels[b]], frames[b], self.frame_shift
            )
            if path is None:
                continue
            student_N, keep_N = place_nodes(
                path.frames,
                path.positions,
                self.paths.frame_shift,
                self.frame_shift,
                self.kd.time_shift,
                frames[b],
            )
            parts.append(
                (
                    torch.full_like(student_N, b),
                    student_N,
                    path.positions[keep_N],
                    path.ids[keep_N],
                    path.logp[keep_N],
                    path.has_label[keep_N],
                )
            )
        if not parts:
            return h_BTD.sum() * 0.0
        b_N, t_N, u_N, ids_Nk, logp_Nk, has_label_N = (
            torch.cat(column).to(h_BTD.device) for column in zip(*parts, strict=True)
        )
        logits_NV = self.joint_network(h_BTD[b_N, t_N], g_BUD[b_N, u_N])
        loss_N = path_kd_loss(
            logits_NV,
            ids_Nk,
            logp_Nk,
            has_label_N,
            self.kd.temperature,
            self.kd.variant,
        )
        return loss_N.sum() / len(h_BTD)
