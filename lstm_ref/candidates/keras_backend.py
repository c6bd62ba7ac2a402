"""keras: the backend that it runs on, JAX or torch, as an engine and what goes with it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

from . import jax_cell, jax_engine, torch_cell, torch_engine


class Backend(NamedTuple):
    """What differentiates, what calls a cell step by step, a context in which layers are built, and what is asked for."""

    engine: ModuleType
    over_time: Callable[..., dict]
    building: Callable[[], contextlib.AbstractContextManager]
    supports: dict[str, Any]


def _outside_of_the_trace() -> contextlib.AbstractContextManager:
    import jax

    return jax.ensure_compile_time_eval()


BACKENDS = {
    "jax": Backend(jax_engine, jax_cell.over_time, _outside_of_the_trace, jax_engine.SIZES),
    "torch": Backend(torch_engine, torch_cell.over_time, contextlib.nullcontext, {"call_seconds": 60}),
}


def backend() -> Backend:
    """The backend that Keras runs on, or will: it is read when Keras is first imported. Raises ValueError on another."""
    name = sys.modules["keras"].backend.backend() if "keras" in sys.modules else os.environ.setdefault("KERAS_BACKEND", "jax")
    if name not in BACKENDS:
        raise ValueError(f"Keras runs on {name} here, and is judged on JAX and torch only; set KERAS_BACKEND=jax or KERAS_BACKEND=torch")
    return BACKENDS[name]
