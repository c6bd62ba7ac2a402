"""Record: a counterexample as bounded JSON, there and back. No pickle, no code, nothing allocated before it is checked."""

from __future__ import annotations

import json
import math
import pathlib
import re

import numpy as np

from ..cases import COTANGENTS, MEMORY, REGIMES, Case, Spec
from ..reference.symbols import HEAD, LAYER_OUTPUTS, Sizes
from ..reference.variant import Variant, VariantError
from ..reference.variant import parse as parse_variant
from .manifest import CHECKS
from .tolerances import PRECISIONS
from .verdict import Counterexample

FORMAT = "lstm-ref counterexample 1"
LARGEST_FILE = 8 * 2**20  # bytes
LARGEST_ARRAY = 2**18  # entries
LARGEST_SIZE = 4096
LONGEST_NAME = 200  # characters
KEYS = {"format", "check", "target", "dtype", "sizes", "regime", "memory", "inputs", "cotangents", "seen"}


class RecordError(ValueError):
    """A file that is no counterexample of ours; the text says what was seen and what is due."""


def file_name(target: str, *of: str) -> str:
    """The name of the file of a counterexample, of a check and a dtype, say: no more of the target than a file system takes."""
    rest = "-".join(("", *of))
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", target[: LONGEST_NAME - len(rest)] + rest).strip("_") + ".json"


def dump(c: Counterexample) -> str:
    """The counterexample as JSON text. Raises RecordError if it is too large to keep."""
    return json_text(as_record(c))


def json_text(record: dict) -> str:
    """A counterexample's data as JSON text."""
    return json.dumps(record, indent=1, allow_nan=False) + "\n"


def as_record(c: Counterexample) -> dict:
    """The counterexample as JSON-ready data, which `parse` reads. Raises RecordError if it is too large to keep."""
    if max(q.size for q in c.inputs.values()) > LARGEST_ARRAY:
        raise RecordError(f"the case has an array of more than {LARGEST_ARRAY} numbers, too large to keep; its seed is {c.spec.seed}")
    e = c.evidence
    seen = {"quantity": e.quantity, "index": list(e.index), "candidate": e.candidate, "autodiff": e.autodiff, "difference": e.difference}
    record = {
        "format": FORMAT,
        "check": c.check,
        "target": c.target,
        "dtype": c.dtype,
        "sizes": c.spec.sizes._asdict(),
        "regime": c.spec.regime,
        "memory": c.spec.memory,
        "inputs": {k: v.tolist() for k, v in c.inputs.items()},
        "cotangents": {k: v.tolist() for k, v in c.cotangents.items()},
        "seen": {k: v if not isinstance(v, float) or math.isfinite(v) else str(v) for k, v in seen.items()},
    }
    if not c.variant.textbook:
        record["variant"] = c.variant.declared
    return record


def read(path: str | pathlib.Path) -> tuple[str, str, Case, Variant]:
    """A counterexample file as (check id, dtype, case, variant). Raises RecordError, with a sentence, for anything else."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise RecordError(f"there is no file {path}")
    if (size := path.stat().st_size) > LARGEST_FILE:
        raise RecordError(f"{path} has {size:,} bytes; a counterexample has at most {LARGEST_FILE:,}")
    try:
        record = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path} is not JSON ({type(error).__name__})") from None
    return parse(record, str(path))


def parse(record, where: str) -> tuple[str, str, Case, Variant]:
    """A decoded record as (check id, dtype, case, variant), every field checked before anything is built from it."""
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise RecordError(f"{where} is not a counterexample: its format must be {FORMAT!r}")
    if wrong := (set(record) - {"variant"}) ^ KEYS:
        raise RecordError(f"{where} has unknown or missing keys: {', '.join(sorted(map(str, wrong)))[:200]}")
    check, dtype, regime, memory = (record[k] for k in ("check", "dtype", "regime", "memory"))
    for what, value, known in (
        ("check", check, CHECKS),
        ("dtype", dtype, PRECISIONS),
        ("regime", regime, REGIMES),
        ("memory", memory, MEMORY),
    ):
        if not isinstance(value, str) or value not in known:
            raise RecordError(f"{where} has the {what} {str(value)[:60]!r}, which is not known here")
    try:
        variant = parse_variant(record.get("variant"))
    except VariantError as error:
        raise RecordError(f"{where}: {error}") from None
    if max(variant.layers, variant.projection) > LARGEST_SIZE:
        raise RecordError(f"{where} describes a variant with more than {LARGEST_SIZE} layers or units")
    n = _sizes(record["sizes"], where, variant)
    shapes = variant.shapes(n)
    inputs, cotangents = record["inputs"], record["cotangents"]
    model = isinstance(inputs, dict) and "W_v" in inputs
    due = (*variant.inputs, *variant.data, *((*HEAD, "w", "y") if model else ()))
    inputs = _arrays(inputs, due, shapes, "inputs", where)
    if variant.lengths:
        inputs["lengths"] = inputs["lengths"].astype(np.int64)
    if model:
        inputs["y"] = inputs["y"].astype(np.int64)
        if (inputs["y"] < 0).any() or (inputs["y"] >= n.K).any():
            raise RecordError(f"{where} has targets y outside 0 … {n.K - 1}")
    cotangents = _arrays(cotangents, LAYER_OUTPUTS, shapes, "cotangents", where)
    return check, dtype, Case(Spec(n, regime, COTANGENTS[0], memory=memory), inputs, cotangents), variant


def _sizes(found, where: str, variant: Variant) -> Sizes:
    if not isinstance(found, dict) or set(found) != set(Sizes._fields):
        raise RecordError(f"{where} must give the sizes T, B, D, H and K")
    for k, v in found.items():
        if isinstance(v, bool) or not isinstance(v, int) or not 1 <= v <= LARGEST_SIZE:
            raise RecordError(f"{where} has {k} = {str(v)[:40]}; sizes are whole numbers from 1 to {LARGEST_SIZE}")
    n = Sizes(**found)
    shapes = variant.shapes(n)
    if max(math.prod(shapes[k]) for k in (*variant.inputs, *variant.data, *HEAD, "h", "y")) > LARGEST_ARRAY:
        raise RecordError(f"{where} describes an array of more than {LARGEST_ARRAY:,} numbers")
    return n


def _arrays(found, due, shapes: dict, what: str, where: str) -> dict[str, np.ndarray]:
    if not isinstance(found, dict) or set(found) != set(due):
        raise RecordError(f"{where} must give the {what} {', '.join(due)}")
    return {k: _array(found[k], shapes[k], f"{where}: {what} {k}") for k in due}


def _array(found, due: tuple[int, ...], where: str) -> np.ndarray:
    _check_nested(found, due, where)
    return np.array(found, dtype=np.float64).reshape(due)


def _check_nested(found, due: tuple[int, ...], where: str) -> None:
    if not due:
        if isinstance(found, bool) or not isinstance(found, (int, float)) or not math.isfinite(found):
            raise RecordError(f"{where} holds {str(found)[:40]!r}; finite numbers are due")
        return
    if not isinstance(found, list) or len(found) != due[0]:
        seen = f"a list of {len(found)}" if isinstance(found, list) else f"a {type(found).__name__}"
        raise RecordError(f"{where} is {seen} where a list of {due[0]} is due")
    for part in found:
        _check_nested(part, due[1:], where)
