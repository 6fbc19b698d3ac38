"""Targets of one teacher for one data directory, in safetensors shards and a manifest.

    <folder>/shard_00000.safetensors   per target a tensor (frames, C), utterance after
                                       utterance; num_frames and crc32 of each
    <folder>/manifest.json             written last: without it there is no store

C is the number of codebooks (uint8) or the embedding dimension (fp16). The manifest is
JSON whose first member is the sha256 of all that follows it, so that no flipped byte of
it goes unnoticed either. Every file is written under another name, synced and renamed.
"""

import dataclasses
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from espnet_mtkd.errors import TargetStoreError, shown
from espnet_mtkd.files import sha256_of, write_atomically
from espnet_mtkd.targets.manifest import FORMAT, find_fault, shard_name
from espnet_mtkd.targets.signed import (
    AGAIN,
    REMEDY_OF_FILE,
    dump_signed,
    read_signed,
)

MANIFEST = "manifest.json"
PLAN = "plan.json"


def remedy(folder: Path) -> str:
    """What to do about a store that is of no use any more."""
    return f"remove {folder} and extract again ({AGAIN})"


@dataclasses.dataclass(frozen=True)
class StoredTarget:
    """One embedding sequence of a store.

    Attributes:
        name: `<teacher>_l<layer>`.
        layer: index into the upstream's hidden states.
        dim: embedding dimension E.
        frame_shift: samples (16 kHz) between two frames.
        num_channels: C, numbers stored for a frame.
        dtype: `uint8` (codes) or `float16`.
        frame_centre: sample in the middle of what frame 0 hears; None where it is not
            known.
    """

    name: str
    layer: int
    dim: int
    frame_shift: int
    num_channels: int
    dtype: str
    frame_centre: float | None = None

    @property
    def bytes_per_frame(self) -> int:
        """Bytes that one frame takes."""
        return self.num_channels * np.dtype(self.dtype).itemsize


def write_shard(
    path: Path,
    plan_digest: str,
    targets: Sequence[StoredTarget],
    utts: Sequence[dict[str, np.ndarray]],
) -> None:
    """Write one shard.

    Args:
        path: of the shard.
        plan_digest: says of which extraction it is a part.
        targets: of the store.
        utts: for each utterance, target name -> (frames, C).
    """
    # Of arrays in column order numpy makes one in column order, and safetensors writes
    # the memory as it lies.
    tensors = {
        target.name: np.ascontiguousarray(
            np.concatenate([utt[target.name] for utt in utts])
        )
        for target in targets
    }
    tensors["num_frames"] = np.array(
        [len(utt[targets[0].name]) for utt in utts], dtype=np.int32
    )
    tensors["crc32"] = np.array(
        [checksum([utt[t.name] for t in targets]) for utt in utts], dtype=np.uint32
    )
    write_atomically(path, save(tensors, {"plan": plan_digest}))


def checksum(arrays: Sequence[np.ndarray]) -> int:
    """CRC-32 over the bytes of some arrays, in order."""
    crc = 0
    for array in arrays:
        crc = zlib.crc32(np.ascontiguousarray(array), crc)
    return crc


def shard_is_whole(path: Path, plan_digest: str) -> bool:
    """Whether a shard of this very extraction stands there (its name comes last)."""
    try:
        with safe_open(path, "np") as shard:
            return (shard.metadata() or {}).get("plan") == plan_digest
    except (SafetensorError, OSError):
        return False


def write_manifest(
    folder: Path,
    fingerprint: dict,
    targets: Sequence[StoredTarget],
    shards: Sequence[Sequence[tuple[str, int, int]]],
) -> None:
    """Write the manifest of a folder whose shards are all there.

    Args:
        folder: of the store.
        fingerprint: what the targets were made with.
        targets: of the store.
        shards: for each shard its utterances (id, samples, frames).
    """
    utts = [utt for shard in shards for utt in shard]
    offsets = [
        offset
        for shard in shards
        for offset in np.cumsum([0, *(frames for *_, frames in shard)])[:-1].tolist()
    ]
    body = {
        "format": FORMAT,
        "fingerprint": fingerprint,
        "targets": [dataclasses.asdict(t) for t in targets],
        "shards": [
            {
                "file": shard_name(i),
                "num_utts": len(shard),
                "num_bytes": (folder / shard_name(i)).stat().st_size,
                "sha256": sha256_of(folder / shard_name(i)),
            }
            for i, shard in enumerate(shards)
        ],
        "utts": [utt for utt, *_ in utts],
        "num_samples": [num_samples for _, num_samples, _ in utts],
        "num_frames": [num_frames for *_, num_frames in utts],
        "offsets": offsets,
    }
    write_atomically(folder / MANIFEST, dump_signed(body))


