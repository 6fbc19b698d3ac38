"""Whisper with its decoder, by CTranslate2: a supervised recogniser (arXiv 2212.04356).

CTranslate2 (https://opennmt.net/CTranslate2) runs the model; the log-mel spectrogram is
that of the teacher (`teachers.whisper`), the tokenizer the `tokenizers` package's.
"""

import dataclasses
from pathlib import Path

import torch
import torch.nn.functional as F

from espnet_mtkd.errors import ConfigError
from espnet_mtkd.files import sha256_of
from espnet_mtkd.teachers.whisper import MAX_SAMPLES, LogMel

FILES = ("model.bin", "config.json", "tokenizer.json")
MAX_TOKENS = 448  # of Whisper's decoder
TOKENS_PER_SECOND = 20  # more is no speech: decoding stops there
_CONVERT = (
    "ct2-transformers-converter --model openai/whisper-small --output_dir DIR "
    "--copy_files tokenizer.json preprocessor_config.json"
)


@dataclasses.dataclass(frozen=True)
class Hypothesis:
    """What was recognised in one utterance.

    Attributes:
        text: by beam search, as Whisper writes.
        greedy: the same by greedy search.
        logp: mean log-probability of the first's tokens, its end included.
        no_speech: probability that nothing is said.
    """

    text: str
    greedy: str
    logp: float
    no_speech: float


class Recogniser:
    """A Whisper model in CTranslate2's form.

    Args:
        folder: with `model.bin`, `config.json`, `tokenizer.json` and, as CTranslate2
            asks for it, `vocabulary.json`.
        language: code of what is spoken; ignored by models of English alone.
        beam_size: of the search.
        compute_type: CTranslate2's, e.g. `int8` (the fastest on a CPU), `float16`.
        num_threads: of the CPU.
        device: `cpu` or `cuda`.

    Raises:
        ConfigError: CTranslate2 is not installed, a file is missing or damaged, or the
            model does not know the language.
    """

    def __init__(
        self,
        folder: Path,
        language: str = "en",
        beam_size: int = 5,
        compute_type: str = "int8",
        num_threads: int = 1,
        device: str = "cpu",
    ):
        try:
            import ctranslate2
        except ImportError as e:
            raise ConfigError(
                f"CTranslate2 is not importable ({e}): pip install ctranslate2"
            ) from e
        from tokenizers import Tokenizer

        check_folder(folder)
        self.fingerprint = {
            "model": sha256_of(folder / "model.bin"),
            "language": language,
            "beam_size": beam_size,
            "compute_type": compute_type,
        }
        self._ct2 = ctranslate2
        self._beam_size = beam_size
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            self._model = ctranslate2.models.Whisper(
                str(folder),
                device=device,
                compute_type=compute_type,
                intra_threads=num_threads,
            )
        except Exception as e:  # both raise what they like
            message = str(e).strip().splitlines() or [type(e).__name__]
            raise ConfigError(
                f"{folder}: CTranslate2 cannot load it: {message[0][:200]}: fetch or "
                "convert it anew, or give another --compute_type"
            ) from e
        self._prompt = self._make_prompt(folder, language)
        self._log_mel = LogMel(self._model.n_mels)

    def _make_prompt(self, folder: Path, language: str) -> list[int]:
        names = ["<|startoftranscript|>", "<|notimestamps|>"]
        if self._model.is_multilingual:
            names[1:1] = [f"<|{language}|>", "<|transcribe|>"]
        ids = {name: self._tokenizer.token_to_id(name) for name in names}
        unknown = [name for name in names if ids[name] is None]
        if unknown == [f"<|{language}|>"]:
            raise ConfigError(
                f"--language: {folder}: its tokenizer does not know '{language}': give "
                "a code of two letters, e.g. en"
            )
        if unknown:
            raise ConfigError(
                f"{folder}: tokenizer.json is not Whisper's, it has no {unknown[0]}: "
                "fetch it anew"
            )
        return list(ids.values())

    @torch.no_grad()
    def __call__(self, waves: list[torch.Tensor]) -> list[Hypothesis]:
        """Recognise a batch.

        Args:
            waves: (N_i,) each, at 16 kHz, at most 30 s.
        """
        mel_BMF = torch.stack(
            [self._log_mel(F.pad(wave, (0, MAX_SAMPLES - len(wave)))) for wave in waves]
        )
        features = self._ct2.StorageView.from_array(mel_BMF.contiguous().numpy())
        encoded = self._model.encode(features)
        seconds = max(map(len, waves)) / 16000
        common = dict(
            prompts=[self._prompt] * len(waves),
            max_length=min(MAX_TOKENS, 20 + round(TOKENS_PER_SECOND * seconds)),
            return_scores=True,
            return_no_speech_prob=True,
        )
        best, greedy = (
            self._model.generate(encoded, beam_size=beam, **common)
            for beam in (self._beam_size, 1)
        )
        return [
            Hypothesis(
                self._decode(a.sequences_ids[0]),
                self._decode(b.sequences_ids[0]),
                # A score is the sum over the tokens and the end, by their number
                # without the end.
                a.scores[0] * len(a.sequences_ids[0]) / (len(a.sequences_ids[0]) + 1),
                a.no_speech_prob,
            )
            for a, b in zip(best, greedy, strict=True)
        ]

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True).strip()


def check_folder(folder: Path) -> None:
    """Refuse a directory that is no whole Whisper for CTranslate2.

    Raises:
        ConfigError: with what it is, and how to get one.
    """
    if all((folder / name).is_file() for name in FILES):
        return
    missing = [name for name in FILES if not (folder / name).is_file()]
    what = f"none of {', '.join(missing)}" if folder.is_dir() else "no such directory"
    if (folder / "model.safetensors").is_file():
        what = "model.safetensors: the encoder, a teacher, which writes no text"
    raise ConfigError(
        f"--model: {folder}: expected Whisper in CTranslate2's form "
        f"({', '.join(FILES)}, vocabulary.json), found {what}: fetch it: python -m "
        "espnet_mtkd.bin.mtkd_fetch_whisper --model base --decoder --out_dir "
        f"DIR; or convert another: {_CONVERT}"
    )
