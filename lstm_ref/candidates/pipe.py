"""Pipe: an LSTM in any language, as a program that answers requests on its standard input; the protocol is docs/any-language.md.

What the program writes is foreign: it is bounded, checked before anything is allocated for it, and quoted where it is wrong. A
process that crashed, broke the protocol or was interrupted is killed, with its children; the next call starts another.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import selectors
import signal
import subprocess
import time
import weakref
from subprocess import PIPE

import numpy as np

from ..reference.variant import parse as parse_variant
from .contract import REDUCTIONS, Candidate, TimeLimit, parse_supports, time_limit
from .layout import resolve
from .load import LOAD_SECONDS, TargetError

VERSION = 1
KEYS = ("layout", "supports", "reduction", "calls", "variant")
CALLS = ("forward", "vjp", "loss_and_gradients")
DTYPES = ("float64", "float32")
LARGEST_REPLY = 2**28  # numbers
LONGEST_LINE = KEPT_STDERR = 2**16  # bytes
LONGEST_SENTENCE = 300  # characters
MOST_ARRAYS, MOST_AXES = 2**12, 32
CHUNK = 2**18


def program(argv: list[str], name: str) -> list[Candidate]:
    """The candidates that a program says it is: a layer, a model, or both. Raises TargetError."""
    if not hasattr(selectors, "PollSelector"):
        raise TargetError(f"{name} is a program, and programs are run on Unix only")
    process = Program(argv)
    try:
        with time_limit(LOAD_SECONDS):
            told = process.hello()
    except TimeLimit:
        raise TargetError(f"{name} did not answer hello within {LOAD_SECONDS:g} s; does it flush what it writes?") from None
    except (OSError, RuntimeError) as error:
        raise TargetError(f"{name} did not answer hello: {error}") from None
    try:
        return _declared(json.loads(told), name, process)
    except Exception as error:  # anything may stand in foreign JSON
        raise TargetError(f"{name} says hello {told[:300]}, which is not understood: {error}") from None


def _declared(told, name: str, process: Program) -> list[Candidate]:
    if not isinstance(told, dict):
        raise ValueError(f"a JSON object is due, with any of the keys {', '.join(KEYS)}")
    if unknown := sorted(set(told) - set(KEYS)):
        raise ValueError(f"it has the key {unknown[0]!r}; it may have {', '.join(KEYS)}")
    layout, supports, variant = resolve(told.get("layout")), parse_supports(told.get("supports")), parse_variant(told.get("variant"))
    if bad := [v for v in layout.names.values() if not isinstance(v, str) or v.split() != [v]]:
        raise ValueError(f"layout names has {bad[0]!r}; a name is a word without spaces")
    supports = dataclasses.replace(supports, dtypes=DTYPES if supports.dtypes is None else supports.dtypes)
    if not supports.dtypes or not set(supports.dtypes) <= set(DTYPES):
        raise ValueError(f"supports has the dtypes {', '.join(supports.dtypes) or 'none'}; a program is asked for {' or '.join(DTYPES)}")
    calls, reduction = told.get("calls", ["forward", "vjp"]), told.get("reduction", "sum")
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction is {reduction!r}; it must be one of {', '.join(map(repr, REDUCTIONS))}")
    if not isinstance(calls, list) or not calls or not all(c in CALLS for c in calls) or ("vjp" in calls and "forward" not in calls):
        raise ValueError(f"calls is {calls!r}; it is a list of {', '.join(CALLS)}, and forward is due where vjp is")
    kinds = ["vjp" if "vjp" in calls else "forward"] if "forward" in calls else []
    kinds += ["loss_and_gradients"] if "loss_and_gradients" in calls else []
    return [Candidate(name, kind, lambda: process, False, layout, supports, reduction, variant=variant) for kind in kinds]


class Program:
    """A program through the plug-in contract. It keeps no state between calls, so one process answers them all."""

    def __init__(self, argv: list[str]):
        self.argv = argv
        self.process: _Process | None = None

    def hello(self) -> str:
        return self._ask("hello", {}, "float64")

    def forward(self, inputs):
        return self._arrays("forward", inputs)

    def vjp(self, inputs, cotangents):
        return self._arrays("vjp", {**inputs, **{f"d_{k}": v for k, v in cotangents.items()}})

    def loss_and_gradients(self, inputs):
        found = self._arrays("loss_and_gradients", inputs)
        if "J" not in found:
            raise RuntimeError(f"the program returned no J (it returned {', '.join(found) or 'nothing'}); the loss is due too")
        return found.pop("J"), found

    def _arrays(self, call: str, arrays: dict) -> dict:
        dtypes = {v.dtype.name for v in arrays.values() if v.dtype.kind != "i"}
        if any(v.dtype.kind == "c" for v in arrays.values()):
            raise TypeError("a program takes real numbers only")
        if not dtypes <= set(DTYPES):
            raise TypeError(f"a program computes in {' or '.join(DTYPES)}, not in {', '.join(sorted(dtypes))}")
        dtype = "float32" if dtypes == {"float32"} else "float64"
        return {k: v.astype(dtype) for k, v in self._ask(call, arrays, dtype).items()}

    def _ask(self, call: str, arrays: dict, dtype: str):
        head = [f"lstm-ref {VERSION} {call} {dtype} {len(arrays)}", *(" ".join(map(str, (k, *v.shape))) for k, v in arrays.items())]
        request = "".join(f"{line}\n" for line in head).encode() + b"".join(np.asarray(v, "<f8").tobytes() for v in arrays.values())
        if self.process is None:
            self.process = _Process(self.argv)
        try:
            word, reply = self.process.exchange(request, "hello" if call == "hello" else "ok")
        except BaseException:  # TimeLimit and KeyboardInterrupt too
            broken, self.process = self.process, None
            broken.end()
            raise
        if word == "error":
            raise self.process.wrong(f"answered: error {''.join(c if c.isprintable() else '?' for c in reply[:180])}")
        return reply


class _Process:
    """One running process: requests in, replies out, and the end of what it writes to stderr."""

    def __init__(self, argv: list[str]):
        self.popen = subprocess.Popen(argv, 0, None, PIPE, PIPE, PIPE, start_new_session=True)
        self.end = weakref.finalize(self, _end, self.popen)  # at exit, too
        self.unsent, self.received, self.stderr = memoryview(b""), bytearray(), b""
        self.until: float | None = None  # by time.monotonic
        self.selector = selectors.PollSelector()
        for stream in (self.popen.stdin, self.popen.stdout, self.popen.stderr):
            os.set_blocking(stream.fileno(), False)
        self.selector.register(self.popen.stdout, selectors.EVENT_READ)
        self.selector.register(self.popen.stderr, selectors.EVENT_READ)

    def exchange(self, request: bytes, due: str):
        """Send a request; the reply's first word, and what it holds. Raises RuntimeError for anything that is no reply."""
        self.unsent = memoryview(request)
        self.selector.register(self.popen.stdin, selectors.EVENT_WRITE)
        word, _, rest = self._line(due, "error").partition(" ")
        reply = self._reply(rest) if word == "ok" else rest
        if self.unsent:
            raise self.wrong(f"answered before it had read its request ({len(self.unsent)} bytes were left)")
        if self.received:
            raise self.wrong(f"wrote {_quoted(self.received)} to stdout after its reply")
        return word, reply

    def _reply(self, count: str) -> dict[str, np.ndarray]:
        shapes: dict[str, tuple[int, ...]] = {}
        for _ in range(self._whole(count, MOST_ARRAYS, "arrays")):
            name, *sizes = self._line().split() or [""]
            if not name or name in shapes or len(sizes) > MOST_AXES:
                raise self.wrong(f"announced an array {name[:60]!r} without a name, twice, or with more than {MOST_AXES} sizes")
            shapes[name] = tuple(self._whole(size, LARGEST_REPLY, f"{name[:60]}'s size") for size in sizes)
        total = sum(map(math.prod, shapes.values()))
        if total > LARGEST_REPLY:
            raise self.wrong(f"announced {total} numbers; a reply holds at most {LARGEST_REPLY}")
        numbers, found = np.frombuffer(self._take(8 * total), "<f8"), {}
        for name, shape in shapes.items():
            here, numbers = np.split(numbers, [math.prod(shape)])
            found[name] = here.reshape(shape)
        return found

    def _whole(self, text: str, most: int, what: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= most):
            raise self.wrong(f"announced {text[:60]!r} as {what}; a whole number from 0 to {most} is due")
        return int(text)

    def _line(self, *words: str) -> str:
        """The next line, which begins with one of the words if there are any; what cannot become one is not waited for."""
        starts = [f"{w} ".encode() for w in words] or [b""]
        while True:
            line, ended, _ = self.received.partition(b"\n")
            known = any((line + b" ").startswith(s) or (not ended and s.startswith(line)) for s in starts)
            if len(line) > LONGEST_LINE or not known:
                due = " or ".join(f"'{w} …'" for w in words) or "'NAME d1 …'"
                raise self.wrong(f"wrote {_quoted(line)} to stdout, where a line {due} is due")
            if ended:
                return self._take(len(line) + 1).decode(errors="replace").rstrip()
            self._pump()

    def _take(self, n: int) -> bytes:
        while len(self.received) < n:
            self._pump()
        taken = bytes(self.received[:n])
        del self.received[:n]
        return taken

    def _pump(self) -> None:
        """Wait until something can be sent or read, and do that. Raises TimeLimit where `until` comes first."""
        left = None if self.until is None else self.until - time.monotonic()
        if left is not None and left <= 0:
            raise TimeLimit
        for key, _ in self.selector.select(left):
            if key.fileobj is self.popen.stdin:
                try:
                    self.unsent = self.unsent[os.write(key.fd, self.unsent[:CHUNK]) :]
                    closed = not self.unsent
                except BrokenPipeError:
                    closed = True
            else:
                chunk = os.read(key.fd, CHUNK)
                closed = not chunk
                if key.fileobj is self.popen.stderr:
                    self._heard(chunk)
                elif closed:
                    raise self._ended()
                else:
                    self.received += chunk
            if closed:
                self.selector.unregister(key.fileobj)

    def _heard(self, chunk: bytes) -> None:
        """Something was written to stderr."""
        self.stderr = (self.stderr + chunk)[-KEPT_STDERR:]

    def _ended(self) -> Exception:
        """What to raise where the process ends in the middle of a call."""
        code = self._exit_code()
        if code is None:
            return self.wrong("closed its stdout in the middle of a call")
        if code >= 0:
            return self.wrong(f"ended with exit code {code} in the middle of a call")
        return self.wrong(f"was killed by {_signal(code)} in the middle of a call")

    def _exit_code(self) -> int | None:
        """How the process ended, below 0 by a signal; None if it runs on with its stdout closed."""
        try:
            return self.popen.wait(1.0)
        except subprocess.TimeoutExpired:
            return None

    def wrong(self, what: str) -> RuntimeError:
        """A sentence about the program, with the end of what it wrote to stderr as far as there is room."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(KEPT_STDERR // 2**10):
                self._heard(os.read(self.popen.stderr.fileno(), CHUNK))
        lines = [line for line in self.stderr.decode(errors="replace").splitlines() if line.strip()]
        lines = [line for line in lines if not line[0].isspace()] or lines  # without the frames of a stack
        words = " | ".join(lines[-5:])[-max(60, LONGEST_SENTENCE - len(what) - 40) :]
        return RuntimeError(f"the program {what}" + (f"; its stderr ends: {words!r}" if words else ""))


def _end(popen: subprocess.Popen) -> None:
    """Kill a process with its children, reap it, close its pipes."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(popen.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        popen.wait(5.0)
    for stream in (popen.stdin, popen.stdout, popen.stderr):
        stream.close()


def _signal(code: int) -> str:
    """The signal that an exit code below 0 stands for."""
    return signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"


def _quoted(data: bytearray) -> str:
    text = repr(data[:80].decode(errors="replace"))
    return text if len(data) <= 80 and len(text) <= 82 else f"{text[:60]}…' ({len(data)} bytes)"
