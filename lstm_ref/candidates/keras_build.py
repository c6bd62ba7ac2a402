"""keras: how a layer or a cell is built, and how it is called with arrays of ours."""

from __future__ import annotations

from typing import Any

from .keras_backend import backend


def is_cell(cls) -> bool:
    import keras

    return not issubclass(cls, keras.layers.RNN)


def made(cls, options: dict, H: int, dtype: str = "float32"):
    """A layer or a cell, `cls(H)`, without arrays as yet. The option `masked` is about the call and not the layer's. Raises ValueError
    for what is neither."""
    import keras

    if not isinstance(cls, type) or issubclass(cls, (keras.Model, keras.layers.Wrapper, keras.layers.Bidirectional)):
        what = (
            "no class" if not isinstance(cls, type) else f"a {'model' if issubclass(cls, keras.Model) else 'wrapper'} around other layers"
        )
        raise ValueError(f"it is {what}; a layer, as a subclass of keras.layers.LSTM or RNN, or a cell is due, built as Class(units)")
    how: dict[str, Any] = {} if is_cell(cls) else {"return_sequences": True, "return_state": True}
    how |= {"recurrent_initializer": "zeros"} if dtype.endswith("float16") else {}  # the default has no half precision
    return cls(H, dtype=dtype, **how, **{k: v for k, v in options.items() if k != "masked"})


def build(cls, options: dict, x, H: int):
    """A layer or a cell with arrays, for x (B, T, D)."""
    import keras

    with backend().building():
        layer = made(cls, options, H, keras.backend.standardize_dtype(x.dtype))
        layer.build((x.shape[0], x.shape[2]) if is_cell(cls) else tuple(x.shape))
    return layer


def called(layer, inputs: dict) -> dict:
    """The outputs of a layer, or of a cell step by step; arrays are found by the names of its variables, which stay as they are.
    What goes backwards returns h in the order in which it is computed, which is turned round."""
    import keras

    x, h0, c0 = (inputs[k] for k in ("x", "h0", "c0"))
    own = [inputs[k] for k in names(layer.trainable_variables)], [v.value for v in layer.non_trainable_variables]
    if not is_cell(type(layer)):
        mask = {"mask": inputs["mask"] != 0} if "mask" in inputs else {}
        h, h_T, c_T = layer.stateless_call(*own, x, initial_state=[h0, c0], **mask)[0]
        return {"h": keras.ops.flip(h, 1) if layer.go_backwards else h, "h_T": h_T, "c_T": c_T}
    out = backend().over_time(lambda x, *state: layer.stateless_call(*own, x, state)[0], x.swapaxes(0, 1), h0, c0, "(y, (h, c))")
    return {**out, "h": out["h"].swapaxes(0, 1)}


def names(variables) -> list[str]:
    """The names of variables, behind that of the layer that each is of where two have the same: x.kernel and h.kernel."""
    alone = [v.name for v in variables]
    return alone if len({*alone}) == len(alone) else [".".join(v.path.split("/")[-2:]) for v in variables]
