"""Words: a verdict's sentences, the failure text and the paste-able snippet. Formatting lives in this folder only."""

from __future__ import annotations

import pathlib
import shlex
import sys

import numpy as np

from ..candidates.contract import Candidate
from ..candidates.layout import Layout, encode, encode_by_time
from ..candidates.load import KINDS
from ..judgement.manifest import CHECKS
from ..judgement.tolerances import PRECISIONS
from ..judgement.verdict import EXPECTED, FAIL, PASS, UNEXPECTED, Counterexample, Evidence, Result, Verdict
from ..reference.symbols import EQUATIONS, LAYER_OUTPUTS

LARGE_GAIN = 1e6  # is told by its power of ten
SHOWN = 3  # explanations of one failure
AXES = {
    3: ("t", "b", "unit"),
    2: ("b", "unit"),
    1: ("unit",),
}
WEIGHT_AXES = ("unit", "column")
STACKED_AXES = ("layer · direction", "b", "unit")  # of states, where there are several of them; counted from 0


OF_VARIANTS = {  # the gradients of arrays that a variant has of its own: no equation of the textbook holds them
    "p_f": "dp_f = Σ_{t,b} da_f ⊙ c_{t-1}",
    "p_i": "dp_i = Σ_{t,b} da_i ⊙ c_{t-1}",
    "p_o": "dp_o = Σ_{t,b} da_o ⊙ c_t",
    "gain": "dgain_k = Σ_{t,b} da_k ⊙ (u − mean u)/√(var u + ε)  with u = W_k z_t",
    "W_r": "dW_r = Σ_{t,b} dh_t (o ⊙ output(c_t))ᵀ",
}


def number(q: float | None) -> str:
    return "–" if q is None else f"{q:.6g}"


def ratio(q: float) -> str:
    """An error as a multiple of its tolerance."""
    if not np.isfinite(q):
        return "∞"
    return f"{q:.2g}" if q < 100 else f"{q:.1e}"


def entry(e: Evidence) -> str:
    """The worst entry as an expression: `gradients["W_f"][2, 1]`."""
    if not e.index:
        return e.quantity
    return f"{e.quantity}[{', '.join(map(str, e.index))}]"


def place(e: Evidence) -> str:
    """The worst entry in words: time step, batch entry, gate and unit, as far as they exist."""
    if not e.index:
        return ""
    axes = WEIGHT_AXES if e.quantity[:2] == "W_" else AXES.get(len(e.index), ())
    if e.quantity in ("h0", "c0", "h_T", "c_T") and len(e.index) == 3:
        axes = STACKED_AXES
    words = [f"{axis} = {k}" for axis, k in zip(axes, e.index, strict=False)]
    name, _, where = e.quantity.partition(".")
    kind, _, gate = name.partition("_")
    if gate in ("f", "i", "c", "o") and kind in ("W", "b", "a", "p", "gain"):
        words.insert(0, f"gate {gate}")
    layer, _, reverse = where.partition(".")
    if layer[:1] == "l" and layer[1:].isdigit():
        words.insert(0, f"layer {layer[1:]}, counted from 0" + (", in reverse" if reverse else ""))
    return ", ".join(words)


def headline(v: Verdict, timed: bool = True) -> str:
    """The verdict in one line, with the seconds that it took where it is to be `timed`."""
    counts = {o: sum(r.outcome == o for r in v.results) for o in {r.outcome for r in v.results}}
    told = ", ".join(f"{n} {counted(o, n)}" for o, n in sorted(counts.items(), key=lambda item: (item[0] != PASS, item[0])))
    partial = f"  (partial: {v.partial[0]} of {v.partial[1]} checks)" if v.partial else ""
    return f"{v.outcome.upper()}{partial}  {v.target}  {'+'.join(v.dtypes)}: {told}; {v.cases} cases" + (
        f" in {v.seconds:.1f} s" if timed else ""
    )


PLURALS = {EXPECTED: "expected failures", UNEXPECTED: "unexpected passes"}


def counted(outcome: str, n: int) -> str:
    """An outcome after its count: "2 expected failures", "1 expected failure", "90 pass"."""
    return PLURALS.get(outcome, outcome) if n > 1 else outcome


