"""JAX: the precision of a call, and what a function returns as arrays by name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .contract import Told, by_name


def precision(inputs: dict):
    """The precision of the arguments, for one call; JAX's settings stay as they are."""
    import jax

    dtype = next(v.dtype for v in inputs.values() if v.dtype.kind != "i")
    if dtype.kind == "c":
        raise TypeError("a complex step would compile every shape once more, so JAX functions are differenced by real ones")
    return jax.enable_x64(dtype == np.float64)


def on_host(found: dict) -> dict[str, np.ndarray]:
    return {k: np.asarray(v) for k, v in found.items()}


def named(function: Callable[[dict], dict]) -> Callable[[dict], dict]:
    """The function, returning its arrays in a dict, without what is None. It raises Told where it returns nothing by name."""
    import jax.numpy as jnp

    def returns_dict(inputs):
        found = by_name(function(inputs))
        if found is None:
            raise Told("returned no dict; one of the outputs is due, {'h': (T, B, H), 'c_T': (B, H)}")
        return {k: jnp.asarray(v) for k, v in found.items() if v is not None}

    return returns_dict
