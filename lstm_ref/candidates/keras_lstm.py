"""keras: keras.layers.LSTM and LSTMCell, or a user's subclass, on the backend that KERAS_BACKEND names: JAX (default) or torch.

Gates i, f, c, o in packed, transposed arrays, one bias, batch first. Keras reads its backend when it is first imported.
"""

from __future__ import annotations

import os
import sys

from . import jax_function, torch_function
from .layout import PRESETS, Layout

CLASSES = ("LSTM", "LSTMCell")
ENGINES = {"jax": jax_function, "torch": torch_function}


def find(name: str):
    """The library's class of this name."""
    import keras

    return getattr(keras.layers, name)


def layout(cls) -> Layout:
    return PRESETS["keras"]


def engine():
    """What differentiates: the backend that Keras runs on, or will. Raises ValueError on another than JAX and torch."""
    backend = sys.modules["keras"].backend.backend() if "keras" in sys.modules else os.environ.setdefault("KERAS_BACKEND", "jax")
    if backend not in ENGINES:
        raise ValueError(f"Keras runs on {backend} here, and is judged on JAX and torch only; set KERAS_BACKEND=jax or KERAS_BACKEND=torch")
    return ENGINES[backend]


def function(cls, options: dict):
    """The LSTM of a layer or a cell that is built as `cls(H)`, or taken from what `once` has kept."""
    import keras

    cell = not issubclass(cls, keras.layers.RNN)
    plain = {} if cell else {"return_sequences": True, "return_state": True}

    def build(x, H: int):
        how = plain | ({"recurrent_initializer": "zeros"} if x.dtype.itemsize == 2 else {})  # the default has no half precision
        with engine().eagerly():
            layer = cls(H, dtype=keras.backend.standardize_dtype(x.dtype), **how, **options)
            layer.build((x.shape[0], x.shape[2]) if cell else tuple(x.shape))
        return layer

    def lstm(inputs, once=lambda key, make: make()):
        x, h0, c0 = (inputs[k] for k in ("x", "h0", "c0"))
        layer = once((*x.shape, h0.shape[-1], x.dtype), lambda: build(x, h0.shape[-1]))
        own = [inputs[v.name] for v in layer.trainable_variables], [v.value for v in layer.non_trainable_variables]
        if not cell:
            return dict(zip(("h", "h_T", "c_T"), layer.stateless_call(*own, x, initial_state=[h0, c0])[0], strict=True))
        out = engine().over_time(lambda x, *state: tuple(layer.stateless_call(*own, x, state)[0][1]), x.swapaxes(0, 1), h0, c0)
        return {**out, "h": out["h"].swapaxes(0, 1)}

    return lstm
