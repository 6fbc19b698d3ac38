"""A device other than the CPU that needs no hardware: where do tensors lie?

The checks have no GPU, so this stands in for one. Tensors on it are held in main memory
and computed by the CPU's kernels, but, as with a GPU's, an operation on tensors of two
devices fails, and so does a view of one as a numpy array. It says nothing about a GPU's
kernels, half precision, speed or memory.

Importing this registers a backend with PyTorch for the rest of the process, so
`test_second_device.py` runs its tests in one of their own.

`MTKD_SECOND_DEVICE=cuda:0` takes a GPU instead (`benchmarks/gpu.sh`).
"""

import contextlib
import os
import traceback
import warnings
from pathlib import Path

import torch
from torch.utils import backend_registration
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten


class _Backend(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self):
        return [torch.bfloat16, torch.float16]


GPU = os.environ.get("MTKD_SECOND_DEVICE")
if GPU:
    torch.backends.cudnn.allow_tf32 = False  # float32 means float32
else:
    backend_registration._setup_privateuseone_for_python_backend("second", _Backend())
DEVICE = torch.device(GPU or "second:0")


class Tensor(torch.Tensor):
    """A tensor on the second device; `host` holds its values."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, host, requires_grad=False):
        tensor = torch.Tensor._make_wrapper_subclass(
            cls,
            host.shape,
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            device=DEVICE,
            requires_grad=requires_grad,
        )
        tensor.host = host
        return tensor

    def __repr__(self):
        return f"second_device.Tensor({self.host})"

    def tolist(self):
        """PyTorch refuses this to all subclasses, though not to a GPU's tensors."""
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return run(operation, args, kwargs or {})


def attached():
    """Within it, tensors may be made on the second device and copied to and from it."""
    return contextlib.nullcontext() if GPU else _Attached()


class _Attached(TorchDispatchMode):
    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        return run(operation, args, kwargs or {})


def to_host(value):
    """Its values, where it is a tensor of the second device."""
    return value.host if isinstance(value, Tensor) else value


@contextlib.contextmanager
def waits():
    """Lists where a GPU would have been waited for: `folder/file.py:line`.

    That is where a tensor's values come to the host: as a number, as a copy, or as the
    size of a result that depends on them; and where a copy goes to the device without
    `non_blocking`.
    """
    found = []
    if GPU:
        with _told_by_cuda(found):
            yield found
        return
    _watchers.append(found)
    try:
        yield found
    finally:
        _watchers.remove(found)


