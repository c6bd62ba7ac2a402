"""torch: what came of calling a module: y and the last states, as torch.nn.LSTM returns them, y alone where declared, or a refusal."""

from __future__ import annotations

from .contract import Told, in_a_line, place

DUE = "(y, (h_n, c_n)) is due, as torch.nn.LSTM returns it"


def read(returned, limits: dict, one: bool) -> dict:
    """The outputs of a module that declares `limits`; the states of `one` layer may be (1, B, H) or (B, H). Raises Told."""
    import torch

    if isinstance(returned, torch.Tensor):
        if limits.get("c_T") is False:
            return {"h_T" if limits.get("h") is False else "h": returned}
        raise Told(f'returned {_told(returned)}; {DUE}; one that returns y alone declares supports = {{"c_T": False}}')
    try:
        h, last = {} if isinstance(returned, dict) else returned
        h_T, c_T = (s[0] if one and s.ndim == 3 and len(s) == 1 else s for s in last)
        read = (
            not isinstance(last, torch.Tensor)
            and all(isinstance(q, torch.Tensor) for q in (h_T, c_T))
            and isinstance(h, (torch.Tensor, torch.nn.utils.rnn.PackedSequence))
        )
    except Exception:  # anything may fail in foreign code
        read = False
    if not read:
        raise Told(f"returned {_told(returned)}; {DUE}; a subclass of it may put that in order")
    return {"h": h, "h_T": h_T, "c_T": c_T}


def refused(raised: dict[str, Exception]) -> Exception:
    """What a module says that takes its states in no form: what came back where it was read, else what each call raised."""
    first = next(iter(raised.values()))
    if back := [error for error in raised.values() if isinstance(error, Told)]:
        return back[0]
    said = {form: in_a_line(error) for form, error in raised.items()}
    what = said.popitem()[1] if len(set(said.values())) == 1 else ", and ".join(f"{v} with states {k}" for k, v in said.items())
    if not any(isinstance(error, TypeError) and "argument" in str(error) for error in raised.values()):
        return first if len(said) < len(raised) else Told(f"raised {what}", place(first))
    told = "it is called as module(x, (h0, c0)), or for each step as module(x_t, (h, c)) or module(x_t, h, c), to return (h, c) or "
    told += '(y, (h, c)), and as module(x) where it declares supports = {"initial_state": False}'
    return Told(f"raised {what}; {told}", place(first))


def _told(q) -> str:
    """What came back, in words: "(a Tensor, (a Tensor, a Tensor))"."""
    if isinstance(q, dict):
        return f"a dict with {', '.join(map(str, q))}"
    if isinstance(q, list) and len(q) > 3:
        return f"a list of {len(q)}"
    if isinstance(q, (tuple, list)) and not hasattr(q, "batch_sizes"):
        return f"({', '.join(map(_told, q))})"
    return "None" if q is None else f"a {type(q).__name__}"
