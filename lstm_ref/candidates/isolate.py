"""Isolate: the candidates of a target in a process of their own, which may crash, hang or fill its memory.

A stand-in for every instance and every backward pass, with the same methods, so that a candidate is judged as it is in
this process: its arrays lie as they lie here, and what it does to them there is done to them here. What comes from that
process is foreign: bounded and checked before it is used. The page about it is docs/isolation.md.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import itertools
import json
import os
import re
import selectors
import sys
import time
import weakref
from typing import Any

import numpy as np

from ..reference.symbols import INITIAL
from ..reference.variant import parse as parse_variant
from .contract import REDUCTIONS, Candidate, Finding, Returned, Supports, TimeLimit, Told, parse_supports, time_limit
from .layout import Layout
from .load import LOAD_SECONDS, TargetError, load
from .pipe import CHUNK, _Process, _signal
from .worker import FRAME, LARGEST_REPLY, LONGEST_HEADER, METHODS, MOST_ARRAYS, address, pack, unpack

MEMORY_GIB = 8.0  # on top of what the loaded framework takes; another number in the environment as LSTM_REF_MEMORY_GIB
START_SECONDS = LOAD_SECONDS + 5.0  # a target that takes too long to load says so itself
GRACE = 0.25  # seconds: where the harness can be interrupted, its own time limit comes first
FLOOD = 1_000_000  # bytes printed in one call
KEPT_INPUTS = 4  # dicts of inputs that an instance may be given once more, as vjp is after forward
KINDS = ("pullback", "vjp", "loss_and_gradients", "forward")
FATAL = b"Fatal Python error: "
LONGEST_WORDS = 600  # characters


def isolated(target: str) -> list[Candidate]:
    """The candidates that a target names, in a process of their own. Raises TargetError as `load` does."""
    if target.partition(":")[0] in ("cmd", "lib"):
        return load(target)  # in a process of their own already
    if not hasattr(selectors, "PollSelector"):
        raise TargetError(f"{target} cannot be isolated: processes are watched on Unix only")
    home = Home(target, _memory())
    try:
        told = home.start()
        return [_face(home, n, face) for n, face in enumerate(told)]
    except Told as error:
        raise TargetError(f"{target} could not be loaded: it {error.what}{error.place}") from None
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, TargetError):
            raise
        raise TargetError(f"{target} is described by its process in a way that is not understood: {error}") from None


def _memory() -> float:
    text = os.environ.get("LSTM_REF_MEMORY_GIB", str(MEMORY_GIB))
    try:
        if float(text) > 0:
            return float(text)
    except ValueError:
        pass
    raise TargetError(f"LSTM_REF_MEMORY_GIB is {text!r}; a number of GiB above 0 is due")


def _face(home: Home, n: int, told: dict) -> Candidate:
    methods = frozenset(m for m in METHODS if m in told["methods"])
    limits = told["supports"]
    supports = Supports(
        parse_supports(limits["sizes"]).sizes,
        tuple(k for k in INITIAL if k in limits["states"]),
        None if limits["dtypes"] is None else tuple(map(str, limits["dtypes"])),
        tuple(map(str, limits["missing"])),
        float(limits["call_seconds"]),
    )
    if told["kind"] not in KINDS or told["reduction"] not in REDUCTIONS:
        raise ValueError(f"its kind is {told['kind']!r} and its reduction {told['reduction']!r}")

    def make():
        instance = Instance(home, n, methods, supports.call_seconds)
        with contextlib.suppress(Told):  # an instance that cannot be made now is tried again, and named, when it is called
            instance.ready()
        return instance

    layout = Layout(**told["layout"])
    known = (layout, supports, told["reduction"], bool(told["taps"]), parse_variant(told["variant"]))
    return Candidate(told["name"], told["kind"], make, bool(told["factory"]), *known)


class Home:
    """The process of a target: started again when it has ended, with the numbers of what it keeps."""

    def __init__(self, target: str, memory: float):
        self.target, self.memory, self.folder = target, memory, os.getcwd()
        self.process: _Running | None = None
        self.generation = 0
        self.numbers = itertools.count(1)
        self.dropped: collections.deque[int] = collections.deque()
        self.returned: dict[int, weakref.ref] = {}

    def start(self) -> list[dict]:
        """Start the process and load the target; what it says of its candidates. Raises TargetError and Told."""
        path = [p for p in sys.path if isinstance(p, str)]
        code = f"import sys; sys.path[:] = {path!r}; from lstm_ref.candidates.worker import serve; serve()"
        request = {"op": "load", "target": self.target, "folder": self.folder, "memory": self.memory}
        try:
            with time_limit(START_SECONDS):  # whatever limit is under way waits meanwhile
                self.process, self.generation = _Running([sys.executable, "-P", "-c", code]), self.generation + 1
                reply, _ = self._exchange(request, b"", START_SECONDS)
        except TimeLimit:
            raise Told(f"did not load within {LOAD_SECONDS:g} s") from None
        if "error" in reply:
            self.end()
            raise TargetError(str(reply["error"]))
        return reply["faces"]

    def awake(self) -> int:
        """The generation of the running process, which is started again if it has ended."""
        if self.process is None:
            try:
                self.start()
            except TargetError as error:
                raise Told(f"has ended its process, which could not be started again: {error}") from None
        return self.generation

    def made(self, face: int) -> Kept:
        """A new instance in the running process."""
        kept = Kept(self, self.awake())
        try:
            with time_limit(LOAD_SECONDS):
                reply, _ = self._exchange({"op": "make", "face": face, "id": kept.id}, b"", LOAD_SECONDS)
        except TimeLimit:
            raise Told(f"could not be called: making an instance took more than {LOAD_SECONDS:g} s") from None
        if "raised" in reply:
            raise Told(f"could not be called: making an instance {_words(reply['raised'])}", _words(reply.get("place", "")))
        return kept

    def call(self, request: dict, data: bytes, seconds: float) -> tuple[dict, list[np.ndarray]]:
        reply, numbers = self._exchange(request, data, seconds + GRACE)
        return reply, [array for _, array in unpack(reply["arrays"], numbers)]

    def _exchange(self, request: dict, data: bytes, seconds: float):
        request["drop"] = [self.dropped.popleft() for _ in range(len(self.dropped))]
        try:
            return self.process.converse(request, data, seconds)
        except BaseException:  # TimeLimit and KeyboardInterrupt too
            self.end()
            raise

    def end(self) -> None:
        ended, self.process = self.process, None
        self.returned.clear()
        ended.end()


class Kept:
    """The number of something that a process keeps; forgotten there when it is forgotten here."""

    def __init__(self, home: Home, generation: int):
        self.id, self.generation, self.dropped = next(home.numbers), generation, home.dropped

    def __del__(self):
        self.dropped.append(self.id)


class Inputs:
    """A dict of arrays that was given to an instance, and what was sent of it."""

    def __init__(self, arrays: dict, kept: Kept):
        self.arrays, self.kept = arrays, kept
        self.sent = pack(list(arrays.items()))


class Instance:
    """Stands here for an instance there, with those of its methods that the contract knows."""

    def __init__(self, home: Home, face: int, methods: frozenset[str], seconds: float):
        self._home, self._face, self._methods, self._seconds = home, face, methods, seconds
        self._kept: Kept | None = None
        self._given: collections.deque[Inputs] = collections.deque(maxlen=KEPT_INPUTS)

    def __getattr__(self, name: str):
        if name.startswith("_") or name not in self._methods:
            raise AttributeError(name)
        return functools.partial(self._call, name)

    def ready(self) -> None:
        """Make the instance there, unless it is there already."""
        if self._kept is None or self._kept.generation != self._home.awake():
            self._kept = self._home.made(self._face)

    def _call(self, method: str, inputs: dict, second: dict | None = None):
        self.ready()
        sent = pack(list(inputs.items()))
        known = (g for g in self._given if g.arrays is inputs and g.sent == sent and g.kept.generation == self._home.generation)
        given, new = next(known, None), False
        if given is None:
            given, new = Inputs(inputs, Kept(self._home, self._home.generation)), True
            self._given.append(given)
        pull = Kept(self._home, self._home.generation)
        request = {"op": "call", "method": method, "id": self._kept.id, "pull": pull.id, "given": given.kept.id}
        request["inputs"] = given.sent[0] if new else None
        reply = _Reply(self._home, request, given.sent[1] if new else b"", given, second, self._seconds)
        return reply.value(Pull(self._home, pull, given, self._seconds))


class Pull:
    """Stands here for the backward pass that pullback returned there."""

    def __init__(self, home: Home, kept: Kept, given: Inputs, seconds: float):
        self._home, self._kept, self._given, self._seconds = home, kept, given, seconds

    def __call__(self, cotangents: dict):
        if self._home.process is None or self._kept.generation != self._home.generation:
            raise Told("could not be called: its process has ended, and with it what pullback had kept")
        request = {"op": "call", "method": "pull", "id": self._kept.id, "inputs": None}
        return _Reply(self._home, request, b"", self._given, cotangents, self._seconds).value(None)


class _Reply:
    """One call: what was sent, what was done there to arrays, done here too, and what came back."""

    def __init__(self, home: Home, request: dict, data: bytes, given: Inputs, second: dict | None, seconds: float):
        heads, more = (None, b"") if second is None else pack(list(second.items()))
        base = next(home.numbers)
        home.numbers = itertools.count(base + 2 * MOST_ARRAYS)
        self.home, self.given = home, given
        try:
            self.reply, self.arrays = home.call({**request, "second": heads, "base": base}, data + more, seconds)
            self._done_here(given, second)
            if "raised" in self.reply:
                if self.reply.get("end"):
                    home.end()  # what filled the memory may still be there
                raise Told(_words(self.reply["raised"]), _words(self.reply.get("place", "")))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
            raise self._not_understood(error) from None

    def _not_understood(self, error) -> Told:
        if self.home.process is not None:
            self.home.end()
        return Told(f"made its process answer what is not understood ({_words(error)})")

    def _done_here(self, given: Inputs, second: dict | None) -> None:
        for where, arrays in (("inputs", given.arrays), ("second", second)):
            for name, n in self.reply[where]:
                _write(arrays, name, self.arrays[n])
            for name in self.reply[f"{where}_gone"]:
                arrays[name] = np.empty(0, arrays[name].dtype)
        if self.reply["inputs"] or self.reply["inputs_gone"]:
            given.sent = pack(list(given.arrays.items()))
        for id_, n in self.reply["returned"]:
            known = self.home.returned.get(id_)
            array = known() if known is not None else None
            if array is not None and array.flags.writeable:
                np.copyto(array, self.arrays[n])

    def value(self, pull: Pull | None):
        try:
            if "value" in self.reply:
                return self._read(self.reply["value"])
            first, second = self.reply["pair"]
            if "function" in second:
                return self._read(first), pull
            return self._leaf(first) if "dict" not in first and "other" not in first else self._read(first), self._read(second)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
            raise self._not_understood(error) from None

    def _read(self, told: dict):
        if "dict" not in told:
            return _other(told["other"])
        found = Returned((str(name), self._leaf(leaf)) for name, leaf in told["dict"])
        found.remark = "; it ".join(_words(r) for r in (*self.reply["remarks"], *self.reply["printed"]))
        return found

    def _leaf(self, told: dict):
        if "none" in told:
            return None
        if "error" in told:
            return _NoArray(_words(told["error"]))
        if "bare" in told:
            return told["bare"]
        if "odd" in told:
            return np.empty(told["shape"], told["odd"] if re.fullmatch(r"[<>|][US]\d{1,4}|[<>]?[mM]8(\[\w+\])?", told["odd"]) else object)
        array = self.arrays[told["array"]]
        if told["shares"] is not None:
            array = self._shared(array, *told["shares"])
        dropped, known, id_ = self.home.dropped, self.home.returned, int(told["id"])

        def forget(_):
            known.pop(id_, None)
            dropped.append(id_)

        known[id_] = weakref.ref(array, forget)
        return array

    def _shared(self, array: np.ndarray, name: str, start: int, strides) -> np.ndarray:
        """The array as it lies in an input: the same numbers at the same place in memory here as there."""
        root = of = self.given.arrays[name]
        while isinstance(root.base, np.ndarray):
            root = root.base
        with contextlib.suppress(ValueError, TypeError):
            memory = root.reshape(-1).view(np.uint8)
            view = np.ndarray(array.shape, array.dtype, memory, address(of) - address(memory) + start, tuple(strides))
            if view.tobytes() == array.tobytes() and np.shares_memory(view, of):
                return view
        raise Finding("state.aliasing", f"an array that came back shares memory with the input {_words(name)}; return a copy")


class _NoArray:
    """What could not be made an array there cannot be made one here."""

    def __init__(self, said: str):
        self.said = said

    def __array__(self, dtype=None, copy=None):
        raise ValueError(self.said)


class _Running(_Process):
    """One running process: a request and its reply, with an end to how long, how large and how loud."""

    def __init__(self, argv: list[str]):
        super().__init__(argv)
        self.printed = 0

    def converse(self, request: dict, data: bytes, seconds: float) -> tuple[dict, memoryview]:
        """Send a request; the reply's header and numbers. Raises Told where the process ends, TimeLimit where it takes longer."""
        self.until, self.printed = time.monotonic() + seconds, 0
        told = json.dumps(request).encode()
        self.unsent = memoryview(FRAME.pack(len(told), len(data)) + told + data)
        self.selector.register(self.popen.stdin, selectors.EVENT_WRITE)
        length, size = FRAME.unpack(self._take(FRAME.size))
        if length > LONGEST_HEADER or size > LARGEST_REPLY:
            raise Told(f"made its process answer with {max(length, size)} bytes; at most {LARGEST_REPLY} are read")
        header, numbers = self._take(length), self._take(size)
        self._drain()
        try:
            reply: Any = json.loads(header)
        except (ValueError, RecursionError):
            reply = None
        if not isinstance(reply, dict) or self.unsent or self.received or len(reply.get("arrays", ())) > MOST_ARRAYS:
            raise Told("made its process answer what is not understood")
        loud = f"printed {self.printed / 1e6:.1f} MB; at most {FLOOD / 1e6:g} MB is fair in one call"
        reply["printed"] = [loud] if self.printed > FLOOD else []
        return reply, memoryview(numbers)

    def _heard(self, chunk: bytes) -> None:
        self.printed += len(chunk)
        super()._heard(chunk)

    def _drain(self) -> None:
        """What was printed in the meantime and still lies in the pipe."""
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self.popen.stderr.fileno(), CHUNK):
                self._heard(chunk)
                if time.monotonic() > self.until:
                    raise TimeLimit

    def _ended(self) -> Told:
        code = self._exit_code()
        if code is None:
            return Told("closed the channel between its process and the harness")
        self._drain()
        self.stderr, _, dump = self.stderr.partition(FATAL)
        if code >= 0:
            what = f"ended its process with exit code {code}"
        else:
            name = _signal(code)
            what = f"crashed its process ({name}{', as the system does when memory runs out' if name == 'SIGKILL' else ''})"
        return Told(_words(str(self.wrong(what)).removeprefix("the program ")), _where(dump.decode(errors="replace")))


def _where(dump: str) -> str:
    """The innermost line of foreign Python code in what faulthandler wrote."""
    ours = os.path.dirname(__file__)
    frames = re.findall(r'^  File "([^"]+)", line (\d+) in', dump, re.MULTILINE)
    theirs = [(file, line) for file, line in frames if os.path.dirname(file) != ours and not file.startswith("<")]
    own = [frame for frame in theirs if "/lib/python" not in frame[0]] or theirs  # what they call is less telling
    return f" ({own[0][0].rsplit('/', 1)[-1]}:{own[0][1]})" if own else ""


def _write(arrays: dict, name: str, values: np.ndarray) -> None:
    """Put values where an array lies; where it cannot be written, an array of them takes its place."""
    here = arrays[name]
    if here.flags.writeable and here.shape == values.shape and here.dtype == values.dtype:
        np.copyto(here, values)
    else:
        arrays[name] = values


def _other(kind: str | None):
    """Something of a type with this name that is neither a dict nor an array."""
    return None if kind is None else type(kind if str(kind).isidentifier() else "object", (), {})()


def _words(text) -> str:
    return "".join(c if c.isprintable() else " " for c in str(text)[:LONGEST_WORDS])