@contextlib.contextmanager
def _told_by_cuda(found):
    """PyTorch warns of each wait; who made it stands in the stack at that time."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_: (
            found.append(_place()) if "synchronizing" in str(message) else None
        )
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")


_watchers: list[list[str]] = []


def note_wait(packet, args, kwargs) -> None:
    """Tell the watchers, if an operation waits."""
    if packet is aten._to_copy:
        wanted = kwargs.get("device")
        is_here = isinstance(args[0], Tensor)
        is_wait = wanted is not None and is_here == (
            torch.device(wanted).type != DEVICE.type
        )
        # (What comes to the host is waited for when it is read, at the latest.)
        is_wait = is_wait and (is_here or not kwargs.get("non_blocking"))
    elif packet is aten.copy_:
        is_wait = isinstance(args[1], Tensor) and not isinstance(args[0], Tensor)
    else:
        names = (aten._local_scalar_dense, aten.nonzero, aten.equal, aten.masked_select)
        is_wait = packet in names and isinstance(args[0], Tensor)
    if not is_wait:
        return
    for found in _watchers:
        found.append(_place())


def _place() -> str:
    """`folder/file.py:line` of the code that called PyTorch."""
    frames = [x for x in traceback.extract_stack() if "/torch/" not in x.filename]
    own = next(x for x in reversed(frames) if not x.filename.endswith(__file__[-16:]))
    place = "/".join(Path(own.filename).parts[-2:])
    return f"{place}:{own.lineno}" if own.lineno else place


def run(operation, args, kwargs):
    """Compute an operation on the host, give its result the right device.

    Raises:
        RuntimeError: tensors of both devices, which no other operation than a copy
            takes; as with a GPU, a number as a tensor and an index may lie on the host.
    """
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    here = [x for x in tensors if isinstance(x, Tensor)]
    packet = operation.overloadpacket
    is_copy = packet in (aten._to_copy, aten.copy_)
    is_index = packet in (aten.index, aten.index_put, aten.index_put_)
    if here and not is_copy and not (is_index and isinstance(args[0], Tensor)):
        if any(x.dim() > 0 and not isinstance(x, Tensor) for x in tensors):
            places = [(str(x.device), tuple(x.shape)) for x in tensors]
            raise RuntimeError(f"{operation}: tensors on two devices: {places}")
    if _watchers:
        note_wait(packet, args, kwargs)
    is_here = bool(here)
    if packet is aten.copy_:
        is_here = isinstance(args[0], Tensor)
    elif kwargs.get("device") is not None:
        is_here = torch.device(kwargs["device"]).type == DEVICE.type
        kwargs = {**kwargs, "device": "cpu"}
    compute = OTHER_THAN_THE_CPUS.get(operation, operation)
    result = compute(*tree_map(to_host, args), **tree_map(to_host, kwargs))
    if here and torch.Tag.inplace_view in operation.tags:
        with no_dispatch():  # the shape of the tensor itself changes too
            operation(*args, **kwargs)
    known = {id(x.host): x for x in here}  # what was changed in place stays itself

    def place(value):
        if not isinstance(value, torch.Tensor):
            return value
        if id(value) in known:
            return known[id(value)]
        return Tensor(value) if is_here else value

    return tree_map(place, result)


# ------------------------------------------- kernels that only other devices have


def lstm_cell(input_gates, hidden_gates, c, *biases):
    """`_thnn_fused_lstm_cell`: new h, new c, and the gates for the backward pass."""
    i, f, g, o = sum(biases, input_gates + hidden_gates).chunk(4, 1)
    gates = torch.cat([i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()], 1)
    i, f, g, o = gates.chunk(4, 1)
    new_c = f * c + i * g
    return o * new_c.tanh(), new_c, gates


def lstm_cell_backward(grad_h, grad_c, c, new_c, gates, has_bias):
    """Its gradients: of the gates before their activations, of c, of a bias."""
    i, f, g, o = gates.chunk(4, 1)
    tanh = new_c.tanh()
    grad_h = torch.zeros_like(c) if grad_h is None else grad_h
    grad = grad_h * o * (1 - tanh.square()) + (0 if grad_c is None else grad_c)
    grad_gates = torch.cat(
        [
            grad * g * i * (1 - i),
            grad * c * f * (1 - f),
            grad * i * (1 - g.square()),
            grad_h * tanh * o * (1 - o),
        ],
        1,
    )
    return grad_gates, grad * f, grad_gates.sum(0) if has_bias else None


OTHER_THAN_THE_CPUS = {
    aten._thnn_fused_lstm_cell.default: lstm_cell,
    aten._thnn_fused_lstm_cell_backward_impl.default: lstm_cell_backward,
}

# `torch.tensor(..., device=...)` goes past the modes, to the backend itself.
_library = torch.library.Library("aten", "IMPL")


def _implement(name, function):
    _library.impl(name, function, "PrivateUse1")


def _copy_from(source, target, non_blocking=False):
    to_host(target).copy_(to_host(source))
    return target


_implement(
    "empty.memory_format",
    lambda size, dtype=None, **_: Tensor(torch.empty(size, dtype=dtype)),
)
_implement(
    "empty_strided",
    lambda size, stride, dtype=None, **_: Tensor(
        torch.empty_strided(size, stride, dtype=dtype)
    ),
)
_implement("_copy_from", _copy_from)
