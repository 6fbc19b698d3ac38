"""What a student has to predict of its teachers, and how far it is from that."""

import dataclasses
from collections.abc import Sequence

import torch
from espnet_mtkd.objective.mix import LayerMixer
from espnet_mtkd.objective.rotate import IsotropicStandardizer
from torch import nn

from espnet_mtkd.errors import ConfigError
from espnet_mtkd.objective.align import FrameAligner
from espnet_mtkd.objective.balance import BALANCES
from espnet_mtkd.objective.heads import HEADS, Ladder
from espnet_mtkd.objective.losses import CODEBOOK_SIZE, CodebookLoss, EmbeddingLoss
from espnet_mtkd.objective.normalize import PerFrame, Standardizer
from espnet_mtkd.objective.options import SECTION, ObjectiveOptions


class DistillationObjective(nn.Module):
    """A standardised target, a prediction head and a distance for each embedding.

    Both stages learn from teachers through it; its parameters and buffers are no part
    of the student.

    Args:
        targets: list of `TargetSpec`, what the teachers give: embeddings, or codes, or
            both.
        student_dim: D, the encoder's output dimension.
        frame_shift: samples between the encoder's frames.
        frame_centre: sample in the middle of what the encoder's frame 0 hears.
        loss: distance between prediction and standardised target, or `CodebookLoss`
            where all targets are codes.
        align: method of `FrameAligner`.
        target_delay: student frames; frame t + delay predicts what the teachers say of
            frame t, so a streaming student may have heard that much more of the future.
        num_blocks: of the encoder, needed where heads see other blocks than the last.
        codes_weight: of the codes' cross-entropy, where they stand beside embeddings.
        options: see `ObjectiveOptions`.

    Attributes:
        targets: what is predicted, one head or several for each.
        blocks: numbers of the blocks whose outputs `forward` takes; () for the last.

    Raises:
        ConfigError: see `FrameAligner` and `ObjectiveOptions`; or layers that cannot be
            mixed.
    """

    def __init__(
        self,
        targets: Sequence,
        student_dim: int,
        frame_shift: int,
        frame_centre: float,
        loss: EmbeddingLoss | CodebookLoss,
        align: str = "concat",
        target_delay: int = 0,
        num_blocks: int | None = None,
        codes_weight: float = 0.0,
        **options,
    ):
        super().__init__()
        self.options = ObjectiveOptions(**options)
        self.loss = loss
        self.target_delay = target_delay
        self.blocks = self.options.tapped_blocks(num_blocks)
        self.standardizers = nn.ModuleDict(
            {
                spec.name: build_standardizer(self.options.standardize, spec.dim)
                for spec in targets
                if spec.num_codebooks == 0
            }
        )
        self.targets, mixed = list(targets), {}
        if self.options.layers == "mixed":
            self.targets, mixed = mix_layers(self.targets)
        self.mixers = nn.ModuleDict(
            {
                name: LayerMixer([spec.name for spec in specs], specs[0].dim)
                for name, specs in mixed.items()
            }
        )
        self.aligners = {
            spec.name: FrameAligner(
                spec.frame_shift,
                frame_shift,
                align,
                spec.frame_centre,
                frame_centre,
            )
            for spec in self.targets
        }
        self.ladder = None
        if self.options.blocks == "ladder":
            self.ladder = Ladder(student_dim, num_blocks)
        self.heads = nn.ModuleDict(
            {spec.name: self._build_heads(spec, student_dim) for spec in self.targets}
        )
        self.codes_loss = CodebookLoss()
        self.balance = BALANCES[self.options.balance](
            [spec.name for spec in self.targets],
            [spec.teacher for spec in self.targets],
            shares_of_loss(self.targets, codes_weight),
        )

    def _build_heads(self, spec, student_dim: int) -> nn.Module:
        """A head, or a list of them where there is one on each of several blocks."""
        head = HEADS[self.options.head]
        sizes = (
            student_dim,
            spec.num_codebooks * CODEBOOK_SIZE or spec.dim,
            self.aligners[spec.name].num_per_frame,
        )
        if self.blocks and self.ladder is None:
            return nn.ModuleList(head(*sizes) for _ in self.blocks)
        return head(*sizes)

    def forward(self, h, h_lengths, targets: dict, utt_ids=None):
        """Loss of one batch.

        Args:
            h: encoder output (B, T, D); with `blocks` the list of their outputs.
            h_lengths: (B,) its valid frames.
            targets: {name: ((B, T, E) or codes (B, T, M), (B,) valid frames)}.
            utt_ids: B strings, for messages.

        Returns:
            Scalar loss, the targets' weighted mean or what `balance` makes of them; its
            statistics, detached; and the number of frames that it is a mean of (the
            targets' mean).

        Raises:
            DataError: teacher and student frames do not belong together.
        """
        outputs = [h] if isinstance(h, torch.Tensor) else list(h)
        if len(outputs) != max(1, len(self.blocks)):
            raise ValueError(
                f"h: expected outputs of the blocks {list(self.blocks)}, found "
                f"{len(outputs)} tensor(s)"
            )
        if self.ladder is not None:
            outputs = [self.ladder(outputs)]
        rows = [
            self._compare(spec, outputs, h_lengths, targets, utt_ids)
            for spec in self.targets
        ]
        sums_BK = torch.stack([sums_B for sums_B, *_ in rows], dim=1)
        frames_BK = torch.stack([frames_B for _, frames_B, *_ in rows], dim=1).float()
        loss, more = self.balance(sums_BK, frames_BK)
        frames_K = frames_BK.sum(0)
        stats = {}
        for k, (spec, (sums_B, _, name, part_B)) in enumerate(
            zip(self.targets, rows, strict=True)
        ):
            num_frames = frames_K[k].clamp(min=1)
            stats[f"loss_{spec.name}"] = sums_B.detach().sum() / num_frames
            stats[f"{name}_{spec.name}"] = part_B.sum() / num_frames
        for mixer in self.mixers.values():
            stats.update(mixer.statistics())
        stats.update({k: v.detach() for k, v in more.items()})
        return loss, stats, frames_K.mean()

    def _compare(self, spec, outputs, h_lengths, targets, utt_ids):
        """One target: (B,) loss and frames; name and (B,) values of its statistic."""
        delay = self.target_delay
        target_BTE, lengths = self._target(spec, targets)
        self.aligners[spec.name].check(lengths, h_lengths, spec.name, utt_ids)
        T = outputs[0].size(1)
        target_BTRE, lengths = self.aligners[spec.name](target_BTE, lengths, T)
        lengths = torch.minimum(lengths, h_lengths - delay).clamp(min=0)
        target_BTRE = target_BTRE[:, : max(0, T - delay)]
        heads = self.heads[spec.name]
        heads = list(heads) if isinstance(heads, nn.ModuleList) else [heads]
        loss_fn = self.codes_loss if spec.num_codebooks else self.loss
        found = [
            loss_fn.sums(head(h_BTD[:, delay:]), target_BTRE, lengths)
            for head, h_BTD in zip(heads, outputs, strict=True)
        ]
        name = loss_fn.statistic
        return (
            sum(sums_B for sums_B, _ in found) / len(found),
            lengths.clamp(max=target_BTRE.size(1)),
            name,
            sum(parts[name] for _, parts in found) / len(found),
        )

    def _target(self, spec, targets: dict):
        """What is to be predicted, (B, T, E) or codes, and its (B,) frames."""
        if spec.num_codebooks:
            return targets[spec.name]
        if spec.name not in self.mixers:
            target_BTE, lengths = targets[spec.name]
            return self.standardize(spec.name, target_BTE), lengths
        mixer = self.mixers[spec.name]
        layers = [self.standardize(name, targets[name][0]) for name in mixer.names]
        return mixer(layers), targets[mixer.names[0]][1]

    def standardize(self, name: str, target_BTE):
        """A teacher's embeddings (B, T, E) as they are learnt."""
        target_BTE = self.standardizers[name](target_BTE)
        clip = self.options.clip
        return target_BTE.clamp(-clip, clip) if clip > 0 else target_BTE

    @property
    def is_standardized(self) -> bool:
        """Whether the statistics of all targets are set."""
        fitted = (*self.standardizers.values(), *self.mixers.values())
        return all(x.is_fitted for x in fitted)

    @torch.no_grad()
    def observe(self, targets: dict) -> None:
        """Add a batch to the sample from which the targets' statistics are taken.

        Args:
            targets: as for `forward`.
        """
        for name, standardizer in self.standardizers.items():
            standardizer.observe(*targets[name])
        for mixer in self.mixers.values():
            mixer.observe(targets)

    def fit_mixers(self) -> None:
        """Set what mixed layers need of the sample, after the standardizers' `fit`."""
        for mixer in self.mixers.values():
            mixer.fit(self.standardize)


