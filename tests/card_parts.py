"""Parts of a packed model card, for tests."""

import zipfile

from huggingface_hub import ModelCard


def read_card(archive) -> ModelCard:
    with zipfile.ZipFile(archive) as packed:
        return ModelCard(packed.read("README.md").decode())


def section(card: ModelCard, title: str) -> str:
    return card.text.split(f"## {title}\n")[1].split("\n## ")[0]


def row(card: ModelCard, teacher: str) -> list[str]:
    line = next(
        x
        for x in section(card, "Teachers").splitlines()
        if x.startswith(f"| {teacher} ")
    )
    return [cell.strip() for cell in line.strip("|").split("|")]
