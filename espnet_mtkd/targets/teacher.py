"""Teachers that are read from a target store instead of run."""

import dataclasses
import logging
from pathlib import Path

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from espnet_mtkd.errors import ConfigError, TargetStoreError, name_ten
from espnet_mtkd.targets.codebooks import CODEBOOKS, check_codebooks
from espnet_mtkd.targets.fingerprint import compare_config
from espnet_mtkd.targets.quantizer import read_codebooks
from espnet_mtkd.targets.store import MANIFEST, StoredTarget, TargetStore, remedy
from espnet_mtkd.teachers.base import TargetSpec, TeacherConfig, resolve_layers


class CachedTeacher:
    """One teacher's stored targets, behind the interface of a live one.

    Args:
        config: of the teacher; its network is not loaded.
        targets_dir: `--out_dir` of mtkd_extract; all data sets under
            `<targets_dir>/<teacher>` are read.
        as_codes: give the codes themselves, targets of a cross-entropy, instead of the
            embeddings that they stand for.
        with_codes: give the codes beside the embeddings, as targets `<name>_codes`.

    Attributes:
        targets: list of `TargetSpec`, one for each layer of the config; with codes
            beside them, those of the codes behind them.

    Raises:
        TargetStoreError: nothing is stored there, it is damaged, or it comes from
            another teacher; the differing field is named. Or the codebooks are not
            those of the codes.
        ConfigError: codes are asked for and fp16 is stored.
    """

    def __init__(
        self,
        config: TeacherConfig,
        targets_dir: str | Path,
        as_codes: bool = False,
        with_codes: bool = False,
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
        self._by_name = {store.folder.name: store for store in self.stores}
        first = self.stores[0]
        for store in self.stores:
            field = compare_config(config, store.fingerprint)
            if not field:
                layers = resolve_layers(config, store.fingerprint["num_layers"])
                lacking = {*layers} - {t.layer for t in store.targets}
                field = f"layers: none is stored of {sorted(lacking)}" * bool(lacking)
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
        if first.fingerprint.get("form") == "codes":
            digests = {s.folder: s.fingerprint.get("codebooks") for s in self.stores}
            check_codebooks(folder / CODEBOOKS, digests)
            self._books = read_codebooks(folder / CODEBOOKS)
        elif as_codes or with_codes:
            option = "target_type codes" if as_codes else "loss_conf.codes"
            raise ConfigError(
                f"{folder}: fp16 embeddings are stored there; {option} needs "
                "--form codes (mtkd_extract)"
            )
        self.as_codes, self.with_codes = as_codes, with_codes
        self.targets = [
            TargetSpec(
                name=stored.name,
                teacher=config.name,
                layer=stored.layer,
                dim=stored.num_channels if as_codes else stored.dim,
                frame_shift=stored.frame_shift,
                frame_centre=frame_centre(config, stored, folder),
                weight=config.weight / len(layers),
                num_codebooks=stored.num_channels if as_codes else 0,
            )
            for stored in self._stored
        ]
        if with_codes:
            self.targets += [
                dataclasses.replace(
                    spec,
                    name=name_codes(spec.name),
                    dim=stored.num_channels,
                    num_codebooks=stored.num_channels,
                )
                for spec, stored in zip(self.targets, self._stored, strict=True)
            ]
        logging.info(
            "teacher %s: stored targets of %d utterances in %s",
            config.name,
            sum(map(len, self.stores)),
            self._folders(),
        )

    def __call__(self, speech_BN, speech_lengths_B, utt_ids=None):
        """Stored targets of a batch; the waveforms themselves are not used.

        Args:
            speech_BN: (B, N), on the device where the targets are wanted.
            speech_lengths_B: (B,) samples, which must be those of the extraction.
            utt_ids: B strings, `<data set>/<utterance>`; without the set, where one
                store alone has the utterance.

        Returns:
            {target name: ((B, T, E) fp32 embeddings, or (B, T, M) uint8 codes, (B,)
            valid frames, on the host)}, or both.

        Raises:
            TargetStoreError: an utterance that is not stored, or with another length.
        """
        device = speech_BN.device
        lengths = speech_lengths_B.tolist()
        rows = [self._read(u, n) for u, n in zip(utt_ids, lengths, strict=True)]
        out = {}
        for spec in self._stored:
            parts = [torch.from_numpy(row[spec.name]) for row in rows]
            lengths_B = torch.tensor([len(p) for p in parts])  # on the host
            target = pad_sequence(parts, batch_first=True)  # (B, T, C)
            target = target.to(device, non_blocking=True)
            if self.with_codes:
                out[name_codes(spec.name)] = (target, lengths_B)
            if self._books and not self.as_codes:
                target = self._books[spec.name].decode(target)
            out[spec.name] = (target if self.as_codes else target.float(), lengths_B)
        return out

    @property
    def data_sets(self) -> set[str]:
        """Names of the data sets whose targets are stored."""
        return set(self._by_name)

    def check_lengths(self, name: str | None, lengths: dict[str, int]) -> None:
        """Refuse a data set whose targets are not all stored, before any are read.

        Args:
            name: of the data set; None: of several, found by their ids alone.
            lengths: utterance -> samples at 16 kHz.

        Raises:
            TargetStoreError: how many utterances are not stored, or have another length
                than those that are, and the first ten.
        """
        missing, changed = [], []
        for utt, num_samples in lengths.items():
            given = utt if name is None else f"{name}/{utt}"
            store, key = self._find(given, num_samples)
            stored = None if store is None else store.num_samples_of(key)
            if stored is None:
                missing.append(utt)
            elif stored != num_samples:
                folder = store.folder
                changed.append(f"{utt} ({num_samples} samples, then {stored})")
        of_all = f"of {len(lengths)} utterances of {name or 'the training set'}"
        if missing:
            raise TargetStoreError(
                f"{len(missing)} {of_all} have no targets of teacher "
                f"'{self.config.name}' in {self._folders()}: {name_ten(missing)}: run "
                "mtkd_extract for this data directory (stage 8)"
            )
        if changed:
            raise TargetStoreError(
                f"{len(changed)} {of_all} have another length than when the targets of "
                f"teacher '{self.config.name}' were made: the audio has changed since: "
                f"{name_ten(changed)}: {remedy(folder)}"
            )

    def _read(self, utt: str, num_samples: int) -> dict[str, np.ndarray]:
        store, key = self._find(utt, num_samples)
        row = store.read(key, num_samples) if store is not None else None
        if row is not None:
            return row
        raise TargetStoreError(
            f"utterance {utt}: no targets of teacher '{self.config.name}' in "
            f"{self._folders()}: run mtkd_extract for its data directory (stage 8)"
        )

    def _find(self, utt: str, num_samples: int) -> tuple[TargetStore | None, str]:
        """The store that has to have an utterance, and its id there.

        Without its data set, of several that have the id, the one that heard as much.
        """
        name, _, rest = utt.partition("/")
        if rest and name in self._by_name:
            return self._by_name[name], rest
        # An id without its data set.
        found = [s for s in self.stores if s.find(utt) is not None]
        if len(found) > 1:
            same = [s for s in found if s.num_samples_of(utt) == num_samples]
            found = same or found
        if len(found) > 1:
            raise TargetStoreError(
                f"utterance {utt}: targets of teacher '{self.config.name}' in "
                f"{' and '.join(str(s.folder) for s in found)}: expected "
                "'<data set>/<utterance>', which tells these apart: name a directory "
                "with the targets of one of these sets alone (--targets_dir, "
                "--keep_teachers targets_dir=...), or rename the utterances of one"
            )
        return (found[0] if found else None), utt

    def _folders(self) -> str:
        return ", ".join(str(store.folder) for store in self.stores)


def name_codes(name: str) -> str:
    """Of the codes beside a target of that name."""
    return f"{name}_codes"


def frame_centre(config: TeacherConfig, stored: StoredTarget, folder: Path) -> float:
    """Where the frames of a stored target lie, which the config may correct.

    Args:
        config: of the teacher.
        stored: one of its targets.
        folder: of the teacher's stores, for the message.

    Raises:
        TargetStoreError: neither the store nor the config says it.
    """
    if config.frame_centre is not None:
        return config.frame_centre
    if stored.frame_centre is not None:
        return stored.frame_centre
    raise TargetStoreError(
        f"{folder}: it is not stored where the frames of '{stored.name}' lie in the "
        "audio (an earlier version wrote them): extract again, or give the teacher's "
        "`frame_centre` in the config: 0 for Whisper, 199.5 for wav2vec 2.0, HuBERT, "
        "WavLM and data2vec (samples)"
    )
