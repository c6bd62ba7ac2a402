"""Verdict: what a run found, as values that every report reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from ..cases import Spec
from ..reference.variant import TEXTBOOK, Variant

PASS, FAIL, UNRESOLVED, ZERO = "pass", "fail", "unresolved", "zero"  # of one check in one case
CANNOT_TELL, TIMEOUT, NOT_RUN = "cannot tell", "timeout", "not run"  # any of these leaves a run without a verdict
NOT_PROVIDED, DESELECTED = "not provided", "deselected"
EXPECTED, UNEXPECTED, BLOCKED = "expected failure", "unexpected pass", "blocked"  # see expected; blocked: not run because of the first
INCONCLUSIVE = "inconclusive"
ANOTHER_FUNCTION = "forward(inputs), which is differenced, is another function than pullback(inputs)"  # a note of differences


class Evidence(NamedTuple):
    """One check in one case.

    `ratio` is the worst error as a fraction of its tolerance and belongs to the entry `index` of `quantity`; `rule`
    is the inequality that decided, as text. `condition` is C at that entry, where the tolerance is κ·u·C alone. `sight` is
    the smallest error in any one entry, as a share of the block's largest true entry, that is sure to have failed here.
    """

    outcome: str
    ratio: float = 0.0
    quantity: str = ""
    index: tuple[int, ...] = ()  # type: ignore[assignment]  # an entry, not tuple's method
    candidate: float | None = None
    autodiff: float | None = None
    difference: float | None = None
    error: float | None = None
    tolerance: float | None = None
    rule: str = ""
    note: str = ""
    condition: float | None = None
    sight: float | None = None


class Sight(NamedTuple):
    """How small an error a check was able to see in its resolved cases, as a share of a block's largest true entry: where it
    saw best, in half of the cases, and where it saw worst."""

    smallest: float
    median: float
    largest: float
    cases: int


@dataclass(frozen=True)
class Counterexample:
    """The smallest case found on which a check fails: what the candidate was given (textbook layout), and what it did.

    `primary` marks the check that the case was made smaller for; other checks that fail on it share it. `outputs` are
    the outputs that the candidate returns, which are what cotangents flow into; `way` is its way to gradients.
    """

    check: str
    target: str
    dtype: str
    spec: Spec
    inputs: dict
    cotangents: dict
    evidence: Evidence
    outputs: tuple[str, ...] = ("h", "c_T")
    primary: bool = True
    way: str = "pullback"
    variant: Variant = TEXTBOOK


@dataclass(frozen=True)
class Result:
    """One check over the whole run, for one dtype. `reason` says why an outcome is not a plain pass. `ratios` are error ÷ tolerance
    of its resolved cases in rising order: all of them, or so many quantiles, the least and the largest among them. `failing` are
    the cases on which it fails, `region` the condition on sizes that separates them from those that pass, where there is one.
    `through` are the checks by which a group of cases fails."""

    id: str
    dtype: str
    outcome: str
    cases: int = 0
    unresolved: int = 0
    zero: int = 0
    failed: int = 0
    worst: Evidence | None = None
    where: Spec | None = None
    equations: tuple[str, ...] = ()
    reason: str = ""
    counterexample: Counterexample | None = None
    failing: tuple[Spec, ...] = ()
    region: str = ""
    sight: Sight | None = None
    ratios: tuple[float, ...] = ()
    through: tuple[str, ...] = ()

    @property
    def chapter(self) -> str:
        """What stands before the first dot of the id: contract, forward, grad, inter, law, state, sizes or numerics."""
        return self.id.partition(".")[0]


BEHAVIOUR = ("contract", "state")


def kind_of(results: Iterable[Result], textbook: bool, variant: bool) -> str:
    """The `kind` of a verdict: against what gradients were judged. `textbook` says that no forward pass is known to be another function,
    `variant` that one was declared."""
    blocked = any(r.id.endswith(".autodiff") and r.reason.startswith("blocked by forward.") for r in results)
    return "self-consistency" if blocked or not textbook else "variant" if variant else "textbook"


@dataclass(frozen=True)
class Verdict:
    """A whole run. `outcome` is "pass", "fail" or "inconclusive"; `forward`, `gradients` and `behaviour` are
    its parts ("deselected" where the user left a whole part out, "expected failure" where all that fails in it is expected).

    `kind` is "textbook" when gradients were judged against autodiff, "variant" when against that of a declared variant,
    "self-consistency" when only against differences of the candidate's own forward pass.
    `explanation` (see diagnosis) names the wrong term where that is known, else it is None. `vacuity` says what the run could
    not have seen, `faces` are the candidates as they were judged, for the diagnosis, `incomplete` says why the run ended before it
    was done ("" if it was not interrupted). `heat` (see diagnosis) says where in time a failing case goes wrong, if any does.
    """

    target: str
    profile: str
    seed: int
    results: tuple[Result, ...]
    cases: int
    seconds: float
    kind: str = "textbook"
    notes: tuple[str, ...] = ()
    explanation: Any = None
    versions: dict[str, str] = field(default_factory=dict)
    vacuity: tuple[str, ...] = ()
    incomplete: str = ""
    heat: Any = None
    faces: tuple = field(default=(), repr=False, compare=False)

    @property
    def outcome(self) -> str:
        """A failure, or a pass where a failure is expected, before anything that could not be told, that before "pass"."""
        return _fold(self.results)

    @property
    def gradients(self) -> str:
        """The gradients alone: where the forward pass is another function, as its own differences judge them; "not provided"
        where the candidate gives none."""
        if self.gradientless:
            return NOT_PROVIDED
        skipped = (*BEHAVIOUR, "forward")
        return _half(r for r in self.results if r.chapter not in skipped and not _of_forward_alone(r))

    @property
    def gradientless(self) -> bool:
        """Whether the candidate gives no gradient at all, so that its outputs alone were judged."""
        own = [r for r in self.results if r.chapter == "grad" and r.outcome != DESELECTED]
        return bool(own) and all(r.outcome == NOT_PROVIDED and not r.reason for r in own)

    @property
    def forward(self) -> str:
        """Whether the forward pass is the textbook's."""
        return _half(r for r in self.results if r.chapter == "forward" and r.outcome != NOT_PROVIDED)

    @property
    def behaviour(self) -> str:
        """What the calls do beside computing: the contract.* and state.* checks."""
        return _half(r for r in self.results if r.chapter in BEHAVIOUR)

    @property
    def dtypes(self) -> tuple[str, ...]:
        """In the order in which they were judged."""
        return tuple(dict.fromkeys(r.dtype for r in self.results))

    @property
    def partial(self) -> tuple[int, int] | None:
        """(selected, all) where the user deselected checks, else None."""
        out = sum(r.outcome == DESELECTED for r in self.results)
        return (len(self.results) - out, len(self.results)) if out else None

    def failures(self) -> tuple[Result, ...]:
        """The results that fail, in the order of the report."""
        return tuple(r for r in self.results if r.outcome == FAIL)


