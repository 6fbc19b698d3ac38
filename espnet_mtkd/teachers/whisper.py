"""Whisper's encoder as an s3prl upstream (s3prl itself has none).

Architecture: Radford et al. 2022, arXiv 2212.04356, section 2.2: log-mel at 10 ms, two
convolutions (the second halves the rate), sinusoidal positions, pre-norm transformer
blocks. Whisper is a SUPERVISED speech recogniser: what it teaches contains transcripts.
"""

import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
import torchaudio
from safetensors.torch import load_file
from torch import nn

from espnet_mtkd.errors import ConfigError, DataError

FRAME_SHIFT = 320  # samples per encoder frame (20 ms)
HOP = 160  # samples per mel frame
N_FFT = 400
MAX_SAMPLES = 30 * 16000  # Whisper's window
MAX_FRAMES = MAX_SAMPLES // FRAME_SHIFT


class _Attention(nn.Module):
    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim, bias=False)
        self.v_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x_BTD, mask_B11T):
        B, T, D = x_BTD.shape
        q, k, v = (
            proj(x_BTD).view(B, T, self.num_heads, -1).transpose(1, 2)  # (B, H, T, D/H)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask_B11T)
        return self.out_proj(x.transpose(1, 2).reshape(B, T, D))


class _Block(nn.Module):
    def __init__(self, dim: int, num_heads: int, ffn_dim: int):
        super().__init__()
        self.self_attn = _Attention(dim, num_heads)
        self.self_attn_layer_norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, ffn_dim)
        self.fc2 = nn.Linear(ffn_dim, dim)
        self.final_layer_norm = nn.LayerNorm(dim)

    def forward(self, x_BTD, mask_B11T):
        x_BTD = x_BTD + self.self_attn(self.self_attn_layer_norm(x_BTD), mask_B11T)
        return x_BTD + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x_BTD))))


class WhisperEncoder(nn.Module):
    """The encoder, with Hugging Face's parameter names (without `model.encoder.`)."""

    def __init__(self, num_mel: int, dim: int, layers: int, heads: int, ffn_dim: int):
        super().__init__()
        self.conv1 = nn.Conv1d(num_mel, dim, 3, padding=1)
        self.conv2 = nn.Conv1d(dim, dim, 3, stride=2, padding=1)
        self.embed_positions = nn.Embedding(MAX_FRAMES, dim)
        self.layers = nn.ModuleList(_Block(dim, heads, ffn_dim) for _ in range(layers))
        self.layer_norm = nn.LayerNorm(dim)
        self.num_blocks = layers  # of them that are run

    def forward(self, mel_BMF, lengths_B):
        """Encode log-mel spectrograms.

        Args:
            mel_BMF: (B, mel bins, F) at 10 ms, F even, zeros behind each utterance.
            lengths_B: valid encoder frames (20 ms) of each, on the host.

        Returns:
            List of (num_blocks + 1) tensors (B, F / 2, D): the input of each block and
            the output of the last that is run; layer-normalised, where that is the last
            of all, as in `transformers`.
        """
        x = F.gelu(self.conv1(mel_BMF))
        x = F.gelu(self.conv2(x)).transpose(1, 2)  # (B, T, D)
        T = x.size(1)
        x = x + self.embed_positions.weight[:T]
        mask = None
        if min(lengths_B.tolist()) < T:
            valid_BT = torch.arange(T) < lengths_B[:, None]
            mask = valid_BT.to(x.device, non_blocking=True)[:, None, None, :]
        hidden = [x]
        for block in self.layers[: self.num_blocks]:
            x = block(x, mask)
            hidden.append(x)
        if self.num_blocks == len(self.layers):
            hidden[-1] = self.layer_norm(x)
        return hidden


