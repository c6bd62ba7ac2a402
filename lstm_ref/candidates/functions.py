"""Functions: which activation of a Variant a framework's own function is."""

from __future__ import annotations

from collections.abc import Callable

from ..reference.variant import VariantError


def known(option: str, found: Callable, functions: dict[str, Callable], as_variant: dict[str, str]) -> str:
    """The Variant's name of what an option was set to; `functions` are the framework's by its own names, and `as_variant` is what
    those are called there. Raises VariantError, naming the option, for a function that is none of them."""
    for name, function in functions.items():
        if found is function:
            return as_variant[name]
    name = getattr(found, "__name__", repr(found))
    raise VariantError(f"its {option} is {name}, which is not known here; it may be {', '.join(sorted(as_variant))}")
