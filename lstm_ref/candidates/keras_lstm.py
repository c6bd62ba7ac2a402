"""keras: keras.layers.LSTM and LSTMCell, or a subclass of a user's, on the JAX backend.

Gates i, f, c, o in packed, transposed arrays, one bias, batch first. Keras reads its backend from KERAS_BACKEND when it is
first imported; where nothing is set, JAX is.
"""

from __future__ import annotations

from .jax_function import over_time
from .layout import PRESETS

CLASSES = ("LSTM", "LSTMCell")
LAYOUT = PRESETS["keras"]


def find(name: str):
    """The library's class of this name. Raises ValueError on another backend than JAX."""
    import keras

    if keras.backend.backend() != "jax":
        raise ValueError(f"Keras runs on {keras.backend.backend()} here; set KERAS_BACKEND=jax")
    return getattr(keras.layers, name)


def function(cls, options: dict):
    """The LSTM of a layer or a cell that is built as `cls(H)`."""
    import jax
    import keras

    def lstm(inputs):
        x, h0, c0 = (inputs[k] for k in ("x", "h0", "c0"))
        cell = not issubclass(cls, keras.layers.RNN)
        how = {} if cell else {"return_sequences": True, "return_state": True}
        with jax.ensure_compile_time_eval():  # variables are made once, outside of what is traced
            layer = cls(h0.shape[-1], dtype=str(x.dtype), **how, **options)
            layer.build((x.shape[0], x.shape[2]) if cell else x.shape)
        weights = [inputs[v.name] for v in layer.trainable_variables]
        others = [v.value for v in layer.non_trainable_variables]
        if cell:
            out = over_time(lambda x, h, c: tuple(layer.stateless_call(weights, others, x, [h, c])[0][1]), x.swapaxes(0, 1), h0, c0)
            return {**out, "h": out["h"].swapaxes(0, 1)}
        h, _, c_T = layer.stateless_call(weights, others, x, initial_state=[h0, c0])[0]
        return {"h": h, "c_T": c_T}

    return lstm