class LogMel(nn.Module):
    """Whisper's log-mel spectrogram: 25 ms Hann window, 10 ms hop, Slaney mel scale."""

    def __init__(self, num_mel: int):
        super().__init__()
        fbank = torchaudio.functional.melscale_fbanks(
            N_FFT // 2 + 1, 0.0, 8000.0, num_mel, 16000, "slaney", "slaney"
        )
        self.register_buffer("fbank", fbank.T.contiguous(), persistent=False)
        self.register_buffer("window", torch.hann_window(N_FFT), persistent=False)

    def forward(self, wav_N):
        """(N,) waveform at 16 kHz -> (mel bins, N // 160), in about -1..1.

        In fp32, under autocast too: half precision has no energies as small as those of
        quiet audio.
        """
        with torch.autocast(wav_N.device.type, enabled=False):
            return self._log_mel(wav_N.float())

    def _log_mel(self, wav_N):
        spec = torch.stft(
            wav_N, N_FFT, HOP, window=self.window, return_complex=True
        )  # (bins, N // HOP + 1), reflect-padded
        mel = self.fbank @ spec[..., :-1].abs().square()
        log = mel.clamp(min=1e-10).log10()
        return (torch.maximum(log, log.max() - 8.0) + 4.0) / 4.0


class UpstreamExpert(nn.Module):
    """Whisper's encoder behind s3prl's UpstreamExpert interface.

    Args:
        ckpt: directory with `config.json` and `model.safetensors` (Hugging Face key
            names, encoder enough), an OpenAI `.pt` file, or a hub name such as
            `openai/whisper-base`.
        pad_to_30s: True computes over Whisper's own 30 s window; False (default) over
            the audio alone, with the positions cut to its length.

    Raises:
        ConfigError: the checkpoint is missing or is no Whisper encoder.
    """

    # Read by `S3PRLTeacher`. All windows and convolutions are padded on both sides by
    # half their length, so frame j hears what lies around sample 320 j.
    max_samples = MAX_SAMPLES
    frame_centre = 0.0

    def __init__(self, ckpt: str, pad_to_30s: bool = False):
        super().__init__()
        sizes, state = load_encoder_state(ckpt)
        self.model = WhisperEncoder(**sizes)
        missing, unexpected = self.model.load_state_dict(state, strict=False)
        if missing or unexpected:
            raise ConfigError(
                f"{ckpt}: not a Whisper encoder of the expected shape: missing "
                f"{missing[:5]}, unexpected {unexpected[:5]}"
            )
        self.log_mel = LogMel(sizes["num_mel"])
        self.pad_to_30s = pad_to_30s

    def get_downsample_rates(self, key: str) -> int:
        """Samples per frame."""
        return FRAME_SHIFT

    def stop_after(self, index: int) -> None:
        """From now on give the hidden states 0 to `index` and compute no others."""
        self.model.num_blocks = index

    @staticmethod
    def num_valid_frames(num_samples):
        """Frames that lie wholly within the audio (int or tensor in, same out)."""
        return num_samples // FRAME_SHIFT

    def forward(self, wavs):
        """Extract embeddings.

        Args:
            wavs: list of (N_i,) waveforms at 16 kHz, each at most 30 s.

        Returns:
            {"hidden_states": list of (B, T, D)}, T the longest's number of frames.
            In the unpadded mode an utterance's values do not depend on its neighbours.

        Raises:
            DataError: an utterance is longer than 30 s.
        """
        longest = max(len(w) for w in wavs)
        if longest > MAX_SAMPLES:
            raise DataError(
                f"Whisper hears at most {MAX_SAMPLES} samples (30 s), found {longest}"
            )
        device = wavs[0].device
        if self.pad_to_30s:
            wavs = [F.pad(w, (0, MAX_SAMPLES - len(w))) for w in wavs]
        lengths = [max(1, len(w) // FRAME_SHIFT) for w in wavs]
        T = max(lengths)
        num_mel = self.model.conv1.in_channels
        mel_BMF = torch.zeros(len(wavs), num_mel, 2 * T, device=device)
        for i, wav in enumerate(wavs):
            wav = F.pad(wav, (0, max(0, FRAME_SHIFT - len(wav))))
            mel = self.log_mel(wav.float())[:, : 2 * lengths[i]]
            mel_BMF[i, :, : mel.size(1)] = mel
        mel_BMF = mel_BMF.to(self.model.conv1.weight.dtype)
        hidden = self.model(mel_BMF, torch.tensor(lengths))
        if self.pad_to_30s:
            frames = math.ceil(longest / FRAME_SHIFT)
            hidden = [h[:, :frames] for h in hidden]
        return {"hidden_states": hidden}


def load_encoder_state(ckpt: str) -> tuple[dict, dict]:
    """Read sizes and fp32 encoder weights of a Whisper checkpoint.

    Args:
        ckpt: see `UpstreamExpert`.

    Returns:
        Keyword arguments of `WhisperEncoder`, and its state dict.

    Raises:
        ConfigError: nothing usable at `ckpt`.
    """
    path = Path(ckpt)
    if path.is_file():
        return _from_openai(path)
    if not path.is_dir():
        path = _from_hub(ckpt)
    for name in ("config.json", "model.safetensors"):
        if not (path / name).is_file():
            raise ConfigError(f"{path}: expected a file {name} in it, found none")
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    sizes = dict(
        num_mel=config["num_mel_bins"],
        dim=config["d_model"],
        layers=config["encoder_layers"],
        heads=config["encoder_attention_heads"],
        ffn_dim=config["encoder_ffn_dim"],
    )
    state = {}
    for key, value in load_file(path / "model.safetensors").items():
        key = key.removeprefix("model.")
        if key.startswith("encoder."):
            state[key.removeprefix("encoder.")] = value.float()
    return sizes, state


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, HTTPError

    try:
        folder = snapshot_download(
            name, allow_patterns=["config.json", "model.safetensors"]
        )
    except (HTTPError, HFValidationError, OSError) as e:
        raise ConfigError(
            f"Whisper checkpoint '{name}': no such file or directory, and the Hugging "
            f"Face hub did not give it ({type(e).__name__})"
        ) from e
    return Path(folder)


_OPENAI_NAMES = (
    ("blocks.", "layers."),
    ("attn_ln.", "self_attn_layer_norm."),
    ("mlp_ln.", "final_layer_norm."),
    ("attn.query.", "self_attn.q_proj."),
    ("attn.key.", "self_attn.k_proj."),
    ("attn.value.", "self_attn.v_proj."),
    ("attn.out.", "self_attn.out_proj."),
    ("mlp.0.", "fc1."),
    ("mlp.2.", "fc2."),
    ("ln_post.", "layer_norm."),
)


def _from_openai(path: Path) -> tuple[dict, dict]:
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    try:
        dims, weights = checkpoint["dims"], checkpoint["model_state_dict"]
    except (KeyError, TypeError) as e:
        raise ConfigError(
            f"{path}: expected OpenAI's Whisper checkpoint with the keys 'dims' and "
            "'model_state_dict'"
        ) from e
    sizes = dict(
        num_mel=dims["n_mels"],
        dim=dims["n_audio_state"],
        layers=dims["n_audio_layer"],
        heads=dims["n_audio_head"],
        ffn_dim=4 * dims["n_audio_state"],
    )
    state = {}
    for key, value in weights.items():
        if not key.startswith("encoder."):
            continue
        key = key.removeprefix("encoder.")
        if key == "positional_embedding":
            key = "embed_positions.weight"
        for old, new in _OPENAI_NAMES:
            key = key.replace(old, new)
        state[key] = value.float()
    return sizes, state


def whisper_local(ckpt: str, refresh: bool = False, **kwargs):
    """s3prl hub entry: a directory or an OpenAI .pt file."""
    if not Path(ckpt).exists():
        raise ConfigError(f"whisper_local: no such file or directory: {ckpt}")
    return UpstreamExpert(ckpt, **kwargs)


def _hub_entry(size: str):
    def entry(ckpt: str | None = None, refresh: bool = False, **kwargs):
        return UpstreamExpert(ckpt or f"openai/whisper-{size}", **kwargs)

    entry.__name__ = "whisper_" + size.replace(".", "_").replace("-", "_")
    entry.__doc__ = f"s3prl hub entry: openai/whisper-{size} from the hub."
    return entry


HUB_ENTRIES = (
    whisper_local,
    *map(
        _hub_entry,
        "tiny tiny.en base base.en small small.en medium medium.en large-v2 "
        "large-v3".split(),
    ),
)
