"""Small real things that the tests run on: checkpoints, audio, data directories."""

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import soundfile
import torch
import yaml
from torch.nn.utils.rnn import pad_sequence

SAMPLE_RATE = 16000
ROOT = Path(__file__).resolve().parents[1]

NUM_LAYERS = 4  # of every tiny teacher with transformer blocks
DIM = 16
CONV = "[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2"  # the strides of the real ones

_TRANSFORMER = dict(
    encoder_layers=NUM_LAYERS,
    encoder_embed_dim=DIM,
    encoder_ffn_embed_dim=32,
    encoder_attention_heads=2,
    conv_feature_layers=CONV,
    conv_pos=16,
    conv_pos_groups=4,
)


# ------------------------------------------------------------- teachers' checkpoints


def randomize(module: torch.nn.Module, seed: int) -> None:
    """Weights large enough that every layer changes its input."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() > 1:
                scale = 1.0 / parameter[0].numel() ** 0.5
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
                parameter.mul_(scale)


def build_hubert(path: Path) -> None:
    """A random HuBERT in the form that s3prl's `hubert_local` reads."""
    from s3prl.upstream.hubert.hubert_model import (
        HubertConfig,
        HubertModel,
        HubertPretrainingConfig,
    )

    task = dict(label_rate=50, sample_rate=SAMPLE_RATE, normalize=False)
    config = dict(_TRANSFORMER, label_rate=50, final_dim=8)
    symbols = [["a", "b", "c"]]
    model = HubertModel(
        HubertConfig(**config), HubertPretrainingConfig(**task), symbols
    )
    randomize(model, 1)
    torch.save(
        {
            "task_cfg": task,
            "model_cfg": config,
            "model_weight": model.state_dict(),
            "dictionaries_symbols": symbols,
        },
        path,
    )


def build_wav2vec2(path: Path) -> None:
    """A random wav2vec 2.0 in the form that s3prl's `wav2vec2_local` reads."""
    from s3prl.upstream.wav2vec2.wav2vec2_model import Wav2Vec2Config, Wav2Vec2Model

    # As the LARGE models: layer norm in the convolutions, normalised audio.
    config = dict(
        _TRANSFORMER,
        final_dim=8,
        latent_vars=4,
        latent_groups=2,
        extractor_mode="layer_norm",
        layer_norm_first=True,
    )
    model = Wav2Vec2Model(Wav2Vec2Config(**config))
    randomize(model, 2)
    task = dict(sample_rate=SAMPLE_RATE, normalize=True)
    torch.save(
        {"task_cfg": task, "model_cfg": config, "model_weight": model.state_dict()},
        path,
    )


def build_wavlm(path: Path) -> None:
    """A random WavLM in the form that s3prl's `wavlm_local` reads."""
    from s3prl.upstream.wavlm.WavLM import WavLM, WavLMConfig

    config = dict(
        _TRANSFORMER,
        relative_position_embedding=True,
        gru_rel_pos=True,
        num_buckets=16,
        max_distance=32,
    )
    model = WavLM(WavLMConfig(config))
    randomize(model, 3)
    torch.save({"cfg": config, "model": model.state_dict()}, path)


def build_data2vec(path: Path) -> None:
    """A random data2vec in the form that s3prl's `data2vec_local` reads."""
    from s3prl.upstream.data2vec.data2vec_model import (
        Data2VecAudioConfig,
        Data2VecAudioModel,
    )

    config = dict(_TRANSFORMER, extractor_mode="layer_norm", pos_conv_depth=2)
    model = Data2VecAudioModel(Data2VecAudioConfig(**config))
    model.remove_pretraining_modules()
    randomize(model, 4)
    torch.save(
        {
            "task_cfg": dict(sample_rate=SAMPLE_RATE, normalize=True),
            "model_cfg": config,
            "model_weight": {**model.state_dict(), "_ema": torch.zeros(1)},
        },
        path,
    )


