"""Run a teacher transducer over transcribed audio and store its best paths."""

import contextlib
import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file

from espnet_mtkd.errors import ConfigError, DataError
from espnet_mtkd.model import measure_frame_shift
from espnet_mtkd.targets.embeddings import progress, read_audio
from espnet_mtkd.targets.extract import (
    OVERHEAD,
    ShardWriter,
    check_disk,
    claim_folder,
)
from espnet_mtkd.targets.fingerprint import versions
from espnet_mtkd.targets.plan import Utterance, plan_shards, share_of
from espnet_mtkd.targets.store import (
    MANIFEST,
    sha256_of,
    shard_is_whole,
    shard_name,
    write_manifest,
)
from espnet_mtkd.transducer.kd import choose_tokens
from espnet_mtkd.transducer.path import best_path
from espnet_mtkd.transducer.paths import path_targets

MAX_SKIPPED = 0.001  # of the utterances; more than this is no accident
NUM_NAMED = 10  # skipped utterances that a message names
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
        from espnet_mtkd.transducer.task import MTKDASRTask, register

        register()
        for path in (config, model_file):
            if not path.is_file():
                raise ConfigError(f"no such file: {path}: train the teacher first")
        from espnet2.tasks.asr import ASRTask

        self.model, args = ASRTask.build_model_from_file(config, model_file, device)
        if not self.model.use_transducer_decoder:
            raise ConfigError(
                f"{config}: expected decoder: transducer, found {args.decoder}"
            )
        self.model.eval()
        self.device = device
        self._tokenize = MTKDASRTask.build_preprocess_fn(args, train=False)
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

    @torch.inference_mode()
    def logits(self, wave_N: torch.Tensor, labels_U) -> torch.Tensor:
        """Joint network over the whole lattice of one utterance, (T, U + 1, V)."""
        speech = wave_N[None].to(self.device)
        lengths = torch.tensor([len(wave_N)], device=self.device)
        h_BTD, _ = self.model.encode(speech, lengths)
        tokens = torch.tensor([[self.model.blank_id, *labels_U]], device=self.device)
        self.model.decoder.set_device(torch.device(self.device))
        g_BUD = self.model.decoder(tokens)
        joint = self.model.joint_network
        return joint(h_BTD.unsqueeze(2), g_BUD.unsqueeze(1))[0].float()


def find_path(logits_TUV, labels_U, blank: int, num_tokens: int):
    """Best path and the tokens kept at its nodes.

    Args:
        logits_TUV: of `TeacherTransducer.logits`.
        labels_U: int array.
        blank: id.
        num_tokens: k.

    Returns:
        `nodes` (N, 2 + k) uint16, `logp` (N, k) fp16, and the mean log-probability of a
        step of the path.
    """
    logp_TUV = logits_TUV.log_softmax(2).cpu()
    T, U = len(logp_TUV), len(labels_U)
    labels = torch.as_tensor(np.asarray(labels_U), dtype=torch.long)
    label_TU = logp_TUV[:, :U].gather(2, labels[None, :, None].expand(T, U, 1))[..., 0]
    frames, positions, score = best_path(logp_TUV[..., blank], label_TU)
    next_label = torch.cat([labels, labels.new_tensor([-1])])[positions]
    ids, logp = choose_tokens(
        logp_TUV[frames, positions], blank, next_label, num_tokens
    )
    nodes = torch.cat([frames[:, None], positions[:, None], ids], 1)
    return nodes.numpy().astype("uint16"), logp.half().numpy(), score / len(frames)