def meaning(v: Verdict) -> str:
    """What the verdict means, in a sentence."""
    student = not any(r.chapter == "forward" for r in v.results)
    parts = {"gradients": v.gradients, "behaviour": v.behaviour}
    parts = parts if student else {"forward": v.forward, **parts}
    halves = "; ".join(f"{k}: {outcome}" for k, outcome in parts.items())
    if v.kind == "self-consistency":
        why = "what the object computes is not compared with an LSTM" if student else "the forward pass is not the textbook's"
        halves += f". This is a self-consistency verdict: {why}, so its own differences judged the gradients"
    if (failures := v.failures()) and all(r.id == "numerics.effective_precision" for r in failures):
        halves += ". No gradient is wrong: what fails is the precision that they are computed in"
    if v.gradientless:
        halves += ". No gradient was judged: the candidate gives none, and its outputs alone were held against the textbook's"
    if surprising := [r for r in v.results if r.outcome == UNEXPECTED]:
        n = len(surprising)
        told = f"{n} checks pass that were expected to fail, the first is " if n > 1 else ""
        halves += f". {told}{surprising[0].id} [{surprising[0].dtype}]: {surprising[0].reason}"
    if v.outcome == "inconclusive":
        unseen = [r for r in v.results if r.outcome in ("cannot tell", "timeout", "not run")]
        halves += f". {len(unseen)} check{'s' * (len(unseen) != 1)} could not be decided"
        telling = sorted(unseen, key=lambda r: r.outcome != "timeout")  # what ended the run before what it left out
        halves += f", the first is {telling[0].id}: {telling[0].reason}" if telling else ""
    return halves


def power(dtype: str, sights: dict[str, dict[str, dict]], cases: dict[str, int]) -> list[str]:
    """What a run was able to see at one dtype, in sentences: of each truth, how small an error was sure to fail."""
    told = []
    if seen := sights["autodiff"]:
        smallest, median, largest = (max(s[k] for s in seen.values()) for k in ("smallest", "median", "largest"))
        told.append(
            f"{dtype}, against autodiff: an error in one entry of any gradient, wherever it lies, is sure to fail if it is there in every "
            f"case and above {smallest:.1e} of the block's largest entry, in more than half of the cases and above {median:.1e}, "
            f"or in any one resolved case and above {largest:.1e}"
        )
        sharp = min(seen, key=lambda k: seen[k]["smallest"])
        told.append(f"the sharpest look was at d{sharp}, where {seen[sharp]['smallest']:.1e} of the block would have failed")
    else:
        told.append(f"{dtype}: no gradient was judged and resolved against autodiff")
    if seen := sights["differences"]:
        most, median = cases.get("differences", 0), max(s["median"] for s in seen.values())
        told.append(
            f"{dtype}, against differences of the candidate's own forward pass: up to {most} cases a gradient, each along one direction or "
            f"entry by entry; an error along it that is there in more than half of them is sure to fail above {median:.1e} of the gradient"
        )
    else:
        told.append(f"{dtype}: no gradient was judged and resolved by differences of the candidate's own forward pass")
    return told


PUBLISHED_POWER = {
    "float64": "measured beforehand with lstm-ref power, profile quick: 513 of 513 wrong backward passes are caught; the smallest error "
    "always caught in one entry is 2.1·10⁻¹³ of the block, with 0 false alarms in 1,248 blocks",
    "float32": "measured beforehand with lstm-ref power, profile quick: 507 of 513 wrong backward passes are caught; the smallest error "
    "always caught in one entry is 1.1·10⁻⁴ of the block, with 0 false alarms in 1,248 blocks",
}  # docs/power.md; a test holds the two equal


