"""The student of stage 1: frame shift, loss, what it holds and what it does not."""

import builders
import numpy as np
import pytest
import torch

from espnet_mtkd.augment.masks import MaskOptions
from espnet_mtkd.errors import DataError
from espnet_mtkd.objective.losses import EmbeddingLoss
from espnet_mtkd.objective.options import BALANCES, ObjectiveOptions
from espnet_mtkd.pretraining.model import ESPnetMTKDModel
from espnet_mtkd.student.blocks import BlockOutputs
from espnet_mtkd.student.build import build_student
from espnet_mtkd.student.frames import describe_latency, measure_frame_shift
from espnet_mtkd.student.grid import FrameGrid
from espnet_mtkd.teachers.base import parse_teachers
from espnet_mtkd.teachers.s3prl import TeacherPool

ENCODERS = list(builders.ENCODERS)


def student(encoder: str):
    """ESPnet's frontend, specaug, normaliser and encoder, tiny."""
    torch.manual_seed(0)
    return build_student(builders.student_args(encoder))


@pytest.fixture(scope="module")
def teachers(two_teachers):
    return TeacherPool(parse_teachers(str(two_teachers)))


@pytest.fixture(params=ENCODERS)
def model(request, teachers):
    frontend, specaug, normalize, encoder = student(request.param)
    return ESPnetMTKDModel(
        frontend,
        specaug,
        normalize,
        encoder,
        teachers,
        EmbeddingLoss(l1=1.0, cosine=0.5),
    )


def build(encoder, teachers, masks=None, **options):
    """A student whose targets' statistics are set."""
    model = ESPnetMTKDModel(
        *student(encoder),
        teachers,
        EmbeddingLoss(),
        options=ObjectiveOptions(**options),
        masks=masks,
    )
    model.observe_targets(*batch(1.6, 2.0))
    model.objective.fit()
    return model


def batch(*seconds):
    waves = [
        torch.from_numpy(builders.speech_like(s, i)) for i, s in enumerate(seconds)
    ]
    lengths = torch.tensor([len(w) for w in waves])
    return torch.nn.utils.rnn.pad_sequence(waves, batch_first=True), lengths


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_measured_frame_shift_is_40_ms_and_leaves_no_trace(encoder):
    frontend, _, _, module = student(encoder)
    module.train()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    assert measure_frame_shift(frontend, module) == 640
    assert module.training and frontend.training
    for key, value in module.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("delay", [0, 3])
