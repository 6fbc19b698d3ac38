"""Run a teacher transducer over transcribed audio and store its best paths."""

import contextlib
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from espnet2.tasks.asr import ASRTask

from espnet_mtkd.data.audio import judge_faults, prepare_audio
from espnet_mtkd.data.kaldi import read_lines
from espnet_mtkd.errors import ConfigError, DataError
from espnet_mtkd.files import sha256_of
from espnet_mtkd.student.frames import measure_frame_shift
from espnet_mtkd.targets.embeddings import progress, read_audio
from espnet_mtkd.targets.fingerprint import versions
from espnet_mtkd.targets.plan import Utterance, plan_shards
from espnet_mtkd.targets.writer import ShardWriter, StoreWriter
from espnet_mtkd.transducer.kd import choose_tokens
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

    def logits_of(self, utt: Utterance, labels_U) -> torch.Tensor:
        """`logits` of an utterance's audio file.

        Raises:
            ConfigError: they are not finite, and so mean nothing.
            DataError: see `read_audio`.
        """
        logits_TUV = self.logits(read_audio(utt), labels_U)
        if not bool(logits_TUV.isfinite().all()):
            raise ConfigError(
                "teacher transducer: expected finite logits, found NaN or infinity for "
                f"utterance {utt.utt}: copy {self.model_file} again, or take another "
                "checkpoint (mtkd.sh: --kd_teacher_model)"
            )
        return logits_TUV


def find_path(logits_TUV, labels_U, blank: int, num_tokens: int):
    """Best path and the tokens kept at its nodes.

    Args:
        logits_TUV: of `TeacherTransducer.logits`.
        labels_U: int array.
        blank: id.
        num_tokens: k.

    Returns:
        `nodes` (N, 2 + k) uint16 and `logp` (N, k) fp16.
    """
    logp_TUV = logits_TUV.log_softmax(2).cpu()
    T, U = len(logp_TUV), len(labels_U)
    labels = torch.as_tensor(np.asarray(labels_U), dtype=torch.long)
    label_TU = logp_TUV[:, :U].gather(2, labels[None, :, None].expand(T, U, 1))[..., 0]
    frames, positions, _ = best_path(logp_TUV[..., blank], label_TU)
    next_label = torch.cat([labels, labels.new_tensor([-1])])[positions]
    ids, logp = choose_tokens(
        logp_TUV[frames, positions], blank, next_label, num_tokens
    )
    nodes = torch.cat([frames[:, None], positions[:, None], ids], 1)
    return nodes.numpy().astype("uint16"), logp.half().numpy()


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
    fingerprint = {**teacher.fingerprint, "form": "paths", "num_tokens": num_tokens}
    labels = {u.utt: teacher.labels(u.utt, texts[u.utt]) for u in utts}
    shards = plan_shards([[u] for u in utts], sum(t.bytes_per_frame for t in targets))
    data = [[u.utt, u.num_samples, labels[u.utt].tolist()] for u in utts]
    writer = StoreWriter(folder, fingerprint, data, targets, shards)
    with contextlib.closing(writer) as store:
        if store.is_finished:
            return True
        plan = store.take_share(rank, world_size)
        _write_paths(teacher, store, plan, labels, num_tokens)
        return store.finish()


def _write_paths(teacher, store: StoreWriter, plan, labels, num_tokens: int) -> None:
    """Compute the shards of `plan`, number -> batches of one, and write them."""
    faults = []
    with (
        contextlib.closing(ShardWriter(store)) as writer,
        progress(sum(map(len, plan.values())), str(store.folder), "utt") as bar,
    ):
        for number, shard in plan.items():
            rows = []
            for (utt,) in shard:
                row, fault = _row(teacher, utt, labels[utt.utt], num_tokens)
                rows.append(row)
                if fault:
                    faults.append(f"{utt.utt}: {fault}")
                bar.update(1)
            text = judge_faults(
                store.folder,
                "have no path",
                faults,
                len(labels),
                f"take their lines out of wav.scp and text, remove {store.folder}, and "
                "run the same command again",
            )
            writer.put(number, rows)
    if faults:
        logging.warning("%s", text)


def _row(teacher, utt: Utterance, labels, num_tokens: int):
    empty = {
        "nodes": np.zeros((0, 2 + num_tokens), "uint16"),
        "logp": np.zeros((0, num_tokens), "float16"),
    }
    if len(labels) == 0:
        return empty, "empty transcript"
    logits = teacher.logits_of(utt, labels)
    if len(labels) > len(logits):
        return empty, f"{len(labels)} labels, but {len(logits)} frames"
    nodes, logp = find_path(logits, labels, teacher.model.blank_id, num_tokens)
    return {"nodes": nodes, "logp": logp}, None


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
