"""jax: a function from a dict of arrays to a dict of outputs, differentiated by JAX, as a candidate.

The adapters of JAX's libraries give such a function and a layout; users give theirs as `jax:module:function`. Both are
compiled for every shape that they meet, so that only a few sizes are asked for, unless the function's `supports` says more.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .layout import Layout

SIZES = {"T": [1, 4, 7], "B": [1, 3], "D": [1, 4, 9], "H": [1, 4, 9, 17], "call_seconds": 60}


CLASSES: tuple[str, ...] = ()  # JAX has no LSTM of its own to name
LAYOUT = Layout()


def function(given: Callable[[dict], dict], options: dict) -> Callable[[dict], dict]:
    """The user's function as it is."""
    return given


class JaxLayer:
    """A function of JAX arrays through the plug-in contract: `function(inputs) -> outputs`, both dicts."""

    def __init__(self, function: Callable[[dict], dict]):
        import jax

        self.forward_compiled = jax.jit(function)
        self.vjp_compiled = jax.jit(lambda inputs, s: jax.vjp(function, inputs)[1](s)[0])

    def pullback(self, inputs):
        outputs = self.forward(inputs)
        missing = {k: np.zeros_like(v) for k, v in outputs.items()}

        def pull(cotangents):
            return _on_host(self.vjp_compiled, inputs, missing | cotangents)

        return outputs, pull

    def forward(self, inputs):
        return _on_host(self.forward_compiled, inputs)


def _on_host(compiled, *trees: dict) -> dict:
    """Call compiled code in the precision of its arguments, with NumPy in and out; JAX's settings stay as they are."""
    import jax

    dtype = next(v.dtype for v in trees[0].values() if v.dtype.kind != "i")
    if dtype.kind == "c":
        raise TypeError("a complex step would compile every shape once more, so JAX functions are differenced by real ones")
    with jax.enable_x64(dtype == np.float64):
        return {k: np.asarray(v) for k, v in compiled(*trees).items()}


def over_time(cell: Callable, x, h, c) -> dict:
    """The outputs of a cell, `cell(x_t, h, c) -> (h, c)`, scanned over x (T, B, D)."""
    import jax

    def step(state, x_t):
        state = cell(x_t, *state)
        return state, state[0]

    (_, c_T), h = jax.lax.scan(step, (h, c), x)
    return {"h": h, "c_T": c_T}
