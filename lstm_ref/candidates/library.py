"""Library: a shared library with the C ABI of lstm_ref.h, served over a pipe: `python -m lstm_ref.candidates.library PATH`.

It is loaded in a process of its own because a wrong kernel takes its process down. Every buffer that the library sees
lies between guard bytes, and every output holds NaN before it is written. `--include` prints the header's folder.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from .layout import Layout, LayoutError, resolve

GUARD = 4096  # bytes on each side: a row too many of a few hundred units, and never the allocator's own memory
ALIGNED = 64
PRECISIONS = {"float64": "f64", "float32": "f32"}
# A NaN that no arithmetic gives (its quiet bit is clear), so that what was never written can be told from a computed NaN.
UNWRITTEN: dict[str, Any] = {"float64": np.uint64(0x7FF0_0000_0000_0001), "float32": np.uint32(0x7F80_0001)}
# What is read past an input is NaN, so that it shows; what is written past an output changes a plain number.
INPUT_MARK, OUTPUT_MARK = 0xFF, 0xA5


class LibraryError(Exception):
    """What is wrong with the library or with what it did, in one sentence."""


class Buffer:
    """One array as the library sees it, between guard bytes: an input if it has `values`, else an output."""

    def __init__(self, name: str, shape: tuple[int, ...], dtype: str, values: np.ndarray | None = None):
        self.name = name
        self.mark = OUTPUT_MARK if values is None else INPUT_MARK
        size = math.prod(shape) * np.dtype(dtype).itemsize
        self.memory = np.full(size + 2 * GUARD + ALIGNED, self.mark, np.uint8)
        self.start = GUARD + ALIGNED - (self.memory.ctypes.data + GUARD) % ALIGNED
        self.end = self.start + size
        self.array = self.memory[self.start : self.end].view(dtype).reshape(shape)
        self.bits = self.array.view(UNWRITTEN[dtype].dtype)
        if values is None:
            self.bits.fill(UNWRITTEN[dtype])
        else:
            self.array[...] = values
        self.before = None if values is None else self.bits.copy()
        self.address = self.memory.ctypes.data + self.start

    @property
    def unwritten(self) -> np.ndarray:
        return self.bits == UNWRITTEN[self.array.dtype.name]

    def damage(self) -> list[str]:
        """What was done to this buffer that must not be done, as predicates."""
        under = np.count_nonzero(self.memory[: self.start] != self.mark)
        over = np.count_nonzero(self.memory[self.end :] != self.mark)
        found = [f"wrote past the end of {self.name} ({over} bytes after it changed)"] if over else []
        found += [f"wrote before the beginning of {self.name} ({under} bytes before it changed)"] if under else []
        if self.before is not None and not np.array_equal(self.before, self.bits):
            found.append(f"changed its input {self.name}")
        return found


class Library:
    """A loaded library: what it declares, and its functions on named arrays. Raises LibraryError."""

    def __init__(self, path: Path):
        path = path.resolve()
        try:
            self.dll = ctypes.CDLL(str(path))
        except OSError as error:
            raise LibraryError(f"it cannot be loaded as a shared library: {str(error).removeprefix(f'{path}: ')}") from None
        self.declared = self._declared()
        self.layout: Layout = resolve(self.declared.get("layout"))
        supports = self.declared.get("supports", {})
        found = [d for d, f in PRECISIONS.items() if hasattr(self.dll, f"lstm_forward_{f}") or hasattr(self.dll, f"lstm_vjp_{f}")]
        asked = str(supports.get("dtypes", found or "float64"))  # what else may stand there, the reader of hello refuses
        self.dtypes = [d for d in PRECISIONS if d in asked]
        self.supports = {"dtypes": self.dtypes, **supports}
        due = [f"lstm_{call}_{PRECISIONS[d]}" for d in self.dtypes for call in ("forward", "vjp")]
        if missing := " and no ".join(name for name in due if not hasattr(self.dll, name)):
            raise LibraryError(f'the library exports no {missing}; include lstm_ref.h, which declares them (extern "C" in C++)')

    def _declared(self) -> dict:
        if not hasattr(self.dll, "lstm_layout"):
            return {}
        self.dll.lstm_layout.restype = ctypes.c_char_p
        text = (self.dll.lstm_layout() or b"").decode(errors="replace")
        try:
            declared = json.loads(text)
        except ValueError:
            declared = None
        if not isinstance(declared, dict) or set(declared) - {"layout", "supports"} or not isinstance(declared.get("supports", {}), dict):
            raise LibraryError(f'lstm_layout returned {text!r}; JSON is due, as in {{"layout": "torch", "supports": {{"B": 1}}}}')
        return declared

    def weights(self) -> list[str]:
        """The names of the arrays in w, in the order that the header documents."""
        letters = self.layout.order[:1] if self.layout.packed else self.layout.order
        return [self.layout.gated(self.layout.name(key), letter) for key, _ in self.layout.parts for letter in letters]

    def call(self, call: str, dtype: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """`forward` or `vjp` on the candidate's own arrays; what the library did not write is left out."""
        if dtype not in self.dtypes:
            raise LibraryError(f"the library exports no {call} in {dtype}")
        own = [self.layout.name(k) for k in ("x", "h0", "c0")]
        x, h0 = arrays[own[0]].shape, arrays[own[1]].shape
        T, B = (x[1], x[0]) if self.layout.batch_first else x[:2]
        inputs = [Buffer(k, arrays[k].shape, dtype, arrays[k]) for k in (*own, *self.weights())]
        due = {self.layout.name("h"): (*x[:2], h0[1]), self.layout.name("c_T"): h0}
        flows: list[Buffer] = []
        if call == "vjp":
            # a cotangent that is not given, of an output that is not provided, is zero
            given = [arrays.get(f"d_{k}", np.zeros(shape)) for k, shape in due.items()]
            flows = [Buffer(k, v.shape, dtype, v) for k, v in zip(("s_h", "s_cT"), given, strict=True)]
            due = {q.name: q.array.shape for q in inputs}
        results = {k: Buffer(f"d{k}" if call == "vjp" else k, shape, dtype) for k, shape in due.items()}
        outputs = list(results.values())
        arguments: list[Any] = [*inputs[:3], inputs[3:], *flows, *outputs[:3], *([outputs[3:]] if call == "vjp" else [])]
        name = f"lstm_{call}_{PRECISIONS[dtype]}"
        sizes = (ctypes.c_int64 * 4)(T, B, x[2], h0[1])
        code = getattr(self.dll, name)(ctypes.byref(sizes), *map(_argument, arguments))
        faults = [f"returned {code}; 0 is due"] if code else []
        faults += [what for q in (*inputs, *flows, *outputs) for what in q.damage()]
        if faults:
            raise LibraryError(f"{name} {', '.join(faults)}")
        return {k: np.where(q.unwritten, np.nan, q.array) for k, q in results.items() if not q.unwritten.all()}


