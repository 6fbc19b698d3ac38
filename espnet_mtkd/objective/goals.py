"""What a student has to predict: which of the teachers' targets make one loss each."""

import dataclasses
from collections.abc import Sequence

from espnet_mtkd.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Goal:
    """Something that the student predicts, with a loss of its own.

    Attributes:
        name: of its loss: that of the target, or the teacher's where its layers are one
            target.
        weight: factor of its loss, before division by the sum over all goals.
        specs: the `TargetSpec`s it is made of, layers of one teacher.
        codes: the codes that are learnt beside the embedding, None: none are.
    """

    name: str
    weight: float
    specs: tuple
    codes: object | None = None

    @property
    def teacher(self) -> str:
        """Name of the teacher."""
        return self.specs[0].teacher

    @property
    def is_codes(self) -> bool:
        """Whether codes alone are learnt."""
        return self.specs[0].num_codebooks > 0


def find_goals(targets: Sequence, layers: str, with_codes: bool) -> list[Goal]:
    """The goals of a training.

    Args:
        targets: `TargetSpec`s; codes belong to the embedding of the same teacher and
            layer, where there is one.
        layers: see `ObjectiveOptions`.
        with_codes: codes are learnt beside the embeddings.

    Raises:
        ConfigError: codes that are not there, or layers without a common mean.
    """
    embeddings = [spec for spec in targets if spec.num_codebooks == 0]
    codes = {(s.teacher, s.layer): s for s in targets if s.num_codebooks > 0}
    if not embeddings:
        embeddings, codes = list(targets), {}
    if layers != "each" and (with_codes or embeddings[0].num_codebooks > 0):
        raise ConfigError(
            f"objective_conf.layers: codes have no mean: expected each, found {layers}"
        )
    if with_codes:
        absent = [s.name for s in embeddings if (s.teacher, s.layer) not in codes]
        if absent:
            raise ConfigError(
                "loss_conf.codes: expected stored codes (mtkd_extract --form codes, "
                f"--targets_dir), found none of {', '.join(absent)}"
            )
    if layers == "each":
        return [
            Goal(
                spec.name,
                spec.weight,
                (spec,),
                codes[spec.teacher, spec.layer] if with_codes else None,
            )
            for spec in embeddings
        ]
    by_teacher = {}
    for spec in embeddings:
        by_teacher.setdefault(spec.teacher, []).append(spec)
    for teacher, specs in by_teacher.items():
        forms = {(s.dim, s.frame_shift, s.frame_centre) for s in specs}
        if len(forms) > 1:
            raise ConfigError(
                f"objective_conf.layers: {layers}: expected layers of one dimension "
                f"and frame rate, found of teacher '{teacher}' (dimension, frame "
                f"shift, centre) {sorted(forms)}: take layers: each"
            )
    return [
        Goal(teacher, sum(s.weight for s in specs), tuple(specs))
        for teacher, specs in by_teacher.items()
    ]
