"""Where a student's frames lie, against what its encoder gives and where it looks."""

import builders
import pytest
import torch
from espnet2.asr.frontend.default import DefaultFrontend

from espnet_mtkd.errors import ConfigError
from espnet_mtkd.objective.align import FrameAligner
from espnet_mtkd.student.build import build_student
from espnet_mtkd.student.frames import (
    check_grid,
    describe_alignment,
    describe_latency,
    measure_frame_shift,
)
from espnet_mtkd.student.grid import FrameGrid
from espnet_mtkd.teachers.base import TargetSpec

STRIDES = {"linear": 1, "conv2d1": 1, "conv2d2": 2, "conv2d": 4, "conv2d6": 6}
STRIDES["conv2d8"] = 8
BLOCKWISE = ("linear", "conv2d", "conv2d6", "conv2d8")
LAYERS = [("conformer", layer) for layer in STRIDES]
LAYERS += [("contextual_block_conformer", layer) for layer in BLOCKWISE]


def build(encoder="conformer", layer="conv2d", **frontend_conf):
    """Front end and encoder, in eval mode."""
    args = builders.student_args(encoder)
    args.encoder_conf = {**args.encoder_conf, "input_layer": layer}
    args.frontend_conf = {**args.frontend_conf, **frontend_conf}
    frontend, _, _, module = build_student(args)
    return frontend.eval(), module.eval()


@torch.no_grad()
def count_frames(frontend, encoder, num_samples: int) -> int:
    feats, lengths = frontend(torch.zeros(1, num_samples), torch.tensor([num_samples]))
    return int(encoder(feats, lengths)[1][0])


@pytest.mark.parametrize("encoder, layer", LAYERS)
@pytest.mark.parametrize("hop", [128, 160, 200, 256])
def test_the_shift_is_hop_times_strides_and_that_of_the_frame_counts(
    encoder, layer, hop
):
    frontend, module = build(encoder, layer, hop_length=hop)
    grid = FrameGrid.of(frontend, module)
    assert grid.shift == hop * STRIDES[layer]
    assert measure_frame_shift(frontend, module) == grid.shift
    for num_samples in (16000, 30001, 47999):
        before = count_frames(frontend, module, num_samples)
        assert (
            count_frames(frontend, module, num_samples + 3 * grid.shift) == before + 3
        )


@pytest.mark.parametrize("encoder, layer", LAYERS)
@pytest.mark.parametrize("hop", [128, 160, 256])
@pytest.mark.parametrize("center", [True, False])
def test_the_number_of_frames_is_the_encoders(encoder, layer, hop, center):
    frontend, module = build(encoder, layer, hop_length=hop, center=center)
    grid = FrameGrid.of(frontend, module)
    lengths = [16000, 16001, 20479, 30001, 47999]
    expected = [count_frames(frontend, module, n) for n in lengths]
    assert grid.num_frames(torch.tensor(lengths)).tolist() == expected


@pytest.mark.parametrize("encoder, layer", LAYERS)
@pytest.mark.parametrize("center", [True, False])
def test_the_centre_is_the_middle_of_the_audio_that_moves_a_frame(
    encoder, layer, center
):
    frontend, module = build(encoder, layer, center=center)
    grid = FrameGrid.of(frontend, module)
    noise = torch.Generator().manual_seed(0)
    wave = torch.randn(1, 20000, generator=noise).requires_grad_()
    feats, lengths = frontend(wave, torch.tensor([20000]))
    mask = torch.ones(1, 1, feats.size(1), dtype=torch.bool)
    out = module.embed(feats) if layer == "linear" else module.embed(feats, mask)[0]
    frames = (out[0] if isinstance(out, tuple) else out)[0]
    weights = torch.randn(frames.size(1), generator=noise)
    for t in (4, 7):
        (gradient,) = torch.autograd.grad(
            (frames[t] * weights).sum(), wave, retain_graph=True
        )
        heard = gradient[0].nonzero()
        middle = float(heard[0] + heard[-1]) / 2
        # The window's first value is 0.
        assert abs(middle - (grid.shift * t + grid.centre)) <= 1


@pytest.mark.parametrize("encoder, layer", LAYERS)
def test_the_shortest_utterance_gives_one_frame_and_a_shorter_one_none(encoder, layer):
    frontend, module = build(encoder, layer)
    least = FrameGrid.of(frontend, module).least_samples()
    # `linear`: more than one, of what the short-time transform mirrors.
    assert count_frames(frontend, module, least) == (2 if layer == "linear" else 1)
    with pytest.raises(Exception, match="too short|Padding size|at least|Kernel size"):
        count_frames(frontend, module, least - 1)


def test_measuring_leaves_modes_as_they_were():
    frontend, module = build()
    module.train()
    assert measure_frame_shift(frontend, module) == 640
    assert module.training and not frontend.training


def test_input_layers_whose_frames_are_not_known_are_refused():
    frontend, module = build(layer="embed")
    with pytest.raises(ConfigError, match="input_layer.*Embedding"):
        FrameGrid.of(frontend, module)
    with pytest.raises(ConfigError, match="'default'.*Linear"):
        FrameGrid.of(torch.nn.Linear(2, 2), build()[1])
    with pytest.raises(ConfigError, match="short-time transform"):
        FrameGrid.of(DefaultFrontend(apply_stft=False), build()[1])


def test_an_encoder_that_leaves_out_frames_is_refused():
    class Halved(torch.nn.Module):
        def __init__(self, encoder):
            super().__init__()
            self.encoder = encoder

        def forward(self, feats, lengths):
            h_BTD, lengths, state = self.encoder(feats, lengths)
            return h_BTD[:, ::2], (lengths + 1) // 2, state

    frontend, module = build()
    grid = FrameGrid.of(frontend, module)
    check_grid(grid, frontend, module)
    module.train()
    with pytest.raises(ConfigError, match="cannot be placed in time"):
        check_grid(grid, frontend, Halved(module))
    assert module.training


def test_the_log_tells_centres_and_which_frames_are_predicted():
    frontend, module = build()
    grid = FrameGrid.of(frontend, module)
    assert "each 40 ms, the first around 30.0 ms" in describe_latency(module, grid, 0)
    for centre, expected in ((0.0, "2 t +1 to 2 t +2"), (199.5, "2 t +0 to 2 t +1")):
        spec = TargetSpec("t_l1", "t", 1, 8, 320, centre, 1.0)
        aligner = FrameAligner(320, 640, "concat", centre, grid.centre)
        line = describe_alignment(spec, grid, aligner)
        assert f"student frame t predicts {expected}, whose middle is" in line
    linear = FrameAligner(320, 640, "linear", 0.0, grid.centre)
    assert "interpolated" in describe_alignment(spec, grid, linear)
