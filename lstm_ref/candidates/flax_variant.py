"""flax: what variant a cell is: as declared, else what its `activation_fn`, of a_c and of c, and its `gate_fn` say."""

from __future__ import annotations

import contextlib

from ..reference.variant import Variant, VariantError
from .functions import known

ACTIVATIONS = {"tanh": "tanh", "identity": "identity", "relu": "relu", "soft_sign": "softsign", "sigmoid": "sigmoid"}
GATES = {"sigmoid": "sigmoid", "hard_sigmoid": "hard_sigmoid"}


def with_functions(options: dict) -> dict:
    """The options, with functions for their names in jax.nn, "hard_sigmoid" say. Raises VariantError for a name that is none."""
    import jax

    found = dict(options)
    for option in {"activation_fn", "gate_fn"} & set(options):
        if isinstance(options[option], str):
            found[option] = getattr(jax.nn, options[option], None)
        if not callable(found[option]):
            raise VariantError(f"its {option} is {options[option]!r}; the name of a function of jax.nn is due, as in 'hard_sigmoid'")
    return found


def variant_of(cell, declared: Variant, own: bool) -> Variant:
    """The variant of a cell, of flax' `own` or a user's subclass, which is the textbook's where a function of it is not known."""
    import jax

    if declared.textbook:
        with contextlib.nullcontext() if own else contextlib.suppress(VariantError, AttributeError):
            activation = known("activation_fn", cell.activation_fn, {k: getattr(jax.nn, k) for k in ACTIVATIONS}, ACTIVATIONS)
            gate = known("gate_fn", cell.gate_fn, {k: getattr(jax.nn, k) for k in GATES}, GATES)
            return Variant(activation=activation, output=activation, gate=gate)
    return declared
