"""The encoder of an ESPnet model directory, with what stands before it.

ESPnet's own classes are built from the `config.yaml` that it saved; decoder and joint
network are left where they are.
"""

import functools
import shlex
import tempfile
from pathlib import Path

import torch
from torch import nn

from espnet_mtkd.errors import ConfigError, MTKDError
from espnet_mtkd.files import read_yaml
from espnet_mtkd.student import locate
from espnet_mtkd.student.load import write_statistics
from espnet_mtkd.student.weights import compare_keys, read_weights

PARTS = ("frontend", "normalize", "preencoder", "encoder", "ctc")
# What a directory is asked for, in this order; the first pattern that fits counts.
MODEL_FILES = (
    "valid.loss.ave.pth",
    "valid.acc.ave.pth",
    "valid.*.ave.pth",
    "valid.*.ave_*best.pth",
    "valid.loss.best.pth",
    "valid.*.best.pth",
)
_TRAIN_IT = "train it to its end, or name the model file in place of the folder"


def find_model(where: str | Path) -> tuple[Path, Path]:
    """Config and model file of an ESPnet model.

    Args:
        where: a directory of `espnet2.bin.asr_train`, a model file in it, or what a
            packed model (`meta.yaml` at its root) was unpacked to.

    Raises:
        ConfigError: one of them is missing, or there are several model files of which
            none is the one to take.
    """
    path = Path(where)
    if path.is_file():
        if path.suffix in (".zip", ".gz", ".tgz", ".tar"):
            with_what = "zipfile -e" if path.suffix == ".zip" else "tarfile -e"
            raise ConfigError(
                f"{path}: expected a directory or a model file, found an archive: "
                f"unpack it (python -m {with_what} {shlex.quote(str(path))} DIR) and "
                "name that directory"
            )
        if path.suffix not in (".pth", ".safetensors"):
            raise ConfigError(f"{path}: expected a model file (.pth), found another")
        if not path.with_name(locate.CONFIG).is_file():
            raise ConfigError(
                f"{path}: expected the {locate.CONFIG} of its training beside it, found"
                " none: copy it there"
            )
        return path.with_name(locate.CONFIG), path
    if not path.is_dir():
        raise ConfigError(f"{path}: no such directory or model file")
    fetch = locate.folder_fetcher(path)
    if meta_file := fetch(locate.META):
        return locate.files_of_pack(where, read_yaml(meta_file), fetch)
    config_file = fetch(locate.CONFIG)
    if config_file is None:
        raise ConfigError(
            f"{path}: expected {locate.CONFIG} (a directory of asr_train) or "
            f"{locate.META} (an unpacked model), found neither: name the directory "
            "that has it, such as exp/asr_teacher"
        )
    return config_file, _choose_model(path)


def _choose_model(folder: Path) -> Path:
    for pattern in MODEL_FILES:
        named = {
            file.with_suffix(".pth")
            for ending in (".pth", ".safetensors")
            for file in folder.glob(pattern.removesuffix(".pth") + ending)
        }
        if len(named) > 1:
            raise ConfigError(
                f"{folder}: expected one model file, found "
                f"{', '.join(sorted(f.name for f in named))}: name one of them in place"
                " of the folder"
            )
        if named:
            return named.pop()
    raise ConfigError(
        f"{folder}: expected a model file ({', '.join(MODEL_FILES)}), found none: "
        f"{_TRAIN_IT}"
    )


class EncoderParts(nn.Module):
    """Front end, normalisation, pre-encoder and encoder, as ESPnet's model holds them.

    Args:
        frontend, normalize, preencoder, encoder, ctc: ESPnet's; None where the model
            has none. The last is there only for an encoder that is conditioned on it.
    """

    def __init__(self, frontend, normalize, preencoder, encoder, ctc):
        super().__init__()
        self.frontend = frontend
        self.normalize = normalize
        self.preencoder = preencoder
        self.encoder = encoder
        self.ctc = ctc

    def features(self, wav_BN, lengths_B):
        """Waveforms and samples -> features and frames."""
        return self.frontend(wav_BN, lengths_B)

    def encode(self, feats, lengths_B):
        """Features and frames -> embeddings (B, T, D) and frames."""
        for module in (self.normalize, self.preencoder):
            if module is not None:
                feats, lengths_B = module(feats, lengths_B)
        if self.ctc is None:
            out, lengths_B, _ = self.encoder(feats, lengths_B)
        else:
            out, lengths_B, _ = self.encoder(feats, lengths_B, ctc=self.ctc)
        return out[0] if isinstance(out, tuple) else out, lengths_B

    def forward(self, wav_BN, lengths_B):
        """Waveforms and samples -> embeddings and frames."""
        return self.encode(*self.features(wav_BN, lengths_B))


def load_parts(where: str | Path) -> EncoderParts:
    """Build and fill the encoder of an ESPnet model, in eval mode.

    Args:
        where: see `find_model`.

    Raises:
        ConfigError: see `find_model` and `read_weights`; no recogniser, another
            sampling rate than 16 kHz, or weights of another model than the config's.
    """
    config_file, model_file = find_model(where)
    config = read_yaml(config_file)
    _check(config, config_file)
    state = read_weights(model_file)
    parts = _build(config, state, config_file)
    needed = parts.state_dict()
    state = {
        name: value
        for name, value in state.items()
        if name.partition(".")[0] in PARTS[:-1] or name in needed
    }
    problems = compare_keys(state, needed)
    if problems:
        raise ConfigError(
            f"{model_file}: its tensors are not those of {config_file}:\n  "
            + "\n  ".join(problems)
            + "\nTake both from one training"
        )
    parts.load_state_dict(state)
    return parts.eval()


