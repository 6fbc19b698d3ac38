"""What is published can be loaded and judged, and tells nothing that it should not."""

from collections.abc import Sequence
from pathlib import Path

from espnet_mtkd.errors import ConfigError, DataError
from espnet_mtkd.files import parse_yaml
from espnet_mtkd.publish.card import check_card
from espnet_mtkd.publish.traces import CARD, find_traces

META = "meta.yaml"


def check_content(
    folder: Path, where: str | Path, ignored_names: Sequence[str] = ()
) -> None:
    """Refuse what ESPnet's model zoo could not load, or nobody should see.

    Packing and uploading both ask this one.

    Args:
        folder: the content of an archive.
        where: what an error calls it.
        ignored_names: names and e-mail addresses that may occur.

    Raises:
        DataError: no `meta.yaml`, a file missing that it names, no card, a card without
            WER, or traces of this machine and its user.
    """
    for key, name in named_files(folder / META, where):
        if Path(name).is_absolute() or not (folder / name).is_file():
            raise DataError(f"{where}: {META}: {key}: no such file in it: {name}")
    card = folder / CARD
    if not card.is_file():
        raise DataError(
            f"{where}: no model card ({CARD}) in it: pack the model by mtkd_pack "
            "(stage 14)"
        )
    check_card(card.read_text(encoding="utf-8"), f"{where}: {CARD}")
    traces = find_traces(folder, ignored_names)
    if traces:
        raise DataError(
            f"{where} tells of this machine or its user:\n  "
            + "\n  ".join(traces)
            + "\nTrain with paths relative to the recipe's directory, or take it out "
            "of that file, and pack the model again (mtkd_pack, stage 14); names and "
            "addresses that may stay: --ignore_names"
        )


def named_files(meta: Path, where: str | Path) -> list[tuple[str, str]]:
    """(key, path) of the files that `meta.yaml` names.

    Raises:
        DataError: it is not there, or of another form.
    """
    if not meta.is_file():
        raise DataError(f"{where}: no {META} in it: pack the model by stage 14")
    expected = f"{where}: {META}: expected a mapping: pack the model again (stage 14)"
    try:
        content = parse_yaml(meta.read_bytes(), META)
    except ConfigError as e:
        raise DataError(f"{expected} ({e})") from e
    if not isinstance(content, dict):
        raise DataError(expected)
    named = []
    for kind in ("yaml_files", "files"):
        files = content.get(kind) or {}
        if not isinstance(files, dict):
            raise DataError(expected)
        named += [(str(key), str(name)) for key, name in files.items()]
    return named
