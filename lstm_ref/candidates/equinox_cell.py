"""equinox: equinox.nn.LSTMCell, or a subclass of a user's, scanned over time.

Gates i, f, g, o in packed arrays, one bias; the cell takes one row, so that the batch is mapped over it.
"""

from __future__ import annotations

from .jax_function import engine, over_time
from .layout import Layout

__all__ = ["CLASSES", "engine", "find", "function", "layout"]
CLASSES = ("LSTMCell",)
LAYOUT = Layout(order="ifgo", packed=True, joint="split", names={"W_x": "weight_ih", "W_h": "weight_hh", "b": "bias"})


def find(name: str):
    """The library's class of this name."""
    import equinox

    return getattr(equinox.nn, name)


def layout(cls) -> Layout:
    return LAYOUT


def function(cls, options: dict):
    """The LSTM of a class that is built as `cls(D, H, key=…)`."""
    import equinox
    import jax

    def lstm(inputs):
        D, H = inputs["x"].shape[-1], inputs["h0"].shape[-1]
        cell = cls(D, H, key=jax.random.PRNGKey(0), **options)
        own = tuple(inputs[k] for k in ("weight_ih", "weight_hh", "bias"))
        cell = equinox.tree_at(lambda m: (m.weight_ih, m.weight_hh, m.bias), cell, own)
        return over_time(lambda x, h, c: jax.vmap(cell)(x, (h, c)), inputs["x"], inputs["h0"], inputs["c0"])

    return lstm
