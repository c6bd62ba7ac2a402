"""torch: torch.nn.LSTM and LSTMCell, or a user's own nn.Module that is called like the layer.

The module is built as `Class(D, H)`, called as `module(x, (h0, c0))` with states (layers · directions, B, H), and returns
`(y, (h_n, c_n))`; of one layer it may take or return states (B, H). A module of one step is called step by step. Its parameters are
matched to the layout by name, else by shape. A torch.nn.LSTM says itself how many layers and directions it has, and, where it declares
no layout, whether the batch comes first; another module may declare a `variant`, and the masks of that come as keywords, but lengths
as a packed sequence where `packed` is asked for.
"""

from __future__ import annotations

import dataclasses

from ..reference.variant import Variant
from . import torch_engine
from .layout import PRESETS, Layout
from .matching import matched
from .torch_build import build, fill, probe
from .torch_call import called
from .torch_variant import has_batch_first, variant_of

CLASSES = ("LSTM", "LSTMCell")
CALLED = "module(x, (h0, c0)); the states of one layer as (1, B, H), or as (B, H) where it takes those, or a step at a time"
OPTIONS = ("batch_first", "bias", "num_layers", "bidirectional", "proj_size", "packed")


def find(name: str):
    import torch

    return getattr(torch.nn, name)


def engine():
    return torch_engine


def variant(cls, options: dict, declared: Variant) -> Variant:
    return variant_of(probe(cls, options).module, declared, bool(options.get("packed")))


def layout(cls, options: dict, variant: Variant, declared: Layout | None) -> Layout:
    layout = declared or PRESETS["torch"]
    module, sizes, shapes = probe(cls, options)
    first = options.get("batch_first") or (declared is None and has_batch_first(module))
    layout = dataclasses.replace(layout, batch_first=layout.batch_first or bool(first))
    return matched(layout, variant, sizes, shapes, declared is not None)


def supports(cls, options: dict, variant: Variant) -> dict:
    return {"H": f"at least {variant.projection + 1}"} if variant.projection else {}  # torch's own limit


def function(cls, options: dict):
    def lstm(inputs, once):
        sizes, dtype = (inputs["x"].shape[-1], inputs["c0"].shape[-1]), inputs["x"].dtype
        module = once((sizes, dtype), lambda: build(cls, options, *sizes).to(dtype))
        return called(module, fill(module, inputs), bool(options.get("packed")), once("form of the states", dict))

    return lstm
