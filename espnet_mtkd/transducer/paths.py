"""Best paths of a teacher transducer, stored beside the targets of stage 1.

The format is that of `espnet_mtkd.targets.store`, with the nodes of an utterance's path
for its frames: `nodes` (N, 2 + k) holds frame, position and token ids, `logp` (N, k)
the tokens' log-probabilities in fp16. Token 0 is the blank, token 1 the next label.
"""

import dataclasses
from pathlib import Path

import torch

from espnet_mtkd.errors import ConfigError, DataError, TargetStoreError, name_ten
from espnet_mtkd.targets.fingerprint import differing_field
from espnet_mtkd.targets.store import MANIFEST, StoredTarget, TargetStore, remedy

MAX_FRAME_DIFFERENCE = 1  # student frames, of teacher and student


@dataclasses.dataclass(frozen=True)
class BestPath:
    """One utterance's path, N nodes, and k tokens of each.

    Attributes:
        frames, positions: (N,) int64.
        ids: (N, k) int64.
        logp: (N, k).
        has_label: (N,) bool, False behind the last label.
    """

    frames: torch.Tensor
    positions: torch.Tensor
    ids: torch.Tensor
    logp: torch.Tensor
    has_label: torch.Tensor


def path_targets(num_tokens: int, vocab_size: int, frame_shift: int):
    """The two arrays that are stored, as the store describes them."""

    def target(name: str, num_channels: int, dtype: str) -> StoredTarget:
        return StoredTarget(name, 0, vocab_size, frame_shift, num_channels, dtype)

    return [
        target("nodes", 2 + num_tokens, "uint16"),
        target("logp", num_tokens, "float16"),
    ]


class PathStores:
    """All finished stores of paths in a folder.

    Args:
        folder: `--out_dir` of mtkd_extract_paths.

    Attributes:
        frame_shift: samples between the teacher's frames.
        tokens: the teacher's.
        num_tokens: k, of the store that keeps the fewest.
        max_num_nodes: of the longest path.

    Raises:
        TargetStoreError: none there, or of different teachers or settings.
    """

    def __init__(self, folder: str | Path):
        manifests = sorted(Path(folder).glob(f"*/{MANIFEST}"))
        if not manifests:
            raise TargetStoreError(
                f"{folder}: no finished paths in it: run mtkd_extract_paths"
            )
        self.stores = [TargetStore(path.parent) for path in manifests]
        first = self.stores[0]
        for store in self.stores[1:]:
            field = differing_field(first.fingerprint, store.fingerprint)
            if field:
                raise TargetStoreError(
                    f"{store.folder} and {first.folder}: paths of two different "
                    f"teachers or settings ({field:.200}): give each a folder of its "
                    "own"
                )
        self.tokens = first.fingerprint["tokens"]
        self.frame_shift = first.targets[0].frame_shift
        self.num_tokens = min(x.fingerprint["num_tokens"] for x in self.stores)
        self.max_num_nodes = max(x.max_num_frames for x in self.stores)

    def __len__(self) -> int:
        """Number of utterances."""
        return sum(map(len, self.stores))

    def check_tokens(self, tokens) -> None:
        """Refuse a student with other tokens than the teacher's.

        Raises:
            ConfigError: naming the first that differs.
        """
        tokens = list(tokens)
        for i, (ours, theirs) in enumerate(zip(tokens, self.tokens, strict=False)):
            if ours != theirs:
                raise ConfigError(
                    f"token {i}: the student's is '{ours}', the teacher transducer's "
                    f"'{theirs}': both need one token list (stage 5)"
                )
        if len(tokens) != len(self.tokens):
            raise ConfigError(
                f"the student has {len(tokens)} tokens, the teacher transducer "
                f"{len(self.tokens)}: both need one token list (stage 5)"
            )

    def check_lengths(self, where: Path, lengths: dict[str, int]) -> None:
        """Refuse a training set whose paths are not all stored, before any are read.

        Args:
            where: the lengths stand.
            lengths: utterance -> samples of its audio.

        Raises:
            TargetStoreError: how many utterances have no path, or one of other audio,
                and the first ten.
        """
        missing, changed = [], []
        for utt, num_samples in lengths.items():
            store = self._find(utt, num_samples)
            if store is None:
                missing.append(utt)
            elif store.num_samples_of(utt) != num_samples:
                changed.append(utt)
                again = remedy(store.folder)
        of_all = f"of {len(lengths)} utterances"
        if missing:
            raise TargetStoreError(
                f"{where}: {len(missing)} {of_all} have no path in "
                f"{self.stores[0].folder.parent}: {name_ten(missing)}: run "
                "mtkd_extract_paths for this data directory"
            )
        if changed:
            raise TargetStoreError(
                f"{where}: {len(changed)} {of_all} have another length than when their "
                f"paths were made: {name_ten(changed)}: {again}"
            )

    def _find(self, utt: str, num_samples: int) -> TargetStore | None:
        """The store with an utterance; of several, one that heard as many samples."""
        found = [store for store in self.stores if store.find(utt) is not None]
        same = [s for s in found if s.num_samples_of(utt) == num_samples]
        return next(iter([*same, *found]), None)

    def read(
        self, utt: str, num_samples: int, labels_U, num_frames: int, frame_shift: int
    ) -> BestPath | None:
        """The path of an utterance.

        Args:
            utt: its id.
            num_samples: of its audio.
            labels_U: token ids of its transcript.
            num_frames, frame_shift: the student's frames, and samples between them.

        Returns:
            None where the extraction named and skipped it.

        Raises:
            TargetStoreError: no path stored, or made from other audio.
            DataError: of another transcript, or teacher and student frames are apart.
        """
        store = self._find(utt, num_samples)
        row = None if store is None else store.read(utt, num_samples)
        if row is None:
            raise TargetStoreError(
                f"utterance {utt}: no path in {self.stores[0].folder.parent}: run "
                "mtkd_extract_paths for its data directory"
            )
        nodes = torch.from_numpy(row["nodes"].astype("int64"))
        if len(nodes) == 0:
            return None
        frames, positions, ids = nodes[:, 0], nodes[:, 1], nodes[:, 2:]
        found = ids[:-1, 1][positions[1:] > positions[:-1]]
        if not torch.equal(found, labels_U.to(found)):
            raise DataError(
                f"utterance {utt}: its path is of another transcript ({len(found)} "
                f"tokens, expected {len(labels_U)}): {remedy(store.folder)}"
            )
        theirs = (int(frames[-1]) + 1) * self.frame_shift / frame_shift
        if abs(theirs - num_frames) >= MAX_FRAME_DIFFERENCE + 1:
            raise DataError(
                f"utterance {utt}: the teacher's path has {int(frames[-1]) + 1} frames,"
                f" {theirs:.1f} student frames, the student's encoder gave {num_frames}"
            )
        logp = torch.from_numpy(row["logp"].astype("float32"))
        return BestPath(frames, positions, ids, logp, positions < len(labels_U))
