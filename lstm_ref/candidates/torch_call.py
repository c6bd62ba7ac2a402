"""torch: how a module is called, as a layer, with packed sequences, or as a cell, and what it returns."""

from __future__ import annotations

from ..reference.variant import DATA
from .torch_cell import over_time


def called(module, inputs: dict, packed: bool) -> dict:
    """The outputs of a module for x, h0 and c0; masks go to it as keywords."""
    import torch

    states = [inputs[k] for k in ("x", "h0", "c0")]
    if isinstance(module, torch.nn.LSTMCell):
        return over_time(lambda x_t, *state: module(x_t, state), *states)
    return (_packed if packed else _layer)(module, *states, **{k: inputs[k] for k in DATA if k in inputs})


def _layer(module, x, h0, c0, **masks) -> dict:
    """`module(x, (h0, c0))` with states (layers · directions, B, ·); the contract has them as (B, ·) where there is one, and so
    may the module return it."""
    one = h0.ndim == 2
    h, last = module(x, (h0[None], c0[None]) if one else (h0, c0), **masks)
    h_T, c_T = (s[0] if one and s.ndim == 3 and len(s) == 1 else s for s in last)
    return {"h": h, "h_T": h_T, "c_T": c_T}


def _packed(module, x, h0, c0, lengths) -> dict:
    """x as a packed sequence; what comes back is padded with zeros to the length of x."""
    from torch.nn.utils import rnn

    first = getattr(module, "batch_first", False)
    steps = x.shape[1 if first else 0]
    sequence = rnn.pack_padded_sequence(x, lengths, batch_first=first, enforce_sorted=False)
    found = _layer(module, sequence, h0, c0)
    h, _ = rnn.pad_packed_sequence(found["h"], batch_first=first, total_length=steps)
    return {**found, "h": h}
