"""Frozen s3prl upstreams, through s3prl's own loading code."""

import copy
import random
import re

import builders
import pytest
import torch
from torch import nn

from espnet_mtkd.errors import ConfigError, DataError
from espnet_mtkd.teachers.base import TeacherConfig
from espnet_mtkd.teachers.hub import import_s3prl_hub, upstream_names
from espnet_mtkd.teachers.s3prl import (
    S3PRLTeacher,
    TeacherPool,
    check_length,
    check_upstream,
)

LOCAL = ["hubert_local", "wav2vec2_local", "wavlm_local", "data2vec_local"]
TRANSFORMERS = [*LOCAL, "whisper_local"]
ALL = [*TRANSFORMERS, "fbank"]
# Those that never look at an utterance's padding. HuBERT's and WavLM's first group norm
# is over time; data2vec's second positional convolution sees what the first one made of
# the padding.
EXACT_IN_A_BATCH = ["wav2vec2_local", "whisper_local", "fbank"]


@pytest.fixture(scope="module")
def load(checkpoints):
    """Function: (upstream, further keys) -> `S3PRLTeacher`."""
    cache = {}

    def make(upstream, **keys):
        key = (upstream, repr(keys))
        if key not in cache:
            path = checkpoints.get(upstream)
            path = str(path) if path else None
            config = TeacherConfig("t", upstream, path_or_url=path, **keys)
            cache[key] = S3PRLTeacher(config)
        return cache[key]

    return make


def batch_of(*seconds):
    """Padded speech-like waveforms (B, N), (B,), with noise behind the short ones."""
    waves = [
        torch.from_numpy(builders.speech_like(s, i)) for i, s in enumerate(seconds)
    ]
    lengths = torch.tensor([len(w) for w in waves])
    speech = torch.randn(len(waves), int(lengths.max()))
    for b, wave in enumerate(waves):
        speech[b, : len(wave)] = wave
    return speech, lengths


@pytest.mark.parametrize("upstream", TRANSFORMERS)
def test_dimension_depth_and_frame_shift_are_read_from_the_upstream(load, upstream):
    teacher = load(upstream)
    assert teacher.num_layers == builders.NUM_LAYERS + 1
    (spec,) = teacher.targets
    assert (spec.name, spec.layer) == ("t_l3", 3)  # three quarters of 4 blocks
    assert (spec.dim, spec.frame_shift, spec.weight) == (builders.DIM, 320, 1.0)
    assert teacher.num_parameters > 1000


def test_fbank_has_its_own_frame_shift_and_one_layer(load):
    teacher = load("fbank")
    (spec,) = teacher.targets
    assert (teacher.num_layers, spec.layer) == (1, 0)
    assert spec.frame_shift == 160
    speech, lengths = batch_of(1.0)
    target, num_frames = teacher(speech, lengths)["t_l0"]
    assert target.shape == (1, 98, spec.dim)
    assert int(num_frames) == (16000 - 400) // 160 + 1


@pytest.mark.parametrize("upstream", LOCAL)
def test_the_audio_that_moves_a_convolutional_frame_lies_around_its_centre(
    load, upstream
):
    (spec,) = load(upstream).targets
    model = load(upstream)._network.upstream.model
    convolutions = copy.deepcopy(model.feature_extractor)
    for name, module in list(convolutions.named_modules()):
        if isinstance(module, nn.GroupNorm):  # its statistics are of the whole audio
            parent, _, child = name.rpartition(".")
            setattr(convolutions.get_submodule(parent), child, nn.Identity())
    generator = torch.Generator().manual_seed(1)
    wave = torch.randn(1, 8000, generator=generator).requires_grad_()
    out = convolutions(wave)
    frames = (out[0] if isinstance(out, tuple) else out)[0].T
    for j in (3, 10):
        weights = torch.randn(frames.size(1), generator=generator)
        (gradient,) = torch.autograd.grad(
            (frames[j] * weights).sum(), wave, retain_graph=True
        )
        heard = gradient[0].nonzero()
        middle = float(heard[0] + heard[-1]) / 2
        assert middle == spec.frame_shift * j + spec.frame_centre


