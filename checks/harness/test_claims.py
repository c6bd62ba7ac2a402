"""The published claims: each has its computed verdict, the docs page shows it, and an error planted in any one is seen."""

import ast
import functools
import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from lstm_ref import cases
from lstm_ref.claims import drawn, judge, printed
from lstm_ref.claims.judge import LOCAL, READINGS, RIGHT, TRUNCATED, Bench, Ruling
from lstm_ref.claims.printed import CLAIMS
from lstm_ref.claims.rnn import Rnn
from lstm_ref.claims.sequence import Sequence
from lstm_ref.cli import app
from lstm_ref.judgement.comparison import compare
from lstm_ref.judgement.tolerances import PRECISIONS
from lstm_ref.reference.symbols import Sizes
from lstm_ref.report import claims as report
from lstm_ref.truth import autodiff

P = PRECISIONS["float64"]
PAGE = Path(__file__).resolve().parents[2] / "docs" / "published-claims.md"
BY_ID = {claim.id: claim for claim in CLAIMS}
IDS = """\
P1.forward.gates P1.forward.cell P1.forward.hidden P1.forward.output P1.softmax P1.hidden P1.o P1.a_o P1.cell P1.c_tilde P1.a_c
P1.i P1.a_i P1.f P1.a_f P1.c_prev P1.z P1.weights P1.through_time P1.update
P2.forward P2.delta P2.o P2.c P2.i P2.g P2.f P2.c_prev P2.W_o P2.W_f P2.W_i P2.W_g P2.through_time
P3.rnn_error P3.rnn_bound P3.rnn_sum P3.gates P3.split P3.cell P3.hidden P3.memory
P4.forward P4.w_f P4.cell_last P4.cell P4.dh_dC P4.dC_dC P4.dC_df P4.df_dw
""".split()  # noqa: SIM905 (ids, as lines)
PARTS = ["P1.forward.loss", "P4.forward.loss", "P3.rnn_bound.vanishes", "P3.rnn_bound.explodes", "P3.rnn_sum.shrinks"]


@pytest.fixture(scope="module")
def bench():
    return Bench(drawn.stream())


@pytest.fixture(scope="module")
def rulings(bench):
    return {r.claim.id: r for r in judge.rulings(CLAIMS, bench)}


@pytest.fixture(scope="module")
def small(bench):
    """The corners alone, with which every stream begins: enough to see a planted error."""
    few = Bench(drawn.corners())
    assert bench.specs[: len(few.specs)] == few.specs
    few._sequences = {network: bench.sequences(network)[: len(few.specs)] for network in drawn.NETWORKS}
    few._known = bench._known
    return few


def test_every_claim_of_the_four_texts_is_there_once():
    assert sorted(BY_ID) == sorted(IDS + PARTS)
    assert len(CLAIMS) == len(BY_ID)
    assert all(claim.printed and claim.source for claim in CLAIMS)


def test_the_page_says_what_is_computed(rulings):
    page = PAGE.read_text(encoding="utf-8")
    how = "`lstm-ref claims --markdown docs/published-claims.md` writes it anew"
    assert report.refreshed(page, list(rulings.values())) == page, f"the page says something else than what is computed; {how}"


def test_every_verdict_is_told(rulings):
    for r in rulings.values():
        assert set(r.verdicts) == set(READINGS)
        assert judge.UNTOLD not in r.verdicts.values(), r.claim.id
        assert r.right or r.claim.why, f"{r.claim.id} is not right as printed; its `why` must tell a student"
        assert set(r.counterexamples) == {k for k, word in r.verdicts.items() if word not in RIGHT}, r.claim.id


def test_every_correction_is_right_itself(rulings):
    for r in rulings.values():
        if r.claim.corrected is not None:
            assert r.corrected in RIGHT, (r.claim.id, r.corrected)
        elif r.claim.kind == "bound" or r.verdicts["total"] not in RIGHT:
            pytest.fail(f"{r.claim.id} is not right and has no correction")
        assert bool(r.claim.correction) == (r.claim.corrected is not None)


