"""A foundation model as a frontend that is trained: no parameter is left out."""

import builders
import pytest
import torch

from espnet_mtkd.transducer.frontend import TeacherFrontend

UPSTREAMS = ["whisper_local", "hubert_local", "wav2vec2_local", "wavlm_local"]
UPSTREAMS.append("data2vec_local")


@pytest.mark.parametrize("layer", [1, 2, -1])
@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_whatever_is_trained_has_a_gradient(checkpoints, upstream, layer):
    """Else DDP ends with an error in its second step."""
    path = str(checkpoints[upstream])
    frontend = TeacherFrontend(upstream, path, layer=layer, frozen=False).train()
    trained = {n: p for n, p in frontend.named_parameters() if p.requires_grad}
    assert all(p.grad is None for p in frontend.parameters())
    speech = torch.from_numpy(builders.speech_like(1.4, 3))
    feats, _ = frontend(torch.stack([speech, speech]), torch.tensor([22400, 20000]))
    feats.square().sum().backward()
    assert trained and [n for n, p in trained.items() if p.grad is None] == []
    others = [p for p in frontend.parameters() if not p.requires_grad]
    assert all(p.grad is None for p in others)
    if layer == 1:  # blocks above it
        assert len(others) > len(trained)


def test_a_frozen_frontend_has_nothing_to_train(checkpoints):
    frontend = TeacherFrontend("whisper_local", str(checkpoints["whisper_local"]))
    assert not any(p.requires_grad for p in frontend.parameters())
