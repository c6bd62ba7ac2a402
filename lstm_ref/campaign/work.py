"""Work: a batch of cases in, rows out. Top-level functions of plain values, so that any process on any machine can run them.

What a case says depends on nothing but the plan and its number: what is measured once of a candidate comes with the plan, and
what a Bench learns from case to case is forgotten before each.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import marshal
import math
import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from .. import cases
from ..candidates.contract import Candidate
from ..candidates.isolate import isolated
from ..candidates.load import load
from ..diagnosis.explain import Explanation, diagnose
from ..judgement import tolerances as tol
from ..judgement.judge import Bench, fitted, judge, truth_holds
from ..judgement.laws import judge_laws
from ..judgement.manifest import CHECKS, manifest
from ..judgement.record import RecordError, dump
from ..judgement.run import compile_oracle, evidence_of, evidence_on, first_impressions, most_telling, read_forward
from ..judgement.selftest import misjudged
from ..judgement.sheet import Sheet, due
from ..judgement.shrink import shrink
from ..judgement.verdict import FAIL, NOT_RUN, PASS, UNRESOLVED, ZERO, Evidence
from .memory import predicted, rows_within
from .stream import CampaignError, Drawn, Plan, Subject, described, drawn, evidence_as_list, plan_from

OUTCOMES = (PASS, FAIL, UNRESOLVED, ZERO)  # of a check in a case, as they are kept
ERROR = "error"  # of a case: the harness itself could not judge it
CHECK = np.dtype([("check", "u1"), ("outcome", "u1"), ("ratio", "<f2"), ("sight", "<f2")])  # sight as its decimal logarithm
INDEX = {id_: n for n, id_ in enumerate(CHECKS)}
SHRUNK = 24  # signatures of one subject whose first case is shrunk; more are laid beside the nearest of them
BUGS = 2  # of one signature
LEADING = (("contract", "state", "forward", "numerics.effective"), ("grad", "inter"), ("law", "sizes", "numerics"))
TRUTH = re.compile(r"\.(autodiff|differences)$")
NOTED = ("state.", "numerics.")  # checks whose notes are told of a pass
KIND = re.compile(r"raised \w+|crashed its process \(\w+|ended its process|did not return|\(\S+:\d+\)")  # what tells two errors apart
THREADS = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
ONE_XLA_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


@dataclass(frozen=True)
class Batch:
    """Cases to judge, of a plan as text. `known` are (subject, signature) that were shrunk before, `limit` the bytes that one case
    may take."""

    plan: str
    ks: tuple[int, ...]
    known: frozenset[tuple[int, str]] = frozenset()
    isolate: bool = False
    limit: float = np.inf


class Row(NamedTuple):
    """One case, judged. `checks` is an array of `CHECK` as bytes, `digest` of all its evidence to the last bit; `told` is JSON of
    the evidence that fails or has a note, or of the reason where the case was not judged."""

    k: int
    outcome: str
    ratio: float
    checks: bytes
    digest: bytes
    told: str | None
    signature: str | None


@dataclass(frozen=True)
class Bug:
    """The first case of a signature, shrunk. `key` is what is wrong, as far as it can be told apart; `counterexample` a record."""

    subject: int
    signature: str
    key: str
    check: str
    volume: int
    k: int
    counterexample: str | None = None
    explanation: str | None = None
    ours: bool = False


@dataclass
class Found:
    """What came of a batch: rows, the loudest evidence of each check that did not fail, by (subject, check), bugs, and the time."""

    rows: list[Row]
    loudest: dict[tuple[int, str], tuple[int, list]] = field(default_factory=dict)
    bugs: list[Bug] = field(default_factory=list)
    seconds: float = 0.0


def meet(target: str, dtypes: tuple[str, ...] | None, isolate: bool) -> list[dict]:
    """What is learnt of a target before its first case: a Subject for each of its candidates and dtypes, as plain data.

    Without `dtypes`, those that the candidate declares, else float64. Raises TargetError and CampaignError.
    """
    with one_thread():
        out = []
        for n, face in enumerate(_faces(target, isolate)):
            if face.kind == "student":
                raise CampaignError(f"{target} is an object with its own data: it has no cases to choose; judge it with lstm-ref check")
            declared = face.supports.dtypes
            for dtype in dtypes or declared or ("float64",):
                if declared is None or dtype in declared:
                    out.append(asdict(_met(target, n, face, dtype)))
        if not out:
            raise CampaignError(f"{target} declares the dtypes {', '.join(declared or ())}, and none of them was asked for")
        return out


def _met(target: str, n: int, face: Candidate, dtype: str) -> Subject:
    if problems := misjudged(dtype):
        return Subject(target, n, dtype, described(face), misjudged=tuple(problems))
    checks = {c.id: c for c in manifest([face])}
    sheet = Sheet(checks, set(checks), due([face]))
    bench = Bench(face, tol.PRECISIONS[dtype], face.make())
    compile_oracle(bench.candidate)
    if not first_impressions(sheet, [bench]):
        read_forward(sheet, bench)
        for regime in cases.REGIMES:  # where its forward pass is complex-safe
            spec = fitted(replace(cases.CORNERS[0], regime=regime), bench.candidate)
            judged = judge(bench, bench.case(spec), with_differences=True, with_taps=True)
            if judged.gradients is not None and judged.gradients.arrays:
                judge_laws(bench, judged, "law.symmetry".__eq__)
    first = {k: evidence_as_list(t.worst) for k, t in sheet.tallies.items() if t.worst is not None and "." in k and k in INDEX}
    lower = {k: p.name for k, p in bench.lower.items()}
    safe = tuple((*key, bool(v)) for key, v in sorted(bench.complex_safe.items()))
    return Subject(target, n, dtype, described(bench.candidate), lower, safe, bool(bench.textbook), sheet.reading, first)


def judge_batch(batch: Batch) -> Found:
    """Judge cases one after the other. Never raises because a candidate is bad, nor because the harness is."""
    began, found, seen = time.monotonic(), Found([]), set(batch.known)
    with one_thread():
        plan = plan_of(batch.plan)
        for k in batch.ks:
            d = drawn(plan, k)
            try:
                _judge_one(found, seen, batch, plan.subjects[d.subject], d)
            except Exception as error:
                told = f"the harness could not judge this case: {type(error).__name__}: {str(error)[:300]}"
                found.rows.append(Row(k, ERROR, 0.0, b"", b"", json.dumps({ERROR: told}), None))
    found.seconds = time.monotonic() - began
    return found


def _judge_one(found: Found, seen: set, batch: Batch, subject: Subject, d: Drawn) -> None:
    variant = subject.candidate.variant
    needed = predicted(d.spec, subject.candidate.model, variant.layers * variant.directions)
    rows, with_laws = None, d.with_laws
    if needed > batch.limit and variant.textbook and not subject.candidate.model and (parts := rows_within(d.spec, batch.limit)):
        (rows, needed), with_laws = parts, False
    if needed > batch.limit:
        told = f"needs {_gigabytes(needed)}, and {_gigabytes(batch.limit)} are granted to a case"
        found.rows.append(Row(d.k, NOT_RUN, 0.0, b"", b"", json.dumps({NOT_RUN: told}), None))
        return
    bench = replace(fresh(bench_of(batch.plan, d.subject, batch.isolate), subject), rows=rows)
    evidence = evidence_of(bench, d.spec, INDEX.__contains__, d.with_differences, with_laws, with_laws)
    row = row_of(d.k, evidence)
    found.rows.append(row)
    for check, e in evidence.items():
        if e.outcome != FAIL:
            best = found.loudest.get((d.subject, check))
            if best is None or (e.outcome == PASS, e.ratio) > (best[1][0] == PASS, best[1][1]):
                found.loudest[d.subject, check] = (d.k, evidence_as_list(e))
    if row.signature is not None and (d.subject, row.signature) not in seen:
        seen.add((d.subject, row.signature))
        if sum(n == d.subject for n, _ in seen) <= SHRUNK:
            found.bugs += _bugs(batch, subject, d, row.signature, rows)


def _gigabytes(size: float) -> str:
    """Two digits, or whole GB."""
    return f"{max(size / 2**30, 0.01):,.{0 if size > 2**33 else 2}f} GB"


def row_of(k: int, evidence: dict[str, Evidence]) -> Row:
    """All that is kept of a case."""
    values = [(INDEX[c], OUTCOMES.index(e.outcome), e.ratio, math.log10(e.sight) if e.sight else math.nan) for c, e in evidence.items()]
    with np.errstate(over="ignore"):
        checks = np.array(values, CHECK).tobytes()
    digest = hashlib.blake2b(marshal.dumps([(c, *e) for c, e in evidence.items()], 2), digest_size=8).digest()
    telling = {c: evidence_as_list(e) for c, e in evidence.items() if e.outcome == FAIL or (e.note and c.startswith(NOTED))}
    failed = any(e.outcome == FAIL for e in evidence.values())
    ratio = max((float(e.ratio) for e in evidence.values() if e.outcome in (PASS, FAIL)), default=0.0)
    outcome = FAIL if failed else PASS
    return Row(k, outcome, ratio, checks, digest, json.dumps(telling) if telling else None, signature(evidence) if failed else None)


def signature(evidence: dict[str, Evidence]) -> str:
    """What failed in a case, without what follows from it: broken promises before wrong gradients before broken laws, and
    autodiff before differences."""
    failing = sorted(c for c, e in evidence.items() if e.outcome == FAIL)
    for chapters in LEADING:
        if leading := [c for c in failing if c.startswith(chapters)]:
            return " ".join([c for c in leading if not c.endswith(".differences")] or leading)
    return " ".join(failing)


def _bugs(batch: Batch, subject: Subject, d: Drawn, signed: str, rows: int | None) -> list[Bug]:
    """What is wrong in the first case of a signature: what fails there is made smaller, and then what does not fail any more on the
    smallest case, which is another bug unless one diagnosis explains both. The case itself, where it cannot be made smaller."""
    left, found = signed.split(), list[Bug]()
    while left and len(found) < BUGS:
        check = min(left, key=most_telling)
        try:
            bug, seen = _shrunk(batch, subject, d, check, signed, left, rows)
        except Exception as error:  # the case is judged already, and stays so
            key = f"{signed} (it could not be made smaller: {type(error).__name__})"
            bug, seen = Bug(d.subject, signed, key, check, _volume(d.spec), d.k), set(left)
        found.append(bug)
        left = [c for c in left if c not in seen and c != check]
    return found


def _shrunk(batch: Batch, subject: Subject, d: Drawn, check: str, signed: str, left: list[str], rows: int | None) -> tuple[Bug, set[str]]:
    """One bug, and the checks of its signature that it is behind."""
    bench = replace(bench_of(batch.plan, d.subject, batch.isolate), rows=rows)
    smaller = shrink(subject.target, check, fresh(bench, subject), d.spec, lambda case, c: evidence_on(fresh(bench, subject), case, c))
    if smaller is None:
        return Bug(d.subject, signed, f"{check} (it does not repeat)", check, _volume(d.spec), d.k), set()
    counterexample, evidence = smaller
    record = None
    with contextlib.suppress(RecordError):
        record = dump(counterexample)
    found, ours = counterexample.evidence, False
    if check.startswith("grad.") and check.endswith(".autodiff") and found.index:
        ours = not truth_holds(bench, bench.case(counterexample.spec), found.quantity, found.index)
    told = _diagnosis(batch.plan, d.subject, batch.isolate) if check.startswith(("grad.", "inter.", "law.")) and subject.textbook else None
    seen = {c for c, e in evidence.items() if e.outcome == FAIL}
    key, explained = _key(check, [c for c in left if c in seen] or [check], evidence, told)
    return Bug(d.subject, signed, key, check, _volume(counterexample.spec), d.k, record, told, ours), seen | explained


def _key(check: str, failing: list[str], evidence: dict[str, Evidence], told: str | None) -> tuple[str, set[str]]:
    """What tells one bug from another, and the checks that it explains: the diagnosis, where it explains every gradient that is
    wrong on the smallest case; else what fails there, and how."""
    if told is not None:
        x = json.loads(told)
        wrong = {c.split(".")[1] for c in failing if c.startswith("grad.")}
        names = [f"{edge[0]} {how}" for fit in x["fits"][:1] for edge, how in zip(fit["edges"], fit["wrong"], strict=True)]
        names = names or [label for label, _ in x["names"][:1]]
        if names and wrong <= set(x["failing"]):
            every = {c for c in CHECKS if c.startswith("inter.") or (c.startswith("grad.") and c.split(".")[1] in x["failing"])}
            return " and ".join(names), every
    if check.startswith(("contract", "state")):
        return " ".join([check, *dict.fromkeys(KIND.findall(evidence[check].rule))]), set()
    return " ".join(dict.fromkeys(TRUTH.sub("", c) for c in failing)), set()


def _volume(spec) -> int:
    n = spec.sizes
    return n.T * n.B * n.H * (n.H + n.D)


@functools.cache
def _diagnosis(plan: str, n: int, isolate: bool) -> str | None:
    """The explanation of a subject's wrong gradients as JSON; None where there is none. Asked once in a process."""
    bench = bench_of(plan, n, isolate)
    if bench.precision.name not in ("float64", "float32"):
        return None
    told = diagnose(bench.candidate, bench.precision)
    return None if told is None else explanation_as_text(told)


