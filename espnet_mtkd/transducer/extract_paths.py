"""Run a teacher transducer over transcribed audio and store its best paths."""

import contextlib
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from espnet2.tasks.asr import ASRTask
from torch.nn.utils.rnn import pad_sequence

from espnet_mtkd.data.audio import SAMPLE_RATE, judge_faults, prepare_audio
from espnet_mtkd.data.kaldi import read_lines
from espnet_mtkd.errors import ConfigError, DataError
from espnet_mtkd.files import sha256_of
from espnet_mtkd.student.frames import measure_frame_shift
from espnet_mtkd.targets.embeddings import load_batches, progress
from espnet_mtkd.targets.fingerprint import versions
from espnet_mtkd.targets.host import HostCopy
from espnet_mtkd.targets.plan import (
    Settings,
    Utterance,
    plan_batches,
    plan_shards,
    shard_ends,
)
from espnet_mtkd.targets.writer import ShardWriter, StoreWriter
from espnet_mtkd.transducer.kd import choose_tokens
from espnet_mtkd.transducer.lattice_paths import path_nodes, two_planes
from espnet_mtkd.transducer.path import best_path
from espnet_mtkd.transducer.paths import path_targets
from espnet_mtkd.transducer.task import register

MAX_UINT16 = 65535
WORST_SHIFT = 320  # samples: no encoder here has more frames a second


class TeacherTransducer:
    """A trained ESPnet transducer that is asked for its alignments.

    Args:
        config, model_file: of `espnet2.bin.asr_train`.
        device: where it runs.

    Attributes:
        frame_shift: samples between encoder frames.
        fingerprint: what its paths depend on.

    Raises:
        ConfigError: a file is missing, or the model is no transducer.
    """

    def __init__(self, config: Path, model_file: Path, device: str = "cpu"):
        register()
        for path in (config, model_file):
            if not path.is_file():
                raise ConfigError(f"no such file: {path}: train the teacher first")
        self.model, args = ASRTask.build_model_from_file(config, model_file, device)
        if not self.model.use_transducer_decoder:
            raise ConfigError(
                f"{config}: expected decoder: transducer, found {args.decoder}"
            )
        self.model.eval()
        self.device, self.model_file = device, model_file
        self._tokenize = ASRTask.build_preprocess_fn(args, train=False)
        self.frame_shift = measure_frame_shift(
            self.model.frontend, self.model.encoder, self.model.preencoder, device
        )
        self.fingerprint = {
            "model": sha256_of(model_file),
            "tokens": list(self.model.token_list),
            "frame_shift": self.frame_shift,
            "versions": versions(),
        }

    def labels(self, utt: str, text: str) -> np.ndarray:
        """Token ids (U,) of a transcript."""
        return self._tokenize(utt, {"text": text})["text"]

    def encode(self, speech, labels):
        """Both inputs of the joint network, for a batch.

        Args:
            speech: (B, N) waveforms on the device, and (B,) samples.
            labels: B int arrays (U,).

        Returns:
            B tensors (T, D) of the encoder's frames, B tensors (U + 1, D) of the
            prediction network, and the labels, B int64 tensors on the device.
        """
        speech_BN, num_samples_B = speech
        h_BTD, num_frames_B = self.model.encode(
            speech_BN, num_samples_B.to(speech_BN.device)
        )
        num_frames = num_frames_B.tolist()
        blank = self.model.blank_id
        tokens_BU = pad_sequence(
            [torch.tensor([blank, *x]) for x in labels], True, padding_value=blank
        ).to(self.device, non_blocking=True)
        self.model.decoder.set_device(torch.device(self.device))
        g_BUD = self.model.decoder(tokens_BU)
        sizes = [len(x) for x in labels]
        return (
            [h_TD[:T] for h_TD, T in zip(h_BTD, num_frames, strict=True)],
            [g_UD[: U + 1] for g_UD, U in zip(g_BUD, sizes, strict=True)],
            [x[1 : U + 1] for x, U in zip(tokens_BU, sizes, strict=True)],
        )

    def check_finite(self, utts: Iterable[Utterance], is_finite: Iterable[bool]):
        """Refuse an utterance whose lattice has a value that is not finite.

        Args:
            utts: of a batch.
            is_finite: of each, see `align`.

        Raises:
            ConfigError: it means nothing.
        """
        for utt, is_known in zip(utts, is_finite, strict=True):
            if not is_known:
                raise ConfigError(
                    "teacher transducer: expected finite logits, found NaN or infinity "
                    f"for utterance {utt.utt}: copy {self.model_file} again, or take "
                    "another checkpoint (mtkd.sh: --kd_teacher_model)"
                )


