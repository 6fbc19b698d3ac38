"""Teacher targets kept in main memory after the first epoch."""

import logging
import math

import torch
from torch.nn.utils.rnn import pad_sequence

MAX_HALF = torch.finfo(torch.float16).max


class TargetMemory:
    """Wraps a teacher; an utterance that was seen before is not computed again.

    Targets are kept in fp16, each utterance's with a factor of its own where its values
    are beyond fp16's, until `max_bytes` are used; utterances that no longer fit are
    computed each time. An utterance is known by its id, length and energy, so that
    two recordings of one id (in training and validation set, say) have targets of their
    own.

    Args:
        teacher: anything with `.targets` and `__call__(speech, lengths, utt_ids)`.
        max_bytes: upper bound of the memory used, in bytes; 0 keeps nothing.
    """

    def __init__(self, teacher, max_bytes: int):
        self.teacher = teacher
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._store = {}
        self._full = False

    @property
    def targets(self):
        """The wrapped teacher's targets."""
        return self.teacher.targets

    def __call__(self, speech_BN, speech_lengths_B, utt_ids=None):
        """Same as the teacher's, to fp16 precision.

        Args:
            speech_BN: (B, N) waveforms at 16 kHz.
            speech_lengths_B: (B,) samples; on the host, see `S3PRLTeacher.embed`.
            utt_ids: B strings, `<data set>/<utterance>`; None always asks the teacher.

        Returns:
            {target name: ((B, T, E), (B,) valid frames, on the host)}.
        """
        if utt_ids is None or self.max_bytes == 0:
            return self.teacher(speech_BN, speech_lengths_B, utt_ids)
        lengths, energies = measure(speech_BN, speech_lengths_B)
        keys = list(zip(utt_ids, lengths, energies, strict=True))
        rows = [self._store.get(key) for key in keys]
        new = [i for i, row in enumerate(rows) if row is None]
        if new:
            speech = speech_BN[new, : max(keys[i][1] for i in new)]
            out = self.teacher(speech, speech_lengths_B[new], [utt_ids[i] for i in new])
            out = {name: pack_all(*target) for name, target in out.items()}
            for j, i in enumerate(new):
                rows[i] = {name: packed[j] for name, packed in out.items()}
                self._keep(keys[i], rows[i])
        batch = {}
        for spec in self.targets:
            parts, factors = zip(*(row[spec.name] for row in rows), strict=True)
            lengths = torch.tensor([len(p) for p in parts])
            padded, factor_B = (
                x.to(speech_BN.device, non_blocking=True)
                for x in (pad_sequence(parts, batch_first=True), torch.tensor(factors))
            )
            batch[spec.name] = (padded.float() * factor_B[:, None, None], lengths)
        return batch

    def check_lengths(self, name: str, lengths: dict[str, int]) -> None:
        """See the teacher's."""
        self.teacher.check_lengths(name, lengths)

    def _keep(self, key, row):
        size = sum(values.nbytes for values, _ in row.values())
        if self.num_bytes + size > self.max_bytes:
            if not self._full:
                logging.warning(
                    "teacher targets: the memory of %.0f MB is full after %d "
                    "utterances; the others are computed in every epoch",
                    self.max_bytes / 1e6,
                    len(self._store),
                )
                self._full = True
            return
        self._store[key] = row
        self.num_bytes += size


def pack_all(target_BTE, lengths_B) -> list[tuple[torch.Tensor, float]]:
    """Values in fp16 on the CPU, and the power of two to multiply them by, of each.

    Args:
        target_BTE: (B, T, E) fp32; it comes to the host in one piece.
        lengths_B: (B,) valid frames, on the host.
    """
    target_BTE = target_BTE.cpu()
    lengths = lengths_B.tolist()
    largest = [
        t[:n].abs().amax().nan_to_num(math.inf).item() if n else 0.0
        for t, n in zip(target_BTE, lengths, strict=True)
    ]
    factors = [
        2.0 ** math.ceil(math.log2(x / MAX_HALF)) if MAX_HALF < x < math.inf else 1.0
        for x in largest
    ]
    # A copy: a view would keep the whole padded batch alive.
    return [
        ((t[:n] / factor).to(torch.float16, copy=True), factor)
        for t, n, factor in zip(target_BTE, lengths, factors, strict=True)
    ]


def measure(speech_BN, speech_lengths_B) -> tuple[list[int], list[int]]:
    """Length and energy of each utterance of a batch, the same however it is padded.

    Args:
        speech_BN: (B, N) waveforms, floats from -1 to 1.
        speech_lengths_B: (B,) samples.

    Returns:
        Samples, and the sum of the squares of the samples in 16-bit steps.
    """
    index_N = torch.arange(speech_BN.size(1), device=speech_BN.device)
    steps_BN = speech_BN.detach().nan_to_num().mul(32768).round().long()
    lengths_B = speech_lengths_B.to(index_N.device, non_blocking=True)
    steps_BN = steps_BN * (index_N < lengths_B[:, None])
    return speech_lengths_B.tolist(), steps_BN.square().sum(1).tolist()
