"""Worker: the process in which an isolated candidate runs, and the frames that it exchanges with the harness.

A frame is the lengths of its two parts, a JSON header and the numbers of the arrays that the header describes. Instances,
inputs and backward passes stay here and are numbers on the wire. Nothing is pickled.
"""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import json
import math
import os
import pickle
import re
import resource
import struct
import sys
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

FRAME = struct.Struct("<IQ")  # bytes of the header, bytes of the numbers
LONGEST_HEADER, LARGEST_REPLY, MOST_ARRAYS = 2**22, 2**31, 2**12
METHODS = ("forward", "vjp", "pullback", "loss_and_gradients")
PLAIN = "fciub"  # kinds of dtypes whose numbers are sent; of other arrays only dtype and shape are


def pack(arrays: list[tuple[str, np.ndarray]]) -> tuple[list, bytes]:
    """Named arrays as what describes them (name, dtype, shape, strides unless in C order, writable) and their numbers."""
    heads = [
        [k, _dtype_name(v.dtype), v.shape, None if v.flags.c_contiguous or min(v.strides) <= 0 else v.strides, v.flags.writeable]
        for k, v in arrays
    ]
    return heads, b"".join(v.tobytes() for _, v in arrays)


def unpack(heads: list, data) -> list[tuple[str, np.ndarray]]:
    """The arrays again, each with memory of its own, lying as they lay. Raises ValueError where sizes do not fit."""
    found, start = [], 0
    for name, dtype, shape, strides, writable in heads:
        kind, shape = _dtype(dtype), tuple(map(int, shape))
        end = start + math.prod(shape) * kind.itemsize
        if min(shape, default=0) < 0 or end > len(data):
            raise ValueError(f"{name} is announced as {shape}, which is more than there is")
        values = np.frombuffer(data[start:end], kind).reshape(shape)
        array = np.empty(shape, kind) if strides is None else _strided(shape, kind, strides)
        np.copyto(array, values)
        array.setflags(write=bool(writable))
        found.append((str(name), array))
        start = end
    return found


def _strided(shape: tuple[int, ...], dtype: np.dtype, strides) -> np.ndarray:
    reach = sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) // dtype.itemsize + 1
    return np.ndarray(shape, dtype, np.zeros(reach, dtype).view(np.uint8), 0, tuple(strides))


def _dtype_name(dtype: np.dtype) -> str:
    return "bfloat16" if dtype.kind == "V" and dtype.name == "bfloat16" else dtype.str


def _dtype(text: str) -> np.dtype:
    if text == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    if not re.fullmatch(rf"[<>|=][{PLAIN}]\d+", text):
        raise ValueError(f"{text[:40]!r} is no dtype of numbers")
    return np.dtype(text)


def address(q: np.ndarray) -> int:
    return q.__array_interface__["data"][0]


class Given:
    """A dict of arrays as the candidate was given it, and which of them are no longer what they were."""

    def __init__(self, arrays: list[tuple[str, np.ndarray]]):
        self.arrays: dict[str, Any] = dict(arrays)
        self.seen = {k: v.tobytes() for k, v in arrays}

    def changes(self) -> tuple[list[tuple[str, np.ndarray]], list[str]]:
        """The arrays that changed since the last time, and the names of those that are arrays no more."""
        changed, gone = [], []
        for k, before in list(self.seen.items()):
            now = _as_array(self.arrays.get(k))
            if now is None or (now.dtype.kind not in PLAIN and now.dtype.name != "bfloat16"):
                gone.append(k)
                del self.seen[k]
            elif now.tobytes() != before:
                self.seen[k] = now.tobytes()
                changed.append((k, now))
        return changed, gone

    def shared(self, q: np.ndarray) -> list | None:
        """The array that `q` shares memory with: its name, how far into it `q` begins, and the strides of `q`."""
        for name, v in self.arrays.items():
            if q.ndim and isinstance(v, np.ndarray) and np.may_share_memory(q, v) and np.shares_memory(q, v):
                return [name, address(q) - address(v), q.strides]
        return None


def _as_array(value) -> np.ndarray | None:
    try:
        return None if value is None else np.asarray(value)
    except Exception:  # any conversion may fail in foreign code
        return None


