"""Programs: what JAX has compiled, kept on disk as it is, so that the next process neither traces nor lowers nor compiles it.

A file is named after everything that it depends on: the sources of the oracles, what is compiled of them, the versions of Python and
JAX, and what the processor can do. JAX's own cache is asked only after tracing and lowering, which take several times as long as
loading does; it is not used.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pathlib
import pickle
import platform
import zlib
from collections.abc import Callable, Iterator
from importlib import metadata

import numpy as np

from ..reference import symbols
from ..reference import variant as variants_known

SOURCES = (__file__, variants_known.__file__, symbols.__file__)


def compiled(function: Callable, what: tuple, sources: tuple[str, ...], options: dict | None, *shapes):
    """`function` compiled for arrays of these shapes; `what` tells it from everything else that is compiled of these sources."""
    import jax

    kept = folder() / f"{_fingerprint(repr(what), repr(options), *sources)}.program"
    with contextlib.suppress(Exception):  # missing, cut short, not to be loaded here: it is compiled
        return _loaded(zlib.decompress(kept.read_bytes()))
    with _no_other_cache():
        program = jax.jit(function).lower(*shapes).compile(compiler_options=options)
    with contextlib.suppress(Exception):  # a disk that is full, a JAX that cannot: it serves this process
        _keep(program, kept, shapes)
    return program


def _keep(program, kept: pathlib.Path, shapes) -> None:
    """Write a program, whole or not at all, once what is written has been loaded and run."""
    import jax
    from jax.experimental import serialize_executable

    told = pickle.dumps(serialize_executable.serialize(program))
    jax.block_until_ready(_loaded(told)(*jax.tree.map(lambda q: np.zeros(q.shape, q.dtype), shapes)))
    kept.parent.mkdir(parents=True, exist_ok=True)
    written = kept.with_name(f"{kept.name}.{os.getpid()}")
    written.write_bytes(zlib.compress(told, 1))
    written.replace(kept)


def _loaded(told: bytes):
    from jax.experimental import serialize_executable

    device = cpu()
    several = len(device.client.devices()) > 1  # older versions of JAX know of one device only
    where = {"execution_devices": [device]} if several else {}
    executable, given, found = pickle.loads(told)
    return serialize_executable.deserialize_and_load(executable, given, found, backend=device.client, **where)


@functools.cache
def cpu():
    """JAX's device for our own calls. Where JAX_PLATFORMS names a GPU alone, the CPU is named behind it: what runs on the GPU still does.
    Raises ValueError where JAX was set up without a CPU before."""
    import jax

    platforms = jax.config.jax_platforms or "cpu"
    if "cpu" not in platforms.split(","):
        jax.config.update("jax_platforms", f"{platforms},cpu")
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError as error:
        told = f'JAX was set up without a CPU, on which the oracle runs ({error}); unset JAX_PLATFORMS, or set it to "{platforms},cpu"'
        raise ValueError(told) from error


def folder() -> pathlib.Path:
    """Where programs are kept: LSTM_REF_CACHE, else the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(os.environ.get("LSTM_REF_CACHE") or pathlib.Path(home) / "lstm-ref")


def _fingerprint(*of: str) -> str:
    versions = [platform.python_version(), *(metadata.version(k) for k in ("jax", "jaxlib", "numpy"))]
    told = (_source(q) if q[-3:] == ".py" else q for q in (*SOURCES, *of))
    return hashlib.sha256("\0".join([*versions, _processor(), os.environ.get("XLA_FLAGS", ""), *told]).encode()).hexdigest()


@functools.cache
def _source(file: str) -> str:
    return pathlib.Path(file).read_text(encoding="utf-8")


@functools.cache
def _processor() -> str:
    """What this processor can do, as Linux tells it; elsewhere the name of the very machine."""
    with contextlib.suppress(OSError):
        told = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if known := [line for line in told if line.startswith(("flags", "Features", "model name"))]:
            return platform.machine() + "".join(sorted(set(known)))
    return repr(platform.uname())


@contextlib.contextmanager
def _no_other_cache() -> Iterator[None]:
    """JAX's own cache left alone: what it loads cannot be kept, since it is not whole any more."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    name = "jax_enable_compilation_cache"
    before = getattr(jax.config, name)
    try:
        compilation_cache.reset_cache()
        jax.config.update(name, False)
        yield
    finally:
        jax.config.update(name, before)
        compilation_cache.reset_cache()
