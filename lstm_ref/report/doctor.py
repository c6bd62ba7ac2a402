"""Doctor: what was understood of a candidate, in words, and the next step for whatever does not fit."""

from __future__ import annotations

import difflib
import shlex
from collections import Counter

from ..candidates.contract import Candidate
from ..candidates.layout import Layout
from ..candidates.load import KINDS
from ..judgement.doctor import COMPLEX, DECLARED, NO_ANSWER, Examination, Problem, Seen
from ..reference.symbols import INITIAL, LAYER_INPUTS, LAYER_OUTPUTS
from . import words

WAYS = {
    "pullback": "a layer through pullback(inputs) -> (outputs, function from cotangents to gradients)",
    "vjp": "a layer through forward(inputs) and vjp(inputs, cotangents)",
    "loss_and_gradients": "a model through loss_and_gradients(inputs) -> (J, gradients)",
    "forward": "a layer through forward(inputs), without gradients",
    "student": "a student: params, loss() and gradients(), with data of its own",
}
CAUSES = {
    "factory": "there is one instance and no way to make another; name a class or a function that makes one",
    "model": "a model's forward and backward pass are one call",
    "h": "it is declared that h is not returned, h_T alone",
    "c_T": "it is declared that c_T is not returned",
    "initial_state": "it is declared that an initial state is not taken",
    "intermediates": "no gradients of intermediates are returned; they are optional: f i c_tilde o c a_f a_i a_c a_o z",
    "taps": "forward takes no taps; forward(inputs, taps) that adds taps[name] where a quantity is formed would do",
    "gradients": "none are returned",
    "student": "what the object computes is its own: its gradients are held against differences of its own loss",
}
NEXT = {  # where the sentence of a problem does not say it itself
    "contract.call": "mend what is named; until this call returns, nothing can be judged",
    "contract.shapes": "return that shape, or declare the layout it has (batch_first, transposed, packed, joint)",
    "contract.dtype": "compute and return in the dtype of the inputs",
    "contract.finite": "look for a division by zero or memory that was never written",
    "numerics.effective_precision": 'look for float32 buffers and casts; if float32 is meant, declare supports = {"dtypes": ["float32"]}',
}
ALIKE = 0.75  # the share of their letters that the names of two biases have in common
NO_MORE_TO_SAY = (
    "declare supports",
    "declare variant",
    "are keyed as",
    "is due; ",
    "it is called as",
)  # in a sentence that says the next step itself
SAYS_ITSELF = ("contract.time", "state.inputs_unmutated")
IGNORED = ("forward.initial_state", "forward.J")  # what doctor finds of these is that an initial state has no effect


def text(x: Examination, target: str) -> str:
    """The examination as lines, a problem with its next step under it, and what to do now at the end."""
    lines = [f"{target}  ({x.dtype})", *_facts(x, target), *_missing(x)]
    for check, cause in x.unchecked:
        why = "a program is one process" if cause == "factory" and _kind(target) in ("cmd", "lib") else CAUSES[cause]
        lines.append(_line("not checked", f"{check}: {why}"))
    for problem in x.problems:
        lines.append(_line("PROBLEM", f"{problem.sentence} [{problem.check}]"))
        if step := _next(x, problem):
            lines.append(_line("  next", step))
    return "\n".join([*lines, _end(x, target)])


def _line(head: str, what: str) -> str:
    return f"  {head:<14}{what}"


def _kind(target: str) -> str:
    """What stands before the colon of a target of a kind of its own, else nothing."""
    kind = target.partition(":")[0]
    return kind if kind in KINDS else ""


def _facts(x: Examination, target: str) -> list[str]:
    face, student = x.candidate, x.candidate.kind == "student"
    again = "a new instance where a check needs one" if face.factory else "one instance"
    framework = _kind(target) not in ("", "ref", "cmd", "lib") and face.kind != "forward"
    lines = [_line("way", f"a layer, differentiated by {_kind(target)}" if framework else f"{WAYS[face.kind]}; {again}")]
    lines += [_line("called", f"as {face.called}")] if face.called else []
    if not student:
        lines += [_line("layout", layout(face.layout)), _line("limits", limits(face))]
        lines += [_line("variant", face.variant.words)] if not face.variant.textbook else []
    if face.model:
        lines.append(_line("reduction", face.reduction))
    where = f"   at {words.sizes(x.sizes)}" if x.sizes else ""
    lines.append(_line("params" if student else "given", arrays(x.given) + where))
    if x.loss is not None:
        lines.append(_line("loss", words.number(x.loss)))
    if x.outputs:
        lines.append(_line("outputs", arrays(x.outputs)))
    if x.gradients:
        lines.append(_line("gradients of", arrays(x.gradients)))
    if x.intermediates:
        lines.append(_line("inner", f"{' '.join(x.intermediates)}{', with taps' if face.taps else ''}"))
    if x.unused:
        lines.append(_line("not used", f"{', '.join(x.unused)}: returned, and nothing is done with it"))
    if x.unread and len(x.unread) < len(x.given):
        lines.append(_line("unread", f"the loss does not depend on {', '.join(x.unread)}"))
    lines += [_line("remark", face.remark)] if face.remark else []
    lines += _forward(x)
    if not student and x.forward == DECLARED and not any(p.check == "numerics.effective_precision" for p in x.problems):
        lines.append(_line("precision", f"computed in {x.dtype}, as far as three cases tell"))
    if x.differences:
        safe = "complex step, exact to rounding" if x.differences == COMPLEX else f"real steps at six points: {x.why_real}"
        lines.append(_line("differences", safe))
    return lines


