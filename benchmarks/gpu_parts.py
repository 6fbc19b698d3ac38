"""The parts of gpu.py, one a process: gpu_parts.py <part> <cuda|cpu> <folder> <out>.

Sizes on a GPU are those of egs2/librispeech_100: its student, four targets of 1024
dimensions, batches of 24 utterances of up to 12 s, a teacher of HuBERT Large's size. On
a CPU they are those of egs2/asterisk, and the teacher is tiny.
"""

import copy
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

LARGE = dict(
    encoder_layers=24,
    encoder_embed_dim=1024,
    encoder_ffn_embed_dim=4096,
    encoder_attention_heads=16,
    final_dim=768,
    extractor_mode="layer_norm",
    layer_norm_first=True,
)
TINY = dict(
    encoder_layers=2,
    encoder_embed_dim=64,
    encoder_ffn_embed_dim=128,
    encoder_attention_heads=2,
    final_dim=8,
)
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2, "float16": 2e-2}  # of losses, relative
SAMPLE_RATE = 16000


class Bench:
    """Where and how large; `say` writes a row at once, so that none is lost.

    Args:
        device: cuda or cpu.
        folder: shared by the parts.
        out: JSON lines, [what, result].
    """

    def __init__(self, device: str, folder: Path, out: Path):
        self.device, self.folder, self.out = torch.device(device), folder, out
        self.is_gpu = device == "cuda"
        recipe = "librispeech_100" if self.is_gpu else "asterisk"
        self.conf = ROOT / "egs2" / recipe / "mtkd1/conf"
        # How often something is timed, and done before that.
        self.num_steps, self.num_warm = (20, 2) if self.is_gpu else (2, 1)
        num_utts, longest = (24, 192_000) if self.is_gpu else (4, 48_000)
        self.num_samples = [longest - 1600 * i for i in range(num_utts)]
        num_tokens = 500 if self.is_gpu else 30
        names = [f"t{i}" for i in range(num_tokens - 3)]
        self.tokens = ["<blank>", "<unk>", *names, "<sos/eos>"]
        dim = 1024 if self.is_gpu else 64
        self.dims = {f"teacher{i}": dim for i in range(4 if self.is_gpu else 2)}
        self.hubert = LARGE if self.is_gpu else TINY

    def say(self, what: str, result: str) -> None:
        """Add a row."""
        with open(self.out, "a") as f:
            f.write(json.dumps([what, result]) + "\n")

    def synchronize(self) -> None:
        """Wait for the GPU."""
        if self.is_gpu:
            torch.cuda.synchronize()

    def seconds(self, function) -> float:
        """Median of the seconds that a call takes, once it is warm."""
        times = []
        for _ in range(self.num_steps + self.num_warm):
            self.synchronize()
            start = time.perf_counter()
            function()
            self.synchronize()
            times.append(time.perf_counter() - start)
        return statistics.median(times[self.num_warm :])

    def seconds_and_memory(self, function) -> str:
        """Milliseconds of a call and, on a GPU, the peak of what was allocated."""
        if self.is_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        result = f"{1e3 * self.seconds(function):.1f} ms"
        if self.is_gpu:
            result += f", peak {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB"
        return result

    @property
    def dtypes(self) -> list[torch.dtype]:
        """Those that are tried beside float32."""
        return [torch.bfloat16, torch.float16] if self.is_gpu else [torch.bfloat16]

    def batch(self, num_utts: int | None = None) -> dict:
        """A batch of noise with random transcripts, on the CPU; or the first of it."""
        from kept_teachers import make_batch

        rate = 4 if self.is_gpu else 14  # BPE tokens, or characters, a second
        return make_batch(self.num_samples[:num_utts], len(self.tokens), rate)

    def move(self, batch: dict) -> dict:
        """Its tensors on the device, in copies."""
        return {
            k: v.to(self.device, copy=True) if isinstance(v, torch.Tensor) else v
            for k, v in batch.items()
        }

    def cached_teachers(self):
        """Targets of the batch that are read from stores of random codes."""
        from kept_teachers import stored_teachers

        stores = self.folder / f"targets_{os.getpid()}"
        return stored_teachers(stores, self.dims, self.num_samples)

    def live_teacher(self, dtype: torch.dtype = torch.float32):
        """A random HuBERT through s3prl's own loading code."""
        from extraction import build_hubert

        from espnet_mtkd.teachers.base import TeacherConfig
        from espnet_mtkd.teachers.s3prl import S3PRLTeacher

        path = self.folder / "hubert.pt"
        if not path.exists():
            build_hubert(path, **self.hubert)
        teacher = S3PRLTeacher(
            TeacherConfig("t", "hubert_local", path_or_url=str(path))
        )
        teacher.dtype = dtype
        return teacher

    def stage1(self, teachers):
        """The student of stage 1 with heads for the teachers' targets."""
        from training_step import build

        config = {
            "train": str(self.conf / "train_mtkd.yaml"),
            "asr": str(self.conf / "train_asr_conformer_transducer.yaml"),
        }
        return build(config, teachers, str(self.device))[0]

    def stage2(self, loss: str = "sliced"):
        """The transducer of stage 2, on the CPU."""
        from kept_teachers import build_student

        torch.manual_seed(0)
        model = build_student("conformer", self.conf, self.tokens)
        model.is_sliced = loss == "sliced"
        return model


