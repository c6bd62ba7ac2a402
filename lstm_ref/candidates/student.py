"""Student: an object that keeps its own parameters and data: `params` (name to array), `loss()`, `gradients()`.

Its parameters are perturbed in place and put back, so it can be differenced without knowing what it computes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .contract import NUMBERS, Finding, by_name, in_a_line, kind, numbers, one_number, place


def is_student(thing) -> bool:
    return all(hasattr(thing, k) for k in ("params", "loss", "gradients")) and isinstance(thing.params, Mapping)


def loss_of(thing) -> float:
    """The loss. Raises Finding where loss() raises, or returns what is no number."""
    try:
        J = thing.loss()
    except Exception as error:
        raise Finding("contract.call", f"loss() raised {in_a_line(error)}{place(error)}") from None
    try:
        return float(one_number(J))
    except Exception:  # any conversion may fail in foreign code
        raise Finding("contract.call", f"loss() returned {kind(J)}; one number is due") from None


def gradients_of(thing) -> dict:
    """The gradients by name. Raises Finding where gradients() raises, or returns no dict."""
    try:
        found = thing.gradients()
    except Exception as error:
        raise Finding("contract.call", f"gradients() raised {in_a_line(error)}{place(error)}") from None
    named = by_name(found)
    if named is None:
        raise Finding("contract.call", f"gradients() returned {kind(found)}; a dict of arrays is due, keyed as params is")
    return dict(named)


def kept(found: dict) -> dict:
    """The gradients with memory of their own, so that a later call that adds to them, or writes over them, is seen; others stay."""
    copies = dict(found)
    for k, v in found.items():
        try:
            copies[k] = array.copy() if (array := numbers(v)).dtype.kind in NUMBERS else v
        except Exception:  # any conversion may fail in foreign code
            copies[k] = v
    return copies


def put_back(thing, before: dict[str, np.ndarray]) -> set[str]:
    """Write the numbers of `before` into the parameters that hold others by now, and say which."""
    moved = set()
    for name, value in before.items():
        array = numbers(thing.params[name])
        if array.shape != value.shape or array.tobytes() != value.tobytes():
            moved.add(name)
            array[...] = value
    return moved


def gradient_of(found: dict, name: str, due: tuple[int, ...]) -> np.ndarray:
    """The gradient of a parameter among those that gradients() returned. Raises Finding where it is none."""
    if found.get(name) is None:
        keys = ", ".join(f"{k}: None" if v is None else str(k) for k, v in found.items()) or "nothing"
        raise Finding("contract.keys", f"gradients() has no {name}; it has {keys}")
    try:
        array = numbers(found[name])
    except Exception as error:  # any conversion may fail in foreign code
        raise Finding("contract.shapes", f"the gradient of {name} is no array ({in_a_line(error)}); {due} is due") from None
    if array.dtype.kind not in "fiu":
        raise Finding("contract.dtype", f"the gradient of {name} has dtype {array.dtype}; floats are due")
    if array.shape != due:
        raise Finding("contract.shapes", f"the gradient of {name} has shape {array.shape}; {due} is due")
    return array


def fault(thing, name: str) -> str:
    """Why loss() cannot see a parameter move, in a sentence; empty where it can."""
    value = thing.params[name]
    try:
        array = numbers(value)
    except Exception as error:  # any conversion may fail in foreign code
        return f"params[{name!r}] is no array ({in_a_line(error)}); an array of floats that loss() reads is due"
    if not array.size:
        return ""
    if not np.shares_memory(array, numbers(value)):
        told = f"np.array({value!r})" if isinstance(value, (int, float)) else "a NumPy array"
        return f"params[{name!r}] is {kind(value)}, which cannot be moved in place; an array that loss() reads is due: {told}"
    if not np.shares_memory(array, numbers(thing.params[name])):
        return f"params gives a copy of {name} each time, so that loss() does not see it move; give the array itself that loss() reads"
    if not array.flags.writeable:
        return f"params[{name!r}] is read-only, and it is moved in place and put back; make it writeable: setflags(write=True)"
    return ""


def loss_along(thing, name: str, direction: np.ndarray):
    """J as a function of a step along `direction` in parameter `name`; the parameter is restored after every call."""
    target = np.asarray(thing.params[name])
    kept = target.copy()

    def J(step: float) -> float:
        try:
            target[...] = kept + step * direction
            return loss_of(thing)
        finally:
            target[...] = kept

    return J


def still(thing, name: str) -> bool:
    """Whether the loss is the same, bit for bit, after a large step in every entry of a parameter. Steps differ from entry
    to entry: a softmax does not see the same step in all."""
    J = loss_along(thing, name, np.random.default_rng(0).standard_normal(np.shape(thing.params[name])))
    return J(0.0) == J(1.0) == J(-0.5)
