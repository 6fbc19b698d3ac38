"""How heavy the tails of a teacher's embeddings are, on a few utterances."""

from espnet_mtkd.data.audio import SAMPLE_RATE
from espnet_mtkd.objective.normalize import Standardizer
from espnet_mtkd.targets.embeddings import load_batches
from espnet_mtkd.targets.plan import Utterance, plan_batches

SECONDS = 60  # of audio that is looked at
BATCH_SECONDS = 10


def describe_tails(
    teacher, lengths: dict[str, int], files: dict[str, str]
) -> list[str]:
    """A line for each target: the share of frames that are outliers, and their energy.

    Args:
        teacher: `S3PRLTeacher`.
        lengths: utterance -> samples; some of them, at even distances, are read.
        files: utterance -> audio file.

    Raises:
        DataError: see `read_audio`.
        ValueError: less than two frames of audio.
    """
    standardizers = {spec.name: Standardizer(spec.dim) for spec in teacher.targets}
    step = max(1, sum(lengths.values()) // (SECONDS * SAMPLE_RATE))
    utts = [Utterance(u, files[u], lengths[u], 0) for u in list(lengths)[::step]]
    batches = plan_batches(utts, BATCH_SECONDS * SAMPLE_RATE)
    for batch, speech in load_batches(batches, "cpu"):
        for name, target in teacher(*speech, [u.utt for u in batch]).items():
            standardizers[name].observe(*target)
    lines = []
    for name, standardizer in standardizers.items():
        standardizer.fit()
        lines.append(f"{name}: {standardizer.describe_tails()}")
    return lines
