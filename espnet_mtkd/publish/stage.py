"""The content of an archive, file by file, in a directory."""

import io
from pathlib import Path

import torch
import yaml

from espnet_mtkd.publish.configs import ArchivePaths
from espnet_mtkd.student.weights import write_safetensors


class Stage:
    """A directory with what goes into the archive.

    Attributes:
        folder: the directory.
        paths: where files of this machine go.
        names: files that were written, in order.
    """

    def __init__(self, folder: Path, paths: ArchivePaths):
        self.folder = folder
        self.paths = paths
        self.names: list[str] = []

    def write(self, name: str, data: bytes) -> None:
        """A file with this content."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self.names.append(name)

    def write_yaml(self, name: str, value) -> None:
        """A config."""
        text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
        self.write(name, text.encode())

    def write_weights(self, name: str, state: dict, source: Path | None = None) -> None:
        """A `.pth`, with `.safetensors` beside it.

        Args:
            name: of the first.
            state: name -> tensor.
            source: a `.pth` that holds just these; it is copied.
        """
        data = io.BytesIO()
        if source is None:
            torch.save(state, data)
        self.write(name, data.getvalue() if source is None else source.read_bytes())
        beside = write_safetensors(self.folder / name)
        self.names.append(str(beside.relative_to(self.folder)))

    def copy_named_files(self) -> None:
        """What has a place in the archive and was not written yet."""
        for path, name in self.paths.files.items():
            if name not in self.names and path.is_file():
                self.write(name, path.read_bytes())