def _of_forward_alone(r: Result) -> bool:
    """Whether a result says of the forward pass alone what it says: blocked by it, or a group of cases in which only it fails."""
    in_a_group = bool(r.through) and all(k.startswith("forward.") for k in r.through)
    return in_a_group or r.reason.startswith("blocked by forward.")


def _half(results) -> str:
    results = list(results)
    if results and all(r.outcome == DESELECTED for r in results):
        return DESELECTED
    folded = _fold(results)
    return EXPECTED if folded == PASS and any(r.outcome == EXPECTED for r in results) else folded


def _fold(results) -> str:
    outcomes = {r.outcome for r in results}
    if outcomes & {FAIL, UNEXPECTED}:
        return FAIL
    if outcomes & {CANNOT_TELL, TIMEOUT, NOT_RUN} or not outcomes & {PASS, EXPECTED}:
        return INCONCLUSIVE
    return PASS


def merged(verdicts: list[Verdict]) -> Verdict:
    """Several dtypes of one target as one verdict."""
    first = verdicts[0]
    return Verdict(
        first.target,
        first.profile,
        first.seed,
        tuple(r for v in verdicts for r in v.results),
        sum(v.cases for v in verdicts),
        sum(v.seconds for v in verdicts),
        next((v.kind for v in verdicts if v.kind != "textbook"), "textbook"),
        tuple(dict.fromkeys(n for v in verdicts for n in v.notes)),
        next((v.explanation for v in verdicts if v.explanation), None),
        first.versions,
        tuple(dict.fromkeys(n for v in verdicts for n in v.vacuity)),
        next((v.incomplete for v in verdicts if v.incomplete), ""),
        next((v.heat for v in verdicts if v.heat), None),
        first.faces,
    )


def one_primary(results: tuple[Result, ...]) -> tuple[Result, ...]:
    """Where the check that the counterexample was made small for fails no longer, the first one that shares it shows it."""
    sharing = [r for r in results if r.outcome == FAIL and r.counterexample is not None]
    if not sharing or any(r.counterexample.primary for r in sharing):
        return results
    first = sharing[0]
    return tuple(replace(r, counterexample=replace(r.counterexample, primary=True)) if r is first else r for r in results)


def narrowed(v: Verdict, wanted: Callable[[Result], bool]) -> Verdict:
    """The verdict on some of the checks of a run: the others are deselected. What they saw still decides what blocks what."""
    results = tuple(r if wanted(r) else replace(r, outcome=DESELECTED, counterexample=None) for r in v.results)
    return replace(v, results=one_primary(results))
