"""equinox: equinox.nn.LSTMCell, or a subclass of a user's, scanned over time.

Gates i, f, g, o in packed arrays, one bias; the cell takes one row, so that the batch is mapped over it. The arrays of a user's class
are those that its `layout` names, by their paths in it.
"""

from __future__ import annotations

from ..reference.variant import Variant
from . import jax_engine
from .equinox_build import build, filled, probe
from .jax_cell import over_time
from .layout import Layout
from .matching import matched

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
    return matched(declared or LAYOUT, variant, *probe(cls, options), declared is not None)


def supports(cls, options: dict, variant: Variant) -> dict:
    return jax_engine.SIZES


def function(cls, options: dict):
    """The LSTM of a class that is built as `cls(D, H, key=…)`."""
    import jax

    def lstm(inputs):
        cell = filled(build(cls, options, inputs["x"].shape[-1], inputs["h0"].shape[-1]), inputs)
        return over_time(lambda x, h, c: jax.vmap(cell)(x, (h, c)), inputs["x"], inputs["h0"], inputs["c0"])

    return lstm
