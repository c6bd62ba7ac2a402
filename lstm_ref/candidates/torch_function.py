"""torch: a function from a dict of tensors to a dict of outputs, differentiated by torch, as a candidate.

Adapters of libraries that run on torch give such a function and a layout, as those of JAX's libraries do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from .torch_lstm import _array, _tensor

SIZES: dict[str, Any] = {"call_seconds": 60}
eagerly = contextlib.nullcontext  # nothing is traced


class Layer:
    """A function of tensors through the plug-in contract: `function(inputs) -> outputs`, both dicts. Where no backward pass is
    under way it is given `once`, too, which keeps what is made under a key for later calls."""

    def __init__(self, function: Callable[..., dict]):
        self.function = function
        self.kept: dict = {}

    def forward(self, inputs):
        import torch

        with torch.no_grad():
            outputs = self.function({k: _tensor(v) for k, v in inputs.items()}, self._once)
        return {k: _array(v) for k, v in outputs.items()}

    def _once(self, key, make: Callable[[], Any]):
        if key not in self.kept:
            self.kept[key] = make()
        return self.kept[key]

    def pullback(self, inputs):
        import torch

        every = {k: _tensor(v) for k, v in inputs.items()}
        given = {k: v.requires_grad_() for k, v in every.items() if v.is_floating_point()}
        outputs = self.function(every)

        def pull(cotangents):
            flows = [_tensor(cotangents[k]).to(outputs[k].dtype) for k in outputs]
            found = torch.autograd.grad(list(outputs.values()), list(given.values()), flows, retain_graph=True, allow_unused=True)
            return {k: _array(g) for k, g in zip(given, found, strict=True) if g is not None}

        return {k: _array(v.detach()) for k, v in outputs.items()}, pull


def over_time(cell: Callable, x, h, c) -> dict:
    """The outputs of a cell, `cell(x_t, h, c) -> (h, c)`, called for each step of x (T, B, D)."""
    import torch

    steps = []
    for x_t in x:
        h, c = cell(x_t, h, c)
        steps.append(h)
    return {"h": torch.stack(steps), "c_T": c}
