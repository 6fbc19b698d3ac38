"""A tiny random Whisper with its decoder, and mtkd_transcribe by it."""

import builders
import torch

from espnet_mtkd.bin import mtkd_transcribe
from espnet_mtkd.data.kaldi import read_lines

SPECIAL = "endoftext startoftranscript en translate transcribe startoflm startofprev"
SPECIAL = [f"<|{x}|>" for x in (*SPECIAL.split(), "nospeech", "notimestamps")]
TOKENS = [*(f" {w.lower()}" for w in builders.WORDS), *SPECIAL]
END = TOKENS.index("<|endoftext|>")
PROMPT = [TOKENS.index(f"<|{x}|>") for x in ("startoftranscript", "notimestamps")]


def build_model(tokens=TOKENS):
    """A random `transformers` model of these tokens."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    size = dict(layers=2, attention_heads=2, ffn_dim=64)
    sizes = {f"{p}_{k}": v for p in ("encoder", "decoder") for k, v in size.items()}
    config = WhisperConfig(
        vocab_size=len(tokens),
        num_mel_bins=80,
        d_model=16,
        pad_token_id=END,
        bos_token_id=END,
        eos_token_id=END,
        decoder_start_token_id=PROMPT[0],
        **sizes,
    )
    model = WhisperForConditionalGeneration(config).eval()
    builders.randomize(model, 11)
    with torch.no_grad():  # so that a transcript ends, and not with specials
        model.model.decoder.embed_positions.weight.mul_(3)
    return model


def save_tokenizer(path, tokens=TOKENS):
    """A `tokenizer.json` in which each of the tokens is a word."""
    from tokenizers import Tokenizer, decoders, models

    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=" zero"))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([x for x in SPECIAL if x in tokens])
    tokenizer.save(str(path))


def save_ct2(model, folder, tokens=TOKENS):
    """As `ct2-transformers-converter` does, without a tokenizer of Hugging Face's."""
    from ctranslate2.converters import transformers as converters

    (loader,) = {
        type(x): x
        for x in converters._MODEL_LOADERS.values()
        if type(x).__name__ == "WhisperLoader"
    }.values()
    spec = loader.get_model_spec(model)
    spec.register_vocabulary(tokens)
    spec.config.suppress_ids = list(range(END + 1, len(tokens)))
    spec.config.suppress_ids_begin = [END]
    spec.config.lang_ids = [TOKENS.index("<|en|>")]
    spec.config.alignment_heads = []
    spec.validate()
    spec.save(str(folder))
    save_tokenizer(folder / "tokenizer.json", tokens)


OPEN = (  # nothing is left out
    *("--min_confidence", "0", "--min_agreement", "0", "--max_no_speech", "1"),
    *("--max_repeats", "999", "--max_compression", "99"),
    *("--max_chars_per_second", "999"),
)


def transcribe(folder, data, out, *flags):
    """Utterance -> transcript, of a data directory."""
    command = ["--model", folder, "--data_dir", data, "--out", out]
    command += ["--compute_type", "float32", *flags]
    mtkd_transcribe.main([str(x) for x in command])
    return read_lines(out, "")