@pytest.mark.parametrize("upstream", ["whisper_local", "fbank"])
def test_a_burst_moves_the_frame_at_whose_centre_it_is(load, upstream):
    teacher = load(upstream, layers=(0,))
    (spec,) = teacher.targets

    @torch.no_grad()
    def features(wave):
        return teacher(wave[None], torch.tensor([len(wave)]))[spec.name][0][0]

    generator = torch.Generator().manual_seed(1)
    base = torch.randn(24000, generator=generator) * 0.01
    found = []
    for at in range(8000, 16000, 400):
        wave = base.clone()
        wave[at : at + 40] += torch.randn(40, generator=generator) * 0.5
        change = (features(wave) - features(base)).square().sum(-1)
        frame = float((change * torch.arange(len(change))).sum() / change.sum())
        found.append(at + 20 - spec.frame_shift * frame)
    # A quarter of a frame: a logarithm hears the begin of a burst more than its end.
    assert abs(sum(found) / len(found) - spec.frame_centre) < 80
    assert spec.frame_centre == (0.0 if upstream == "whisper_local" else 199.5)


def test_the_config_may_say_where_frames_lie(load):
    (spec,) = load("hubert_local", frame_centre=79.0).targets
    assert spec.frame_centre == 79.0


@pytest.mark.parametrize("upstream", ALL)
def test_embeddings_are_those_of_a_direct_s3prl_call(load, upstream, checkpoints):
    from s3prl.nn import S3PRLUpstream

    path = checkpoints.get(upstream)
    direct = S3PRLUpstream(upstream, path_or_url=str(path) if path else None).eval()
    num_layers = direct.num_layers
    teacher = load(upstream, layers=tuple(range(num_layers)), weight=3.0)
    speech, lengths = batch_of(2.0, 1.37)
    with torch.no_grad():
        hidden, _ = direct(speech, lengths)
    out = teacher(speech, lengths)
    assert list(out) == [f"t_l{i}" for i in range(num_layers)]
    for spec in teacher.targets:
        target, num_frames = out[spec.name]
        assert spec.weight == pytest.approx(3.0 / num_layers)
        assert target.shape[2] == spec.dim == hidden[spec.layer].shape[2]
        for b in range(2):
            n = int(num_frames[b])
            assert 0 < n <= int(lengths[b]) // spec.frame_shift
            torch.testing.assert_close(
                target[b, :n], hidden[spec.layer][b, :n], atol=1e-5, rtol=1e-5
            )


@pytest.mark.parametrize("layer", range(builders.NUM_LAYERS))
@pytest.mark.parametrize("upstream", TRANSFORMERS)
def test_one_layer_is_the_same_without_the_blocks_behind_it(load, upstream, layer):
    speech, lengths = batch_of(1.2, 0.9)
    everything = load(upstream, layers=tuple(range(builders.NUM_LAYERS + 1)))
    expected, num_frames = everything(speech, lengths)[f"t_l{layer}"]
    teacher = load(upstream, layers=(layer,))
    ran = []
    blocks = [m for n, m in teacher._network.named_modules() if is_block(n)]
    assert len(blocks) == builders.NUM_LAYERS
    handles = [
        block.register_forward_hook(lambda *_, i=i: ran.append(i))
        for i, block in enumerate(blocks)
    ]
    for _ in range(2):  # nothing is left over for the second call
        out, lengths_out = teacher(speech, lengths)[f"t_l{layer}"]
        assert torch.equal(out, expected) and torch.equal(lengths_out, num_frames)
    for handle in handles:
        handle.remove()
    assert ran == [*range(layer)] * 2


def is_block(name: str) -> bool:
    """Whether a module's name is that of a transformer block."""
    return bool(re.search(r"\.layers\.\d+$", name))


@pytest.mark.parametrize("upstream", TRANSFORMERS)
def test_negative_layers_count_from_the_end(load, upstream):
    speech, lengths = batch_of(1.0)
    last = load(upstream, layers=(-1,))
    assert [s.name for s in last.targets] == ["t_l4"]
    out = last(speech, lengths)["t_l4"][0]
    assert torch.equal(out, load(upstream, layers=(4,))(speech, lengths)["t_l4"][0])


