"""Bring teacher frames to the student's frame rate."""

import torch
import torch.nn.functional as F

from espnet_mtkd.errors import ConfigError, DataError

METHODS = ("concat", "mean", "linear")
MAX_FRAME_DIFFERENCE = 1  # student frames


class FrameAligner:
    """Teacher frames (B, T_t, E) -> targets on student frames (B, T_s, R, E).

    With `concat` a student frame predicts each of the `R` teacher frames that begin
    within it (R = 2 for 50 -> 25 Hz); `mean` averages them; `linear` interpolates
    between teacher frames, the only one for a rate with no integer ratio.

    Args:
        teacher_shift: samples between teacher frames.
        student_shift: samples between student frames.
        method: one of `METHODS`.

    Attributes:
        num_per_frame: R, target vectors per student frame.

    Raises:
        ConfigError: unknown method, or one that the two rates do not allow.
    """

    def __init__(self, teacher_shift: int, student_shift: int, method: str = "concat"):
        if method not in METHODS:
            raise ConfigError(f"align: expected one of {METHODS}, found '{method}'")
        whole = student_shift % teacher_shift == 0
        if method != "linear" and not whole:
            raise ConfigError(
                f"align: '{method}' needs a student frame shift that is a multiple of "
                f"the teacher's, found {student_shift} and {teacher_shift} samples: "
                "use `align: linear`"
            )
        self.method = method
        self.ratio = student_shift / teacher_shift
        self.num_per_frame = int(self.ratio) if method == "concat" else 1

    def __call__(self, target_BTE, lengths_B, num_student_frames: int):
        """Align one batch.

        Args:
            target_BTE: (B, T_t, E).
            lengths_B: (B,) valid teacher frames.
            num_student_frames: T_s, frames of the student's output.

        Returns:
            (B, T_s, R, E) and (B,) valid student frames (not more than T_s).
        """
        B, T, E = target_BTE.shape
        T_s = num_student_frames
        if self.method == "linear":
            return self._interpolate(target_BTE, lengths_B, T_s)
        r = round(self.ratio)
        need = T_s * r
        if need > T:
            target_BTE = F.pad(target_BTE, (0, 0, 0, need - T))
        out = target_BTE[:, :need].reshape(B, T_s, r, E)
        if self.method == "mean":
            out = out.mean(2, keepdim=True)
        return out, (lengths_B // r).clamp(max=T_s)

    def _interpolate(self, target_BTE, lengths_B, T_s: int):
        # The middle of student frame t lies at (t + 0.5) * ratio - 0.5 teacher frames.
        t = torch.arange(T_s, device=target_BTE.device, dtype=torch.float32)
        pos = ((t + 0.5) * self.ratio - 0.5)[None].expand(len(lengths_B), -1)
        last = (lengths_B - 1).clamp(min=0)[:, None].to(pos)
        valid = (pos >= 0) & (pos <= last) | (t[None] == 0)
        pos = torch.minimum(pos.clamp(min=0), last)
        left = pos.floor().long()
        right = torch.minimum(left + 1, last.long())
        frac = (pos - left)[..., None]

        def take(index):
            index = index[..., None].expand(-1, -1, target_BTE.size(2))
            return target_BTE.gather(1, index)

        out = take(left) * (1 - frac) + take(right) * frac
        return out[:, :, None], valid.sum(1).clamp(max=T_s) * (lengths_B > 0)

    def check(self, lengths_B, student_lengths_B, name: str, utt_ids=None) -> None:
        """Refuse teacher and student frame counts that are apart by more than one.

        Args:
            lengths_B: (B,) valid teacher frames.
            student_lengths_B: (B,) student frames.
            name: of the target, for the message.
            utt_ids: B strings, for the message.

        Raises:
            DataError: naming the utterance and both counts.
        """
        difference = lengths_B / self.ratio - student_lengths_B
        # A remainder of the division is less than one frame and no difference.
        apart = (difference >= MAX_FRAME_DIFFERENCE + 1) | (
            difference < -MAX_FRAME_DIFFERENCE
        )
        if bool(apart.any()):
            i = int(apart.nonzero()[0])
            utt = utt_ids[i] if utt_ids is not None else f"number {i} of the batch"
            raise DataError(
                f"utterance {utt}: teacher target '{name}' has {int(lengths_B[i])} "
                f"frames, which is {float(lengths_B[i] / self.ratio):.1f} student "
                f"frames, but the student's encoder gave {int(student_lengths_B[i])}: "
                "the two frame shifts do not belong together, or the audio differs"
            )
