"""jax: a user's function from a dict of arrays to a dict of outputs, differentiated by JAX, as `jax:module:function`."""

from __future__ import annotations

from collections.abc import Callable

from ..reference.variant import Variant
from . import jax_engine
from .layout import PRESETS, Layout

CLASSES: tuple[str, ...] = ()  # JAX has no LSTM of its own to name
OPTIONS: tuple[str, ...] = ()


def find(name: str):
    raise ValueError(f"JAX has no {name} of its own; name a function of yours")


def engine():
    return jax_engine


def variant(given, options: dict, declared: Variant) -> Variant:
    return declared


def layout(given, options: dict, variant: Variant, declared: Layout | None) -> Layout:
    return declared or PRESETS["textbook"]


def supports(given, options: dict, variant: Variant) -> dict:
    return jax_engine.SIZES


def function(given: Callable[[dict], dict], options: dict) -> Callable[[dict], dict]:
    """The user's function as it is."""
    return given
