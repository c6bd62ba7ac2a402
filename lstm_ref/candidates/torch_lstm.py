"""torch: torch.nn.LSTM and LSTMCell, or a user's own nn.Module that is called like the layer, as a candidate.

The module is built as `Class(D, H)`, called as `module(x, (h0, c0))` with states (layers · directions, B, H), and returns
`(y, (h_n, c_n))`; a subclass of LSTMCell is called step by step. Its parameters are matched to the layout by name, else by
shape. A torch.nn.LSTM says itself how many layers and directions it has; another module may declare a `variant`, and the masks
of that come as keywords, but lengths as a packed sequence where `packed` is asked for.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from ..reference.symbols import Sizes
from ..reference.variant import DATA, TEXTBOOK, Variant, parse
from .layout import PRESETS, Layout, encode, resolve

PROBE = (3, 5)  # D and H of the module that is looked at


class TorchError(ValueError):
    """A module that does not fit; the text says what was seen and what is due."""


def variant_of(module, declared, packed: bool) -> Variant:
    """What a module is: as declared, else what a torch.nn.LSTM says of itself."""
    import torch

    variant = parse(declared)
    if variant.textbook and isinstance(module, torch.nn.LSTM):
        direction = "both" if module.bidirectional else "forward"
        variant = dataclasses.replace(TEXTBOOK, layers=module.num_layers, direction=direction, projection=module.proj_size)
    return dataclasses.replace(variant, mask="zero", lengths=True) if packed else variant


def layout_of(module, sizes: tuple[int, int], variant: Variant, declared, batch_first: bool) -> Layout:
    """The layout of a module that was built for the sizes (D, H): as declared, else torch's own with the names found."""
    layout = resolve(declared) if declared is not None else PRESETS["torch"]
    layout = dataclasses.replace(layout, batch_first=layout.batch_first or batch_first)
    shapes = {k: tuple(p.shape) for k, p in module.named_parameters()}
    if declared is None and not any(len(s) == 1 for s in shapes.values()):
        layout = dataclasses.replace(layout, biases=0)
    every = variant.shapes(Sizes(1, 1, *sizes))
    given = encode(layout, {k: np.zeros(every[k]) for k in variant.inputs}, np.dtype(float))
    wanted = [k for k in given if k not in map(layout.name, ("x", "h0", "c0"))]
    if set(wanted) == set(shapes):
        return layout
    prefixes = {k[: -len(w)] for w in wanted for k in shapes if k.endswith(f".{w}")}
    if len(prefixes) == 1 and (prefix := prefixes.pop()) and {prefix + w for w in wanted} == set(shapes):
        keys = (*(key for key, _ in layout.parts), "p", "gain", "W_r")
        return dataclasses.replace(layout, names={**layout.names, **{k: prefix + layout.template(k) for k in keys}})
    if declared is None and variant.textbook:
        return _by_shape(layout, shapes)
    raise TorchError(f"the module's parameters are {_listed(shapes)}; the layout that it declares names {', '.join(wanted)}")


def _by_shape(layout: Layout, shapes: dict[str, tuple[int, ...]]) -> Layout:
    D, H = PROBE
    roles: dict[str, set[tuple[int, ...]]] = {"W_x": {(4 * H, D), (D, 4 * H)}, "W_h": {(4 * H, H), (H, 4 * H)}, "b": {(4 * H,)}}
    found = {role: [k for k, s in shapes.items() if s in due] for role, due in roles.items()}
    if len(found["W_x"]) == len(found["W_h"]) == 1 and len(found["b"]) <= 2 and sum(map(len, found.values())) == len(shapes):
        names = {"W_x": found["W_x"][0], "W_h": found["W_h"][0]}
        names |= dict(zip(("b",) if len(found["b"]) == 1 else ("b_x", "b_h"), found["b"], strict=False))
        transposed = shapes[names["W_h"]] == (H, 4 * H)
        return dataclasses.replace(layout, transposed=transposed, biases=len(found["b"]), names=names)
    raise TorchError(
        f"the module's parameters are {_listed(shapes)} for D = {D}, H = {H}; give the class a `layout` that names them, "
        "as in layout = dict(order='ifgo', packed=True, joint='split', biases=1, names={'W_x': …, 'W_h': …, 'b': …})"
    )


