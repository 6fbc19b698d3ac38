"""How much an utterance's embeddings depend on what shares its batch.

    python benchmarks/padding.py                       # tiny random models, made audio
    python benchmarks/padding.py --wav_scp dump/raw/test/wav.scp \\
        --teachers conf/teachers.yaml --student exp/mtkd_x/valid.loss.best.pth

Each utterance is run alone, and in a batch with a longer one of other audio, so long
that padding makes 0, 5 or 50 % of the utterance's row. The table has the distance
between the two results over the frames that both count as valid, as a share of the
norm of the one alone: the median utterance and the worst, and the median over the last
ten frames. Teachers are run as in training and extraction, by s3prl's code; the student
as it is used (eval) and as it is trained, where batch normalisation takes the batch's
own mean and variance (dropout and masks off).
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import soundfile
import torch
from torch.nn.utils.rnn import pad_sequence

from espnet_mtkd.data.kaldi import read_wav_scp
from espnet_mtkd.teachers.base import TeacherConfig, parse_teachers

ROOT = Path(__file__).resolve().parent.parent
PADDING = (0.0, 0.05, 0.5)  # of the utterance's row
LAST = 10  # frames


def made_audio(num: int) -> list:
    """Speech-like waveforms of 1 to 6 s."""
    import builders

    seconds = [1.0 + 5.0 * i / num for i in range(num)]
    return [torch.from_numpy(builders.speech_like(s, i)) for i, s in enumerate(seconds)]


def read_audio(scp: Path, num: int) -> list:
    """Waveforms, evenly spread over a list."""
    paths = list(read_wav_scp(scp).values())
    paths = paths[:: max(1, len(paths) // num)][:num]
    return [torch.from_numpy(soundfile.read(p, dtype="float32")[0]) for p in paths]


def random_teachers(folder: Path) -> list[TeacherConfig]:
    """Tiny random models of each kind; s3prl's code runs those that are its own."""
    import builders
    import espnet_models

    configs = []
    for name in ("hubert", "wav2vec2", "wavlm", "data2vec", "whisper"):
        path = folder / name
        getattr(builders, f"build_{name}")(path)
        configs.append(TeacherConfig(name, f"{name}_local", str(path)))
    for name in ("conformer", "e_branchformer"):
        path = folder / name
        espnet_models.build(path, espnet_models.CONFIGS[name])
        configs.append(TeacherConfig(f"espnet_{name}", "espnet_local", str(path)))
    return configs


def random_student():
    """A tiny random Conformer."""
    import builders

    from espnet_mtkd.student.build import build_student
    from espnet_mtkd.student.load import Student

    torch.manual_seed(0)
    frontend, _, normalize, encoder = build_student(builders.student_args("conformer"))
    builders.randomize(encoder, 1)
    return Student(frontend, normalize, encoder).eval()


def by_teacher(config: TeacherConfig):
    """Function: batch -> (B, T, E) of the layer that is taught, (B,) valid frames."""
    from espnet_mtkd.teachers.s3prl import S3PRLTeacher

    teacher = S3PRLTeacher(config)
    return lambda speech, lengths: next(iter(teacher(speech, lengths).values()))


def in_training(student):
    """A student whose batch normalisation works as in training, and nothing else."""
    for module in student.modules():
        module.training = isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
    return student


@torch.no_grad()
def differences(run, waves: list, padding: float) -> tuple[list, list]:
    """Relative distances of each utterance: of all its frames, of the last ones."""
    whole, last = [], []
    for wave, other in zip(waves, [*waves[1:], waves[0]], strict=True):
        num = round(len(wave) / (1 - padding))
        partner = torch.cat([other] * -(-num // len(other)))[:num]
        pair = pad_sequence([wave, partner], batch_first=True)
        alone, frames = run(wave[None], torch.tensor([len(wave)]))
        together, others = run(pair, torch.tensor([len(wave), num]))
        T = min(int(frames[0]), int(others[0]))
        x_TE, y_TE = alone[0, :T], together[0, :T]
        for values, part in ((whole, slice(None)), (last, slice(-LAST, None))):
            distance = (x_TE[part] - y_TE[part]).norm() / x_TE[part].norm()
            values.append(float(distance))
    return whole, last


def row(name: str, run, waves: list) -> str:
    """Of the table."""
    cells = []
    for padding in PADDING:
        whole, last = differences(run, waves, padding)
        median = statistics.median(whole)
        cells.append(f"{median:.2g} ({max(whole):.2g}); {statistics.median(last):.2g}")
    return " | ".join([f"| {name}", *cells]) + " |"


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--wav_scp", type=Path, help="default: made audio")
    parser.add_argument("--teachers", help="YAML; beside tiny random ones of each kind")
    parser.add_argument("--student", help="default: a tiny random one")
    parser.add_argument("--num_utts", type=int, default=16)
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))
    torch.set_num_threads(1)
    waves = (
        read_audio(args.wav_scp, args.num_utts)
        if args.wav_scp
        else made_audio(args.num_utts)
    )
    heads = " | ".join(f"{p:.0%} padding" for p in PADDING)
    seconds = sorted(len(w) / 16000 for w in waves)
    print(
        f"{len(waves)} utterances of {seconds[0]:.1f} to {seconds[-1]:.1f} s, "
        f"{args.wav_scp or 'made'}; median (worst); median of the last {LAST} frames\n"
    )
    print(f"| model | {heads} |\n|---{'|---' * len(PADDING)}|")
    with tempfile.TemporaryDirectory() as folder:
        given = parse_teachers(args.teachers) if args.teachers else []
        made = random_teachers(Path(folder))
        for config in [*given, *made]:
            name = f"teacher {config.name}{', random' * (config in made)}"
            print(row(name, by_teacher(config), waves), flush=True)
        from espnet_mtkd.student import load_student

        student = load_student(args.student) if args.student else random_student()
        kind = ", random" * (not args.student)
        print(row(f"student{kind}", student, waves), flush=True)
        print(row(f"student{kind}, in training", in_training(student), waves))


if __name__ == "__main__":
    main()
