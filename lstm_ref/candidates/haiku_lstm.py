"""haiku: haiku.LSTM, or a subclass of a user's, scanned over time.

One linear layer on [x, h], gates i, g, f, o, and a 1 that the core itself adds to the forget gate. The arrays of a user's class
are those that its `layout` names, each behind its module, as in "linear.w".
"""

from __future__ import annotations

from ..reference.variant import Variant
from . import jax_engine
from .haiku_build import probe, step
from .jax_cell import over_time
from .layout import Layout
from .matching import matched

CLASSES = ("LSTM",)
OPTIONS: tuple[str, ...] = ()
LAYOUT = Layout(order="igfo", packed=True, joint="xh", transposed=True, forget_bias=1.0, names={"W": "linear.w", "b": "linear.b"})


def find(name: str):
    import haiku

    return getattr(haiku, name)


def engine():
    return jax_engine


def variant(cls, options: dict, declared: Variant) -> Variant:
    return declared


def layout(cls, options: dict, variant: Variant, declared: Layout | None) -> Layout:
    return matched(declared or LAYOUT, variant, *probe(cls, options), declared is not None)


def supports(cls, options: dict, variant: Variant) -> dict:
    return jax_engine.SIZES


def function(cls, options: dict):
    """The LSTM of a core that is built as `cls(H, name=…)`."""

    def lstm(inputs):
        return over_time(step(cls, options, inputs), *(inputs[k] for k in ("x", "h0", "c0")), "(y, (h, c))")

    return lstm
