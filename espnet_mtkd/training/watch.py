"""Steps that change nothing because a number was not finite: named, counted, few."""

import logging
from pathlib import Path

import torch

from espnet_mtkd.errors import NonFiniteError, name_ten
from espnet_mtkd.objective.sample import num_processes
from espnet_mtkd.training.checkpoints import save

MAX_IN_A_ROW = 10
MAX_SHARE = 0.01  # of an epoch's steps; one step is always forgiven
MIN_STEPS = 1000  # taken for an epoch's, where their number is not known
NUM_DUMPED = 3  # batches of a run, written to <folder>/nonfinite
# A training that is resumed keeps the learning rate of its checkpoint.
LOWER_IT = (
    "check audio and teachers (python -m espnet_mtkd.bin.mtkd_doctor), or train with a "
    "lower optim_conf.lr into another --output_dir (mtkd.sh: --mtkd_tag, --asr_tag)"
)


class StepWatch:
    """Looks after each step whether it was one.

    ESPnet's trainer leaves the parameters alone where the gradient's norm is not
    finite, but not the buffers, which the forward pass has changed by then: running
    means of batch normalisation stay NaN for good. Here they are put back.

    A gradient scaler looks for its scale by trying: a gradient that overflows behind a
    finite loss is skipped, and the next is scaled by less. That is no fault, unless the
    scale is below 1 already. A loss that is not finite is one, whatever the scale.

    Args:
        model: that is trained; gives (loss, statistics, weight), as ESPnet's do.
        optimizers: of the training.
        folder: of the training.
        num_batches: of the epoch, None where nobody knows.
        accum_grad: batches of a step.
        scaler: `GradScaler`, which is enabled, or None.
        writes: whether batches are written; one process of several does.
    """

    def __init__(
        self, model, optimizers, folder: Path, num_batches, accum_grad, scaler, writes
    ):
        self.model, self.folder, self.scaler = model, folder, scaler
        self.num_steps = None
        if num_batches is not None:
            self.num_steps = max(1, num_batches // accum_grad)
        self.num_seen = 0  # steps
        self.accum_grad, self.writes = accum_grad, writes
        self.num_skipped = self.num_in_a_row = 0
        self._group, self._buffers, self._stepped = [], [], False
        self._losses = []  # of the group, left on their device
        self._handles = [o.register_step_post_hook(self._note) for o in optimizers]
        self._handles.append(model.register_forward_hook(self._keep_loss))

    def close(self) -> None:
        """Leave model and optimisers alone."""
        for handle in self._handles:
            handle.remove()

    def _note(self, optimizer, *_) -> None:
        # A scaler always calls a fused optimiser, which then does nothing by this flag.
        found_inf = getattr(optimizer, "found_inf", None)
        self._stepped = found_inf is None or not bool(found_inf)

    def _keep_loss(self, model, inputs, result) -> None:
        loss = result["loss"] if isinstance(result, dict) else result[0]
        self._losses.append(loss.detach())

    @torch.no_grad()
    def before(self, utt_ids, batch) -> None:
        """Called with each batch before it is used."""
        if not self._group:
            self._buffers = [(b, b.clone()) for b in self.model.buffers()]
            self._stepped = False
            self._losses.clear()
        self._group.append((utt_ids, batch))

    @torch.no_grad()
    def after(self) -> None:
        """Called when a batch was used.

        Raises:
            NonFiniteError: too many steps were none.
        """
        if len(self._group) < self.accum_grad:
            return
        group, self._group = self._group, []
        if not self._losses:  # ESPnet's --no_forward_run, which tries the loaders alone
            return
        self.num_seen += 1
        if self._stepped:
            self.num_in_a_row = 0
            return
        for buffer, value in self._buffers:
            buffer.copy_(value)
        if self._is_search_for_a_scale():
            return
        self.num_skipped += 1
        self.num_in_a_row += 1
        utts = [utt for utt_ids, _ in group for utt in utt_ids]
        where = self._dump(group)
        logging.warning(
            "skipped a step: loss or gradient is not finite; nothing was changed; "
            "utterances: %s%s",
            ", ".join(utts),
            f"; the batch is in {where}" if where else "",
        )
        num_steps = self.num_steps or max(MIN_STEPS, self.num_seen)
        too_many = self.num_skipped > max(1, MAX_SHARE * num_steps)
        if too_many or self.num_in_a_row >= MAX_IN_A_ROW:
            raise NonFiniteError(
                f"{self.num_skipped} of {self.num_steps or self.num_seen} steps of "
                "this epoch had a loss or gradient that is not finite, "
                f"{self.num_in_a_row} of them in a row "
                f"(at most {MAX_SHARE:.0%} are skipped); the last utterances: "
                f"{name_ten(utts)}; their batches are in {self.folder / 'nonfinite'}: "
                + what_to_do(self.folder)
            )

    def _is_search_for_a_scale(self) -> bool:
        """Whether the scaler alone is to blame for a skipped step, in all processes.

        Gradients are the sum of all processes', so that all skip, and all come here.
        """
        if self.scaler is None or self.scaler.get_scale() < 1.0:
            return False
        losses = torch.stack([loss.float().sum() for loss in self._losses])
        is_bad = (~losses.isfinite().all()).to(torch.int32)
        if num_processes() > 1:
            torch.distributed.all_reduce(is_bad, torch.distributed.ReduceOp.MAX)
        return not bool(is_bad)

    def _dump(self, group) -> Path | None:
        folder = self.folder / "nonfinite"
        number = len(list(folder.glob("*.pth"))) + 1
        if not self.writes or number > NUM_DUMPED:
            return None
        folder.mkdir(exist_ok=True)
        path = folder / f"{number}.pth"
        save([{"utt_id": list(utts), **batch} for utts, batch in group], path)
        return path


def check_validation(
    reporter, utt_ids_of_batches: list[list[str]], folder: Path
) -> None:
    """Refuse a validation loss that is not finite, which ESPnet leaves out of the mean.

    Args:
        reporter: ESPnet's `SubReporter` of the validation.
        utt_ids_of_batches: in the order of the batches.
        folder: of the training.

    Raises:
        NonFiniteError: naming the utterances of the first such batches.
    """
    values = [float(v.value) for v in reporter.stats.get("loss", [])]
    bad = [i for i, value in enumerate(values) if not _is_finite(value)]
    if bad:
        utts = [u for i in bad for u in utt_ids_of_batches[i]]
        raise NonFiniteError(
            f"the validation loss of {len(bad)} of {len(values)} batches is not "
            f"finite: utterances {name_ten(utts)}; the checkpoint of the epoch before "
            "is whole: " + what_to_do(folder)
        )


def what_to_do(folder: Path) -> str:
    """What a message says; the last epoch, if there is one, is worth beginning with."""
    latest = folder / "latest.pth"
    if not latest.is_file():
        return LOWER_IT
    return f"{LOWER_IT}; --init_param {latest} begins with its last epoch"


def _is_finite(value: float) -> bool:
    return value - value == 0.0