def cases(bench: Bench) -> None:
    """tests/second_device_cases.py: on the GPU, or on what stands in for one."""
    env = dict(os.environ)
    if bench.is_gpu:
        env["MTKD_SECOND_DEVICE"] = "cuda:0"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    run = subprocess.run(
        [*command, "tests/second_device_cases.py"],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
    )
    print(run.stdout[-8000:])
    where = "cuda:0" if bench.is_gpu else "the pretended device"
    last = run.stdout.strip().splitlines()[-1].strip("= ")
    bench.say(f"all that computes, on {where} as on the CPU", last)
    if run.returncode:
        raise SystemExit(f"of the cases on {where} some fail")


def precision(bench: Bench) -> None:
    """Losses of both stages, in each data type, against the CPU in float32."""
    batch = bench.batch(4)  # (the CPU's side takes a minute for all)
    models = {
        "stage 1": bench.stage1(bench.cached_teachers()),
        "stage 2": bench.stage2(),
    }
    failed = []
    for name, model in models.items():
        expected = loss_of(model.to("cpu"), batch, torch.float32)
        model.to(bench.device)
        for dtype in (torch.float32, *bench.dtypes):
            found = loss_of(model, bench.move(batch), dtype)
            error = abs(found / expected - 1)
            title = name_of(dtype)
            bench.say(
                f"{name}, {title}: loss against the CPU's in float32",
                f"{found:.5g} for {expected:.5g}: off by {error:.1e}",
            )
            if not error <= TOLERANCE[title]:
                failed.append(f"{name} in {title}")
    if failed:
        raise SystemExit(f"not equal to tolerance: {', '.join(failed)}")


def autocast(device: torch.device, dtype: torch.dtype):
    """Mixed precision, or nothing for float32."""
    is_lower = dtype != torch.float32
    return torch.autocast(device.type, dtype if is_lower else None, enabled=is_lower)


def loss_of(model, batch: dict, dtype) -> float:
    """Of a batch, without masks and dropout; its gradients are finite."""
    model.eval()
    model.zero_grad()
    batch = {k: copy.copy(v) for k, v in batch.items()}
    with autocast(batch["speech"].device, dtype):
        loss = model(**batch)[0].sum()
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    if not all(bool(x.isfinite().all()) for x in gradients):
        raise SystemExit(f"a gradient in {dtype} is not finite")
    return float(loss.detach())


def step(bench: Bench) -> None:
    """A step of both stages: time, memory, and the share of reading stored targets."""
    from kept_teachers import kept_teachers
    from training_step import Zeros

    from espnet_mtkd.teachers.s3prl import TeacherPool

    batch = bench.batch()
    seconds = f"{sum(bench.num_samples) / SAMPLE_RATE:.0f} s"
    cached = bench.cached_teachers()
    half = bench.dtypes[0]
    teachers_dtype = half if bench.is_gpu else torch.float32
    live = TeacherPool(["live"], lambda _: bench.live_teacher(teachers_dtype))
    for what, teachers in (
        ("no teachers", Zeros(cached)),
        (f"{len(bench.dims)} stored targets", cached),
        (f"one live teacher in {name_of(teachers_dtype)}", live),
    ):
        model = bench.stage1(teachers)
        for dtype in (torch.float32, half):
            result = bench.seconds_and_memory(training_step(bench, model, batch, dtype))
            bench.say(f"stage 1, {what}; {name_of(dtype)}, {seconds} a batch", result)
    took = bench.seconds(lambda: cached(*speech_of(bench.move(batch))))
    bench.say("of it, stored targets read and decoded", f"{1e3 * took:.1f} ms")

    for what in ("plain loss", "sliced loss", "sliced loss, kept teachers"):
        model = bench.stage2(what.split()[0]).to(bench.device)
        if "kept" in what:
            model.keep_teachers(kept_teachers(model, cached))
            model.to(bench.device)
        for dtype in (torch.float32, half):
            result = bench.seconds_and_memory(training_step(bench, model, batch, dtype))
            bench.say(f"stage 2, {what}; {name_of(dtype)}, {seconds} a batch", result)