def build_whisper(folder: Path):
    """A random Whisper as a Hugging Face directory; returns the `WhisperModel`."""
    from transformers import WhisperConfig, WhisperModel

    config = WhisperConfig(
        vocab_size=20,
        num_mel_bins=80,
        d_model=DIM,
        encoder_layers=NUM_LAYERS,
        encoder_attention_heads=2,
        encoder_ffn_dim=4 * DIM,
        decoder_layers=1,
        decoder_attention_heads=2,
        decoder_ffn_dim=4 * DIM,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=3,
    )
    model = WhisperModel(config).eval()
    randomize(model.encoder, 5)
    model.save_pretrained(folder)
    return model


def save_as_openai(model, path: Path) -> None:
    """Write a `WhisperModel`'s encoder as OpenAI's .pt names it."""
    tensors = {}
    for key, value in model.encoder.state_dict().items():
        parts = key.split(".")
        if parts[0] == "embed_positions":
            name = "positional_embedding"
        elif parts[0] == "layer_norm":
            name = f"ln_post.{parts[1]}"
        elif parts[0] != "layers":
            name = key
        else:
            number, rest, leaf = parts[1], ".".join(parts[2:-1]), parts[-1]
            block = {
                "self_attn.q_proj": "attn.query",
                "self_attn.k_proj": "attn.key",
                "self_attn.v_proj": "attn.value",
                "self_attn.out_proj": "attn.out",
                "self_attn_layer_norm": "attn_ln",
                "fc1": "mlp.0",
                "fc2": "mlp.2",
                "final_layer_norm": "mlp_ln",
            }[rest]
            name = f"blocks.{number}.{block}.{leaf}"
        tensors[f"encoder.{name}"] = value
    tensors["decoder.token_embedding.weight"] = torch.zeros(20, DIM)
    dims = dict(
        n_mels=80,
        n_audio_ctx=1500,
        n_audio_state=DIM,
        n_audio_head=2,
        n_audio_layer=NUM_LAYERS,
        n_vocab=20,
        n_text_ctx=448,
        n_text_state=DIM,
        n_text_head=2,
        n_text_layer=1,
    )
    torch.save({"dims": dims, "model_state_dict": tensors}, path)


# ------------------------------------------------------------- audio and data


def speech_like(seconds: float, seed: int) -> np.ndarray:
    """A pulse train through two changing resonances, with pauses; (samples,) float32.

    Args:
        seconds: length.
        seed: of pitch, resonances and pauses.
    """
    rng = np.random.default_rng(seed)
    num_samples = round(seconds * SAMPLE_RATE)
    time = np.arange(num_samples) / SAMPLE_RATE
    pitch = 120 + 60 * rng.random() + 10 * np.sin(2 * np.pi * 3 * time)
    phase = np.cumsum(pitch) / SAMPLE_RATE
    wave = np.zeros(num_samples)
    segment = SAMPLE_RATE // 5  # 200 ms: a "syllable"
    envelope = np.zeros(num_samples)
    formants = np.zeros((2, num_samples))
    for begin in range(0, num_samples, segment):
        part = slice(begin, begin + segment)
        envelope[part] = rng.choice([0.05, 0.6, 1.0])
        formants[:, part] = [[rng.uniform(300, 900)], [rng.uniform(1000, 2500)]]
    for harmonic in range(1, 25):
        frequency = harmonic * pitch
        gain = sum(1 / (1 + ((frequency - f) / 120) ** 2) for f in formants)
        wave += gain * np.sin(2 * np.pi * harmonic * phase)
    wave = 0.1 * envelope * wave + 0.003 * rng.standard_normal(num_samples)
    return wave.astype(np.float32)


WORDS = "ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE ZERO".split()