def explanation(v: Verdict) -> str:
    """The diagnosis as a colleague would say it; empty where there is none."""
    x = v.explanation
    if x is None:
        return ""
    if x.remarks and not (x.fits or x.names):
        return "diagnosis: " + "\n  ".join(x.remarks)
    where = _region(x.regions)
    told = [_fit(f) for f in x.fits] + [f"{text} ({label})" for label, text in x.names]
    if not told:
        lines = [where, "no single term explains what is wrong there"] if where else ["no single term explains these gradients"]
        return "diagnosis: " + "\n  ".join(lines + (_location(x.location) if x.location else []) + _broken_laws(v))
    shown, more = told[:SHOWN], len(told) - SHOWN
    what = "\n  or, which these gradients cannot tell apart: ".join(shown) + (f"\n  or {more} more" if more > 0 else "")
    of = f"all of the {len(x.failing)} wrong gradients" if len(x.failing) > 1 else "the one wrong gradient"
    known = f"{of} ({', '.join(x.failing[:4])}{', …' if len(x.failing) > 4 else ''})"
    where = f"{where}. There,\n  " if where else ""
    return f"diagnosis: {where}{what}\n  this explains {known} to rounding" + "".join(f"\n  {line}" for line in x.remarks)


def _region(regions) -> str:
    if not regions:
        return ""
    r = regions[0]
    others = f" (or {', or '.join(other.condition for other in regions[1:])}: the cases cannot tell)" if regions[1:] else ""
    return f"wrong only where {r.condition}{others}: {r.failed} of {r.failed} cases there fail, {r.passed} of {r.passed} elsewhere pass"


def _location(place) -> list[str]:
    lines = []
    if place.first is not None:
        quantity, t, b, unit = place.first
        lines.append(f"first wrong quantity in backward order: d{quantity} at t = {t} (b = {b}, unit = {unit})")
    lines.append(f"first wrong at T = {place.smallest_T}: {', '.join(place.failing)}")
    if set(place.flows) != set(place.tried):
        right = [k for k in place.tried if k not in place.flows]
        lines.append(f"with one cotangent alone: wrong for {', '.join(place.flows) or 'none'}, right for {', '.join(right)}")
    return lines


def why(r: dict) -> str:
    """Of a result as data: how often and by how much it fails, and whatever is said beside the rule that decided."""
    worst = r["worst"]
    if r["outcome"] != FAIL or not worst:
        return r["reason"]
    told = f"in {r['failed']} of {r['cases']} cases, {ratio(float(worst['ratio']))} × tolerance"
    more = r["reason"].removeprefix(worst["rule"]).lstrip("; ")
    return f"{told}; {more}" if more else told


_KEEP = "keep what the backward pass needs in what `pullback` returns, or compute it from the inputs that `vjp` is given, not in the object"
STATE_HINTS = {
    "state.interleaved": _KEEP,
    "state.two_instances": "keep nothing from call to call, in the class or the module or in the instance",
    "state.second_backward": "do not consume or overwrite the cache",
    "state.repeat": "start sums at zero in every call, and draw nothing at random",
    "state.inputs_unmutated": "work on copies",
    "state.aliasing": "return copies",
}
LAWS = {  # what is at fault where a law breaks
    "law.homogeneity": "a clip, a threshold or too few digits",
    "law.additivity": "something that depends on what flows in",
    "law.zero_cotangent": "a term that needs no cotangent",
    "law.time_split": "what is carried from step to step",
    "law.batch_additivity": "a sum or a mean over the batch",
    "law.batch_permutation": "rows of the batch taken for one another",
    "law.unit_permutation": "units taken for one another",
    "law.causality": "a step that sees later ones",
    "law.euler": "the weights of x, or dx",
    "law.symmetry": "gradients that are of no one function",
}


def _broken_laws(v: Verdict) -> list[str]:
    broken = dict.fromkeys(r.id for r in v.failures() if r.id in LAWS)
    return ["laws that break: " + "; ".join(f"{k} ({LAWS[k]})" for k in broken)] if broken else []


def gain(g: float) -> str:
    """A gain as the diagnosis says it: 0.000 is a missing term, −1 a wrong sign; what is near 1, by what it is off."""
    if abs(g) >= LARGE_GAIN:
        return f"{g:.3g}"
    return f"{g:z.3f}" if abs(g - 1) >= 0.0005 else f"1{g - 1:+.3g}"  # half of the last digit


def _fit(f) -> str:
    parts = [f"{edge.words} is {wrong} ({edge.label})" for edge, wrong in zip(f.edges, f.wrong, strict=True)]
    gained = ", ".join(f"{gain(g)} on {edge.id}" for edge, g in zip(f.edges, f.gains, strict=True))
    return f"{' and '.join(parts)}: gain {gained}, every other edge 1"


