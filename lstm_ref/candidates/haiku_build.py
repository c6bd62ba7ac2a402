"""haiku: a core as a function, and its arrays, which are named by their modules in the core and their own names, as in "linear.w"."""

from __future__ import annotations

from collections.abc import Callable

from .layout import LayoutError


def probe(cls, options: dict) -> tuple[tuple[int, int], dict[str, tuple[int, ...]]]:
    """Sizes (D, H) that tell the arrays of a core apart, and the shape of each there by name. Raises LayoutError."""
    sizes = (3, 5)
    try:
        arrays = _arrays(_transformed(cls, options, sizes[1]), *sizes)
    except Exception as error:
        raise LayoutError(f"building it for D, H = 3, 5 or calling it as core(x, state) raised {type(error).__name__}: {error}") from error
    return sizes, {k: shape for k, (_, shape) in arrays.items()}


def step(cls, options: dict, inputs: dict) -> Callable:
    """A core with the weights among the inputs, as a function of (x, h, c) to (y, (h, c))."""
    import haiku

    core = _transformed(cls, options, inputs["h0"].shape[-1])
    params: dict[str, dict] = {}
    for name, ((module, array), _) in _arrays(core, inputs["x"].shape[-1], inputs["h0"].shape[-1]).items():
        params.setdefault(module, {})[array] = inputs[name]
    apply = haiku.without_apply_rng(core).apply
    return lambda x, h, c: apply(params, x, h, c)


def _transformed(cls, options: dict, H: int):
    import haiku

    return haiku.transform(lambda x, h, c: cls(H, name="core", **options)(x, haiku.LSTMState(h, c)))


def _arrays(core, D: int, H: int) -> dict[str, tuple[tuple[str, str], tuple[int, ...]]]:
    """Where each array of a core lies, and its shape, by name; what is made where the core is made counts as its own."""
    import jax
    import jax.numpy as jnp

    made = jax.eval_shape(core.init, jax.random.PRNGKey(0), jnp.zeros((1, D)), jnp.zeros((1, H)), jnp.zeros((1, H)))
    found: dict[str, tuple[tuple[str, str], tuple[int, ...]]] = {}
    for module, arrays in made.items():
        parts = [p for p in module.split("/")[1:] if p != "~"]
        found |= {".".join((*parts, k)): ((module, k), tuple(v.shape)) for k, v in arrays.items()}
    return found