class BatchPaths:
    """What is stored of one batch, while the device may still be at it.

    Args:
        teacher: whose paths.
        batch, speech: of `load_batches`.
        labels: B int arrays (U,).
        num_tokens: k.

    Attributes:
        faults: number of the utterance in the batch -> why it has no path.
    """

    @torch.inference_mode()
    def __init__(self, teacher: TeacherTransducer, batch, speech, labels, num_tokens):
        hs, gs, labels = teacher.encode(speech, labels)
        self.faults = {}
        for b, (h_TD, labels_U) in enumerate(zip(hs, labels, strict=True)):
            if len(labels_U) == 0:
                self.faults[b] = "empty transcript"
            elif len(labels_U) > len(h_TD):
                self.faults[b] = f"{len(labels_U)} labels, but {len(h_TD)} frames"
        kept = [b for b in range(len(labels)) if b not in self.faults]
        self._teacher, self._batch = teacher, [batch[b] for b in kept]
        self._sizes = [
            0 if b in self.faults else len(h_TD) + len(labels_U)
            for b, (h_TD, labels_U) in enumerate(zip(hs, labels, strict=True))
        ]
        self._num_tokens, self._copy = num_tokens, None
        if kept:
            hs, gs, labels = ([x[b] for b in kept] for x in (hs, gs, labels))
            model = teacher.model
            nodes, logp, is_finite_B = path_nodes(
                model.joint_network, hs, gs, labels, model.blank_id, num_tokens
            )
            self._copy = HostCopy(
                {"nodes": nodes, "logp": logp, "is_finite": is_finite_B}
            )

    def rows(self) -> list[dict[str, np.ndarray]]:
        """The `utts` of `write_shard`, as soon as they are there.

        Raises:
            ConfigError: see `TeacherTransducer.check_finite`.
        """
        arrays = {
            "nodes": np.zeros((0, 2 + self._num_tokens)),
            "logp": np.zeros((0, self._num_tokens), "float16"),
        }
        if self._copy is not None:
            arrays = self._copy.wait()
            self._teacher.check_finite(self._batch, arrays["is_finite"])
        ends = np.cumsum(self._sizes)[:-1]
        nodes = np.split(arrays["nodes"].astype("uint16"), ends)
        logp = np.split(arrays["logp"], ends)
        return [{"nodes": x, "logp": y} for x, y in zip(nodes, logp, strict=True)]


def find_path(logits_TUV, labels_U, blank: int, num_tokens: int):
    """Best path of a lattice that is at hand whole, and the tokens kept at its nodes.

    Args:
        logits_TUV: (T, U + 1, V) of the joint network.
        labels_U: int array.
        blank: id.
        num_tokens: k.

    Returns:
        `nodes` (N, 2 + k) uint16 and `logp` (N, k) fp16, as `path_nodes` has them.
    """
    labels_U = torch.as_tensor(np.asarray(labels_U), dtype=torch.long)
    blank_TU, label_TU, _ = two_planes(logits_TUV.clone(), labels_U, blank)
    frames, positions, _ = best_path(blank_TU, label_TU)
    next_label = torch.cat([labels_U, labels_U.new_tensor([-1])])[positions]
    logp_NV = logits_TUV[frames, positions].float().log_softmax(1)
    ids, logp = choose_tokens(logp_NV, blank, next_label, num_tokens)
    nodes = torch.cat([frames[:, None], positions[:, None], ids], 1)
    return nodes.numpy().astype("uint16"), logp.half().numpy()