def name_of(dtype: torch.dtype) -> str:
    """Without `torch.`."""
    return str(dtype).removeprefix("torch.")


def speech_of(batch: dict):
    """What teachers are called with."""
    return batch["speech"], batch["speech_lengths"].cpu(), batch["utt_id"]


def training_step(bench: Bench, model, batch: dict, dtype):
    """A function that makes an update."""
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5, fused=True)
    batch = bench.move(batch)
    batch["num_samples"] = tuple(bench.num_samples)

    def update():
        optimizer.zero_grad()
        with autocast(bench.device, dtype):
            loss = model(**{k: copy.copy(v) for k, v in batch.items()})[0].sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()

    return update


def extraction(bench: Bench) -> None:
    """A teacher over audio files, with codes and without, in each data type."""
    import numpy as np
    import soundfile
    from extraction import random_codebooks

    from espnet_mtkd.targets.embeddings import load_batches
    from espnet_mtkd.targets.extract import BatchTargets
    from espnet_mtkd.targets.plan import Utterance, plan_batches

    rng = np.random.default_rng(0)
    teacher = bench.live_teacher()
    utts = []
    for i, n in enumerate(bench.num_samples):
        path = bench.folder / f"noise{i}.flac"
        soundfile.write(path, 0.1 * rng.standard_normal(n), SAMPLE_RATE)
        (frames,) = teacher.count_frames([n], 320)
        utts.append(Utterance(f"u{i}", str(path), n, frames))
    repeats = 40 if bench.is_gpu else 1
    utts = [
        Utterance(f"{u.utt}_{r}", u.audio, u.num_samples, u.num_frames)
        for r in range(repeats)
        for u in utts
    ]
    batches = plan_batches(utts, (60 if bench.is_gpu else 12) * SAMPLE_RATE)
    audio = sum(u.num_samples for u in utts) / SAMPLE_RATE
    books = random_codebooks(teacher)
    bench.say("teacher", f"{teacher.num_parameters / 1e6:.0f} M parameters, random")
    for dtype in [torch.float32, torch.bfloat16][: 1 + bench.is_gpu]:
        teacher.dtype = dtype
        took = {}
        for form, codebooks in (("fp16", None), ("codes", books)):
            for part in (batches[:2], batches):  # the first warms up
                bench.synchronize()
                start = time.perf_counter()
                waiting = None
                for batch, speech in load_batches(part, str(bench.device)):
                    found = BatchTargets(teacher, batch, speech, codebooks)
                    if waiting is not None:
                        waiting.rows()
                    waiting = found
                waiting.rows()
                took[form] = time.perf_counter() - start
            bench.say(
                f"{form}, {name_of(dtype)}",
                f"{audio / took[form]:.0f} s of audio a second",
            )
        bench.say(
            f"with codes : without, {name_of(dtype)}",
            f"{took['codes'] / took['fp16']:.2f}",
        )


def paths(bench: Bench) -> None:
    """Best paths of a batch, and the joint network's share."""
    from best_paths import joint_alone
    from espnet2.asr_transducer.joint_network import JointNetwork

    from espnet_mtkd.transducer.lattice_paths import num_logits, path_nodes

    num, T, U = (24, 250, 60) if bench.is_gpu else (4, 75, 20)
    for V in (500, 5000):
        torch.manual_seed(0)
        joint = JointNetwork(V, 256, 256, joint_space_size=256).eval().to(bench.device)
        hs = [torch.randn(T, 256, device=bench.device) for _ in range(num)]
        gs = [torch.randn(U + 1, 256, device=bench.device) for _ in range(num)]
        labels = [torch.randint(1, V, (U,), device=bench.device) for _ in range(num)]
        limit = num_logits(bench.device)
        with torch.inference_mode():
            whole, floor = (
                bench.seconds(function)
                for function in (
                    lambda j=joint, h=hs, g=gs, x=labels: path_nodes(j, h, g, x, 0, 8),
                    lambda j=joint, h=hs, g=gs, n=limit: joint_alone(j, h, g, n),
                )
            )
        bench.say(
            f"V {V}, T {T}, U {U}, batches of {num}",
            f"{1e3 * whole / num:.1f} ms an utterance, {floor / whole:.0%} of it the "
            "joint network",
        )