def build_data_dir(folder: Path, num_utts: int, seed: int) -> Path:
    """A Kaldi data directory with real files: wav.scp, text, utt2spk, speech_shape."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    scp, text, shape = [], [], []
    for i in range(num_utts):
        utt = f"utt{seed}_{i:02d}"
        wave = speech_like(rng.uniform(1.0, 2.4), 1000 * seed + i)
        soundfile.write(folder / f"{utt}.flac", wave, SAMPLE_RATE)
        scp.append(f"{utt} {folder / f'{utt}.flac'}\n")
        text.append(f"{utt} {' '.join(rng.choice(WORDS, 2))}\n")
        shape.append(f"{utt} {len(wave)}\n")
    (folder / "wav.scp").write_text("".join(scp))
    (folder / "text").write_text("".join(text))
    (folder / "speech_shape").write_text("".join(shape))
    return folder


def read_batch(corpus, num_utts: int = 3) -> dict:
    """The first utterances of the corpus, as ESPnet's trainer gives them."""
    lines = (corpus.train / "wav.scp").read_text().splitlines()[:num_utts]
    utts, files = zip(*(line.split() for line in lines), strict=True)
    waves = [torch.from_numpy(soundfile.read(f, dtype="float32")[0]) for f in files]
    return dict(
        speech=pad_sequence(waves, batch_first=True),
        speech_lengths=torch.tensor([len(w) for w in waves]),
        utt_id=list(utts),
    )


@torch.no_grad()
def lattice_of(teacher, wave_N, labels):
    """A teacher transducer's logits (T, U + 1, V) for one utterance alone, plainly."""
    model = teacher.model
    wave_N = wave_N.to(teacher.device)
    lengths = torch.tensor([len(wave_N)], device=wave_N.device)
    h_BTD, _ = model.encode(wave_N[None], lengths)
    tokens = torch.tensor([[model.blank_id, *labels]], device=wave_N.device)
    model.decoder.set_device(wave_N.device)
    g_BUD = model.decoder(tokens)
    return model.joint_network(h_BTD.unsqueeze(2), g_BUD.unsqueeze(1))[0].float()


def copy_data(corpus, folder: Path) -> Path:
    """A copy of the corpus's `train` and `valid` in a folder, to do harm to."""
    for name in ("train", "valid"):
        own, copy = getattr(corpus, name), folder / name
        shutil.copytree(own, copy)
        scp = copy / "wav.scp"
        scp.write_text(scp.read_text().replace(f"{own}/", f"{copy}/"))
    return folder


def write_tokens(path: Path) -> Path:
    """A character token list for `WORDS`."""
    letters = sorted(set("".join(WORDS)))
    tokens = ["<blank>", "<unk>", "<space>", *letters, "<sos/eos>"]
    path.write_text("".join(f"{t}\n" for t in tokens))
    return path


# ------------------------------------------------------------- configs

_ENCODER = dict(
    output_size=16,
    attention_heads=2,
    linear_units=32,
    num_blocks=2,
    dropout_rate=0.0,
    positional_dropout_rate=0.0,
    attention_dropout_rate=0.0,
    input_layer="conv2d",
    normalize_before=True,
    macaron_style=True,
    activation_type="swish",
    use_cnn_module=True,
    cnn_module_kernel=7,
)
ENCODERS = {
    "conformer": dict(
        _ENCODER,
        rel_pos_type="latest",
        pos_enc_layer_type="rel_pos",
        selfattention_layer_type="rel_selfattn",
    ),
    "contextual_block_conformer": dict(
        _ENCODER,
        block_size=12,
        hop_size=4,
        look_ahead=4,
        init_average=True,
        ctx_pos_enc=True,
    ),
}


def asr_config(encoder: str, **changes) -> dict:
    """A tiny stage-2 config, which is also the student's of stage 1."""
    return {
        "frontend_conf": dict(n_fft=512, win_length=400, hop_length=160),
        "encoder": encoder,
        "encoder_conf": ENCODERS[encoder],
        "decoder": "transducer",
        "decoder_conf": dict(rnn_type="lstm", num_layers=1, hidden_size=16),
        "joint_net_conf": dict(joint_space_size=16),
        "model_conf": dict(ctc_weight=0.3, report_cer=False, report_wer=False),
        "normalize": "utterance_mvn",
        "max_epoch": 1,
        "batch_type": "numel",
        "batch_bins": 120000,
        "num_workers": 0,
        "optim": "adam",
        "optim_conf": dict(lr=0.002),
        "best_model_criterion": [["valid", "loss", "min"]],
        "keep_nbest_models": 2,
        "num_att_plot": 0,
        **changes,
    }


