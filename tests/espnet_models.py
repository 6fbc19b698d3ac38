"""Tiny random recognisers of ESPnet, as `asr_train` leaves them in a directory."""

import argparse

import builders
import numpy as np
import torch

MODEL = "valid.loss.ave.pth"
TOKENS = ["<blank>", "<unk>", "<space>", *"ABCDE", "<sos/eos>"]
SMALL = dict(output_size=16, attention_heads=2, num_blocks=2)
CGMLP = dict(SMALL, cgmlp_linear_units=32, cgmlp_conv_kernel=7)
BLOCKS = dict(block_size=12, hop_size=4, look_ahead=4)


def with_encoder(encoder, **conf):
    return {
        **builders.asr_config("conformer"),
        "encoder": encoder,
        "encoder_conf": conf,
    }


CONFIGS = {
    "conformer": builders.asr_config("conformer", normalize="global_mvn"),
    "contextual_block_conformer": builders.asr_config("contextual_block_conformer"),
    "contextual_block_transformer": with_encoder(
        "contextual_block_transformer", linear_units=32, **SMALL, **BLOCKS
    ),
    "transformer": with_encoder("transformer", linear_units=32, **SMALL),
    "branchformer": with_encoder("branchformer", **CGMLP),
    "e_branchformer": with_encoder(
        "e_branchformer", linear_units=32, merge_conv_kernel=5, **CGMLP
    ),
    "conditioned": {
        **with_encoder(
            *("transformer",),
            linear_units=32,
            interctc_layer_idx=[1],
            interctc_use_conditioning=True,
            **SMALL,
        ),
        "model_conf": dict(ctc_weight=0.3, interctc_weight=0.3),
    },
}


def build(folder, config, seed=3):
    """A random recogniser as `asr_train` leaves it in a directory; ESPnet's model."""
    from espnet2.tasks.asr import ASRTask

    from espnet_mtkd.transducer.task import register

    register()
    args = {**ASRTask.get_default_config(), **config, "token_list": TOKENS}
    folder.mkdir(parents=True)
    if args["normalize"] == "global_mvn":
        one = np.linspace(1, 2, 80)
        stats = folder / "stats.npz"
        np.savez(stats, count=100, sum=-800 * one, sum_square=9000 * one**2)
        args["normalize_conf"] = dict(stats_file=str(stats))
    model = ASRTask.build_model(argparse.Namespace(**args)).eval()
    builders.randomize(model, seed)
    builders.write_yaml(folder / "config.yaml", args)
    torch.save(model.state_dict(), folder / MODEL)
    if args["normalize"] == "global_mvn":
        stats.unlink()  # a directory that was moved
    return model