def failure(r: Result, target: str, layout: Layout | None = None, file: str | None = None) -> str:
    """What, where, seen, due, how far, which equations, the shrunk case and how to run it again."""
    c = r.counterexample
    e = c.evidence if c else r.worst
    lines = [f"{r.id} [{r.dtype}] fails in {r.failed} of {r.cases} cases"]
    if r.chapter in ("state", "law"):
        lines.append(f"  due        {CHECKS[r.id].title}" + (f"; {STATE_HINTS[r.id]}" if r.id in STATE_HINTS else ""))
    if e is None or e.candidate is None:
        lines.append(f"  {r.reason or (e.rule if e else '')}")
    else:
        where = place(e) if r.where is not None else ""  # of an object with params of its own nothing is known of axes
        name = "outputs" if _of_forward(r.id, e) else "gradients"
        key = entry(e)
        lines.append(f'  worst      {name}["{e.quantity}"]{key[len(e.quantity) :]}' + (f"  ({where})" if where else ""))
        lines.append(f"  candidate  {e.candidate!r}")
        if e.autodiff is not None:
            lines.append(f"  {'expected ' if r.chapter in ('law', 'state') else 'autodiff '}  {e.autodiff!r}")
        if e.difference is not None:
            lines.append(f"  difference {e.difference!r}")
        if e.error is not None:
            due = e.autodiff if e.autodiff is not None else e.difference
            size = f"{ratio(e.ratio)} × tolerance {number(e.tolerance)}" if due or e.candidate == due else "where exactly 0 is due"
            lines.append(f"  error      {number(e.error)} = {size}   ({e.rule})" if due else f"  error      {number(e.error)}, {size}")
        if constant := _constant_ratio(e):
            lines.append(f"  {constant}")
    if r.where is not None and c is None:
        lines.append(f"  case       {sizes(r.where.sizes)}, {r.where.regime}, seed {r.where.seed}")
    if r.reason and e is not None and e.candidate is not None and r.reason != e.rule:
        lines.append("  " + r.reason.removeprefix(f"{r.worst.rule}; "))
    array = r.id.partition(".")[2].partition(".")[0]
    shown = [f"  {OF_VARIANTS[k]}" for k in (array, array.partition("_")[0]) if k in OF_VARIANTS]
    shown += [f"  ({label})  {EQUATIONS[label]}" for label in r.equations]
    lines += shown[:3]
    if c is not None:
        lines.append(f"  smallest case found: {sizes(c.spec.sizes)}" + ("" if c.primary else ", the one above"))
        if layout is not None and c.primary:
            lines += ["", *("    " + line for line in snippet(c, layout).splitlines())]
        if file:
            lines += ["", f"  again: lstm-ref replay {file} --lstm {shlex.quote(target)}"]
    return "\n".join(lines)


def _of_forward(check: str, e: Evidence) -> bool:
    """Whether what failed is an output of the forward pass and not a gradient: any check but one of a gradient may say so."""
    return check.startswith("forward") or (not check.startswith(("grad", "inter")) and e.quantity in (*LAYER_OUTPUTS, "J"))


def _constant_ratio(e: Evidence) -> str:
    due = e.autodiff if e.autodiff is not None else e.difference
    if not due or e.candidate is None:
        return ""
    found = e.candidate / due
    for value, words in ((-1.0, "the sign is the opposite"), (2.0, "it is twice what is due"), (0.5, "it is half of what is due")):
        if abs(found - value) <= np.sqrt(PRECISIONS["float32"].u):
            return words
    return "it is zero" if e.candidate == 0 else ""


def sizes(n) -> str:
    return f"T={n.T}, B={n.B}, D={n.D}, H={n.H}" + (f", K={n.K}" if n.K > 1 else "")