def extract_paths(
    teacher: TeacherTransducer,
    utts: Sequence[Utterance],
    texts: dict[str, str],
    folder: Path,
    num_tokens: int,
    rank: int = 0,
    world_size: int = 1,
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
        rank, world_size: this process's share.

    Returns:
        Whether the store is finished.

    Raises:
        ConfigError: `num_tokens` out of range.
        DataError: more than 0.1 % of the utterances have no path; they are named.
        TargetStoreError, DiskError: as for `espnet_mtkd.targets.extract.extract`.
    """
    vocab_size = len(teacher.model.token_list)
    if not 2 <= num_tokens <= vocab_size or vocab_size > MAX_UINT16:
        raise ConfigError(
            f"--num_tokens: expected 2 to {vocab_size}, found {num_tokens}"
        )
    targets = path_targets(num_tokens, vocab_size, teacher.frame_shift)
    fingerprint = {**teacher.fingerprint, "form": "paths", "num_tokens": num_tokens}
    labels = {u.utt: teacher.labels(u.utt, texts[u.utt]) for u in utts}
    shards = plan_shards([[u] for u in utts], sum(t.bytes_per_frame for t in targets))
    data = [[u.utt, u.num_samples, labels[u.utt].tolist()] for u in utts]
    folder.mkdir(parents=True, exist_ok=True)
    digest = claim_folder(
        folder, fingerprint, hashlib.sha256(json.dumps(data).encode()).hexdigest()
    )
    if (folder / MANIFEST).is_file():
        logging.info("%s: finished before", folder)
        return True

    def missing() -> list[int]:
        paths = [folder / shard_name(i) for i in range(len(shards))]
        return [i for i, path in enumerate(paths) if not shard_is_whole(path, digest)]

    todo = set(missing())
    bytes_per_node = sum(t.bytes_per_frame for t in targets)
    nodes = sum(u.num_frames for i in todo for (u,) in shards[i])
    check_disk(folder, int(OVERHEAD * bytes_per_node * nodes))
    mine = sorted(todo & share_of(shards, rank, world_size))
    skipped = {}
    total = sum(len(shards[i]) for i in mine)
    with (
        contextlib.closing(ShardWriter()) as writer,
        progress(total, str(folder), "utt") as bar,
    ):
        for i in mine:
            rows = []
            for (utt,) in shards[i]:
                row, fault = _row(teacher, utt, labels[utt.utt], num_tokens)
                rows.append(row)
                if fault:
                    skipped[utt.utt] = fault
                bar.update(1)
            refuse_many(skipped, len(utts), folder)
            writer.put(folder / shard_name(i), digest, targets, rows)
    if skipped:
        logging.warning("%s", _skipped_text(skipped, len(utts), folder))
    if missing():
        return False
    counts = [
        load_file(folder / shard_name(i))["num_frames"] for i in range(len(shards))
    ]
    write_manifest(
        folder,
        fingerprint,
        targets,
        [
            [(u.utt, u.num_samples, int(n)) for (u,), n in zip(s, c, strict=True)]
            for s, c in zip(shards, counts, strict=True)
        ],
    )
    return True


def _row(teacher, utt: Utterance, labels, num_tokens: int):
    empty = {
        "nodes": np.zeros((0, 2 + num_tokens), "uint16"),
        "logp": np.zeros((0, num_tokens), "float16"),
    }
    if len(labels) == 0:
        return empty, "empty transcript"
    logits = teacher.logits(read_audio(utt), labels)
    if len(labels) > len(logits):
        return empty, f"{len(labels)} labels, but {len(logits)} frames"
    nodes, logp, _ = find_path(logits, labels, teacher.model.blank_id, num_tokens)
    return {"nodes": nodes, "logp": logp}, None


def _skipped_text(skipped: dict[str, str], num_utts: int, folder: Path) -> str:
    shown = [f"{utt}: {fault}" for utt, fault in list(skipped.items())[:NUM_NAMED]]
    if len(skipped) > NUM_NAMED:
        shown.append(f"... and {len(skipped) - NUM_NAMED} more")
    return f"{folder}: {len(skipped)} of {num_utts} without a path:\n  " + "\n  ".join(
        shown
    )


def refuse_many(skipped: dict[str, str], num_utts: int, folder: Path) -> None:
    """End where too many utterances have no path.

    Raises:
        DataError: naming them.
    """
    if len(skipped) > MAX_SKIPPED * num_utts:
        raise DataError(
            f"{_skipped_text(skipped, num_utts, folder)}\nMore than {MAX_SKIPPED:.1%} "
            "is no accident: take them out of the data directory"
        )


def make_utterances(lengths: dict[str, int], audios: dict[str, str], texts):
    """Utterances with an upper bound of their nodes, in the order of `lengths`."""
    return [
        Utterance(utt, audios[utt], n, n // WORST_SHIFT + len(texts[utt]))
        for utt, n in lengths.items()
    ]