def test_counterexamples_refute_and_are_small(rulings, bench):
    for r in rulings.values():
        for reading, c in r.counterexamples.items():
            again = judge.failure(r.claim, bench, reading, c.arrays)
            assert (again.claimed, again.true) == (c.claimed, c.true)
            largest = max(v.shape[0] for k, v in c.arrays.items() if k in ("x", "a"))
            assert largest <= 3, r.claim.id
            assert all(np.array_equal(v, np.round(v, 1)) for v in c.arrays.values()), r.claim.id


DRAWN = settings(max_examples=12, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))


@DRAWN
@given(drawn.specs(), st.integers(0, 2**32 - 1))
def test_no_other_sequence_contradicts_a_verdict(rulings, spec, seed):
    """Where a verdict says that a claim or its correction is right, it is right on every sequence that Hypothesis can think of."""
    sequences = {k: network(drawn.arrays(k, replace(spec, seed=seed))) for k, network in drawn.NETWORKS.items()}
    for r in rulings.values():
        sequence = sequences[r.claim.network]
        for reading, word in r.verdicts.items():
            truth = {LOCAL: "local", TRUNCATED: "truncated"}.get(word, "total")
            for look in judge.looks(r.claim, sequence, reading, truth):
                if word in (*RIGHT, LOCAL, TRUNCATED) or judge.fits_at(word, look.place, look.width):
                    assert look.evidence.outcome != "fail", (r.claim.id, reading, look)
        if r.claim.corrected is not None:
            for look in judge.looks(r.claim._replace(formula=r.claim.corrected), sequence, "total"):
                assert look.evidence.outcome != "fail", (r.claim.id, "corrected", look)


# The truth that claims are held against


def lstm(T=4, D=2, H=3, seed=5, network="softmax") -> Sequence:
    return Sequence(drawn.arrays(network, cases.Spec(Sizes(T, 1, D, H, 3), seed=seed)))


def agree(seen, due, condition):
    return compare("q", np.asarray(seen), np.asarray(due), condition, P).outcome == "pass"


@pytest.mark.parametrize("network", ["softmax", "squared"])
def test_steps_differentiated_one_by_one_add_up_to_the_total_derivative(network):
    sequence = lstm(network=network)
    for name in ("h", "c", "o", "f", "a_i", "c_tilde", "z"):
        for t in range(sequence.T):
            due, condition = sequence.due(f"d{name}", t, "total", "total")
            assert agree(sequence.chains["total"][name][t], due, condition), (name, t)
    for name in ("W_f", "W_o", "b_c"):
        due, condition = sequence.due(f"d{name}", None, "total", "total")
        assert agree(sequence.chains["total"][name].sum(0), due, condition)


def test_the_truncated_gradient_is_that_of_an_lstm_whose_gates_do_not_see_h():
    sequence = lstm()
    cut = autodiff.truth(sequence._cut(), sequence.cotangents).gradients
    for name in ("c", "h", "f", "a_o"):
        for t in range(sequence.T):
            due, condition = sequence.due(f"d{name}", t, "truncated", "total")
            assert agree(cut[name][t, 0], due, condition), (name, t)
            if t < sequence.T - 1:
                assert not agree(cut[name][t, 0], *sequence.due(f"d{name}", t, "total", "total"))