def _forward(x: Examination) -> list[str]:
    if not x.forward:
        return []
    if x.forward == NO_ANSWER:
        return [_line("forward", "not known: nothing came back that could be read")]
    if any(p.check in IGNORED for p in x.problems):
        return [_line("forward", "the declared LSTM's, but for its initial state")]
    lines = [_line("forward", words.identified(x.reading, x.candidate))]
    if x.reading is None:
        step = "if it is an LSTM, look at the layout above first; else its gradients are judged by differences of its own forward pass"
        lines.append(_line("  next", step))
    elif x.forward != DECLARED and x.reading.words:
        lines.append(_line("  next", "if that is meant, go on: its gradients are judged by differences of its own forward pass"))
    elif x.forward != DECLARED:
        fails = "the call" if x.problems else "forward.J" if x.candidate.model else f"forward.{x.candidate.hidden}"
        lines.append(_line("  next", f"write that; until then {fails} fails"))
    return lines


def _missing(x: Examination) -> list[str]:
    """What is not there and need not be, with what that means."""
    face = x.candidate
    lines: list[str] = []
    if face.kind == "student":
        return lines
    names = {s.name for s in x.outputs}
    if x.outputs and not face.model and face.hidden == "h" and face.layout.name("h_T") not in names:
        lines.append(_line("no h_T", "the cotangent of h_T is added to the last h"))
    absent = [k for k in face.supports.missing if k in LAYER_OUTPUTS]
    gradients = [k.removesuffix("_gradient") for k in face.supports.missing if k not in LAYER_OUTPUTS]
    gradients += [k for k in INITIAL if k not in face.supports.states]
    gradients = ["anything"] if set(gradients) >= set(LAYER_INPUTS) else gradients
    if absent:
        lines.append(_line("not provided", f"{', '.join(absent)}, declared: no cotangent of it flows in"))
    if gradients:
        lines.append(_line("not provided", f"gradient of {', '.join(dict.fromkeys(gradients))}, declared"))
    return lines


def _next(x: Examination, problem: Problem) -> str:
    if problem.check in SAYS_ITSELF or any(words in problem.sentence for words in NO_MORE_TO_SAY):
        return ""
    if absent := [k for k in LAYER_OUTPUTS if f"KeyError: '{x.candidate.layout.name(k)}'" in problem.sentence]:
        return f"cotangents come for what forward returns and for nothing else: it returned no {absent[0]}"
    if second := _second_bias(x, problem):
        return second
    if problem.check == "contract.call" and "KeyError" in problem.sentence:
        return 'the arrays have the names under `given`; if yours have others, declare them: layout = {…, "names": {…}}'
    if problem.check == "contract.call" and x.candidate.kind == "student":
        return "params are perturbed in place and put back: loss() must read those very arrays, and return a number"
    if problem.check == "contract.keys" and x.candidate.kind == "forward":
        return "give it vjp(inputs, cotangents), or pullback(inputs) where forward keeps a cache"
    if problem.check == "contract.keys":
        return "return it"
    return NEXT.get(problem.check, "")


def _second_bias(x: Examination, problem: Problem) -> str:
    """What to declare where a bias is looked for beside the one that there is."""
    own, _, sought = x.candidate.layout.template("b"), *problem.sentence.partition("KeyError: '")[1:]
    name = sought.partition("'")[0]
    if not name or x.candidate.layout.biases != 1 or name in {s.name for s in x.given}:
        return ""
    if difflib.SequenceMatcher(None, own, name).ratio() < ALIKE:
        return ""
    return f'it looks for a second bias: declare biases=2 in the layout, with names {{"b_x": {own!r}, "b_h": {name!r}}}'


def _end(x: Examination, target: str) -> str:
    again = shlex.quote(target)
    if x.fits:
        return f"ready: lstm-ref check {again}"
    if not x.problems and x.forward != NO_ANSWER and (x.reading is None or x.reading.words):
        return f"not the LSTM that is declared; its gradients can be judged by differences of its own: lstm-ref check {again}"
    return f"not ready: mend what is named above, then lstm-ref doctor {again}"


def arrays(seen: tuple[Seen, ...]) -> str:
    """Names and shapes, with the dtype of those that have another than most, and at the end that of most."""
    if not seen:
        return "nothing"
    usual = Counter(s.dtype for s in seen).most_common(1)[0][0]
    return "  ".join(f"{s.name} {s.shape}" + (f" {s.dtype}" if s.dtype != usual else "") for s in seen) + f"  {usual}"


def layout(q: Layout) -> str:
    """A layout as a sentence."""
    gates = "in one array, unit by unit" if q.interleaved else "in one array" if q.packed else "in four arrays"
    joint = {"hx": "one weight on [h, x]", "xh": "one weight on [x, h]", "split": "one weight for x and one for h"}[q.joint]
    turned = "(inputs, units), for x W" if q.transposed else "(units, inputs), for W x"
    biases = {0: "no bias", 1: "one bias", 2: "two biases that are added"}[q.biases]
    offset = f", {q.forget_bias:g} added to the forget gate" if q.forget_bias else ""
    first = "(B, T, D), batch first" if q.batch_first else "(T, B, D), time first"
    return f"gates {' '.join(q.order)} {gates}; {joint}, {turned}; {biases}{offset}; x is {first}"


def limits(face: Candidate) -> str:
    s = face.supports
    told = [f"{k}: {v}" for k, v in s.sizes.items()]
    told += [f"dtypes: {', '.join(s.dtypes)}"] if s.dtypes else []
    told += [f"{' and '.join(k for k in INITIAL if k not in s.states)} always zero"] if not s.initial_state else []
    return "; ".join(told) or "none declared"
