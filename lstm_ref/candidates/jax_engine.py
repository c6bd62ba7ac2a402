"""JAX as an engine: a function of JAX arrays is compiled and differentiated, with NumPy in and out.

Everything is compiled for every shape that it meets, so that only a few sizes are asked for, unless `supports` says more.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from .contract import Told, by_name

SIZES = {"T": [1, 4, 7], "B": [1, 3], "D": [1, 4, 9], "H": [1, 4, 9, 17], "call_seconds": 60}


class Layer:
    """A function of JAX arrays through the plug-in contract: `function(inputs) -> outputs`, both dicts."""

    def __init__(self, function: Callable[[dict], dict]):
        self.forward_compiled, self.vjp_compiled = _compiled(function)

    def pullback(self, inputs):
        outputs = self.forward(inputs)
        missing = {k: np.zeros_like(v) for k, v in outputs.items()}

        def pull(cotangents):
            return _on_host(self.vjp_compiled, inputs, missing | cotangents)

        return outputs, pull

    def forward(self, inputs):
        return _on_host(self.forward_compiled, inputs)


@functools.cache
def _compiled(function: Callable[[dict], dict]):
    """The function and its backward pass, each compiled once for every shape, however many instances there are."""
    import jax

    def pulled(inputs, s):
        whole = {k: v for k, v in inputs.items() if v.dtype.kind == "i"}  # lengths have no gradient
        return jax.vjp(lambda q: function({**whole, **q}), {k: v for k, v in inputs.items() if k not in whole})[1](s)[0]

    return jax.jit(function), jax.jit(pulled)


def _on_host(compiled, *trees: dict) -> dict:
    """Call compiled code in the precision of its arguments, with NumPy in and out; JAX's settings stay as they are."""
    import jax

    dtype = next(v.dtype for v in trees[0].values() if v.dtype.kind != "i")
    if dtype.kind == "c":
        raise TypeError("a complex step would compile every shape once more, so JAX functions are differenced by real ones")
    with jax.enable_x64(dtype == np.float64):
        found = by_name(compiled(*trees))
        if found is None:
            raise Told("returned no dict; one of the outputs is due, {'h': (T, B, H), 'c_T': (B, H)}")
        return {k: np.asarray(v) for k, v in found.items()}