@pytest.mark.parametrize("upstream", ALL)
def test_valid_frames_saw_only_real_audio(load, upstream):
    """What follows an utterance in its row must not change a frame called valid."""
    teacher = load(upstream, layers=(0,))
    (spec,) = teacher.targets
    short = torch.from_numpy(builders.speech_like(1.03, 7))
    length = torch.tensor([len(short)])
    alone, num_alone = teacher(short[None], length)[spec.name]
    speech, lengths = batch_of(1.03, 2.5)
    speech[0, : len(short)] = short
    batched, num_batched = teacher(speech, lengths)[spec.name]
    n = int(num_alone[0])
    assert n == int(num_batched[0]) > 0
    assert n * spec.frame_shift <= len(short)
    difference = (alone[0, :n] - batched[0, :n]).abs()
    if upstream in EXACT_IN_A_BATCH:
        assert difference.max() <= 2e-5 * alone[0, :n].abs().max()
    else:
        assert difference.mean() <= 0.5 * alone[0, :n].abs().mean()
    if upstream in LOCAL:
        # The rule is tight: the convolutions give exactly that many frames.
        kernels = [(10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2)]
        frames = len(short)
        for kernel, stride in kernels:
            frames = (frames - kernel) // stride + 1
        assert n == frames


@pytest.mark.parametrize("upstream", TRANSFORMERS)
def test_neighbours_change_no_frame_of_any_layer_beyond_the_group_norm(load, upstream):
    teacher = load(upstream, layers=(1, 2, 3, 4))
    speech, lengths = batch_of(1.03, 2.5)
    together = teacher(speech, lengths)
    alone = teacher(speech[:1, : lengths[0]], lengths[:1])
    for name, (target, num_frames) in together.items():
        n = int(num_frames[0])
        difference = (target[0, :n] - alone[name][0][0, :n]).abs()
        if upstream == "whisper_local":
            assert difference.max() < 1e-4
        else:
            # The positional convolution mixes the rest of the row into the last frames.
            assert difference[: n // 2].mean() < 0.5 * target[0, :n].abs().mean()


def test_layer_normalisation_is_an_option(load):
    speech, lengths = batch_of(1.0)
    plain = load("hubert_local")(speech, lengths)["t_l3"][0]
    normal = load("hubert_local", normalize=True)(speech, lengths)["t_l3"][0]
    expected = (plain - plain.mean(-1, keepdim=True)) / plain.std(
        -1, keepdim=True, unbiased=False
    )
    torch.testing.assert_close(normal, expected, atol=1e-3, rtol=1e-3)


# ------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "wrong, closest",
    [
        ("hubert_bas", "hubert_base"),
        ("wavlm_lage", "wavlm_large"),
        ("whisper_smal", "whisper_small"),
    ],
)
def test_unknown_upstream_gets_the_closest_names_and_code_2(wrong, closest):
    with pytest.raises(ConfigError, match=closest) as error:
        S3PRLTeacher(TeacherConfig("t", wrong))
    assert "--list_upstreams" in str(error.value)
    assert error.value.exit_code == 2


@pytest.mark.parametrize("upstream", TRANSFORMERS)
def test_local_upstreams_ask_for_path_or_url_and_an_existing_one(upstream, tmp_path):
    with pytest.raises(ConfigError, match="path_or_url: <path>"):
        S3PRLTeacher(TeacherConfig("t", upstream))
    missing = str(tmp_path / "missing.pt")
    with pytest.raises(ConfigError, match=missing):
        S3PRLTeacher(TeacherConfig("t", upstream, path_or_url=missing))


@pytest.mark.parametrize("upstream", TRANSFORMERS)
def test_a_file_of_another_kind_is_refused_by_name(upstream, tmp_path):
    rubbish = tmp_path / "rubbish.pt"
    torch.save({"a": torch.zeros(1)}, rubbish)
    with pytest.raises(ConfigError, match="rubbish.pt"):
        S3PRLTeacher(TeacherConfig("t", upstream, path_or_url=str(rubbish)))


def test_unknown_extra_conf_of_our_own_upstream_is_refused(checkpoints):
    path = str(checkpoints["whisper_local"])
    wrong = TeacherConfig("t", "whisper_local", path, extra_conf={"pad_to_30": True})
    with pytest.raises(ConfigError, match="pad_to_30"):
        S3PRLTeacher(wrong)


@pytest.mark.parametrize("layer", [5, 40, -6])
def test_a_layer_that_is_not_there_is_told_with_the_range(load, layer):
    with pytest.raises(ConfigError, match=f"layer {layer} .*hidden states 0 to 4"):
        load("hubert_local", layers=(layer,))


def test_one_layer_named_twice_is_refused(load):
    with pytest.raises(ConfigError, match="one hidden state twice"):
        load("hubert_local", layers=(4, -1))


