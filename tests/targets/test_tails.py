"""What the doctor says of a teacher's tails, against numpy over the same frames."""

import builders
import numpy as np
import pytest
import soundfile
import torch

from espnet_mtkd.data.kaldi import read_wav_scp
from espnet_mtkd.targets.tails import describe_tails
from espnet_mtkd.teachers.base import parse_teachers
from espnet_mtkd.teachers.s3prl import TeacherPool

ARTEFACTS = (3, 17)  # frames of each utterance


class WithArtefacts:
    """A real teacher, two frames of which are huge in each utterance."""

    def __init__(self, teacher):
        self.teacher, self.targets = teacher, teacher.targets
        self.rows = {spec.name: [] for spec in teacher.targets}

    def __call__(self, speech, lengths, utt_ids=None):
        out = self.teacher(speech, lengths, utt_ids)
        for name, (target, num_frames) in out.items():
            target[:, ARTEFACTS, 0] += 1e3
            self.rows[name] += [
                x[:n] for x, n in zip(target, num_frames.tolist(), strict=True)
            ]
        return out


@pytest.mark.parametrize("number", [0, 1])
def test_the_share_of_outliers_and_of_their_energy(two_teachers, tmp_path, number):
    live = TeacherPool(parse_teachers(str(two_teachers))).teachers[number]
    teacher = WithArtefacts(live)
    data_dir = builders.build_data_dir(tmp_path / "data", 24, 1)
    files = read_wav_scp(data_dir / "wav.scp")
    lengths = {utt: soundfile.info(path).frames for utt, path in files.items()}
    lines = describe_tails(teacher, lengths, files)
    assert len(lines) == len(live.targets)
    for spec, line in zip(live.targets, lines, strict=True):
        rows = teacher.rows[spec.name]
        assert len(rows) == len(files)
        x = torch.cat(rows).double().numpy()
        is_artefact = np.concatenate(
            [np.isin(np.arange(len(row)), ARTEFACTS) for row in rows]
        )
        energy = np.square((x - x.mean(0)) / x.std(0)).sum(1)
        share = energy[is_artefact].sum() / energy.sum()
        assert line == (
            f"{spec.name}: {is_artefact.mean():.1%} of the frames are outliers with "
            f"{share:.0%} of the squared energy"
        )
