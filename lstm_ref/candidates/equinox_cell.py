"""equinox: equinox.nn.LSTMCell, or a subclass of a user's, scanned over time.

Gates i, f, g, o in packed arrays, one bias; the cell takes one row, so that the batch is mapped over it.
"""

from __future__ import annotations

import dataclasses

from ..reference.variant import Variant
from . import jax_engine
from .jax_cell import over_time
from .layout import Layout

CLASSES = ("LSTMCell",)
OPTIONS = ("use_bias",)
LAYOUT = Layout(order="ifgo", packed=True, joint="split", names={"W_x": "weight_ih", "W_h": "weight_hh", "b": "bias"})


def find(name: str):
    import equinox

    return getattr(equinox.nn, name)


def engine():
    return jax_engine


def variant(cls, options: dict, declared: Variant) -> Variant:
    return declared


def layout(cls, options: dict, variant: Variant, declared: Layout | None) -> Layout:
    return declared or dataclasses.replace(LAYOUT, biases=1 if options.get("use_bias", True) else 0)


def supports(cls, options: dict, variant: Variant) -> dict:
    return jax_engine.SIZES


def function(cls, options: dict):
    """The LSTM of a class that is built as `cls(D, H, key=…)`."""
    import equinox
    import jax

    def lstm(inputs):
        D, H = inputs["x"].shape[-1], inputs["h0"].shape[-1]
        cell = cls(D, H, key=jax.random.PRNGKey(0), **options)
        names = [k for k in ("weight_ih", "weight_hh", "bias") if k in inputs]
        cell = equinox.tree_at(lambda m: [getattr(m, k) for k in names], cell, [inputs[k] for k in names])
        return over_time(lambda x, h, c: jax.vmap(cell)(x, (h, c)), inputs["x"], inputs["h0"], inputs["c0"])

    return lstm
