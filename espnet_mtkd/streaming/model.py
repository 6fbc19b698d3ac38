"""The ESPnet model behind streaming decoding: loaded, and refused where it cannot."""

from pathlib import Path

import torch

from espnet_mtkd.errors import ConfigError

DTYPES = ("float32", "bfloat16", "float16")


def load_model(config: Path | str, model_file: Path | str, device: str):
    """An ESPnet ASR model and its configuration.

    Args:
        config: its `config.yaml`.
        model_file: its weights, `.pth`.
        device: `cpu`, `cuda`, `cuda:1`, ...

    Raises:
        ConfigError: a file is missing, no such device, or as `check_model`.
    """
    from espnet2.tasks.asr import ASRTask

    for path in (config, model_file):
        if not Path(path).is_file():
            raise ConfigError(f"no such file: {path}")
    try:
        kind = torch.device(device).type
    except RuntimeError as e:
        raise ConfigError(f"device: expected 'cpu' or 'cuda', found '{device}'") from e
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device: found '{device}', but no GPU is visible here")
    model, args = ASRTask.build_model_from_file(str(config), str(model_file), device)
    check_model(model, args)
    return model, args


def check_model(model, args) -> None:
    """Refuse a model that is no transducer, or has parts beside it.

    Raises:
        ConfigError: naming what was expected and found.
    """
    if not model.use_transducer_decoder:
        raise ConfigError(
            f"streaming: expected 'decoder: transducer', found '{args.decoder}': "
            "decode it with espnet2.bin.asr_inference, or, if its encoder has blocks, "
            "asr_inference_streaming"
        )
    if getattr(model, "transducer_multi_blank_durations", None):
        raise ConfigError(
            "streaming: expected one blank symbol, found "
            "transducer_multi_blank_durations in model_conf"
        )
    for name in ("preencoder", "postencoder"):
        if getattr(model, name) is not None:
            raise ConfigError(
                f"streaming: expected no {name}, found {getattr(args, name)}"
            )


def load_tokenizer(token_type: str | None, bpemodel: Path | str | None):
    """ESPnet's tokenizer, or None where the tokens are words of their own.

    Raises:
        ConfigError: a BPE model is needed and missing.
    """
    from espnet2.text.build_tokenizer import build_tokenizer

    if token_type is None:
        return None
    if token_type == "bpe":
        if bpemodel is None or not Path(bpemodel).is_file():
            raise ConfigError(f"bpemodel: no such file: {bpemodel}: give its path")
        return build_tokenizer(token_type="bpe", bpemodel=str(bpemodel))
    return build_tokenizer(token_type=token_type)