def test_jacobians_are_those_that_jax_finds():
    sequence = lstm(T=3, H=2)
    W, b = (np.stack([sequence.inputs[f"{q}_{k}"] for k in "fico"]) for q in ("W", "b"))

    def states(c_prev, h_prev, W_f, t):
        import jax.numpy as jnp

        z = jnp.concatenate([h_prev, sequence.inputs["x"][t, 0]])
        f, i, o = (jax.nn.sigmoid(w @ z + v) for w, v in ((W_f, b[0]), (W[1], b[1]), (W[3], b[3])))
        c = f * c_prev + i * jnp.tanh(W[2] @ z + b[2])
        return o * jnp.tanh(c), c, f

    def after(c, W_f, t):
        """c_{t+1} and f_{t+1} from c_t, with h_t made of it."""
        import jax.numpy as jnp

        return states(c, sequence.total.values["o"][t, 0] * jnp.tanh(c), W_f, t + 1)

    def through(W_f, t):
        h, c = sequence.inputs["h0"][0], sequence.inputs["c0"][0]
        for s in range(t + 1):
            h, c, f = states(c, h, W_f, s)
        return f

    with jax.enable_x64(True):
        for t in (1,):
            c, h = (sequence.total.values[k][t, 0] for k in ("c", "h"))
            found = jax.jacobian(lambda c: after(c, W[0], t)[1])(c)
            assert agree(found, *sequence.due("∂c/∂c_prev", t + 1, "total", "total"))
            held = jax.jacobian(lambda c: states(c, h, W[0], t + 1)[1])(c)
            assert agree(held, *sequence.due("∂c/∂c_prev", t + 1, "local", "total"))
            assert not agree(held, *sequence.due("∂c/∂c_prev", t + 1, "total", "total"))
            assert agree(jax.jacobian(lambda W_f: through(W_f, t + 1))(W[0]), *sequence.due("∂f/∂W_f", t + 1, "total", "total"))
            held = jax.jacobian(lambda W_f: states(c, h, W_f, t + 1)[2])(W[0])
            assert agree(held, *sequence.due("∂f/∂W_f", t + 1, "local", "total"))


@pytest.mark.parametrize("reading", READINGS)
def test_the_plain_rnn_is_differentiated_as_jax_does(reading):
    arrays = drawn.arrays("rnn", cases.Spec(Sizes(4, 1, 1, 3, 2), seed=7))
    network, s = Rnn(arrays), arrays["s"] * np.array([reading == "total"] * 3 + [True])[:, None]

    def error(W, a):
        import jax.numpy as jnp

        h, E = arrays["h0"], 0.0
        for t in range(4):
            h = jnp.tanh(W @ h + a[t])
            E = E + s[t] @ h
        return E

    with jax.enable_x64(True):
        dW, dnet = jax.grad(error, argnums=(0, 1))(arrays["W"], arrays["a"])
    assert agree(dW, *network.due("dW", None, "total", reading))
    for k in range(4):
        assert agree(dnet[k], *network.due("dnet", k, "total", reading))
        assert agree(network.lanes[reading]["dnet"][0, k], *network.due("dnet", k, "total", reading))


@pytest.mark.parametrize("side", [0, 1])
def test_a_bound_that_is_not_a_number_fails(side, small):
    claim = BY_ID["P3.rnn_bound"]
    assert judge.verdict(claim, small, "alone") == "holds"
    broken = claim._replace(formula=lambda s: tuple(q * np.nan if n == side else q for n, q in enumerate(claim.formula(s))))
    assert judge.verdict(broken, small, "alone") == "fails"


def test_a_verdict_needs_a_pass_or_a_failure_at_every_place():
    claim, none = BY_ID["P1.f"], Bench([])
    sequence = drawn.arrays("softmax", cases.Spec(Sizes(1, 1, 1, 1, 2), initial_state="zero"))
    none._sequences["softmax"] = [Sequence(sequence)]  # c_0 = 0: claim and truth are both 0
    assert judge.verdict(claim, none, "total") == judge.UNTOLD


# Planted errors


def planted(tree: ast.AST):
    """The formula with one error at a time: a term with the other sign, a factor dropped, a square that is none."""
    for parent in list(ast.walk(tree)):
        for name, value in ast.iter_fields(parent):
            for n, node in enumerate(value if isinstance(value, list) else [value]):
                for wrong in _errors(node) if isinstance(node, ast.BinOp) else ():
                    setattr(parent, name, [*value[:n], wrong, *value[n + 1 :]] if isinstance(value, list) else wrong)
                    yield ast.unparse(node), ast.fix_missing_locations(tree)
                    setattr(parent, name, value)


def _errors(node: ast.BinOp):
    if isinstance(node.op, (ast.Add, ast.Sub)):
        yield ast.BinOp(node.left, ast.Sub() if isinstance(node.op, ast.Add) else ast.Add(), node.right)
    if isinstance(node.op, (ast.Mult, ast.Pow)):
        yield node.left
    if isinstance(node.op, ast.Mult):
        yield node.right


