"""Teachers that are read from a target store instead of run."""

import logging
from pathlib import Path

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from espnet_mtkd.errors import ConfigError, TargetStoreError
from espnet_mtkd.targets.codebooks import CODEBOOKS, check_codebooks
from espnet_mtkd.targets.fingerprint import compare_config
from espnet_mtkd.targets.quantizer import read_codebooks
from espnet_mtkd.targets.store import MANIFEST, TargetStore
from espnet_mtkd.teachers.base import TargetSpec, TeacherConfig, resolve_layers


class CachedTeacher:
    """One teacher's stored targets, behind the interface of a live one.

    Args:
        config: of the teacher; its network is not loaded.
        targets_dir: `--out_dir` of mtkd_extract; all data sets under
            `<targets_dir>/<teacher>` are read.
        as_codes: give the codes themselves, targets of a cross-entropy, instead of the
            embeddings that they stand for.

    Attributes:
        targets: list of `TargetSpec`, one for each layer of the config.

    Raises:
        TargetStoreError: nothing is stored there, it is damaged, or it comes from
            another teacher; the differing field is named. Or the codebooks are not
            those of the codes.
        ConfigError: codes are asked for and fp16 is stored.
    """

    def __init__(
        self, config: TeacherConfig, targets_dir: str | Path, as_codes: bool = False
    ):
        self.config = config
        folder = Path(targets_dir) / config.name
        manifests = sorted(folder.glob(f"*/{MANIFEST}"))
        if not manifests:
            raise TargetStoreError(
                f"teacher '{config.name}': no finished targets in {folder}: run "
                f"mtkd_extract --out_dir {targets_dir} (stage 8), or train with live "
                "teachers (--teacher_mode live)"
            )
        self.stores = [TargetStore(path.parent) for path in manifests]
        first = self.stores[0]
        for store in self.stores:
            field = compare_config(config, store.fingerprint)
            if not field and store.targets != first.targets:
                field = f"targets: expected {first.targets}, found {store.targets}"
            if field:
                raise TargetStoreError(
                    f"{store.folder}: made with another teacher than '{config.name}' "
                    f"of the config: {field}: extract again, or correct the config"
                )
        layers = resolve_layers(config, first.fingerprint["num_layers"])
        by_layer = {t.layer: t for t in first.targets}
        self._stored = [by_layer[layer] for layer in layers]
        self._books = {}
        if first.fingerprint["form"] == "codes":
            digests = {s.folder: s.fingerprint["codebooks"] for s in self.stores}
            check_codebooks(folder / CODEBOOKS, digests)
            self._books = read_codebooks(folder / CODEBOOKS)
        elif as_codes:
            raise ConfigError(
                f"{folder}: fp16 embeddings are stored there; target_type codes needs "
                "--form codes (mtkd_extract)"
            )
        self.as_codes = as_codes
        self.targets = [
            TargetSpec(
                name=stored.name,
                teacher=config.name,
                layer=stored.layer,
                dim=stored.num_channels if as_codes else stored.dim,
                frame_shift=stored.frame_shift,
                weight=config.weight / len(layers),
                num_codebooks=stored.num_channels if as_codes else 0,
            )
            for stored in self._stored
        ]
        logging.info(
            "teacher %s: stored targets of %d utterances in %s",
            config.name,
            sum(map(len, self.stores)),
            ", ".join(str(store.folder) for store in self.stores),
        )

    def __call__(self, speech_BN, speech_lengths_B, utt_ids=None):
        """Stored targets of a batch; the waveforms themselves are not used.

        Args:
            speech_BN: (B, N), on the device where the targets are wanted.
            speech_lengths_B: (B,) samples, which must be those of the extraction.
            utt_ids: B strings, `<data set>/<utterance>`; without the set, where one
                store alone has the utterance.

        Returns:
            {target name: ((B, T, E) fp32 embeddings, or (B, T, M) uint8 codes, (B,))}.

        Raises:
            TargetStoreError: an utterance that is not stored, or with another length.
        """
        device = speech_BN.device
        lengths = speech_lengths_B.tolist()
        rows = [self._read(u, n) for u, n in zip(utt_ids, lengths, strict=True)]
        out = {}
        for spec in self._stored:
            parts = [torch.from_numpy(row[spec.name]) for row in rows]
            lengths_B = torch.tensor([len(p) for p in parts], device=device)
            target = pad_sequence(parts, batch_first=True).to(device)  # (B, T, C)
            if self._books and not self.as_codes:
                target = self._books[spec.name].decode(target)
            out[spec.name] = (target if self.as_codes else target.float(), lengths_B)
        return out

    def _read(self, utt: str, num_samples: int) -> dict[str, np.ndarray]:
        name, _, rest = utt.partition("/")
        stores = [store for store in self.stores if store.folder.name == name and rest]
        if stores:
            utt = rest
        else:  # an id without its data set, or of one that is stored under another name
            stores = [s for s in self.stores if s.find(utt) is not None]
        if len(stores) > 1:
            raise TargetStoreError(
                f"utterance {utt}: targets of teacher '{self.config.name}' in "
                f"{' and '.join(str(s.folder) for s in stores)}: expected "
                "'<data set>/<utterance>', which tells these apart"
            )
        row = stores[0].read(utt, num_samples) if stores else None
        if row is not None:
            return row
        raise TargetStoreError(
            f"utterance {utt}: no targets of teacher '{self.config.name}' in "
            f"{', '.join(str(store.folder) for store in self.stores)}: run "
            "mtkd_extract for its data directory (stage 8)"
        )