def test_the_loss_is_the_one_computed_by_hand(model, teachers, delay):
    """Targets, slices, head, distance and weights once more, in numpy."""
    model.eval()
    model.objective.target_delay = delay
    speech, lengths = batch(1.6, 2.0)
    model.observe_targets(speech, lengths)
    assert not model.objective.is_standardized
    for standardizer in model.objective.standardizers.values():
        standardizer.fit()
    assert model.objective.is_standardized
    with torch.no_grad():
        loss, stats, weight = model(speech, lengths, utt_id=["a", "b"])
        h, h_lengths = model.encode(speech, lengths)
        targets = teachers(speech, lengths)
    h = h.numpy()
    shares = {"whisper_l3": 1.0, "hubert_l1": 0.25, "hubert_l4": 0.25}
    expected, num_student_frames = 0.0, []
    # Student frame t is centred at 640 t + 480 samples. Whisper's frame j at 320 j: so
    # frames 2 t + 1 and 2 t + 2. HuBERT's at 320 j + 199.5: 2 t and 2 t + 1.
    begins = {"whisper_l3": 1, "hubert_l1": 0, "hubert_l4": 0}
    for name, share in shares.items():
        target, num_frames = targets[name]
        frames = [target[b, : num_frames[b]].numpy() for b in range(2)]
        mean, std = np.concatenate(frames).mean(0), np.concatenate(frames).std(0)
        linear = model.objective.heads[name].linear
        l1, cosines = [], []
        for b in range(2):
            x = (frames[b] - mean) / std
            for t in range(
                min((len(x) - begins[name]) // 2, int(h_lengths[b]) - delay)
            ):
                p = h[b, t + delay] @ linear.weight.detach().numpy().T + (
                    linear.bias.detach().numpy()
                )
                for i, part in enumerate(np.split(p, 2)):
                    y = x[2 * t + begins[name] + i]
                    l1.append(np.abs(part - y).mean())
                    cosines.append(part @ y / np.linalg.norm(part) / np.linalg.norm(y))
        num_student_frames.append(len(l1) / 2)
        value = np.mean(l1) + 0.5 * (1 - np.mean(cosines))
        assert stats[f"loss_{name}"].item() == pytest.approx(value, rel=1e-3)
        assert stats[f"cosine_{name}"].item() == pytest.approx(
            np.mean(cosines), abs=1e-3
        )
        expected += share / sum(shares.values()) * value
    assert loss.item() == pytest.approx(expected, rel=1e-3)
    assert stats["loss"].item() == pytest.approx(loss.item())
    assert weight.item() == pytest.approx(np.mean(num_student_frames))


def test_the_student_hears_noise_and_the_teachers_do_not(model, teachers):
    model.eval()
    speech, lengths = batch(1.6, 2.0)
    generator = torch.Generator().manual_seed(1)
    heard = speech + 0.1 * torch.randn(speech.shape, generator=generator)
    model.observe_targets(speech, lengths)
    for standardizer in model.objective.standardizers.values():
        standardizer.fit()
    with torch.no_grad():
        loss, _, _ = model(speech, lengths, heard=heard, utt_id=["a", "b"])
        clean, _, _ = model(speech, lengths, utt_id=["a", "b"])
        h, h_lengths = model.encode(heard, lengths)
        targets = teachers(speech, lengths)
        expected, _, _ = model.objective(h, h_lengths, targets, ["a", "b"])
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert loss.item() != pytest.approx(clean.item(), rel=1e-6)


def test_an_utterance_shorter_than_the_delay_teaches_nothing(model, teachers):
    speech, lengths = batch(0.5, 0.5)
    model.objective.target_delay = 50
    loss, _, _ = model(speech, lengths, utt_id=["a", "b"])
    loss.backward()
    assert loss.item() == 0
    assert all(not bool(p.grad.any()) for p in model.objective.heads.parameters())


def test_the_latency_is_told_in_milliseconds():
    frontend, _, _, encoder = student("contextual_block_conformer")
    text = describe_latency(encoder, FrameGrid.of(frontend, encoder), 2)
    assert "block 12 frames (480 ms), hop 4 frames (160 ms)" in text
    assert "look-ahead 4 frames (160 ms)" in text
    assert text.endswith("target delay 2 frames (80 ms): 240 to 360 ms in all")
    frontend, _, _, encoder = student("conformer")
    grid = FrameGrid.of(frontend, encoder)
    assert "whole utterance" in describe_latency(encoder, grid, 0)


def test_every_parameter_of_the_student_learns_and_no_teacher_is_in_it(model, teachers):
    model.train()
    before = [t.digest() for t in teachers.teachers]
    owned = {p.data_ptr() for t in teachers.teachers for p in t._network.parameters()}
    assert not owned & {p.data_ptr() for p in model.parameters()}
    assert not owned & {v.data_ptr() for v in model.state_dict().values()}
    assert {k.split(".")[0] for k in model.state_dict()} <= {
        *("frontend", "normalize", "encoder", "objective")
    }
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    speech, lengths = batch(1.6, 2.0)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss, _, _ = model(speech, lengths)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    without = [n for n, p in model.named_parameters() if p.grad is None]
    assert not [n for n in without if not n.startswith("frontend.")]
    assert [t.digest() for t in teachers.teachers] == before


def test_masking_is_heard_by_the_student_alone(model, teachers):
    """SpecAugment in training mode; the teachers' answers are those to clean audio."""
    from espnet2.asr.specaug.specaug import SpecAug

    torch.manual_seed(1)
    model.specaug = SpecAug(
        apply_time_warp=False, time_mask_width_ratio_range=(0.05, 0.2)
    )
    speech, lengths = batch(1.6)
    clean = teachers(speech, lengths)["whisper_l3"][0]
    asked = []

    def listening(*args):
        asked.append(teachers(*args))
        return asked[-1]

    listening.targets = teachers.targets
    model.teachers = listening
    model.train()
    masked = [model.encode(speech, lengths)[0] for _ in range(2)]
    assert not torch.equal(*masked)
    model(speech, lengths)
    assert torch.equal(asked[0]["whisper_l3"][0], clean)


def put_behind(value, output):
    """ESPnet's (h, lengths, ...) with another value behind each utterance."""
    h_BTD, lengths, *rest = output
    index_T = torch.arange(h_BTD.size(1))
    is_padding_BT1 = (index_T >= lengths[:, None])[..., None]
    return h_BTD.masked_fill(is_padding_BT1, value), lengths, *rest


@pytest.mark.parametrize("rubbish", [float("nan"), float("inf"), 1e6])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_padding_teaches_nothing_with_masks(encoder, teachers, rubbish):
    """Whatever encoder and teachers leave behind the shorter utterances."""
    options = dict(blocks="ladder", layers="mixed", balance="running")
    masks = MaskOptions(time_prob=0.5, time_length=4, channel_prob=0.2)
    model = build(encoder, teachers, masks=masks, **options).train()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    speech, lengths = batch(1.1, 2.0, 1.5)
    targets = teachers(speech, lengths)

    def run(value):
        def answer(*args):
            return {
                name: put_behind(value, (target, num_frames))
                for name, (target, num_frames) in targets.items()
            }

        answer.targets = teachers.targets
        model.teachers = answer
        model.load_state_dict(state)
        model.zero_grad(set_to_none=True)
        hook = model.encoder.register_forward_hook(
            lambda module, args, output: put_behind(value, output)
        )
        torch.manual_seed(1)
        loss, stats, _ = model(speech, lengths)
        loss.backward()
        hook.remove()
        return loss.detach(), {n: p.grad for n, p in model.named_parameters()}

    (expected, gradients), (found, others) = run(0.0), run(rubbish)
    assert torch.equal(found, expected) and expected.isfinite()
    assert gradients["mask.embedding"].any()
    for name, gradient in gradients.items():
        if gradient is None:  # of the frontend, whose filters are fixed
            assert others[name] is None and name.startswith("frontend.")
            continue
        assert torch.equal(others[name], gradient), name
        assert gradient.isfinite().all(), name


def test_a_teacher_that_heard_other_audio_is_refused(model, teachers):
    def half_deaf(speech, lengths, utt_ids=None):
        return teachers(speech[:, : speech.size(1) // 2], lengths // 2, utt_ids)

    half_deaf.targets = teachers.targets
    model.teachers = half_deaf
    speech, lengths = batch(2.0, 2.0)
    with pytest.raises(DataError, match="utterance first: .* 50 frames"):
        model(speech, lengths, utt_id=["first", "second"])


def test_features_for_statistics_are_the_frontends_log_mel(model):
    speech, lengths = batch(1.0, 0.5)
    out = model.collect_feats(speech, lengths)
    assert out["feats"].shape == (2, 101, 80)
    assert out["feats_lengths"].tolist() == [101, 51]


@pytest.mark.parametrize("blocks", ["ladder", [1, 2], [1]])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_heads_on_blocks_hear_them_and_every_parameter_gets_a_gradient(
    encoder, blocks, teachers
):
    model = build(encoder, teachers, blocks=blocks)
    plain = build(encoder, teachers)
    speech, lengths = batch(1.6, 2.0)
    model.eval()
    with BlockOutputs(model.encoder, [1]) as listening:
        h_BTD, h_lengths = model.encode(speech, lengths)
    hs = [*listening.frames(h_BTD.size(1)), h_BTD]
    targets = teachers(speech, lengths)
    heard = hs[:1] if blocks == [1] else hs
    expected, _, _ = model.objective(heard, h_lengths, targets)
    loss, _, _ = model(speech, lengths)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)

    # Without the objective it is the stock student: same keys, values, gradients.
    state = {k: v for k, v in model.state_dict().items() if "objective" not in k}
    for key, value in plain.state_dict().items():
        assert "objective" in key or torch.equal(state.pop(key), value)
    assert not state
    assert torch.equal(plain.eval().encode(speech, lengths)[0], h_BTD)

    model.train()
    model(speech, lengths)[0].backward()
    with_grad = {n for n, p in model.named_parameters() if p.grad is not None}
    assert with_grad == {n for n, p in model.named_parameters() if p.requires_grad}
    behind = [p.grad for p in model.encoder.encoders[1].parameters()]
    assert any(bool(g.any()) for g in behind) == (blocks != [1])


@pytest.mark.parametrize("balance", BALANCES)
def test_the_statistic_loss_is_the_weighted_mean_whatever_the_balance(
    balance, teachers
):
    model = build("conformer", teachers, balance=balance)
    speech, lengths = batch(1.6, 2.0)
    for training in (True, False):
        loss, stats, _ = model.train(training)(speech, lengths)
        shares = {"whisper_l3": 1.0, "hubert_l1": 0.25, "hubert_l4": 0.25}
        expected = sum(w * float(stats[f"loss_{t}"]) for t, w in shares.items()) / 1.5
        assert stats["loss"].item() == pytest.approx(expected, rel=1e-5)
        same = loss.item() == pytest.approx(expected, rel=1e-5)
        assert same or (training and balance in ("running", "drop"))
