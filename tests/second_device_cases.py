"""The same on another device as on the CPU.

Run by test_second_device.py, and on a GPU by benchmarks/gpu.sh.
"""

import argparse
import math

import builders
import numpy as np
import pytest
import second_device
import streaming_models
import torch
from second_device import DEVICE
from torch.nn.utils.rnn import pad_sequence

from espnet_mtkd.objective.losses import CodebookLoss, EmbeddingLoss
from espnet_mtkd.objective.options import ObjectiveOptions
from espnet_mtkd.pretraining.model import ESPnetMTKDModel
from espnet_mtkd.pretraining.trainer import fit_standardizers
from espnet_mtkd.student.build import build_student
from espnet_mtkd.targets.teacher import CachedTeacher
from espnet_mtkd.teachers.base import parse_teachers
from espnet_mtkd.teachers.memory import TargetMemory
from espnet_mtkd.teachers.s3prl import S3PRLTeacher, TeacherPool

PACKAGE = builders.ROOT / "espnet_mtkd"
ENCODERS = list(builders.ENCODERS)
UPSTREAMS = ["whisper", "hubert", "wav2vec2", "wavlm", "data2vec"]
SEARCHES = [("greedy", 3), ("tsd", 2), ("default", None)]


@pytest.fixture(autouse=True)
def attached():
    with second_device.attached():
        yield


@pytest.fixture(scope="module")
def batch(corpus):
    return builders.read_batch(corpus)


def move(batch: dict) -> dict:
    """A batch on the second device."""
    return {
        k: v.to(DEVICE) if isinstance(v, torch.Tensor) else v for k, v in batch.items()
    }


def same(found, expected, tolerance=1e-4):
    """Values on the second device are those on the host."""
    assert found.device == DEVICE
    torch.testing.assert_close(found.cpu(), expected, rtol=tolerance, atol=tolerance)


def same_targets(found, expected, tolerance=1e-4):
    """The same for what a teacher gives, padding aside."""
    assert list(found) == list(expected)
    for name, (target_BTE, lengths_B) in expected.items():
        assert found[name][1].tolist() == lengths_B.tolist()  # both on the host
        for b, n in enumerate(lengths_B.tolist()):
            same(found[name][0][b, :n], target_BTE[b, :n], tolerance)


