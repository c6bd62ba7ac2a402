"""haiku: haiku.LSTM, or a subclass of a user's, scanned over time.

One linear layer on [x, h], gates i, g, f, o, and a 1 that the core itself adds to the forget gate.
"""

from __future__ import annotations

from ..reference.variant import Variant
from . import jax_engine
from .jax_cell import over_time
from .layout import Layout

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
    return declared or LAYOUT


def supports(cls, options: dict, variant: Variant) -> dict:
    return jax_engine.SIZES


def function(cls, options: dict):
    """The LSTM of a core that is built as `cls(H)`."""
    import haiku

    def lstm(inputs):
        H = inputs["h0"].shape[-1]

        def step(x, h, c):
            _, state = cls(H, name="core", **options)(x, haiku.LSTMState(h, c))
            return state.hidden, state.cell

        apply = haiku.without_apply_rng(haiku.transform(step)).apply
        params = {"core/linear": {"w": inputs["linear.w"], "b": inputs["linear.b"]}}
        return over_time(lambda x, h, c: apply(params, x, h, c), inputs["x"], inputs["h0"], inputs["c0"])

    return lstm
