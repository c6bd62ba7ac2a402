"""keras: what variant a layer or a cell is: as declared, else what it says of itself.

Its activation is that of a_c and of c; hard_sigmoid is clip(a/6 + ½, 0, 1). The state is carried over masked steps; h there is 0
with `zero_output_for_mask`, else h_{t-1} where JAX scans it. Elsewhere it is the output before, which begins as 0 and not as h0:
a variant that is not known here. Unrolled on JAX, a layer does not heed `zero_output_for_mask`.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

from ..reference.variant import Variant, VariantError
from .functions import known

ACTIVATIONS = {"tanh": "tanh", "linear": "identity", "relu": "relu", "softsign": "softsign", "sigmoid": "sigmoid"}
GATES = {"sigmoid": "sigmoid", "hard_sigmoid": "hard_sigmoid"}


def variant_of(layer, declared: Variant, masked: bool, own: bool) -> Variant:
    """The variant of a layer, of Keras' `own` or a user's subclass, which is the textbook's where a function of it is not known."""
    found = declared
    if declared.textbook:
        found = Variant(direction="reverse" if getattr(layer, "go_backwards", False) else "forward")
        with contextlib.nullcontext() if own else contextlib.suppress(VariantError):
            found = dataclasses.replace(found, **_functions(layer))
    return dataclasses.replace(found, mask=_policy(layer)) if masked else found


def _functions(layer) -> dict[str, Any]:
    import keras

    def which(option: str, names: dict[str, str]) -> str:
        return known(option, getattr(layer, option), {k: keras.activations.get(k) for k in names}, names)

    if not hasattr(layer, "activation") or not hasattr(layer, "recurrent_activation"):
        return {}
    activation = which("activation", ACTIVATIONS)
    return {"activation": activation, "output": activation, "gate": which("recurrent_activation", GATES)}


def _policy(layer) -> str:
    import keras

    if not isinstance(layer, keras.layers.RNN):
        raise VariantError("it takes no mask, as a cell knows no time; a layer does")
    scanned = keras.backend.backend() == "jax" and not layer.unroll
    if layer.zero_output_for_mask and (scanned or keras.backend.backend() == "torch"):
        return "zero"
    if scanned:
        return "carry"
    due = "zero_output_for_mask=True" if keras.backend.backend() == "torch" else "unroll=False"
    raise VariantError(f"before the first step that is not masked its h is 0, which no variant here is; set {due}")