def teacher_transducer_config(whisper: Path) -> dict:
    """A tiny stage-2 config of a teacher transducer over a Whisper checkpoint."""
    config = asr_config("conformer", frontend="mtkd_teacher")
    config["frontend_conf"] = dict(upstream="whisper_local", path_or_url=str(whisper))
    config["preencoder"] = "linear"
    config["preencoder_conf"] = dict(input_size=2 * DIM, output_size=12)
    config["encoder_conf"] = {**config["encoder_conf"], "input_layer": "linear"}
    return config


def student_args(encoder: str, **changes) -> argparse.Namespace:
    """What `build_student` takes, for the tiny student of `asr_config`."""
    config = asr_config(encoder)
    return argparse.Namespace(
        **{
            "frontend": "default",
            "frontend_conf": config["frontend_conf"],
            "specaug": None,
            "specaug_conf": {},
            "normalize": "utterance_mvn",
            "normalize_conf": {},
            "encoder": encoder,
            "encoder_conf": config["encoder_conf"],
            **changes,
        }
    )


def mtkd_config(**changes) -> dict:
    """A tiny stage-1 config."""
    return {
        "max_epoch": 2,
        "batch_type": "numel",
        "batch_bins": 120000,
        "num_workers": 0,
        "optim": "adam",
        "optim_conf": dict(lr=0.005),
        "best_model_criterion": [["valid", "loss", "min"]],
        "keep_nbest_models": 2,
        "log_interval": 2,
        "num_att_plot": 0,
        **changes,
    }


def write_yaml(path: Path, value) -> Path:
    """Write a config and return its path."""
    path.write_text(yaml.safe_dump(value, sort_keys=False))
    return path


# ------------------------------------------------------------- recipes


def mirror_recipe(folder: Path, name: str) -> Path:
    """A tree of links to this one, with a copy of one recipe.

    A run in it uses the set-up, the package and the template of this tree, but its data
    and experiments are its own.

    Args:
        folder: empty directory that becomes the root.
        name: of the recipe, `egs2/<name>/mtkd1`.

    Returns:
        The recipe's directory, without data, experiments and links into ESPnet.
    """
    for path in ROOT.iterdir():
        if path.name not in ("egs2", ".git"):
            (folder / path.name).symlink_to(path)
    recipe = folder / "egs2" / name / "mtkd1"
    recipe.mkdir(parents=True)
    (folder / "egs2/TEMPLATE").symlink_to(ROOT / "egs2/TEMPLATE")
    source = ROOT / "egs2" / name / "mtkd1"
    shutil.copytree(source / "conf", recipe / "conf", symlinks=True)
    shutil.copytree(source / "local", recipe / "local", symlinks=True)
    for path in (source / "run.sh", source / "mtkd.sh"):
        shutil.copy(path, recipe / path.name, follow_symlinks=False)
    return recipe


def give_python(recipe: Path, python: Path) -> None:
    """Let all that runs in a recipe, ESPnet's scripts too, find this `python3`."""
    path = recipe / "local/path.sh"  # sourced last
    text = path.read_text()
    path.unlink()  # a link into the template
    path.write_text(f'{text}export PATH="{python.parent}:${{PATH}}"\n')


def session_of(leader: int) -> list[int]:
    """Processes of a session that still run, in whatever group of it."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, *_, session = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue  # it is gone
        if int(session) == leader and state != "Z":
            found.append(int(stat.parent.name))
    return found


def kill_session(leader: int) -> None:
    """SIGKILL for all processes of a session."""
    for pid in session_of(leader):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def run_group(
    command, cwd: Path, env: dict | None = None
) -> subprocess.CompletedProcess:
    """Run a command in a process group of its own, which ends when a test is stopped.

    Returns:
        As `subprocess.run` does; output of both streams in `stdout`.
    """
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        text, _ = process.communicate()
    except BaseException:
        kill_session(process.pid)
        raise
    return subprocess.CompletedProcess(command, process.returncode, text)
