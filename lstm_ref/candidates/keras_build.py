"""keras: how a layer or a cell is built, and how it is called with arrays of ours."""

from __future__ import annotations

from typing import Any

from .keras_backend import backend


def is_cell(cls) -> bool:
    import keras

    return not issubclass(cls, keras.layers.RNN)


def build(cls, options: dict, x, H: int):
    """A layer or a cell that is built as `cls(H)`, for x (B, T, D)."""
    import keras

    how: dict[str, Any] = {} if is_cell(cls) else {"return_sequences": True, "return_state": True}
    how |= {"recurrent_initializer": "zeros"} if x.dtype.itemsize == 2 else {}  # the default has no half precision
    with backend().building():
        layer = cls(H, dtype=keras.backend.standardize_dtype(x.dtype), **how, **options)
        layer.build((x.shape[0], x.shape[2]) if is_cell(cls) else tuple(x.shape))
    return layer


def called(layer, inputs: dict) -> dict:
    """The outputs of a layer, or of a cell step by step; arrays are found by the names of its variables, which stay as they are."""
    x, h0, c0 = (inputs[k] for k in ("x", "h0", "c0"))
    own = [inputs[v.name] for v in layer.trainable_variables], [v.value for v in layer.non_trainable_variables]
    if not is_cell(type(layer)):
        return dict(zip(("h", "h_T", "c_T"), layer.stateless_call(*own, x, initial_state=[h0, c0])[0], strict=True))
    out = backend().over_time(lambda x, *state: tuple(layer.stateless_call(*own, x, state)[0][1]), x.swapaxes(0, 1), h0, c0)
    return {**out, "h": out["h"].swapaxes(0, 1)}