def test_audio_longer_than_whispers_window_is_a_data_error_naming_it(load):
    teacher = load("whisper_local")
    lengths = torch.tensor([16000, 31 * 16000])
    with pytest.raises(DataError, match="utt_b: 31.0 s.*whisper_local.*at most 30 s"):
        teacher(torch.zeros(2, 31 * 16000), lengths, ["utt_a", "utt_b"])
    check_length(teacher, [480000, 1])
    check_length(load("hubert_local"), [10**9])


def test_only_upstreams_are_listed_and_asked_for():
    """s3prl's own list has what its files import, `Path` among it."""
    hub = import_s3prl_hub()
    names = upstream_names(hub)
    assert {"hubert_base", "fbank", "vq_apc_url", "whisper_local", "mtkd_student"} <= {
        *names
    }
    others = set(hub.options()) - set(names)
    assert "Path" in others and len(others) < 10
    for name in others:  # none of them takes what an entry of a hubconf takes
        assert "hubconf" not in getattr(hub, name).__module__
    with pytest.raises(ConfigError, match="unknown upstream 'Path'"):
        check_upstream(TeacherConfig("t", "Path"), hub)


# ------------------------------------------------------------- frozen


@pytest.mark.parametrize("upstream", ALL)
def test_loading_and_asking_leave_the_random_state_untouched(upstream, checkpoints):
    torch.manual_seed(123)
    random.seed(456)
    before = torch.get_rng_state(), random.getstate()
    path = checkpoints.get(upstream)
    config = TeacherConfig("t", upstream, path_or_url=str(path) if path else None)
    teacher = S3PRLTeacher(config)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    teacher(torch.zeros(1, 8000), torch.tensor([8000]))
    assert torch.equal(torch.get_rng_state(), before[0])


@pytest.mark.parametrize("upstream", TRANSFORMERS)
def test_two_calls_agree_although_the_student_is_in_training_mode(load, upstream):
    """Dropout would tell: the networks are built with it (0.1)."""
    teacher = load(upstream)
    holder = nn.Module()
    holder.teacher = teacher
    holder.train()
    teacher._network.train()  # whoever does it, a call puts it right
    speech, lengths = batch_of(1.0, 0.7)
    first = teacher(speech, lengths)["t_l3"][0]
    assert torch.equal(first, teacher(speech, lengths)["t_l3"][0])
    assert not first.requires_grad


def test_no_tensor_of_a_teacher_is_visible_to_a_module(load):
    holder = nn.Module()
    holder.teachers = load("hubert_local")
    assert not isinstance(holder.teachers, nn.Module)
    assert not list(holder.parameters()) and not list(holder.buffers())
    assert not holder.state_dict()
    assert not any(p.requires_grad for p in holder.teachers._network.parameters())


def test_training_against_a_teacher_leaves_its_digest(load):
    """A digest over all weights, before and after updates of what learns from it."""
    teacher = load("wavlm_local")
    before = teacher.digest()
    speech, lengths = batch_of(1.0, 0.7)
    head = nn.Linear(1, builders.DIM)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.1)
    for _ in range(5):
        target, _ = teacher(speech, lengths)["t_l3"]
        loss = (head(torch.ones(*target.shape[:2], 1)) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert teacher.digest() == before
    assert load("hubert_local").digest() != before
    with torch.no_grad():  # and the digest does see a change of one weight
        parameter = next(teacher._network.parameters())
        parameter.view(-1)[0] += 1e-3
        assert teacher.digest() != before
        parameter.view(-1)[0] -= 1e-3


def test_a_pool_is_its_teachers_side_by_side(load, checkpoints):
    configs = [
        TeacherConfig(
            name, upstream, path_or_url=str(checkpoints[upstream]), layers=(2,)
        )
        for name, upstream in (("a", "hubert_local"), ("b", "whisper_local"))
    ]
    pool = TeacherPool(configs)
    assert [s.name for s in pool.targets] == ["a_l2", "b_l2"]
    speech, lengths = batch_of(1.0, 0.7)
    out = pool(speech, lengths)
    for config in configs:
        single = S3PRLTeacher(config)(speech, lengths)
        for name, (target, num_frames) in single.items():
            assert torch.equal(out[name][0], target)
            assert torch.equal(out[name][1], num_frames)
