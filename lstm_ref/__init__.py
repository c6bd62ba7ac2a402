"""lstm_ref: is an LSTM's gradient right?

reference → truth → candidates → judgement → diagnosis → report
(NumPy)     (JAX,     (your LSTM,  (tolerance,  (which       (terminal,
            differ-   any layout)  verdict)     term)        JSON)
            ences)

from lstm_ref import verify
verdict = verify(MyLSTM)
verdict.outcome       # "pass" | "fail" | "inconclusive"
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .candidates.layout import Layout
    from .judgement.verdict import Counterexample, Evidence, Result, Verdict

__all__ = ["Counterexample", "Evidence", "Layout", "Result", "Verdict", "verify"]


def __getattr__(name: str):
    """The exported values, imported when first asked for: pytest loads this package in every run it is installed in."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = ".candidates.layout" if name == "Layout" else ".judgement.verdict"
    return getattr(importlib.import_module(home, __name__), name)


def verify(
    lstm, profile: str = "quick", dtype: str | None = None, seed: int | None = None, only: str | None = None, isolate: bool = False
) -> Verdict:
    """Judge an LSTM and return the verdict; a bad candidate never raises.

    lstm      a class, a function without arguments that makes an instance, an instance, or a target as on the command
              line ("my_module:MyLSTM", "torch:")
    profile   "quick", "dev", "ci" or "nightly"
    dtype     "float64" (default), "float32", "bfloat16", "float16", or several separated by commas
    only      patterns of check ids, such as "grad.*,state.repeat"
    isolate   run the LSTM in a process of its own, which may crash or hang; for a target only

    Raises TargetError (a ValueError) when `lstm` cannot be plugged in, ValueError for an unknown profile, dtype or id, and on Ctrl-C
    judgement.run.Interrupted, a KeyboardInterrupt with the verdict on what had been judged.
    """
    from .candidates.load import load, plug
    from .diagnosis.explain import explained
    from .judgement.run import run

    if isolate and not isinstance(lstm, str):
        form = 'isolate=True needs a target as on the command line, such as "my_module:MyLSTM"'
        raise ValueError(f"{form}: {getattr(lstm, '__name__', type(lstm).__name__)} is of this process and cannot be sent to another")
    if isolate:
        from .candidates.isolate import isolated as load
    faces = load(lstm) if isinstance(lstm, str) else plug(lstm)
    dtypes = tuple(d.strip() for d in dtype.split(",")) if dtype else None
    return explained(run(faces[0].name, faces, profile, dtypes, seed, only), faces)
