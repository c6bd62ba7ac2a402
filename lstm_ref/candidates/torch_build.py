"""torch: how a module is built, to be looked at and to be run, and how its parameters are filled in."""

from __future__ import annotations

from typing import Any, NamedTuple

from .contract import kind
from .layout import LayoutError
from .torch_versions import write


class Built(NamedTuple):
    """A module to look at, the sizes (D, H) that it was built for, and the shape of each of its parameters by name."""

    module: Any
    sizes: tuple[int, int]
    shapes: dict[str, tuple[int, ...]]


def build(cls, options: dict, D: int, H: int):
    """A module of the class; torch's random state stays as it was. The option `packed` is about the call and not the module's."""
    import torch

    with torch.random.fork_rng(devices=[]):
        return cls(D, H, **{k: v for k, v in options.items() if k != "packed"})


def probe(cls, options: dict) -> Built:
    """A module at D and H that tell its parameters apart. Raises LayoutError where the class cannot be built for them."""
    projection = options.get("proj_size", 0)
    sizes = (3, 5 + (projection if isinstance(projection, int) else 0))
    if not callable(cls) or not hasattr(cls, "__name__"):
        raise LayoutError(f"it is {kind(cls)} that is made already; one is made for each size: name its class, or a function of (D, H)")
    try:
        module = build(cls, options, *sizes)
        return Built(module, sizes, {k: tuple(p.shape) for k, p in module.named_parameters()})
    except Exception as error:
        how = "; it is built as Class(D, H): give the rest a default, or name a function of (D, H) that builds it"
        hint = how if isinstance(error, TypeError) and "argument" in str(error) else ""
        raise LayoutError(f"building {cls.__name__}{sizes} raised {type(error).__name__}: {error}{hint}") from error


def fill(module, inputs: dict) -> dict:
    """Write the weights among the inputs into the module, whose parameters take their place: gradients are those of them. Returned are
    the inputs on the device that the module is on, a GPU say."""
    parameters = dict(module.named_parameters())
    for k, p in parameters.items():
        write(p, inputs[k])
    inputs |= parameters
    device = next(iter(parameters.values())).device
    return {k: v.to(device) for k, v in inputs.items()}
