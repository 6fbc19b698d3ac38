"""Tiny ESPnet transducers with random weights that say something, and what ESPnet's own
code makes of a whole utterance with them."""

import argparse
from pathlib import Path

import builders
import numpy as np
import torch
import yaml

ENCODER = "contextual_block_conformer"
TOKENS = ["<blank>", "<unk>", "<space>", *"ABCDEFGHIJ", "<sos/eos>"]
FRAME_SHIFT = 640  # samples of an encoder frame (conv2d)


def config(folder: Path, **changes) -> dict:
    """Config of a tiny transducer, as ESPnet writes it to `config.yaml`."""
    from espnet2.tasks.asr import ASRTask

    stats = folder / "stats.npz"
    if not stats.exists():
        # Of log-mel features: mean about -8, standard deviation about 4.
        count, one = 100, np.ones(20)
        np.savez(stats, count=count, sum=-800 * one, sum_square=8000 * one)
    return {
        **ASRTask.get_default_config(),
        **builders.asr_config(
            ENCODER,
            frontend_conf=dict(n_fft=512, win_length=400, hop_length=160, n_mels=20),
            normalize="global_mvn",
            normalize_conf=dict(stats_file=str(stats)),
            token_list=TOKENS,
            token_type="char",
        ),
        **changes,
    }


def build(folder: Path, blank_bias: float = 2.5, can_stream: bool = True, **changes):
    """Files of a random model.

    Args:
        folder: where `config.yaml` and `model.pth` go.
        blank_bias: logit of the blank, so that blanks and tokens both occur.
        can_stream: whether it is a model that the decoder should take.
        changes: of the config.

    Returns:
        Paths of config and weights.
    """
    from espnet2.tasks.asr import ASRTask

    folder.mkdir(exist_ok=True)
    args = config(folder, **changes)
    torch.manual_seed(3)
    model = ASRTask.build_model(argparse.Namespace(**args)).eval()
    if can_stream:
        builders.randomize(model, 3)
        joint = model.joint_network
        with torch.no_grad():
            # Random encoders give nearly the same in every frame: make their
            # differences what the joint network sees.
            encoded_TJ = joint.lin_enc(encode_whole(model, builders.speech_like(6, 1)))
            std_J = encoded_TJ.std(0)
            joint.lin_enc.weight.div_(std_J[:, None])
            joint.lin_enc.bias.sub_(encoded_TJ.mean(0)).div_(std_J)
            joint.lin_out.weight.mul_(2)
            joint.lin_out.bias.zero_()
            joint.lin_out.bias[0] = blank_bias
    torch.save(model.state_dict(), folder / "model.pth")
    (folder / "config.yaml").write_text(yaml.safe_dump(args))
    return folder / "config.yaml", folder / "model.pth"


@torch.no_grad()
def features_of_whole(model, wave: np.ndarray) -> torch.Tensor:
    """ESPnet's normalised features (T, F) of an utterance."""
    wave_1N = torch.from_numpy(wave)[None]
    feats, lengths = model._extract_feats(wave_1N, torch.tensor([wave_1N.size(1)]))
    return model.normalize(feats, lengths)[0][0]


@torch.no_grad()
def encode_features(encoder, feats_TF: torch.Tensor) -> torch.Tensor:
    """ESPnet's `forward_infer` (T, D) over all features at once."""
    lengths = torch.tensor([len(feats_TF)])
    out, _, _ = encoder(feats_TF[None], lengths, None, is_final=True, infer_mode=True)
    return out[0]


def encode_whole(model, wave: np.ndarray) -> torch.Tensor:
    """The two above, one after the other."""
    return encode_features(model.encoder, features_of_whole(model, wave))


@torch.no_grad()
def greedy_of_whole(model, encoded_TD: torch.Tensor) -> list[tuple[int, int]]:
    """Greedy search as a plain loop: (token, frame) pairs, one a frame at most."""
    decoder, joint = model.decoder, model.joint_network
    label, state, found = decoder.blank_id, decoder.init_state(1), []
    out, next_state = decoder.rnn_forward(decoder.embed(torch.tensor([[label]])), state)
    for frame, encoded_D in enumerate(encoded_TD):
        label = int(joint(encoded_D, out[0, 0]).argmax())
        if label != decoder.blank_id:
            found.append((label, frame))
            state = next_state
            embedded = decoder.embed(torch.tensor([[label]]))
            out, next_state = decoder.rnn_forward(embedded, state)
    return found
