"""Frameworks as targets: each passes in its own layout, a wrong rule in one is named, and what is missing is said."""

import builtins
import pathlib
from dataclasses import replace

import pytest

from lstm_ref.candidates import haiku_lstm
from lstm_ref.candidates.load import TargetError, load
from lstm_ref.diagnosis.explain import explained
from lstm_ref.judgement.run import run
from lstm_ref.report import words

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
pytestmark = pytest.mark.filterwarnings("default")  # what frameworks warn of is theirs


FEW_SHAPES = {"T": [1, 4], "B": [1, 3], "D": [1, 4], "H": [4]}  # each is compiled


def judged(target: str, **how):
    faces = [replace(face, supports=replace(face.supports, sizes=FEW_SHAPES)) for face in load(target)]
    return explained(run(target, faces, **how), faces)


@pytest.mark.parametrize("target", ["equinox:", "flax:", "flax:OptimizedLSTMCell", "flax:nnx.LSTMCell", "haiku:"])
def test_a_frameworks_cell_passes(target):
    verdict = judged(target, only="contract.*,forward.*,grad.*,state.*,numerics.*")
    assert not [r for r in verdict.results if r.outcome not in ("pass", "not provided", "deselected")]
    assert verdict.kind == "textbook"
    assert verdict.forward == verdict.gradients == verdict.behaviour == "pass"


@pytest.mark.parametrize("target", ["equinox:", "haiku:"])
def test_a_frameworks_cell_passes_in_float32(target):
    assert judged(target, dtypes=("float32",), only="contract.*,forward.*,grad.*").gradients == "pass"


def test_keras_computes_float64_in_float32_on_jax_and_the_verdict_says_just_that():
    verdict = judged("keras:", only="contract.*,forward.*,grad.*,numerics.effective_precision")
    assert [r.id for r in verdict.failures()] == ["numerics.effective_precision"]
    assert "everything is computed in float32, though float64 goes in and comes out" in verdict.failures()[0].reason
    assert judged("keras:", dtypes=("float32",), only="forward.*,grad.*").gradients == "pass"


def test_a_wrong_custom_rule_in_jax_is_named():
    target = f"jax:{EXAMPLES / 'jax_scan.py'}:wrong"
    told = words.explanation(judged(target, only="forward.*,grad.*"))
    assert "da_c: 1 − g for 1 − g² (B:preact)" in told
    right = judged(f"jax:{EXAMPLES / 'jax_scan.py'}:lstm", only="forward.*,grad.*")
    assert right.gradients == right.forward == "pass"


def test_a_missing_framework_is_one_sentence(monkeypatch):
    imported, adapter = builtins.__import__, haiku_lstm

    def without(name, *args, **kwargs):
        if name.partition(".")[0] == "haiku":
            raise ImportError(name)
        return imported(name, *args, **kwargs)

    monkeypatch.setattr("importlib.import_module", lambda name, package=None: adapter if package else without(name))
    with pytest.raises(TargetError, match=r"^haiku: needs dm-haiku, which is not installed; install it with: pip install 'lstm-ref"):
        load("haiku:")


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("flax:GRUCell", "flax:module:attribute or flax:file.py:attribute, flax:LSTMCell, flax:OptimizedLSTMCell, flax:nnx.LSTMCell"),
        ("jax:", "it must be jax:module:attribute or jax:file.py:attribute"),
        ("jax:no_such_module:lstm", "no_such_module could not be imported"),
    ],
)
def test_a_name_that_is_none_of_the_frameworks_is_refused(target, sentence):
    with pytest.raises(TargetError) as refused:
        load(target)
    assert sentence in str(refused.value)