def loss(bench: Bench) -> None:
    """The loss in slices against torchaudio's of all logits."""
    sizes = [] if bench.is_gpu else ["--num_frames", "75", "--num_labels", "20"]
    sizes += ["--batch_size", "16" if bench.is_gpu else "4", "--num_steps", "5"]
    for V in ("500", "5000"):
        command = [sys.executable, ROOT / "benchmarks/transducer_loss.py", *sizes]
        command += ["--vocab_size", V, "--device", bench.device.type]
        out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        for line in out.stdout.splitlines():
            what, _, result = line.strip().partition(" ")
            if what == "sliced" and result.startswith(":"):
                what, result = "sliced : plain", result.partition("= ")[2]
            bench.say(f"V {V}, {what}", result.strip())


def ddp(bench: Bench) -> None:
    """DistributedDataParallel of one process: the same gradients as without."""
    backend = "nccl" if bench.is_gpu else "gloo"
    torch.distributed.init_process_group(
        backend, init_method=f"file://{bench.folder}/ddp", rank=0, world_size=1
    )
    model = bench.stage1(bench.cached_teachers()).eval()
    wrapped = torch.nn.parallel.DistributedDataParallel(model)
    vectors = []
    for module in (model, wrapped):
        model.zero_grad()
        module(**bench.move(bench.batch()))[0].sum().backward()
        vectors.append(
            torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])
        )
    error = float((vectors[1] - vectors[0]).norm() / vectors[0].norm())
    bench.say(f"{backend}, one process: gradients, relative difference", f"{error:.1e}")
    torch.distributed.destroy_process_group()
    if not error < 1e-5:
        raise SystemExit("DistributedDataParallel changes the gradients")


def streaming(bench: Bench) -> None:
    """Real-time factors of decoding as audio comes."""
    import numpy as np
    from streaming import build_random
    from streaming import streaming as decode

    from espnet_mtkd.streaming import Speech2TextStreamingTransducer

    nums = (1, 64) if bench.is_gpu else (1, 4)
    rng = np.random.default_rng(0)
    shape = nums[-1], (10 if bench.is_gpu else 3) * SAMPLE_RATE
    waves = list((0.1 * rng.standard_normal(shape)).astype(np.float32))
    config = bench.conf / "train_asr_contextual_block_conformer_transducer.yaml"
    (bench.folder / "stream").mkdir()
    files = build_random(bench.folder / "stream", config, len(bench.tokens), waves)
    never = dict(endpoint_silence=float("inf"), max_segment=float("inf"))
    speech2text = Speech2TextStreamingTransducer(
        *files, device=bench.device.type, **never
    )
    for num in nums:
        with torch.no_grad():
            decode(speech2text, waves[:1], 2560, True)
            bench.synchronize()
            start = time.perf_counter()
            tokens = decode(speech2text, waves[:num], 2560, True)
            took = time.perf_counter() - start
        audio = num * shape[1] / SAMPLE_RATE
        bench.say(
            f"streams side by side: {num}; greedy, chunks of 160 ms",
            f"RTF {took / audio:.4f}, {tokens} tokens",
        )


def compile(bench: Bench) -> None:
    """`torch.compile` of the student's encoder: does it pay?"""
    if not bench.is_gpu:
        bench.say("torch.compile of the encoder", "not tried on a CPU")
        return
    model, batch = bench.stage2().to(bench.device), bench.batch()
    plain = bench.seconds(training_step(bench, model, batch, bench.dtypes[0]))
    start = time.perf_counter()
    model.encoder.compile(dynamic=True)
    update = training_step(bench, model, batch, bench.dtypes[0])
    update()
    bench.synchronize()
    first = time.perf_counter() - start
    compiled = bench.seconds(update)
    bench.say(
        f"step of stage 2, {name_of(bench.dtypes[0])}, compiled encoder : plain",
        f"{compiled / plain:.2f} (the first step {first:.0f} s)",
    )


def main():
    """Run one part."""
    name, device, folder, out = sys.argv[1:]
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    torch.backends.cudnn.allow_tf32 = False  # float32 means float32
    globals()[name](Bench(device, Path(folder), Path(out)))


if __name__ == "__main__":
    main()