class World:
    """What all code of a process shares and a call must leave as it was. What an import changes on its way is not held
    against the call."""

    def __init__(self) -> None:
        self.modules = len(sys.modules)
        self.errors, self.printing = np.geterr(), np.get_printoptions()
        np.random.random_sample()  # noqa: NPY002 (so that the same seed, set again, is a change again)
        self.random = _random_state()
        self.folder, self.environment, self.filters = os.getcwd(), dict(os.environ), list(warnings.filters)

    def restored(self) -> list[str]:
        """What changed, as predicates; all but the random state is put back."""
        found = []
        if (now := np.geterr()) != self.errors:
            np.seterr(**self.errors)
            found.append(f"changed NumPy's error state ({_changes(self.errors, now)}) and left it so")
        if (options := np.get_printoptions()) != self.printing:
            np.set_printoptions(**self.printing)
            found.append(f"changed NumPy's print options ({_changes(self.printing, options)}) and left them so")
        if _random_state() != self.random:
            found.append("changed NumPy's global random state (np.random.seed, or a draw); use np.random.default_rng")
        folder = _folder()
        if folder != self.folder:
            os.chdir(self.folder)
            found.append(f"changed the working directory to {folder!r} and left it so")
        imported = len(sys.modules) != self.modules
        if (environment := dict(os.environ)) != self.environment and not imported:
            names = sorted(k for k in {*environment, *self.environment} if environment.get(k) != self.environment.get(k))
            found.append(f"changed the environment ({', '.join(names)}) and left it so")
            os.environ.clear()
            os.environ.update(self.environment)
        if list(warnings.filters) != self.filters and not imported:
            found.append("changed the filters of warnings and left them so")
        return found


def _random_state() -> bytes:
    return pickle.dumps(np.random.get_state(legacy=False))  # noqa: NPY002 (the state that others share is the one to look at)


def _folder() -> str:
    try:
        return os.getcwd()
    except OSError:
        return "a folder that is no more"


def _changes(before: Any, after: Any) -> str:
    return ", ".join(f"{k}: {before.get(k)!r} to {v!r}" for k, v in after.items() if before.get(k) != v)


class Worker:
    """The candidates of one target, and what the harness has asked to be kept, by number."""

    def __init__(self) -> None:
        self.faces: list = []
        self.kept: dict[int, Any] = {}  # instances, Givens, backward passes with their Given
        self.returned: dict[int, list] = {}  # arrays that the harness still has a copy of, with their bytes

    def answer(self, request: dict, data: memoryview) -> tuple[dict, bytes]:
        for id_ in request["drop"]:
            self.kept.pop(id_, None)
            self.returned.pop(id_, None)
        if request["op"] == "load":
            return self.load(request), b""
        if request["op"] == "make":
            return self.make(request), b""
        return self.call(request, data)

    def load(self, request: dict) -> dict:
        from .contract import TimeLimit
        from .load import LOAD_SECONDS, TargetError, load

        os.chdir(request["folder"])
        _limit(request["memory"])
        try:
            self.faces = load(request["target"])
            if self.faces[0].kind == "student":
                sentence = "is an object with its own data (params, loss, gradients), which is changed in place and cannot be isolated"
                return {"error": f"{request['target']} {sentence}; judge it without --isolate"}
            told = [_told(face) for face in self.faces]
        except TargetError as error:
            return {"error": str(error)}
        except TimeLimit:
            return {"error": f"{request['target']} did not load within {LOAD_SECONDS:g} s"}
        except BaseException as error:
            return {"error": f"{request['target']} could not be loaded: {type(error).__name__}: {error}"}
        _limit(request["memory"])
        return {"faces": told}

    def make(self, request: dict) -> dict:
        try:
            self.kept[request["id"]] = self.faces[request["face"]].make()
        except BaseException as error:
            return _raised(error)
        return {}

    def call(self, request: dict, data: memoryview) -> tuple[dict, bytes]:
        """Call a method of an instance, or a backward pass, and tell everything that a caller in this process would see."""
        inputs = unpack(request["inputs"] or [], data)
        second = unpack(request["second"] or [], data[sum(v.nbytes for _, v in inputs) :])
        if request["inputs"] is not None:
            self.kept[request["given"]] = Given(inputs)
        flows = None if request["second"] is None else Given(second)
        if request["method"] == "pull":
            function, given = self.kept[request["id"]]
            arguments = [flows.arrays]
        else:
            given = self.kept[request["given"]]
            function = getattr(self.kept[request["id"]], request["method"])
            arguments = [given.arrays] + ([] if flows is None else [flows.arrays])
        numbers = [v for where in (given, flows) if where for v in where.arrays.values() if isinstance(v, np.ndarray)]
        sent = _Sent(self, given, request["base"])
        try:
            returned, remarks = _watched(function, arguments, any(v.dtype.kind == "c" for v in numbers))
            reply = {"remarks": remarks, **sent.value(returned, request["method"])}
            if sent.function is not None:
                self.kept[request["pull"]] = sent.function, given
        except BaseException as error:
            reply = _raised(error)
        for where, what in (("inputs", given), ("second", flows)):
            changed, gone = what.changes() if what else ([], [])
            reply[where] = [[k, sent.number(v)] for k, v in changed]
            reply[f"{where}_gone"] = gone
        reply["returned"] = [[id_, sent.number(kept[0])] for id_, kept in self.returned.items() if _moved(kept)]
        self.returned |= sent.returned
        heads, numbers_sent = pack(sent.arrays)
        return {**reply, "arrays": heads}, numbers_sent


