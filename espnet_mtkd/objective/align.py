"""Bring teacher frames to the student's frame rate."""

import math

import torch
import torch.nn.functional as F

from espnet_mtkd.errors import ConfigError, DataError

METHODS = ("concat", "mean", "linear")
MAX_FRAME_DIFFERENCE = 1  # student frames


class FrameAligner:
    """Teacher frames (B, T_t, E) -> targets on student frames (B, T_s, R, E).

    Frame j of a teacher stands for the audio around its centre, sample
    teacher_shift * j + teacher_centre, and the student's frame t likewise. With
    `concat` a student frame predicts R = student_shift / teacher_shift teacher frames
    in a row (R = 2 for 50 -> 25 Hz), those whose middle lies nearest to its own centre;
    `mean` averages them; `linear` interpolates between the teacher's centres, the only
    one for a rate with no integer ratio. Before the first and behind the last teacher
    frame these are repeated; what lies behind is no valid frame.

    Args:
        teacher_shift: samples between teacher frames.
        student_shift: samples between student frames.
        method: one of `METHODS`.
        teacher_centre, student_centre: samples from the beginning of the audio to the
            middle of frame 0; None: half a shift, as if each frame heard just its own
            shift.

    Attributes:
        num_per_frame: R, target vectors per student frame.
        first: teacher frame with which student frame 0 begins (`concat`, `mean`).
        offset: samples by which the middle of a student frame's targets lies behind the
            student frame's; 0 with `linear`.

    Raises:
        ConfigError: unknown method, or one that the two rates do not allow.
    """

    def __init__(
        self,
        teacher_shift: int,
        student_shift: int,
        method: str = "concat",
        teacher_centre: float | None = None,
        student_centre: float | None = None,
    ):
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
        if teacher_centre is None:
            teacher_centre = teacher_shift / 2
        if student_centre is None:
            student_centre = student_shift / 2
        # Teacher frames from the centre of teacher frame 0 to that of student frame 0.
        self._start = (student_centre - teacher_centre) / teacher_shift
        self.first, self.offset = 0, 0.0
        if method != "linear":
            to_middle = (self.ratio - 1) / 2  # from the first of R frames
            self.first = math.floor(self._start - to_middle + 0.5)
            self.offset = (self.first + to_middle - self._start) * teacher_shift

    def __call__(self, target_BTE, lengths_B, num_student_frames: int):
        """Align one batch.

        Args:
            target_BTE: (B, T_t, E).
            lengths_B: (B,) valid teacher frames.
            num_student_frames: T_s, frames of the student's output.

        Returns:
            (B, T_s, R, E) and (B,) valid student frames (not more than T_s).
        """
        T_s = num_student_frames
        if target_BTE.size(1) == 0:
            target_BTE = F.pad(target_BTE, (0, 0, 0, 1))
        B, T, E = target_BTE.shape
        if self.method == "linear":
            return self._interpolate(target_BTE, lengths_B, T_s)
        r = round(self.ratio)
        index = torch.arange(T_s * r, device=target_BTE.device) + self.first
        out = target_BTE[:, index.clamp(0, T - 1)].reshape(B, T_s, r, E)
        if self.method == "mean":
            out = out.mean(2, keepdim=True)
        num_valid = (lengths_B - self.first).div(r, rounding_mode="floor")
        return out, num_valid.clamp(0, T_s) * (lengths_B > 0)

    def _interpolate(self, target_BTE, lengths_B, T_s: int):
        t = torch.arange(T_s, device=target_BTE.device, dtype=torch.float64)
        pos = (t * self.ratio + self._start)[None].expand(len(lengths_B), -1)
        last = (lengths_B - 1).clamp(min=0)[:, None].to(pos)
        valid = (pos <= last) | (t[None] == 0)
        pos = torch.minimum(pos.clamp(min=0), last)
        left = pos.floor().long()
        right = torch.minimum(left + 1, last.long())
        frac = (pos - left)[..., None].float()

        def take(index):
            index = index[..., None].expand(-1, -1, target_BTE.size(2))
            return target_BTE.gather(1, index)

        out = take(left) * (1 - frac) + take(right) * frac
        return out[:, :, None], valid.sum(1).clamp(max=T_s) * (lengths_B > 0)

    def check(self, lengths_B, student_lengths_B, name: str, utt_ids=None) -> None:
        """Refuse teacher and student frame counts that are apart by more than one.

        Args:
            lengths_B: B valid teacher frames.
            student_lengths_B: B student frames.
            name: of the target, for the message.
            utt_ids: B strings, for the message.

        Raises:
            DataError: naming the utterance and both counts.
        """
        for i, (num, own) in enumerate(zip(lengths_B, student_lengths_B, strict=True)):
            difference = num / self.ratio - own
            # A remainder of the division is less than one frame and no difference.
            if -MAX_FRAME_DIFFERENCE <= difference < MAX_FRAME_DIFFERENCE + 1:
                continue
            utt = utt_ids[i] if utt_ids is not None else f"number {i} of the batch"
            raise DataError(
                f"utterance {utt}: teacher target '{name}' has {num} frames, which is "
                f"{num / self.ratio:.1f} student frames, but the student's encoder "
                f"gave {own}: the two frame shifts do not belong together, or the "
                "audio differs"
            )