def _listed(shapes: dict) -> str:
    return ", ".join(f"{k} {s}" for k, s in shapes.items()) or "none"


class TorchLayer:
    """A torch module through the plug-in contract; a fresh module for every call, so that calls cannot meet."""

    def __init__(self, build, packed: bool = False):
        self.build, self.packed = build, packed
        self.for_forward: dict = {}  # modules without a backward pass under way may be used again

    def forward(self, inputs):
        import torch

        sizes = (inputs["x"].shape[-1], inputs["c0"].shape[-1], inputs["x"].dtype)
        with torch.no_grad():
            outputs, _, module = self._run(inputs, self.for_forward.get(sizes))
        self.for_forward[sizes] = module
        return {k: _array(v) for k, v in outputs.items()}

    def _run(self, inputs, module=None):
        """Outputs, what gradients are wanted of, and the module, as torch has them."""
        import torch

        given = {k: _tensor(v) for k, v in inputs.items()}
        states = {k: given.pop(k).requires_grad_() for k in ("x", "h0", "c0")}
        masks = {k: given.pop(k) for k in DATA if k in given}
        if module is None:
            module = self.build(states["x"].shape[-1], states["c0"].shape[-1]).to(states["x"].dtype)
        parameters = dict(module.named_parameters())
        with torch.no_grad():
            for k, v in given.items():
                parameters[k].copy_(v)
        if isinstance(module, torch.nn.LSTMCell):
            outputs = _cell(module, **states)
        else:
            outputs = (_packed if self.packed else _layer)(module, **states, **masks)
        return outputs, {**states, **parameters}, module

    def pullback(self, inputs):
        import torch

        outputs, wanted, _ = self._run(inputs)

        def pull(cotangents):
            flows = [_tensor(cotangents[k]).to(outputs[k].dtype) for k in outputs]
            found = torch.autograd.grad(list(outputs.values()), list(wanted.values()), flows, retain_graph=True, allow_unused=True)
            return {k: _array(g) for k, g in zip(wanted, found, strict=True) if g is not None}

        return {k: _array(v.detach()) for k, v in outputs.items()}, pull


def _layer(module, x, h0, c0, **masks) -> dict:
    one = h0.ndim == 2  # a single layer and direction
    h, (h_n, c_n) = module(x, (h0[None], c0[None]) if one else (h0, c0), **masks)
    return {"h": h, "h_T": h_n[0] if one else h_n, "c_T": c_n[0] if one else c_n}


def _packed(module, x, h0, c0, lengths) -> dict:
    """x as a packed sequence; what comes back is padded with zeros to the length of x."""
    from torch.nn.utils import rnn

    first = getattr(module, "batch_first", False)
    steps = x.shape[1 if first else 0]
    packed = rnn.pack_padded_sequence(x, lengths, batch_first=first, enforce_sorted=False)
    found = _layer(module, packed, h0, c0)
    h, _ = rnn.pad_packed_sequence(found["h"], batch_first=first, total_length=steps)
    return {**found, "h": h}


def _cell(module, x, h0, c0) -> dict:
    import torch

    h, state = [], (h0, c0)
    for x_t in x:
        state = module(x_t, state)
        h.append(state[0])
    return {"h": torch.stack(h), "c_T": state[1]}


def _tensor(q: np.ndarray):
    import torch

    if q.dtype.kind == "c":
        raise TypeError("torch's LSTM takes real numbers only")
    if q.dtype.name == "bfloat16":
        return torch.from_numpy(q.astype(np.float32)).to(torch.bfloat16)
    return torch.from_numpy(np.array(q, order="C"))


def _array(q) -> np.ndarray:
    import torch

    if q.dtype == torch.bfloat16:
        import ml_dtypes

        return q.float().numpy().astype(ml_dtypes.bfloat16)
    return q.numpy()