class _Sent:
    """What goes back in one reply: the value that was returned, as JSON, and the arrays in it."""

    def __init__(self, worker: Worker, given: Given, base: int):
        self.worker, self.given, self.base = worker, given, base
        self.arrays: list[tuple[str, np.ndarray]] = []
        self.returned: dict[int, list] = {}
        self.function = None

    def number(self, q: np.ndarray) -> int:
        self.arrays.append(("", np.ascontiguousarray(q).reshape(q.shape)))
        return len(self.arrays) - 1

    def value(self, returned, method: str) -> dict:
        if method in ("forward", "vjp", "pull"):
            return {"value": self.mapping(returned)}
        try:
            first, second = {} if isinstance(returned, (Mapping, str)) else returned
        except Exception:  # any iteration may fail in foreign code
            return {"value": _other(returned)}
        if method == "loss_and_gradients":
            return {"pair": [self.leaf(first), self.mapping(second)]}
        if not callable(second):
            return {"pair": [self.mapping(first), _other(second)]}
        self.function = second
        return {"pair": [self.mapping(first), {"function": True}]}

    def mapping(self, value) -> dict:
        from .contract import by_name

        named = by_name(value)
        if named is None:
            return _other(value)
        return {"dict": [[k if isinstance(k, str) else f"{k!s} (no text)", self.leaf(v)] for k, v in named.items()]}

    def leaf(self, value) -> dict:
        from .contract import bare, numbers

        if value is None:
            return {"none": True}
        try:
            array = numbers(value)
        except Exception as error:  # any conversion may fail in foreign code
            return {"error": str(error)[:300]}
        if array.dtype.kind == "f" and bare(value):
            return {"bare": array.tolist()}
        if array.dtype.kind not in PLAIN and array.dtype.name != "bfloat16":
            return {"odd": array.dtype.str, "shape": array.shape}
        number, id_ = self.number(array), self.base + len(self.arrays)
        self.returned[id_] = [array, array.tobytes()]
        return {"array": number, "id": id_, "shares": self.given.shared(array)}


def _other(value) -> dict:
    return {"other": None if value is None else type(value).__name__}


def _moved(kept: list) -> bool:
    array, before = kept
    kept[1] = array.tobytes()
    return kept[1] != before


def _watched(function, arguments: list, complex_: bool):
    """What a function returns, and what it did besides."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if complex_:
            warnings.simplefilter("error", np.exceptions.ComplexWarning)
        world, remarks = World(), []
        try:
            returned = function(*arguments)
        finally:
            remarks = world.restored()
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(Exception):
                    stream.flush()
    return returned, remarks


def _raised(error: BaseException) -> dict:
    from .contract import in_a_line, place

    return {"raised": f"raised {in_a_line(error)}", "place": place(error), "end": isinstance(error, MemoryError)}


def _told(face) -> dict:
    methods = [m for m in METHODS if callable(getattr(face.make(), m, None))]
    told = {k: getattr(face, k) for k in ("name", "kind", "factory", "reduction", "taps")}
    told |= {"layout": dataclasses.asdict(face.layout), "supports": dataclasses.asdict(face.supports), "methods": methods}
    told["variant"] = dataclasses.asdict(face.variant)
    return json.loads(json.dumps(told, default=lambda v: v.item()))


def _limit(gibibytes: float) -> None:
    """Let the data of this process grow by so much. It is data that is limited, not addresses, of which JAX reserves
    more than a gigabyte per core without using them."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        now = 0
        with open("/proc/self/status", encoding="ascii") as status:
            now = next(int(line.split()[1]) for line in status if line.startswith("VmData"))
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        soft = int(now * 2**10 + gibibytes * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def serve() -> None:
    """Answer requests until the pipe is closed. What the candidate prints goes to standard error."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    faulthandler.enable()
    worker = Worker()
    while head := requests.read(FRAME.size):
        header, data = (requests.read(n) for n in FRAME.unpack(head))
        reply, numbers = worker.answer(json.loads(header), memoryview(data))
        told = json.dumps(reply).encode()
        replies.write(FRAME.pack(len(told), len(numbers)) + told + numbers)
        replies.flush()
