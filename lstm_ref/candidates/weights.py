"""Weights: those that someone has trained, from an .npz file, as textbook arrays.

The file holds one array per weight, under the names of the textbook layout (`W_f` (H, H+D) …, `b_f` (H,) …) or under those of the
candidate's own layout (torch's `weight_ih_l0` …). The sizes are the file's.
"""

from __future__ import annotations

import pathlib
import zipfile

import numpy as np

from ..reference.symbols import Sizes
from .contract import Candidate
from .layout import PRESETS, Layout, decode, encode


class WeightsError(ValueError):
    """A file that holds no weights of this candidate; the text says what was seen and what is due."""


def read(path: pathlib.Path, candidate: Candidate) -> dict[str, np.ndarray]:
    """The learnt arrays of a candidate by textbook names, in float64; a forget bias that the layout adds is in `b_f`.

    Arrays beside the weights are left alone. Raises WeightsError where the file is none, or lacks one, or has sizes that
    do not go together.
    """
    given = _arrays(path)
    for layout in (candidate.layout, PRESETS["textbook"]):
        names = set(_own_shapes(candidate, layout, 2, 3))
        if not names <= set(given):
            continue
        own = {k: given[k] for k in names}
        shapes = {k: v.shape for k, v in own.items()}
        dims = {d for s in shapes.values() for d in s}
        for H in sorted(dims | {d // 4 for d in dims} - {0}):
            for D in sorted(dims | {d - H for d in dims if d > H}):
                if _own_shapes(candidate, layout, H, D) == shapes:
                    return _textbook(candidate, layout, own, H, D)
        seen = ", ".join(f"{k} {s}" for k, s in sorted(shapes.items()))
        due = ", ".join(f"{k} {s}" for k, s in sorted(_own_shapes(candidate, layout, 4, 3).items()))
        raise WeightsError(f"{path} holds {seen}; these shapes do not go together: at H = 4, D = 3 they would be {due}")
    missing = sorted(set(_own_shapes(candidate, candidate.layout, 2, 3)) - set(given))
    seen = ", ".join(sorted(given)) or "nothing"
    book = "" if candidate.layout == PRESETS["textbook"] else ", or the textbook's W_f (H, H+D) … b_o (H,)"
    raise WeightsError(f"{path} holds {seen}; {', '.join(missing)} is missing: save every weight under the target's own names{book}")


def _arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as found:
            if not hasattr(found, "files"):
                raise ValueError("it is one array")
            given = {k: found[k] for k in found.files}
    except FileNotFoundError:
        raise WeightsError(f"{path} does not exist; --weights takes a file that np.savez wrote") from None
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise WeightsError(f"{path} cannot be read as .npz ({error}); write it with np.savez(path, W_f=…, …), numbers only") from None
    for k, v in given.items():
        if v.dtype.kind in "fiu" and not np.isfinite(v).all():
            raise WeightsError(f"{path} holds NaN or infinity in {k}; every weight must be a number")
    return {k: v.astype(np.float64) for k, v in given.items() if v.dtype.kind in "fiu"}


def _own_shapes(candidate: Candidate, layout: Layout, H: int, D: int) -> dict[str, tuple[int, ...]]:
    """The shapes of all that is learnt, by the layout's names."""
    shapes = candidate.variant.shapes(Sizes(1, 1, D, H))
    names = encode(layout, {k: np.zeros(shapes[k]) for k in ("x", "h0", "c0", *candidate.variant.parameters)}, np.dtype(np.float64))
    data = {layout.name(k) for k in ("x", "h0", "c0")}
    return {k: v.shape for k, v in names.items() if k not in data}


def _textbook(candidate: Candidate, layout: Layout, own: dict, H: int, D: int) -> dict[str, np.ndarray]:
    shapes = candidate.variant.shapes(Sizes(1, 1, D, H))
    found = decode(layout, own, {k: shapes[k] for k in candidate.variant.inputs})
    q = {k: np.array(found.get(k, np.zeros(shapes[k]))) for k in candidate.variant.parameters}  # absent: a layout without biases
    for k in q:
        q[k] = q[k] + found.get(f"{k}.second", 0.0)
    if "b_f" in q:
        q["b_f"] = q["b_f"] + layout.forget_bias
    return q