def explanation_as_text(x: Explanation) -> str:
    fits = [{"edges": [list(e) for e in f.edges], "wrong": f.wrong, "gains": [float(g) for g in f.gains]} for f in x.fits]
    regions = [(r.condition, r.failed, r.passed) for r in x.regions]
    location = None if x.location is None else asdict(x.location)
    told = {"fits": fits, "names": x.names, "distance": float(x.distance), "failing": x.failing, "regions": regions, "location": location}
    return json.dumps(told, default=int)


def fresh(bench: Bench, subject: Subject) -> Bench:
    """The bench as it was before the first case."""
    safe = {(k, regime): known for k, regime, known in subject.complex_safe}
    return replace(bench, complex_safe=safe, refuted={}, output_names=("h", "c_T"), wrong=False)


@functools.lru_cache(maxsize=4)
def plan_of(text: str) -> Plan:
    return plan_from(text)


@functools.lru_cache(maxsize=64)
def bench_of(plan: str, n: int, isolate: bool) -> Bench:
    """The bench of subject n of a plan in this process; made once."""
    subject = plan_of(plan).subjects[n]
    face = _faces(subject.target, isolate)[subject.face]
    candidate = replace(subject.candidate, make=face.make)
    lower = {k: tol.PRECISIONS[p] for k, p in subject.lower.items()}
    return Bench(candidate, tol.PRECISIONS[subject.dtype], face.make(), lower, textbook=subject.textbook)


@functools.cache
def _faces(target: str, isolate: bool) -> list[Candidate]:
    return (isolated if isolate else load)(target)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One thread for BLAS and XLA: there is a worker for every core. What reads the environment when it is first imported
    (XLA, frameworks) finds it there, in this process, from now on."""
    for k, v in THREADS.items():
        os.environ.setdefault(k, v)
    if "jax" not in sys.modules:
        os.environ.setdefault("XLA_FLAGS", ONE_XLA_THREAD)
    with threadpool_limits(1):
        yield
