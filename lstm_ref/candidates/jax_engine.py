"""JAX as an engine: a function of JAX arrays is compiled and differentiated, with NumPy in and out.

Everything is compiled for every shape that it meets, so that only a few sizes are asked for, unless `supports` says more.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from .jax_arrays import named, on_host, precision

SIZES = {"T": [1, 4, 7], "B": [1, 3], "D": [1, 4, 9], "H": [1, 4, 9, 17], "call_seconds": 60}


class Layer:
    """A function of JAX arrays through the plug-in contract: `function(inputs) -> outputs`, both dicts.

    What `pullback` returns is what the function gives where it is differentiated, by the forward rule of a custom_vjp say; `forward` calls
    it as it is.
    """

    def __init__(self, function: Callable[[dict], dict]):
        self.forward_compiled, self.vjp_compiled, self.outputs = _compiled(function)

    def pullback(self, inputs):
        with precision(inputs):
            nothing = {k: np.zeros(v.shape, v.dtype) for k, v in self.outputs(inputs).items()}
            outputs, _ = self.vjp_compiled(inputs, nothing)

        def pull(cotangents):
            with precision(inputs):
                return on_host(self.vjp_compiled(inputs, nothing | cotangents)[1])

        return on_host(outputs), pull

    def forward(self, inputs):
        with precision(inputs):
            return on_host(self.forward_compiled(inputs))


@functools.cache
def _compiled(function: Callable[[dict], dict]):
    """The function and its backward pass, each compiled once for every shape, however many instances there are, and the shapes and dtypes
    of its outputs."""
    import jax

    function = named(function)

    def pulled(inputs, s):
        whole = {k: v for k, v in inputs.items() if v.dtype.kind == "i"}  # lengths have no gradient
        outputs, back = jax.vjp(lambda q: function({**whole, **q}), {k: v for k, v in inputs.items() if k not in whole})
        return outputs, back(s)[0]

    compiled = jax.jit(function)
    return compiled, jax.jit(pulled), lambda inputs: compiled.eval_shape(inputs)
