"""Frameworks as targets: each passes in its own layout, a wrong rule in one is named, and what is missing is said."""

import builtins
import pathlib
from dataclasses import replace

import pytest

from lstm_ref.candidates import haiku_lstm
from lstm_ref.candidates.isolate import isolated
from lstm_ref.candidates.load import TargetError, load
from lstm_ref.diagnosis.explain import explained
from lstm_ref.judgement.run import run
from lstm_ref.report import words

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
pytestmark = pytest.mark.filterwarnings("default")  # what frameworks warn of is theirs


SHAPE = {"T": 4, "B": 3, "D": 2, "H": 4}  # each is compiled
CELLS = ["equinox:", "flax:", "flax:OptimizedLSTMCell", "flax:nnx.LSTMCell", "flax:nnx.OptimizedLSTMCell", "haiku:"]


def judged(target: str, load=load, sizes=SHAPE, **how):
    faces = [replace(face, supports=replace(face.supports, sizes=sizes)) for face in load(target)]
    return explained(run(target, faces, **how), faces)


@pytest.mark.parametrize("target", CELLS)
def test_a_frameworks_cell_passes(target):
    verdict = judged(target, sizes={**SHAPE, "T": [1, 4]}, only="contract.*,forward.*,grad.*,state.*,numerics.*")
    assert not [r for r in verdict.results if r.outcome not in ("pass", "not provided", "deselected")]
    assert verdict.kind == "textbook"
    assert verdict.forward == verdict.gradients == verdict.behaviour == "pass"


@pytest.mark.parametrize("target", ["equinox:", "flax:nnx.OptimizedLSTMCell"])
def test_a_frameworks_cell_passes_in_float32(target):
    assert judged(target, dtypes=("float32",), only="contract.*,forward.*,grad.*").gradients == "pass"


def test_keras_computes_float64_in_float32_on_jax_and_the_verdict_says_just_that():
    verdict = judged("keras:", only="contract.*,forward.*,grad.*,numerics.effective_precision")
    assert [r.id for r in verdict.failures()] == ["numerics.effective_precision"]
    assert "everything is computed in float32, though float64 goes in and comes out" in verdict.failures()[0].reason
    assert judged("keras:", dtypes=("float32",), only="forward.*,grad.*").gradients == "pass"


KERAS_ON_TORCH = """
import keras, torch

class Layer(keras.layers.LSTM):
    pass

class Cell(keras.layers.LSTMCell):
    candidate = staticmethod(torch.tanh)

    def call(self, x, states, training=False):
        h, c = states
        i, f, g, o = (x @ self.kernel.value + h @ self.recurrent_kernel.value + self.bias.value).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * self.candidate(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return h, [h, c]

class Tanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a):
        y = torch.tanh(a)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, dy):
        (y,) = ctx.saved_tensors
        return dy * (1 - y)

class Wrong(Cell):
    candidate = Tanh.apply
"""
LAYER_CHECKS = "contract.*,forward.*,grad.*.autodiff,state.*,numerics.effective_precision"


@pytest.fixture
def on_torch(monkeypatch, tmp_path):
    """A function that judges Keras on torch, which takes a process of its own: in this one Keras may run on JAX already."""
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    (tmp_path / "own.py").write_text(KERAS_ON_TORCH)
    return lambda target, **how: judged(target.replace("own.py", f"{tmp_path}/own.py"), isolated, **how)


@pytest.mark.parametrize("target", ["keras:", "keras:own.py:Cell"])
def test_keras_on_torch_passes_and_its_float64_is_one(on_torch, target):
    verdict = on_torch(target, dtypes=("float64", "float32"), only=LAYER_CHECKS)
    assert verdict.outcome == "pass"
    assert verdict.dtypes == ("float64", "float32")
    outcomes = {r.id: r.outcome for r in verdict.results}
    assert outcomes["numerics.effective_precision"] == outcomes["grad.W_f.autodiff"] == outcomes["state.interleaved"] == "pass"


def test_keras_own_cell_on_torch_computes_float64_in_float32(on_torch):
    verdict = on_torch("keras:LSTMCell", only="forward.*,grad.*.autodiff,numerics.effective_precision")
    assert [r.id for r in verdict.failures()] == ["numerics.effective_precision"]


def test_a_wrong_custom_gradient_in_a_subclass_of_keras_on_torch_is_named(on_torch):
    verdict = on_torch("keras:own.py:Wrong", only="forward.*,grad.*")
    assert verdict.forward == "pass"
    assert "da_c: 1 − g for 1 − g² (B:preact)" in words.explanation(verdict)


@pytest.mark.parametrize("target", ["keras:", "keras:own.py:Layer"])
def test_keras_on_tensorflow_is_one_sentence(on_torch, monkeypatch, target):
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    with pytest.raises(TargetError) as refused:
        on_torch(target)
    due = ": Keras runs on tensorflow here, and is judged on JAX and torch only; set KERAS_BACKEND=jax or KERAS_BACKEND=torch"
    assert str(refused.value).endswith(due)


NNX_SUBCLASS = """
import jax
import jax.numpy as jnp
from flax import nnx

class Right(nnx.OptimizedLSTMCell):
    pass

@jax.custom_vjp
def tanh(a):
    return jnp.tanh(a)

tanh.defvjp(lambda a: (jnp.tanh(a),) * 2, lambda y, dy: (dy * (1 - y),))

class Wrong(nnx.LSTMCell):
    def __call__(self, carry, x):
        c, h = carry
        i, f, g, o = (wx(x) + wh(h) for wx, wh in ((self.ii, self.hi), (self.if_, self.hf), (self.ig, self.hg), (self.io, self.ho)))
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (c, h), h

class WrongOptimized(nnx.OptimizedLSTMCell):
    def __call__(self, carry, x):
        c, h = carry
        i, f, g, o = jnp.split(self.dense_i(x) + self.dense_h(h), 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (c, h), h
"""


@pytest.mark.parametrize("name", ["Right", "Wrong", "WrongOptimized"])
def test_a_subclass_of_nnx_is_judged_and_what_is_wrong_in_it_is_named(tmp_path, name):
    (tmp_path / "cells.py").write_text(NNX_SUBCLASS)
    verdict = judged(f"flax:{tmp_path}/cells.py:{name}", only="forward.*,grad.*")
    assert verdict.forward == "pass"
    assert verdict.gradients == ("pass" if name == "Right" else "fail")
    assert name == "Right" or "da_c: 1 − g for 1 − g² (B:preact)" in words.explanation(verdict)


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
        ("flax:GRUCell", "flax:file.py:attribute, flax:LSTMCell, flax:OptimizedLSTMCell, flax:nnx.LSTMCell, flax:nnx.OptimizedLSTMCell"),
        ("jax:", "it must be jax:module:attribute or jax:file.py:attribute"),
        ("jax:no_such_module:lstm", "no_such_module could not be imported"),
    ],
)
def test_a_name_that_is_none_of_the_frameworks_is_refused(target, sentence):
    with pytest.raises(TargetError) as refused:
        load(target)
    assert sentence in str(refused.value)