def _check(config: dict, where: Path) -> None:
    if "teachers" in config:
        raise ConfigError(
            f"{where}: expected a recogniser of ESPnet, found stage 1 of this package: "
            "upstream: mtkd_student reads it"
        )
    missing = [k for k in ("encoder", "decoder", "token_list") if k not in config]
    if missing:
        raise ConfigError(
            f"{where}: expected the config of a recogniser (asr_train), found one "
            f"without {', '.join(missing)}: another task's? Name an ASR model"
        )
    if config.get("input_size") is not None or config.get("frontend") is None:
        raise ConfigError(
            f"{where}: expected a model that hears waveforms, found one that is given "
            f"features (input_size: {config.get('input_size')}, frontend: "
            f"{config.get('frontend')}): it cannot teach from audio; name another"
        )
    fs = (config.get("frontend_conf") or {}).get("fs", 16000)
    if str(fs).lower() not in ("16000", "16k"):
        raise ConfigError(
            f"{where}: frontend_conf.fs: expected 16000, found {fs}: all teachers hear "
            "the same audio of 16 kHz; name a model that was trained on it"
        )


def _build(config: dict, state: dict, where: Path) -> EncoderParts:
    """The parts of a saved config, random."""
    try:
        return _build_parts(config, state, where)
    except MTKDError as e:
        raise ConfigError(f"{where}: {e}") from e
    except Exception as e:  # whatever a class of ESPnet raises
        message = (str(e).strip() or type(e).__name__).splitlines()[0]
        raise ConfigError(
            f"{where}: ESPnet could not build its encoder: {type(e).__name__}: "
            f"{message}: was it trained with another version of ESPnet, or does it "
            "need a package that is not installed?"
        ) from e


def _build_parts(config: dict, state: dict, where: Path) -> EncoderParts:
    import espnet2.tasks.asr as asr

    from espnet_mtkd.transducer.task import register

    register()  # a teacher transducer has this package's frontend

    def conf(part: str) -> dict:
        return find_relative(config.get(f"{part}_conf") or {}, where)

    frontend = asr.frontend_choices.get_class(config["frontend"])(**conf("frontend"))
    size = frontend.output_size()
    normalize = preencoder = ctc = None
    if config.get("normalize") is not None:
        normalize_class = asr.normalize_choices.get_class(config["normalize"])
        with tempfile.TemporaryDirectory() as folder:
            options = conf("normalize")
            if config["normalize"] == "global_mvn":
                stats = write_statistics(state, Path(folder), where)
                options = {**options, "stats_file": str(stats)}
            normalize = normalize_class(**options)
    if config.get("preencoder") is not None:
        preencoder_class = asr.preencoder_choices.get_class(config["preencoder"])
        preencoder = preencoder_class(**conf("preencoder"))
        size = preencoder.output_size()
    encoder_class = asr.encoder_choices.get_class(config["encoder"])
    encoder = encoder_class(input_size=size, **conf("encoder"))
    conditioned = getattr(encoder, "interctc_use_conditioning", False)
    if conditioned or getattr(encoder, "ctc_trim", False):
        if getattr(encoder, "ctc_trim", False):
            raise ConfigError("encoder_conf.ctc_trim: it leaves out frames: no teacher")
        vocab_size = len(state["ctc.ctc_lo.weight"])
        ctc_options = config.get("ctc_conf") or {}
        ctc = asr.CTC(vocab_size, encoder.output_size(), **ctc_options)
        encoder.conditioning_layer = nn.Linear(vocab_size, encoder.output_size())
    return EncoderParts(frontend, normalize, preencoder, encoder, ctc)


def find_relative(options: dict, config_file: Path) -> dict:
    """Options in which relative paths of files that are there are made absolute.

    ESPnet's configs name files from the recipe's directory, in which a training ran.
    That is one of the directories above the config.

    Args:
        options: of a part.
        config_file: they stand in.
    """
    roots = config_file.resolve().parents

    @functools.singledispatch
    def find(value):
        return value

    @find.register
    def _(value: dict):
        return {key: find(x) for key, x in value.items()}

    @find.register
    def _(value: str):
        if "/" not in value or Path(value).is_absolute():
            return value
        found = next((r / value for r in roots if (r / value).exists()), None)
        return value if found is None else str(found)

    return find(options)


def blocks_of(encoder: nn.Module, where: str | Path) -> list[nn.Module]:
    """The blocks whose outputs are an encoder's hidden states.

    Args:
        encoder: ESPnet's.
        where: its model is, for the message.

    Raises:
        ConfigError: it has none that could be listed.
    """
    blocks = getattr(encoder, "encoders", None)
    is_list = isinstance(blocks, (nn.Sequential, nn.ModuleList))
    if not is_list or len(blocks) == 0:
        raise ConfigError(
            f"{where}: encoder: expected one with a list of blocks (conformer, "
            "transformer, e_branchformer, contextual_block_conformer, ...), found "
            f"{type(encoder).__name__}: its layers cannot be told apart. Of a "
            "foundation model behind it, name that model's own upstream"
        )
    return list(blocks)


def trial_batch(*num_samples: int) -> list[torch.Tensor]:
    """Waveforms (N_i,) of noise, always the same."""
    generator = torch.Generator().manual_seed(0)
    return [0.1 * torch.randn(n, generator=generator) for n in num_samples]