def extract_paths(
    teacher: TeacherTransducer,
    utts: Sequence[Utterance],
    texts: dict[str, str],
    folder: Path,
    num_tokens: int,
    settings: Settings,
) -> bool:
    """Write this process's share of a store of paths, and the manifest at the end.

    Utterances with an empty transcript, or more labels than frames, are named and
    stored without a path.

    Args:
        teacher: whose paths.
        utts: of a data directory.
        texts: their transcripts.
        folder: of the store.
        num_tokens: k, tokens kept of each node.
        settings: `batch_seconds`, `exact`, `rank` and `world_size` of it.

    Returns:
        Whether the store is finished.

    Raises:
        ConfigError: `num_tokens` out of range, or logits that are not finite.
        DataError: more than 0.1 % of the utterances have no path; they are named.
        TargetStoreError, DiskError: as for `espnet_mtkd.targets.extract.extract`.
    """
    vocab_size = len(teacher.model.token_list)
    if not 2 <= num_tokens <= vocab_size or vocab_size > MAX_UINT16:
        raise ConfigError(
            f"--num_tokens: expected 2 to {vocab_size}, found {num_tokens}"
        )
    targets = path_targets(num_tokens, vocab_size, teacher.frame_shift)
    fingerprint = {
        **teacher.fingerprint,
        "form": "paths",
        "num_tokens": num_tokens,
        "exact": settings.exact,
    }
    labels = {u.utt: teacher.labels(u.utt, texts[u.utt]) for u in utts}
    batches = plan_batches(
        utts, round(settings.batch_seconds * SAMPLE_RATE), settings.exact
    )
    shards = plan_shards(batches, sum(t.bytes_per_frame for t in targets))
    data = [
        [[u.utt, u.num_samples, labels[u.utt].tolist()] for b in shard for u in b]
        for shard in shards
    ]
    writer = StoreWriter(folder, fingerprint, data, targets, shards)
    with contextlib.closing(writer) as store:
        if store.is_finished:
            return True
        plan = store.take_share(settings.rank, settings.world_size)
        _write_paths(teacher, store, plan, labels, num_tokens)
        return store.finish()


def _write_paths(teacher, store: StoreWriter, plan, labels, num_tokens: int) -> None:
    """Compute the shards of `plan`, number -> batches, and hand them to the writer."""
    batches = [batch for shard in plan.values() for batch in shard]
    faults = []
    with (
        contextlib.closing(ShardWriter(store)) as writer,
        progress(sum(map(len, batches)), str(store.folder), "utt") as bar,
    ):
        loaded = load_batches(batches, teacher.device)
        for (batch, speech), end in zip(loaded, shard_ends(plan), strict=True):
            texts = [labels[u.utt] for u in batch]
            paths = BatchPaths(teacher, batch, speech, texts, num_tokens)
            faults += [f"{batch[b].utt}: {fault}" for b, fault in paths.faults.items()]
            text = judge_faults(
                store.folder,
                "have no path",
                faults,
                len(labels),
                f"take their lines out of wav.scp and text, remove {store.folder}, and "
                "run the same command again",
            )
            writer.put(end, paths.rows)
            bar.update(len(batch))
    if faults:
        logging.warning("%s", text)


def read_text(data_dir: Path, utts: Iterable[str]) -> dict[str, str]:
    """Transcripts of some utterances of a Kaldi directory.

    Raises:
        DataError: no such file, or an utterance without a line.
    """
    path = data_dir / "text"
    texts = read_lines(path, "the transcripts: paths need them")
    missing = [utt for utt in utts if utt not in texts]
    if missing:
        raise DataError(
            f"{path}: {len(missing)} utterances of wav.scp have no line, the first is "
            f"{missing[0]}: add them, or: utils/fix_data_dir.sh {data_dir}"
        )
    return texts


def read_transcribed(
    data_dir: Path, shape_dir: Path, nj: int
) -> tuple[list[Utterance], dict[str, str]]:
    """A data directory's utterances, with an upper bound of their nodes, and its text.

    Args:
        data_dir: Kaldi data directory with wav.scp and text.
        shape_dir, nj: see `prepare_audio`.

    Raises:
        DataError: see `prepare_audio` and `read_text`.
    """
    lengths, audios = prepare_audio(data_dir, shape_dir, nj)
    texts = read_text(data_dir, lengths)
    utts = [
        Utterance(utt, audios[utt], n, n // WORST_SHIFT + len(texts[utt]))
        for utt, n in lengths.items()
    ]
    return utts, texts
