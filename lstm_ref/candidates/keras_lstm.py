"""keras: keras.layers.LSTM and LSTMCell, or a user's subclass, on the backend that KERAS_BACKEND names: JAX (default) or torch.

Gates i, f, c, o in packed, transposed arrays, one bias, batch first.
"""

from __future__ import annotations

from ..reference.variant import Variant
from .keras_backend import backend
from .keras_build import build, called
from .layout import PRESETS, Layout

CLASSES = ("LSTM", "LSTMCell")
OPTIONS = ("activation", "recurrent_activation", "use_bias", "unroll", "use_cudnn")


def find(name: str):
    import keras

    return getattr(keras.layers, name)


def engine():
    return backend().engine


def variant(cls, options: dict, declared: Variant) -> Variant:
    return declared


def layout(cls, options: dict, variant: Variant, declared: Layout | None) -> Layout:
    return declared or PRESETS["keras"]


def supports(cls, options: dict, variant: Variant) -> dict:
    return backend().supports


def function(cls, options: dict):
    """The LSTM of a layer or a cell, built once for every shape where `once` keeps it."""

    def lstm(inputs, once=lambda key, make: make()):
        x, H = inputs["x"], inputs["h0"].shape[-1]
        layer = once((*x.shape, H, x.dtype), lambda: build(cls, options, x, H))
        return called(layer, inputs)

    return lstm