@functools.cache
def formulas() -> dict[str, ast.Lambda]:
    """The code of every claim's formula, by id."""
    tree = ast.parse(Path(printed.__file__).read_text(encoding="utf-8"))
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "Claim"]
    return {call.args[0].value: call.args[3] for call in calls}


def seen(claim, bench, due: Ruling) -> bool:
    """Whether what the page shows of a claim changes: verdicts, notes, or the numbers of its counterexample."""
    try:
        if any(judge.verdict(claim, bench, reading) != word for reading, word in due.verdicts.items()):
            return True
        for reading, c in due.counterexamples.items():
            found = judge.failure(claim, bench, reading, c.arrays)
            if found is None or report.counterexample(found) != report.counterexample(c):
                return True
        return judge.ruling(claim, bench, search=False).notes != due.notes
    except ValueError:
        return True  # the formula gives an array of another shape


@pytest.fixture(scope="module")
def shown(small, rulings):
    """What the corners say, with the counterexamples of the page."""
    return {c.id: replace(judge.ruling(c, small, search=False), counterexamples=rulings[c.id].counterexamples) for c in CLAIMS}


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda c: c.id)
def test_an_error_planted_in_a_claim_is_seen(claim, small, shown):
    assert not seen(claim, small, shown[claim.id])
    for n, _ in enumerate(claim.due if claim.kind != "bound" else (0, 1)):
        for factor in (-1, 1.5):
            scaled = claim._replace(formula=lambda s: tuple(factor * q if m == n else q for m, q in enumerate(claim.formula(s))))
            assert seen(scaled, small, shown[claim.id]), (claim.id, n, factor)
    for what, wrong in planted(formulas()[claim.id]):
        formula = eval(compile(ast.Expression(wrong), "<planted>", "eval"), vars(printed))
        assert seen(claim._replace(formula=formula), small, shown[claim.id]), (what, ast.unparse(wrong))


def test_there_are_errors_to_plant():
    assert set(formulas()) == set(BY_ID)
    assert sum(len(list(planted(tree))) for tree in formulas().values()) > 300


# The command


def run(*arguments: str):
    return CliRunner().invoke(app, ["claims", *arguments])


def test_the_command_prints_table_correction_and_counterexample():
    done = run("P1.cell,P4.cell_l*")
    assert done.exit_code == 0
    for text in (
        "seed 11",
        "P1.cell",
        "last step only",
        "P4.cell_last",
        "exact",
        "right is: dJ/dC_t = ",
        "dc[0] is claimed 0.25, true 0.125",
    ):
        assert text in done.output, text
    assert "P1.hidden" not in done.output


def test_the_command_prints_json():
    found = json.loads(run("P2.delta", "--json", "--seed", "3").output)
    assert (found["format"], found["seed"]) == (report.FORMAT, 3)
    (claim,) = found["claims"]
    assert claim["verdicts"] == {"alone": "wrong", "total": "wrong"}
    assert claim["notes"] == ["sign: with the other sign, last step only"]
    assert claim["counterexamples"]["total"]["claimed"] == -claim["counterexamples"]["total"]["true"] == 1.0


def test_an_unknown_claim_is_a_usage_error():
    done = run("P5.*")
    assert done.exit_code == 2
    assert "no claim has an id like 'P5.*'; the ids begin with P1., P2., P3. or P4., and `lstm-ref claims` lists them" in done.output


def test_a_page_without_markers_is_left_alone(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("nothing here", encoding="utf-8")
    done = run("P1.cell", "--markdown", str(page))
    assert done.exit_code == 2
    assert (
        "the page has not one line '<!-- begin: lstm-ref claims -->' and, after it, one line '<!-- end: lstm-ref claims -->'" in done.output
    )
    assert page.read_text(encoding="utf-8") == "nothing here"


def test_a_page_is_written_anew_between_its_markers(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n", encoding="utf-8")
    assert run("P1.softmax", "--markdown", str(page)).exit_code == 0
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "| P1.softmax | `dJ/dV_t = ŷ_t − y_t` | exact | exact |  |" in text
    assert "old" not in text