def snippet(c: Counterexample, layout: Layout) -> str:
    """The case as NumPy code that runs as pasted, in the candidate's own layout."""
    dtype = PRECISIONS[c.dtype].dtype
    inputs = encode(layout, c.inputs, dtype)
    lines = ["import numpy as np", ""]
    if "W_v" not in c.inputs:
        flows = encode_by_time(layout, _flows(c), dtype)
        lines += [f"inputs = {_literal(inputs)}", f"cotangents = {_literal(flows)}", ""]
        lines.append(_how_to_load(c.target))
        if c.way == "pullback":
            lines += ["outputs, pull = lstm.pullback(inputs)", "gradients = pull(cotangents)"]
        else:
            lines += ["outputs = lstm.forward(inputs)", *(["gradients = lstm.vjp(inputs, cotangents)"] if c.way == "vjp" else [])]
    else:
        lines += [f"inputs = {_literal(inputs)}", "", _how_to_load(c.target)]
        lines.append("J, gradients = lstm.loss_and_gradients(inputs)")
    e = c.evidence
    if c.check.startswith(("state", "law")):
        lines.append(f"# {c.check} compares several such calls: see lstm-ref replay")
    elif e.candidate is not None and e.index:
        due = e.autodiff if e.autodiff is not None else e.difference
        lines.append(f"# textbook {'outputs' if _of_forward(c.check, e) else 'gradients'} {entry(e)}: seen {e.candidate!r}, due {due!r}")
    return "\n".join(lines)


def _flows(c: Counterexample) -> dict:
    """The cotangents as the candidate got them: that of h whatever came back as h, and s_h on its last where h_T is no output, which of
    several layers or directions it is due to be."""
    s = {k: v for k, v in c.cotangents.items() if k in c.outputs or k == "h"}
    if "h_T" not in c.outputs and c.cotangents["h_T"].ndim < s["h"].ndim:
        s["h"] = s["h"].copy()
        s["h"][-1] += c.cotangents["h_T"]
    return s


def _how_to_load(target: str) -> str:
    module, _, attribute = target.partition(":")
    path = pathlib.PurePath(module)
    own = path.stem.isidentifier() and path.stem not in sys.stdlib_module_names  # a file operator.py is not what `import operator` finds
    if path.suffix == ".py" and own and attribute.isidentifier():
        return f"import sys; sys.path.insert(0, {str(path.parent)!r})\nfrom {path.stem} import {attribute}\nlstm = {attribute}()"
    if attribute.isidentifier() and module.replace(".", "").isidentifier() and module not in KINDS:
        return f"from {module} import {attribute}\nlstm = {attribute}()"
    return f"from lstm_ref.candidates.load import load\nlstm = load({target!r})[0].make()"


def _literal(arrays: dict) -> str:
    parts = []
    for k, v in arrays.items():
        dtype = "" if v.dtype == np.float64 or v.dtype.kind == "i" else f", np.{v.dtype.name}"
        text = np.array2string(
            v.astype(np.float64) if v.dtype.name == "bfloat16" else v,
            separator=", ",
            threshold=10**6,
            floatmode="unique",
            max_line_width=110,
        )
        text = f"np.zeros({v.shape}{dtype})" if v.size > 1 and not v.any() else f"np.array({' '.join(text.split())}{dtype})"
        parts.append(f"    {k!r}: {text},")
    return "{\n" + "\n".join(parts) + "\n}"


def identified(reading, declared: Candidate, unread: str = "") -> str:
    """What `identify` says of a reading; `unread` is why there was nothing to read, if so."""
    what = "loss" if declared.model else "forward pass"
    if reading is None and unread:
        return f"the {what} gave nothing that could be read: {unread}"
    if reading is None:
        return f"no layout and no variant that is known here makes the {what} that of an LSTM"
    write = reading.declaration(declared)
    if not write and not reading.words:
        return f"the {what} is that of the {'textbook LSTM' if reading.variant.textbook else 'LSTM'} as it is declared"
    changed = reading.words or reading.variant_words
    known = f"an LSTM with {changed}" if changed else "the textbook LSTM, declared otherwise"
    return f"the {what} is that of {known}" + (f"; write {write}" if write else "")


def summary_line(r: Result) -> str:
    """One check as one line of plain text, for pytest."""
    worst = f", worst {ratio(r.worst.ratio)} of tolerance" if r.worst is not None and r.outcome in (PASS, FAIL) else ""
    return f"{r.id} [{r.dtype}] {r.outcome}: {r.cases} cases{worst}" + (f" ({r.reason})" if r.reason else "")
