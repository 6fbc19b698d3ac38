"""Pickles, read without being run.

A pickle is a program: loading one can do anything. Here its opcodes are only read, and
what they would build is built of plain containers, with a name in place of each class.
"""

import dataclasses
import pickletools
import struct

STORAGES = {  # bytes of an element
    **dict(Double=8, Float=4, Half=2, BFloat16=2, Long=8, Int=4, Short=2, Char=1),
    **dict(Byte=1, Bool=1, ComplexDouble=16, ComplexFloat=8),
}
_RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # since Python 2
_REBUILD = "parameter parameter_with_state tensor tensor_v2 tensor_v3".split()
# What a file of tensors and plain values names, all of it allowed by torch's own
# weights_only=True.
PLAIN = {
    *("collections.OrderedDict", "collections.Counter", "_codecs.encode"),
    *("builtins.set", "builtins.bytearray", "builtins.complex"),
    *("torch.Size", "torch.device", "torch.Tensor", "torch.nn.parameter.Parameter"),
    *("torch.serialization._get_layout", "torch._tensor._rebuild_from_type_v2"),
    *("torch.storage.TypedStorage", "torch.storage.UntypedStorage"),
    *(f"torch.{name}Storage" for name in STORAGES),
    *(f"torch._utils._rebuild_{name}" for name in _REBUILD),
    *(f"torch.{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)),
    *("torch.float64", "torch.float32", "torch.float16", "torch.bfloat16"),
    *("torch.bool", "torch.complex64", "torch.complex128"),
}


@dataclasses.dataclass
class Made:
    """What a pickle would make by calling something: nothing was called."""

    name: str  # of the class or function
    args: tuple
    state: object = None

    @property
    def is_tensor(self) -> bool:
        """Whether torch would make a tensor of it."""
        return self.name.startswith(("torch._utils._rebuild_", "torch._tensor."))


@dataclasses.dataclass
class Pickle:
    """One pickle.

    Attributes:
        value: dicts, lists, tuples and plain values; a set is a list.
        names: all classes and functions that it names, whether called or not.
        storages: key -> persistent id of the data of each tensor.
        shapes: key -> shape of a tensor with that data.
    """

    value: object = None
    names: set[str] = dataclasses.field(default_factory=set)
    storages: dict = dataclasses.field(default_factory=dict)
    shapes: dict = dataclasses.field(default_factory=dict)


MALFORMED = (ValueError, IndexError, KeyError, TypeError, AttributeError, EOFError)
MALFORMED += (OverflowError, struct.error)  # of `read_pickle`; ValueError: cut too


def read_pickle(file) -> Pickle:
    """Read a pickle up to its end without running it.

    Args:
        file: binary, at the pickle's first byte; left behind its last.

    Raises:
        ValueError, IndexError, KeyError, TypeError, AttributeError, EOFError,
        OverflowError, struct.error: this is no whole pickle.
    """
    found = Pickle()
    stack, marks, memo = [], [], {}

    def pop_to_mark():
        at = marks.pop()
        items = stack[at:]
        del stack[at:]
        return items

    def pop_tuple(num):
        items = tuple(stack[-num:])
        del stack[-num:]
        return items

    def name_of(module, name):
        # Texts alone are shown: what else is there may be deep beyond all measure.
        known = isinstance(module, str) and isinstance(name, str)
        module = _RENAMED.get(module, module) if known else "?"
        found.names.add(f"{module}.{name}" if known else "?")
        return Made(f"{module}.{name}" if known else "?", ())

    for op, arg, _ in pickletools.genops(file):
        match op.name:
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                memo[arg] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET" | "GET":
                stack.append(memo[arg])
            case "MARK":
                marks.append(len(stack))
            case "TUPLE" | "FROZENSET":
                stack.append(tuple(pop_to_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(pop_tuple(int(op.name[-1])))
            case "EMPTY_TUPLE":
                stack.append(())
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append(dict(NONE=None, NEWTRUE=True, NEWFALSE=False)[op.name])
            case "EMPTY_DICT":
                stack.append({})
            case "DICT":
                stack.append(_set_items({}, pop_to_mark()))
            case "SETITEM":
                _set_items(stack[-3], pop_tuple(2))
            case "SETITEMS":
                items = pop_to_mark()
                _set_items(stack[-1], items)
            case "EMPTY_LIST" | "EMPTY_SET":
                stack.append([])
            case "LIST":
                stack.append(pop_to_mark())
            case "APPEND":
                _extend(stack[-2], pop_tuple(1))
            case "APPENDS" | "ADDITEMS":
                items = pop_to_mark()
                _extend(stack[-1], items)
            case "GLOBAL":
                stack.append(name_of(*arg.split(" ", 1)))
            case "STACK_GLOBAL":
                stack.append(name_of(*pop_tuple(2)))
            case "REDUCE" | "NEWOBJ":
                function, args = pop_tuple(2)
                stack.append(_make(function, args, found))
            case "NEWOBJ_EX":
                function, args, _ = pop_tuple(3)
                stack.append(_make(function, args, found))
            case "INST":
                args = tuple(pop_to_mark())
                stack.append(_make(name_of(*arg.split(" ", 1)), args, found))
            case "OBJ":
                function, *args = pop_to_mark()
                stack.append(_make(function, tuple(args), found))
            case "EXT1" | "EXT2" | "EXT4":
                stack.append(name_of("copyreg", f"extension {arg}"))
            case "BUILD":
                (state,) = pop_tuple(1)
                if isinstance(stack[-1], Made):
                    stack[-1].state = state
            case "BINPERSID":
                (pid,) = pop_tuple(1)
                stack.append(pid)
                if (key := _storage_key(pid)) is not None:
                    found.storages[key] = pid
            case "POP" if marks and marks[-1] == len(stack):
                marks.pop()
            case "POP":
                stack.pop()
            case "POP_MARK":
                pop_to_mark()
            case "DUP":
                stack.append(stack[-1])
            case "PROTO" | "FRAME" | "READONLY_BUFFER":
                pass
            case "STOP":
                found.value = stack.pop()
                return found
            case _:  # plain values
                stack.append(arg)
    raise EOFError("no STOP")


def _set_items(target, items):
    if isinstance(target, dict):
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Not of tuples, which may be deep beyond all measure.
            if isinstance(key, str) or isinstance(key, int) and abs(key) < 2**63:
                target[key] = value
    return target


def _extend(target, items) -> None:
    if isinstance(target, list):
        target.extend(items)


def _make(function, args, found: Pickle):
    name = function.name if isinstance(function, Made) else "?"
    if name in ("collections.OrderedDict", "collections.defaultdict"):
        return {}
    if name.startswith("torch._utils._rebuild_parameter"):
        return args[0]
    made = Made(name, args)
    if made.is_tensor and len(args) > 2 and isinstance(args[2], tuple):
        if (key := _storage_key(args[0])) is not None:
            found.shapes[key] = args[2]
    return made


def _storage_key(pid) -> str | None:
    """Of the persistent id of a tensor's data: ('storage', type, key, device, size)."""
    if isinstance(pid, tuple) and len(pid) > 4 and pid[0] == "storage":
        return pid[2] if isinstance(pid[2], str) else None
    return None
