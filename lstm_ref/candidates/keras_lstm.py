"""keras: keras.layers.LSTM and LSTMCell, or a user's subclass, on the backend that KERAS_BACKEND names: JAX (default) or torch.

Gates i, f, c, o in packed, transposed arrays, one bias, batch first.
"""

from __future__ import annotations

import dataclasses

from ..reference.variant import Variant
from .keras_backend import backend
from .keras_build import build, called, is_cell, made
from .keras_variant import variant_of
from .layout import PRESETS, Layout

CLASSES = ("LSTM", "LSTMCell")
OPTIONS = ("activation", "recurrent_activation", "use_bias", "go_backwards", "masked", "zero_output_for_mask", "unroll", "use_cudnn")


def find(name: str):
    import keras

    return getattr(keras.layers, name)


def engine():
    return backend().engine


def variant(cls, options: dict, declared: Variant) -> Variant:
    own = any(cls is find(name) for name in CLASSES)
    return variant_of(made(cls, options, 1), declared, bool(options.get("masked")), own)


def layout(cls, options: dict, variant: Variant, declared: Layout | None) -> Layout:
    biases = 1 if getattr(made(cls, options, 1), "use_bias", True) else 0
    layout = declared or dataclasses.replace(PRESETS["keras"], biases=biases)
    return dataclasses.replace(layout, batch_first=True) if is_cell(cls) else layout  # a cell knows no time axis, and is called so


def supports(cls, options: dict, variant: Variant) -> dict:
    return backend().supports


def function(cls, options: dict):
    """The LSTM of a layer or a cell, built once for every shape where `once` keeps it."""

    def lstm(inputs, once=lambda key, make: make()):
        x, H = inputs["x"], inputs["h0"].shape[-1]
        layer = once((*x.shape, H, x.dtype), lambda: build(cls, options, x, H))
        return called(layer, inputs)

    return lstm