def build_standardizer(name: str, dim: int) -> nn.Module:
    """What `standardize` says, for embeddings of dimension `dim`."""
    if name == "phi-s":
        return IsotropicStandardizer(dim)
    if name in ("layernorm", "none"):
        return PerFrame(is_normalized=name == "layernorm")
    return Standardizer(dim, leaves_out_outliers=name == "robust")


def mix_layers(targets: list) -> tuple[list, dict]:
    """One target for each teacher's embeddings, `<teacher>_mixed`.

    A teacher of one layer has the target that it had, and codes stay as they are.

    Args:
        targets: list of `TargetSpec`.

    Returns:
        Targets, and {name of a mixed one: those that it is made of}.

    Raises:
        ConfigError: layers of one teacher that differ in dimension or frames.
    """
    out, mixed = [], {}
    for spec in targets:
        same = [
            x for x in targets if x.teacher == spec.teacher and x.num_codebooks == 0
        ]
        if spec.num_codebooks or len(same) == 1:
            out.append(spec)
        elif spec is same[0]:
            kinds = {(x.dim, x.frame_shift, x.frame_centre) for x in same}
            if len(kinds) > 1:
                dims = ", ".join(f"{x.layer}: {x.dim}" for x in same)
                raise ConfigError(
                    f"{SECTION}.layers: mixed needs layers of equal dimension and "
                    f"frames, and those of teacher '{spec.teacher}' differ ({dims}): "
                    "name others, or choose each"
                )
            name = f"{spec.teacher}_mixed"
            weight = sum(x.weight for x in same)
            out.append(dataclasses.replace(spec, name=name, weight=weight))
            mixed[name] = same
    return out, mixed


def shares_of_loss(targets: list, codes_weight: float) -> list[float]:
    """Of each target; those of embeddings, or of codes alone, add up to 1.

    Args:
        targets: list of `TargetSpec`.
        codes_weight: what the shares of codes beside embeddings add up to.
    """
    totals = {
        is_code: sum(x.weight for x in targets if bool(x.num_codebooks) == is_code)
        for is_code in (False, True)
    }
    has_both = all(totals.values())
    return [
        spec.weight
        / totals[bool(spec.num_codebooks)]
        * (codes_weight if has_both and spec.num_codebooks else 1.0)
        for spec in targets
    ]