class TargetStore:
    """A finished store, opened for reading.

    Shards are memory-mapped, so processes share their pages; what this object itself
    holds is an index of fixed size.

    Args:
        folder: of the store.

    Attributes:
        targets: list of `StoredTarget`.
        fingerprint: what the targets were made with.
        shards: the manifest's entries.

    Raises:
        TargetStoreError: no manifest (an extraction that has not ended), or a damaged
            one.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        path = self.folder / MANIFEST
        if not path.is_file():
            raise TargetStoreError(
                f"{path}: no such file: targets were not extracted to there, or not to "
                "the end: run mtkd_extract (again)"
            )
        manifest = read_signed(path)
        if manifest.get("format") != FORMAT:
            raise TargetStoreError(
                f"{path}: expected format {FORMAT}, found "
                f"{shown(manifest.get('format'))}: "
                f"{remedy(self.folder)}, or use the version of espnet_mtkd that "
                "wrote it"
            )
        fault = find_fault(manifest)
        if fault:
            raise TargetStoreError(f"{path}: {fault}: {remedy(self.folder)}")
        self.fingerprint = manifest["fingerprint"]
        self.targets = [StoredTarget(**t) for t in manifest["targets"]]
        self.shards = manifest["shards"]
        self._numbers = {utt: i for i, utt in enumerate(manifest.pop("utts"))}
        self._num_samples, self._num_frames, self._offsets = (
            np.array(manifest.pop(key), dtype=np.int64)
            for key in ("num_samples", "num_frames", "offsets")
        )
        self._ends = np.cumsum([s["num_utts"] for s in self.shards])
        self._checked = np.zeros(len(self), dtype=bool)
        self._open = {}

    def __len__(self) -> int:
        """Number of utterances."""
        return len(self._numbers)

    def __getstate__(self):
        """Without open files: a process that receives it opens its own."""
        return {**self.__dict__, "_open": {}}

    @property
    def num_frames(self) -> int:
        """Frames of all utterances."""
        return int(self._num_frames.sum())

    @property
    def max_num_frames(self) -> int:
        """Frames of the longest utterance."""
        return int(self._num_frames.max(initial=0))

    @property
    def num_samples(self) -> int:
        """Samples (16 kHz) of all utterances' audio."""
        return int(self._num_samples.sum())

    @property
    def num_bytes(self) -> int:
        """Bytes of all files."""
        manifest = (self.folder / MANIFEST).stat().st_size
        return manifest + sum(s["num_bytes"] for s in self.shards)

    def find(self, utt: str) -> int | None:
        """Number of an utterance in the order of the manifest, None if not there."""
        return self._numbers.get(utt)

    def num_samples_of(self, utt: str) -> int | None:
        """Samples (16 kHz) of an utterance's audio, None if it is not there."""
        i = self.find(utt)
        return None if i is None else int(self._num_samples[i])

    def read(self, utt: str, num_samples: int) -> dict[str, np.ndarray] | None:
        """Targets of one utterance; its checksum is verified the first time.

        Args:
            utt: utterance id.
            num_samples: of the audio that the caller has, at 16 kHz.

        Returns:
            Target name -> (frames, C), or None where the store has no such utterance.

        Raises:
            TargetStoreError: the audio had another length, or the shard is missing,
                truncated or damaged.
        """
        i = self.find(utt)
        if i is None:
            return None
        if self._num_samples[i] != num_samples:
            raise TargetStoreError(
                f"utterance {utt}: {num_samples} samples of audio, but its targets in "
                f"{self.folder} were made from {self._num_samples[i]}: the audio has "
                f"changed since: {remedy(self.folder)}"
            )
        number = int(np.searchsorted(self._ends, i, side="right"))
        slices, crcs = self._shard(number)
        start = int(self._offsets[i])
        stop = start + int(self._num_frames[i])
        out = {t.name: slices[t.name][start:stop] for t in self.targets}
        if not self._checked[i]:
            first = self._ends[number] - self.shards[number]["num_utts"]
            if checksum(list(out.values())) != crcs[i - first]:
                raise TargetStoreError(
                    f"{self.folder / self.shards[number]['file']}: damaged at the "
                    f"targets of utterance {utt} (their checksum differs): "
                    f"{REMEDY_OF_FILE}"
                )
            self._checked[i] = True
        return out

    def _shard(self, number: int):
        if number not in self._open:
            entry = self.shards[number]
            path = self.folder / entry["file"]
            self._check_size(path, entry)
            try:
                shard = safe_open(path, "np")
                slices = {t.name: shard.get_slice(t.name) for t in self.targets}
                self._open[number] = slices, shard.get_tensor("crc32")
            except SafetensorError as e:
                raise TargetStoreError(
                    f"{path}: damaged ({e}): {REMEDY_OF_FILE}"
                ) from e
        return self._open[number]

    @staticmethod
    def _check_size(path: Path, entry: dict) -> None:
        found = path.stat().st_size if path.is_file() else None
        if found != entry["num_bytes"]:
            raise TargetStoreError(
                f"{path}: expected {entry['num_bytes']} bytes, found "
                f"{'no such file' if found is None else found}: {REMEDY_OF_FILE}"
            )

    def verify(self) -> list[str]:
        """Compare every shard, and the plan, with its sha256.

        Returns:
            A line for each file that is not as it was written; empty: all is well.
        """
        problems = []
        for entry in self.shards:
            path = self.folder / entry["file"]
            try:
                self._check_size(path, entry)
                if sha256_of(path) != entry["sha256"]:
                    problems.append(
                        f"{path}: damaged (its sha256 differs): {REMEDY_OF_FILE}"
                    )
            except TargetStoreError as e:
                problems.append(str(e))
        plan = self.folder / PLAN
        try:
            if plan.is_file():  # only an extraction needs it
                read_signed(plan)
        except TargetStoreError as e:
            problems.append(str(e))
        return problems
