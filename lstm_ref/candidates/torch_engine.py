"""torch as an engine: a function of tensors is run and differentiated, with NumPy in and out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..reference.variant import DATA
from .torch_flows import as_it_lies, hand_back
from .torch_tensors import array, one_thread, tensor
from .torch_versions import remembered

KEPT = 32  # modules of different sizes


class Layer:
    """A function of tensors through the plug-in contract: `function(inputs) -> outputs`, both dicts. It may put another tensor in the
    place of one of its inputs, as a module does whose own parameter holds that array: gradients are those of what stands there then.
    It is given `once`, too, which keeps what is made under a key from call to call."""

    def __init__(self, function: Callable[..., dict]):
        self.function = one_thread()(function)
        self.kept: dict = {}

    def forward(self, inputs):
        import torch

        with torch.no_grad():
            outputs = self.function({k: tensor(v) for k, v in inputs.items()}, self._once)
        return {k: array(v) for k, v in outputs.items()}

    def _once(self, key, make: Callable[[], Any]):
        if key not in self.kept:
            if len(self.kept) == KEPT:
                del self.kept[next(iter(self.kept))]
            self.kept[key] = make()
        return self.kept[key]

    def pullback(self, inputs):
        import torch

        given = {k: tensor(v) for k, v in inputs.items()}
        values = {k: v.requires_grad_() for k, v in given.items() if v.is_floating_point() and k not in DATA}
        outputs = self.function(given, self._once)
        own = {k: given[k] for k in values}
        as_now = remembered([*own.values()], [*values.values()])

        def pull(cotangents):
            wanted = {k: q for k, q in own.items() if q.requires_grad}
            joined = {k: v for k, v in outputs.items() if v.requires_grad and k in cotangents}  # not through one that is detached
            if not wanted or not joined:
                return {}
            flows = [as_it_lies(cotangents[k]).to(v) for k, v in joined.items()]
            with as_now(), one_thread():  # a later call has written other numbers
                found = torch.autograd.grad([*joined.values()], [*wanted.values()], flows, retain_graph=True, allow_unused=True)
            hand_back(flows, [cotangents[k] for k in joined])
            return {k: array(g) for k, g in zip(wanted, found, strict=True) if g is not None}

        return {k: array(v.detach()) for k, v in outputs.items()}, pull