def gradients(model, batch):
    """Loss of a batch, with `model.training` but no dropout, and all gradients."""
    torch.manual_seed(0)  # SpecAugment's masks
    model.eval()
    model.training = True
    loss = model(**batch)[0]
    loss.backward()
    found = {k: p.grad for k, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return loss.detach(), found


def compare(model, batch):
    """Loss and gradients of a model on the host and on the second device."""
    loss, expected = gradients(model, batch)
    model.to(DEVICE)
    found_loss, found = gradients(model, move(batch))
    same(found_loss, loss)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        same(found[name], gradient, 1e-3)


def build(encoder, teachers, loss, **options):
    """A student of stage 1, all its parts in use."""
    masks = dict(
        specaug="specaug",
        specaug_conf=dict(apply_time_warp=False, time_mask_width_range=[5, 9]),
    )
    # (ESPnet draws them on the device, and a GPU draws other numbers.)
    args = builders.student_args(encoder, **({} if second_device.GPU else masks))
    torch.manual_seed(0)
    return ESPnetMTKDModel(*build_student(args), teachers, loss, **options)


def test_it_tells_devices_apart():
    """Of a device that takes everything, nothing could be learnt."""
    x = torch.ones(2, 3)
    with pytest.raises(RuntimeError, match="two devices"):
        x.to(DEVICE) + x
    with pytest.raises(RuntimeError, match="two devices|on the same device"):
        x[torch.arange(2, device=DEVICE)]
    with pytest.raises((RuntimeError, TypeError)):
        x.to(DEVICE).numpy()


@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_a_teacher(upstream, checkpoints, batch):
    config = dict(name="x", upstream=f"{upstream}_local")
    config["path_or_url"] = str(checkpoints[config["upstream"]])
    teacher = S3PRLTeacher(parse_teachers([config])[0])
    speech, lengths, utts = batch.values()
    expected = teacher(speech, lengths, utts)
    same_targets(teacher(speech.to(DEVICE), lengths.to(DEVICE), utts), expected)


def test_remembered_targets(two_teachers, batch):
    teachers = TeacherPool(parse_teachers(str(two_teachers)))
    expected = teachers(*batch.values())
    memory = TargetMemory(teachers, 10**8)
    for _ in range(2):
        same_targets(memory(*move(batch).values()), expected, 1e-2)


@pytest.mark.parametrize("align", ["concat", "linear"])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_stage_1(encoder, align, two_teachers, batch):
    teachers = TeacherPool(parse_teachers(str(two_teachers)))
    model = build(encoder, teachers, EmbeddingLoss(mse=0.5), align=align)
    tensors = {k: v for k, v in batch.items() if k != "utt_id"}
    fit_standardizers(model, [(batch["utt_id"], tensors)], "cpu")
    standardizers = model.objective.standardizers
    statistics = {k: v.clone() for k, v in standardizers.state_dict().items()}
    compare(model, batch)
    fit_standardizers(model, [(batch["utt_id"], tensors)], str(DEVICE))
    for name, value in standardizers.state_dict().items():
        same(value, statistics[name])
    model.train()
    assert model(**move(batch))[0].isfinite()


@pytest.mark.parametrize(
    "options",
    [
        dict(standardize="phi-s", layers="mixed", balance="running"),
        dict(standardize="layernorm", blocks="ladder", balance="uncertainty"),
        dict(standardize="meanvar", clip=2.0, head="mlp", blocks=[1], layers="mean"),
    ],
    ids=lambda options: options["standardize"],
)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_stage_1_with_other_objectives(encoder, options, two_teachers, batch):
    teachers = TeacherPool(parse_teachers(str(two_teachers)))
    model = build(
        encoder, teachers, EmbeddingLoss(), options=ObjectiveOptions(**options)
    )
    tensors = {k: v for k, v in batch.items() if k != "utt_id"}
    fit_standardizers(model, [(batch["utt_id"], tensors)], "cpu")
    compare(model, batch)
    fit_standardizers(model, [(batch["utt_id"], tensors)], str(DEVICE))
    model.train()
    assert model(**move(batch))[0].isfinite()


STEP_WAITS = {
    "live": set(),
    "stored": set(),
    # It knows an utterance by the energy of what it is given, too.
    "remembered": {"teachers/memory.py"},
}


@pytest.mark.parametrize("kind", STEP_WAITS)
def test_a_step_of_stage_1_waits_for_nothing(kind, two_teachers, store_targets, batch):
    """Of this package; ESPnet's masks and s3prl's lengths are theirs."""
    configs = parse_teachers(str(two_teachers))
    if kind == "stored":
        folder = store_targets("codes")
        teachers = TeacherPool(configs, lambda c: CachedTeacher(c, folder))
    else:
        size = 10**9 if kind == "remembered" else 0
        teachers = TargetMemory(TeacherPool(configs), size)
    model = build("conformer", teachers, EmbeddingLoss())
    model.observe_targets(batch["speech"], batch["speech_lengths"], batch["utt_id"])
    model.objective.fit()
    model = model.to(DEVICE).train()
    lengths = tuple(batch["speech_lengths"].tolist())
    moved = move({**batch, "num_samples": lengths})
    model(**moved)  # (of new utterances all targets come to the host)
    with second_device.waits() as found:
        loss, _, _ = model(**moved)
        loss.backward()
    package = {"/".join(x.parts[-2:]) for x in PACKAGE.rglob("*.py")}
    ours = [x for x in found if x.rpartition(":")[0] in package]
    assert {x.rpartition(":")[0] for x in ours} == STEP_WAITS[kind], ours
    assert len(ours) <= 2  # whatever the number of utterances
    assert found  # ESPnet's own: they are seen


@pytest.mark.parametrize("form", ["codes", "fp16"])
def test_stored_targets(form, two_teachers, store_targets, batch):
    configs, folder = parse_teachers(str(two_teachers)), store_targets(form)
    teachers = TeacherPool(configs, lambda config: CachedTeacher(config, folder))
    same_targets(teachers(*move(batch).values()), teachers(*batch.values()))
    if form == "codes":
        codes = TeacherPool(configs, lambda c: CachedTeacher(c, folder, True))
        compare(build("conformer", codes, CodebookLoss()), batch)
        both = TeacherPool(configs, lambda c: CachedTeacher(c, folder, with_codes=True))
        compare(build("conformer", both, EmbeddingLoss(codes=0.1)), batch)


def test_what_extraction_computes(two_teachers, corpus, batch, store_targets):
    from espnet_mtkd.targets.embeddings import embed, load_batches
    from espnet_mtkd.targets.plan import Utterance
    from espnet_mtkd.targets.quantizer import read_codebooks

    codebooks = store_targets("codes") / "whisper/codebooks.safetensors"
    book = read_codebooks(codebooks)["whisper_l3"]
    teacher = S3PRLTeacher(parse_teachers(str(two_teachers))[0])
    files = dict(
        line.split() for line in (corpus.train / "wav.scp").read_text().splitlines()
    )
    utts = [
        Utterance(utt, files[utt], n, n // 320)
        for utt, n in zip(
            batch["utt_id"], batch["speech_lengths"].tolist(), strict=True
        )
    ]
    # (inference_mode, around `embed`, does not go with tensors like these)
    embed = torch.no_grad()(embed.__wrapped__)
    found = {}
    for device in ("cpu", str(DEVICE)):
        ((_, speech),) = load_batches([utts], device)
        rows = embed(teacher, utts, speech)
        assert {row["whisper_l3"].device for row in rows} == {torch.device(device)}
        found[device] = [
            (x.cpu().numpy(), book.encode(x).cpu().numpy())
            for x in (row["whisper_l3"] for row in rows)
        ]
    for here, there in zip(*found.values(), strict=True):
        np.testing.assert_allclose(there[0], here[0], rtol=1e-2, atol=1e-2)
        assert (there[1] == here[1]).mean() > 0.9  # of a hair's breadth, some change


@pytest.mark.parametrize("loss", ["plain", "sliced"])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_stage_2(encoder, loss, checkpoints, corpus, batch, tmp_path):
    """Teacher transducer, its paths, and the student that learns from them."""
    from espnet_mtkd.bin import mtkd_extract_paths
    from espnet_mtkd.transducer.extract_paths import TeacherTransducer
    from espnet_mtkd.transducer.lattice_paths import path_nodes
    from espnet_mtkd.transducer.task import MTKDASRTask

    def arguments(config):
        tokens = corpus.tokens.read_text().splitlines()
        return argparse.Namespace(
            **{
                **MTKDASRTask.get_default_config(),
                **config,
                "token_list": tokens,
                "token_type": "char",
            }
        )

    config = builders.teacher_transducer_config(checkpoints["whisper_local"])
    torch.manual_seed(1)
    args = arguments(config)
    torch.save(MTKDASRTask.build_model(args).state_dict(), tmp_path / "model.pth")
    builders.write_yaml(tmp_path / "config.yaml", vars(args))
    mtkd_extract_paths.main(
        [
            *("--asr_exp", str(tmp_path), "--model_file", "model.pth"),
            *("--data_dir", str(corpus.train), "--out_dir", str(tmp_path / "paths")),
        ]
    )

    texts = dict(
        line.split(" ", 1) for line in (corpus.train / "text").read_text().splitlines()
    )
    teacher = TeacherTransducer(tmp_path / "config.yaml", tmp_path / "model.pth")
    labels = [teacher.labels(utt, texts[utt]) for utt in batch["utt_id"]]
    found = {}
    speech = batch["speech"], batch["speech_lengths"]
    with torch.no_grad():
        for device in ("cpu", str(DEVICE)):
            teacher.model.to(device)
            teacher.device = device
            # (lengths stay on the host, as extraction loads them)
            inputs = teacher.encode((speech[0].to(device), speech[1]), labels)
            nodes = path_nodes(teacher.model.joint_network, *inputs, 0, 5)
            assert {x.device for x in nodes} == {torch.device(device)}
            found[device] = [x.cpu() for x in nodes]
    here, there = found.values()
    np.testing.assert_array_equal(here[0], there[0])
    torch.testing.assert_close(here[1], there[1], rtol=1e-2, atol=1e-2)

    args = arguments(builders.asr_config(encoder))
    args.path_targets_dir = str(tmp_path / "paths")
    args.transducer_loss = loss
    torch.manual_seed(2)
    labels = [torch.from_numpy(x) for x in labels]
    compare(
        MTKDASRTask.build_model(args),
        dict(
            batch,
            text=pad_sequence(labels, batch_first=True, padding_value=-1),
            text_lengths=torch.tensor([len(x) for x in labels]),
        ),
    )


@pytest.mark.parametrize("search, max_symbols", SEARCHES)
def test_streaming(search, max_symbols, tmp_path):
    from espnet_mtkd.streaming import Speech2TextStreamingTransducer

    decoder = Speech2TextStreamingTransducer(
        *streaming_models.build(tmp_path / "model"),
        search_type=search,
        max_symbols_per_frame=max_symbols,
        endpoint_silence=math.inf,
    )
    wave = builders.speech_like(4, 1)

    def decode():
        streams = [decoder.open_stream(), decoder.open_stream()]
        for i in range(0, len(wave), 3001):
            decoder.accept(streams, [wave[i : i + 3001], wave[i : i + 1501]])
        return [[(s.text, s.times_ms) for s in x] for x in decoder.finish(streams)]

    expected = decode()
    assert all(segments[-1][0] for segments in expected)
    decoder.asr_model.to(DEVICE)
    decoder.frontend.to(DEVICE)
    decoder.search.decoder.set_device(DEVICE)
    assert decode() == expected
