"""torch: how a module is called, as a layer, with packed sequences, or as a cell, and what it returns."""

from __future__ import annotations

from ..reference.variant import DATA
from .torch_answer import read, refused
from .torch_cell import STEP, over_time, stepped

FORMS = {"(1, B, H)": lambda s: s[None], "(B, H)": lambda s: s}  # of the states of one layer: torch's own first
STATELESS = "none"  # the form of states that are not given


def called(module, inputs: dict, packed: bool, taken: dict) -> dict:
    """The outputs of a module for x, h0 and c0; masks go to it as keywords. The form of states that it takes is kept in `taken`."""
    import torch

    states = [inputs[k] for k in ("x", "h0", "c0")]
    if isinstance(module, torch.nn.LSTMCell):
        return over_time(lambda x_t, *state: module(x_t, state), *states)
    return (_packed if packed else _layer)(module, taken, *states, **{k: inputs[k] for k in DATA if k in inputs})


def _layer(module, taken: dict, x, h0, c0, **masks) -> dict:
    """`module(x, (h0, c0))` with states (layers · directions, B, ·); the contract has them as (B, ·) where there is one, and so
    may the module take or return them. One that declares that it takes none is called without, if it may be, and one that can be
    called in none of these ways with one step after the other."""
    forms = {"": lambda s: s} if h0.ndim > 2 else FORMS
    if STEP in taken:
        return stepped(module, taken, x, h0, c0)
    limits = getattr(module, "supports", None) or {}
    stateless = {STATELESS: None} if limits.get("initial_state") is False else {}
    answers: list[dict] = []
    raised: dict[str, Exception] = {}
    for form in taken or (*stateless, *forms):
        try:
            states = () if form == STATELESS else ((forms[form](h0), forms[form](c0)),)
            answer = read(module(x, *states, **masks), limits, h0.ndim == 2)
        except Exception as error:  # the other form is tried, whatever it raises
            raised[form] = error
            continue
        answers.append(answer)
        if getattr(answer.get("h"), "ndim", 3) == 3 and answer.get("c_T", c0).shape == c0.shape:
            taken[form] = True
            return answer
    alone = h0.ndim == 2 and hasattr(x, "ndim") and not masks  # as one step may be called; a packed sequence has no ndim
    if found := [answer for answer in [alone and stepped(module, taken, x, h0, c0), *answers] if answer]:
        return found[0]
    raise refused(raised)


def _packed(module, taken: dict, x, h0, c0, lengths) -> dict:
    """x as a packed sequence; what comes back is padded with zeros to the length of x."""
    from torch.nn.utils import rnn

    first = getattr(module, "batch_first", False)
    steps = x.shape[1 if first else 0]
    sequence = rnn.pack_padded_sequence(x, lengths.cpu(), batch_first=first, enforce_sorted=False)
    found = _layer(module, taken, sequence, h0, c0)
    h, _ = rnn.pad_packed_sequence(found["h"], batch_first=first, total_length=steps)
    return {**found, "h": h}