def _argument(q: Buffer | list[Buffer]):
    return ctypes.c_void_p(q.address) if isinstance(q, Buffer) else (ctypes.c_void_p * len(q))(*(each.address for each in q))


def serve(path: Path) -> None:
    """Answer requests until the pipe is closed. The library's own standard output goes to standard error."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    library = None
    while line := requests.readline():
        _, _, call, dtype, count = line.decode().split()
        heads = [requests.readline().decode().split() for _ in range(int(count))]
        shapes = {name: tuple(map(int, shape)) for name, *shape in heads}
        arrays = {k: np.frombuffer(requests.read(8 * math.prod(s)), "<f8").reshape(s) for k, s in shapes.items()}
        try:
            library = library or Library(path)
            if call == "hello":
                said = {**library.declared, "supports": library.supports, "calls": ["forward", "vjp"]}
                replies.write(f"hello {json.dumps(said)}\n".encode())
            else:
                with np.errstate(all="ignore"):  # what overflows in float32 is the candidate's affair
                    found = library.call(call, dtype, arrays)
                    data = b"".join(v.astype("<f8").tobytes() for v in found.values())
                named = "".join(f"{k} {' '.join(map(str, v.shape))}\n" for k, v in found.items())
                replies.write(f"ok {len(found)}\n{named}".encode() + data)
        except (LibraryError, LayoutError) as error:
            replies.write(f"error {error}\n".replace("\n", " ", str(error).count("\n")).encode())
        replies.flush()


if __name__ == "__main__":
    if sys.argv[1:] == ["--include"]:
        sys.stdout.write(f"{Path(__file__).parent}\n")
    else:
        serve(Path(sys.argv[1]))
