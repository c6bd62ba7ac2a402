"""Frameworks as targets: each passes in its own layout, a wrong rule in one is named, and what is missing is said."""

import builtins
import pathlib
import sys
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from lstm_ref import cases, cli
from lstm_ref.candidates import contract, haiku_lstm, torch_module
from lstm_ref.candidates.isolate import isolated
from lstm_ref.candidates.load import TargetError, load, plug
from lstm_ref.candidates.torch_engine import Layer
from lstm_ref.diagnosis.explain import explained
from lstm_ref.judgement import tolerances as tol
from lstm_ref.judgement.doctor import examine
from lstm_ref.judgement.judge import Bench, fitted, judge
from lstm_ref.judgement.run import PROFILES, run
from lstm_ref.reference.symbols import Sizes
from lstm_ref.report import doctor, words

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
pytestmark = pytest.mark.filterwarnings("default")  # what frameworks warn of is theirs


SHAPE = {"T": 4, "B": 3, "D": 2, "H": 4}  # each is compiled
CELLS = ["equinox:", "flax:", "flax:OptimizedLSTMCell", "flax:nnx.LSTMCell", "flax:nnx.OptimizedLSTMCell", "haiku:"]


@pytest.fixture(autouse=True)
def few_cases(monkeypatch):
    """The first corners alone, which are those of every kind of memory: frameworks are slow."""
    monkeypatch.setattr(cases, "CORNERS", cases.CORNERS[:10])
    monkeypatch.setitem(PROFILES, "quick", replace(PROFILES["quick"], draws=1))


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
    verdict = judged("keras:", only="contract.*,forward.*,grad.*.autodiff,numerics.effective_precision")
    assert [r.id for r in verdict.failures()] == ["numerics.effective_precision"]
    assert "everything is computed in float32, though float64 goes in and comes out" in verdict.failures()[0].reason
    assert judged("keras:", dtypes=("float32",), only="forward.*,grad.*.autodiff").gradients == "pass"


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
    verdict = on_torch("keras:own.py:Wrong", only="forward.*,grad.*.autodiff")
    assert verdict.forward == "pass"
    assert "da_c: 1 − g for 1 − g² (B:preact)" in words.explanation(verdict)


@pytest.mark.parametrize("target", ["keras:", "keras:own.py:Layer"])
def test_keras_on_tensorflow_is_one_sentence(on_torch, monkeypatch, target):
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    with pytest.raises(TargetError) as refused:
        on_torch(target)
    due = ": Keras runs on tensorflow here, and is judged on JAX and torch only; set KERAS_BACKEND=jax or KERAS_BACKEND=torch"
    assert str(refused.value).endswith(due)


@pytest.mark.parametrize(
    ("target", "variant"),
    [
        ("keras:LSTM(activation='relu',recurrent_activation='hard_sigmoid')", "activation='relu', output='relu', gate='hard_sigmoid'"),
        ("keras:LSTM(use_bias=False,go_backwards=True)", "direction='reverse'"),
        ("keras:LSTM(masked=True)", "mask='carry'"),
        ("keras:LSTM(masked=True,zero_output_for_mask=True)", "mask='zero'"),
        ("keras:LSTMCell(activation=None)", "activation='identity', output='identity'"),
        ("flax:LSTMCell(activation_fn='soft_sign')", "activation='softsign', output='softsign'"),
        ("flax:nnx.OptimizedLSTMCell(gate_fn='hard_sigmoid')", "gate='hard_sigmoid'"),
        ("equinox:LSTMCell(use_bias=False)", ""),
    ],
)
def test_what_is_set_of_a_framework_is_the_variant_that_it_is_judged_as(target, variant):
    assert load(target)[0].variant.words == variant
    verdict = judged(target, dtypes=("float32",), only="contract.*,forward.*,grad.*.autodiff")
    assert not [r for r in verdict.results if r.outcome not in ("pass", "not provided", "deselected")], [
        r.reason for r in verdict.failures()
    ]
    assert verdict.kind == ("variant" if variant else "textbook")
    assert "h" in {r.id.partition(".")[2] for r in verdict.results if r.outcome == "pass"}


KERAS_VARIANTS = """
import jax, jax.numpy as jnp, keras

@jax.custom_vjp
def relu(a):
    return jnp.maximum(a, 0)

relu.defvjp(lambda a: (relu(a), a), lambda a, dy: (dy * (a > -0.5),))  # the derivative's step lies at the wrong place

class Wrong(keras.layers.LSTM):
    variant = {"activation": "relu", "output": "relu", "gate": "hard_sigmoid"}

    def __init__(self, units, **how):
        super().__init__(units, activation=relu, recurrent_activation="hard_sigmoid", **how)

class Masked(keras.layers.LSTM):
    variant = {"mask": "carry"}

class Cell(keras.layers.LSTMCell):
    layout = {"order": "ifco", "packed": True, "joint": "split", "transposed": True,
              "names": {"W_x": "kernel", "W_h": "recurrent_kernel", "b": "bias"}}

class Right(keras.layers.LSTM):
    def __init__(self, units, **how):
        super().__init__(units, activation="relu", recurrent_activation="hard_sigmoid", **how)
"""


@pytest.mark.parametrize("name", ["Right", "Masked", "Wrong"])
def test_a_subclass_of_keras_says_its_variant_and_a_wrong_derivative_in_one_is_caught(tmp_path, name):
    (tmp_path / "layers.py").write_text(KERAS_VARIANTS)
    verdict = judged(f"keras:{tmp_path}/layers.py:{name}", dtypes=("float32",), only="contract.*,forward.*,grad.*.autodiff")
    assert (verdict.kind, verdict.forward) == ("variant", "pass")
    assert verdict.gradients == ("fail" if name == "Wrong" else "pass")
    assert name != "Wrong" or "grad.W_c.autodiff" in {r.id for r in verdict.failures()}


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        (
            "keras:LSTM(activation='gelu')",
            "its activation is gelu, which is not known here; it may be linear, relu, sigmoid, softsign, tanh",
        ),
        (
            "keras:LSTM(recurrent_activation='tanh')",
            "its recurrent_activation is tanh, which is not known here; it may be hard_sigmoid, sigmoid",
        ),
        ("flax:LSTMCell(gate_fn='relu')", "its gate_fn is relu, which is not known here; it may be hard_sigmoid, sigmoid"),
        ("flax:LSTMCell(gate_fn='none')", "its gate_fn is 'none'; the name of a function of jax.nn is due, as in 'hard_sigmoid'"),
        ("keras:LSTMCell(masked=True)", "it takes no mask, as a cell knows no time; a layer does"),
        (
            "keras:LSTM(masked=True,unroll=True)",
            "before the first step that is not masked its h is 0, which no variant here is; set unroll=False",
        ),
    ],
)
def test_what_is_set_of_a_framework_and_not_known_is_one_sentence(target, sentence):
    with pytest.raises(TargetError) as refused:
        load(target)
    assert str(refused.value) == f"{target}: {sentence}"


@pytest.mark.parametrize(
    ("target", "known"),
    [("haiku:LSTM(bias=False)", "nothing"), ("equinox:LSTMCell(dtype=3)", "use_bias"), ("flax:LSTMCell(x=1)", "activation_fn, gate_fn")],
)
def test_an_option_that_a_framework_does_not_have_is_one_sentence(target, known):
    with pytest.raises(TargetError) as refused:
        load(target)
    option = target.partition("(")[2].partition("=")[0]
    assert str(refused.value) == f"{target} sets {option}; what can be set is {known}"


def test_keras_masks_on_torch_are_zeros_or_refused(on_torch):
    with pytest.raises(TargetError, match=r"its h is 0, which no variant here is; set zero_output_for_mask=True$"):
        on_torch("keras:LSTM(masked=True)")
    verdict = on_torch("keras:LSTM(masked=True,zero_output_for_mask=True)", only="contract.*,forward.*,grad.*.autodiff")
    assert (verdict.kind, verdict.forward, verdict.gradients) == ("variant", "pass", "pass")


def test_a_cell_of_keras_whose_layout_says_nothing_of_the_time_axis_passes(tmp_path):
    (tmp_path / "layers.py").write_text(KERAS_VARIANTS)
    verdict = judged(f"keras:{tmp_path}/layers.py:Cell", dtypes=("float32",), only="contract.*,forward.h,grad.W_f.autodiff")
    assert (verdict.forward, verdict.gradients) == ("pass", "pass")


KERAS_OF_LAYERS = """
import keras
from keras import ops

class Cell(keras.layers.Layer):
    layout = dict(
        order="ifgo", packed=True, joint="split", transposed=True, names={"W_x": "x.kernel", "W_h": "h.kernel", "b": "x.bias"}
    )

    def __init__(self, units, **how):
        super().__init__(**how)
        self.units, self.state_size, self.output_size = units, [units, units], units
        self.to_x, self.to_h = keras.layers.Dense(4 * units, name="x"), keras.layers.Dense(4 * units, use_bias=False, name="h")

    def build(self, shape):
        self.to_x.build(shape), self.to_h.build((None, self.units))
        self.built = True

    def call(self, x, states):
        h, c = states
        i, f, g, o = ops.split(self.to_x(x) + self.to_h(self.seen(h)), 4, axis=-1)
        c = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(g)
        h = ops.sigmoid(o) * ops.tanh(c)
        return h, [h, c]

    def seen(self, h):
        return h

class Cut(Cell):
    def seen(self, h):
        return ops.stop_gradient(h)

class Unnamed(Cell):
    layout = None
"""


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_cell_of_keras_that_is_made_of_layers_is_known_by_their_names(on_torch, monkeypatch, tmp_path, backend):
    monkeypatch.setenv("KERAS_BACKEND", backend)
    (tmp_path / "layers.py").write_text(KERAS_OF_LAYERS)
    only = "contract.*,forward.*,grad.*.autodiff"
    verdict = on_torch(f"keras:{tmp_path}/layers.py:Cell", dtypes=("float32",), only=only)
    assert (verdict.forward, verdict.gradients) == ("pass", "pass")
    wrong = on_torch(f"keras:{tmp_path}/layers.py:Cut", dtypes=("float32",), only=only)
    where = "(B:concat)" if backend == "jax" else "(B:hidden)"  # JAX gives zeros for h0, torch nothing
    assert f"is missing {where}" in words.explanation(wrong)
    unnamed = on_torch(f"keras:{tmp_path}/layers.py:Unnamed", dtypes=("float32",), only="contract.*")
    assert "KeyError: 'x.kernel'" in unnamed.failures()[0].reason


def test_a_class_that_cannot_be_built_is_one_sentence(tmp_path):
    (tmp_path / "cells.py").write_text("class Cell:\n    def __init__(self, *sizes, **how):\n        raise KeyError('kernel')\n")
    with pytest.raises(TargetError, match=r"cells\.py:Cell: building Cell\(3, 5\) raised KeyError: 'kernel'$"):
        load(f"torch:{tmp_path}/cells.py:Cell")


STEPS = """
import equinox, flax.linen, haiku, jax, jax.numpy as jnp

def step(h, c, a):
    i, f, g, o = jnp.split(a, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c

class Core(haiku.Module):
    layout = {"order": "ifgo", "packed": True, "joint": "xh", "transposed": True, "names": {"W": "all.w", "b": "all.b"}}

    def __init__(self, H, name):
        super().__init__(name)
        self.H = H

    def __call__(self, x, state):
        h, c = step(*state, haiku.Linear(4 * self.H, name="all")(jnp.concatenate([x, state[0]], -1)))
        return h, (h, c)

class Detached(Core):
    def __call__(self, x, state):
        y, state = super().__call__(x, state)
        return jax.lax.stop_gradient(y), state

class NoOutput(Core):
    def __call__(self, x, state):
        return super().__call__(x, state)[1]

class Cell(flax.linen.Module):
    features: int
    layout = {**Core.layout, "names": {"W": "all.kernel", "b": "all.bias"}}

    @flax.linen.compact
    def __call__(self, carry, x):
        c, h = carry
        return step(h, c, flax.linen.Dense(4 * self.features, name="all")(jnp.concatenate([x, h], -1)))[::-1]

class Carried(Cell):
    def __call__(self, carry, x):
        return super().__call__(carry, x), None

class Late(Cell):
    def __call__(self, carry, x):
        return super().__call__(carry, x), carry[1]

class Once(Cell):
    def __call__(self, x):
        return x

class Row(equinox.Module):
    all: equinox.nn.Linear
    layout = {**Core.layout, "transposed": False, "names": {"W": "all.weight", "b": "all.bias"}}

    def __init__(self, D, H, key):
        self.all = equinox.nn.Linear(D + H, 4 * H, key=key)

    def __call__(self, x, state):
        h, c = step(*state, self.all(jnp.concatenate([x, state[0]])))
        return h.astype(jnp.float32), c
"""


def test_a_core_of_haiku_may_return_a_plain_pair_as_its_state(tmp_path):
    (tmp_path / "steps.py").write_text(STEPS)
    verdict = judged(f"haiku:{tmp_path}/steps.py:Core", only="contract.*,forward.*,grad.*.autodiff")
    assert (verdict.outcome, verdict.forward, verdict.gradients) == ("pass",) * 3


@pytest.mark.parametrize(
    ("target", "forward", "gradients"),
    [("flax:steps.py:Carried", "pass", "pass"), ("flax:steps.py:Late", "fail", "pass"), ("haiku:steps.py:Detached", "pass", "fail")],
)
def test_the_output_of_a_step_is_judged_beside_its_state_where_it_is_one(tmp_path, target, forward, gradients):
    (tmp_path / "steps.py").write_text(STEPS)
    verdict = judged(target.replace("steps.py", f"{tmp_path}/steps.py"), only="contract.*,forward.*,grad.*")
    assert (verdict.forward, verdict.gradients, verdict.behaviour) == (forward, gradients, "pass")


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_the_output_of_a_cell_of_keras_is_judged_beside_its_state(on_torch, monkeypatch, tmp_path, backend):
    monkeypatch.setenv("KERAS_BACKEND", backend)
    late = """
import keras

class Late(keras.layers.LSTMCell):
    def call(self, x, states, training=False):
        return states[0], super().call(x, states)[1]
"""
    (tmp_path / "late.py").write_text(late)
    assert on_torch(f"keras:{tmp_path}/late.py:Late", dtypes=("float32",), only="contract.*,forward.*").forward == "fail"


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("haiku:steps.py:NoOutput", "(float64[1, 4], float64[1, 4]) by one step of the cell; (y, (h, c)) is due"),
        ("flax:steps.py:Cell", "(float64[1, 4], float64[1, 4]) by one step of the cell; ((c, h), y) is due"),
        ("equinox:steps.py:Row", "(float32[1, 4], float64[1, 4]) by one step of the cell; (h, c) is due"),
    ],
)
def test_a_step_that_returns_something_else_is_told_what_is_due(tmp_path, target, told):
    (tmp_path / "steps.py").write_text(STEPS)
    sizes = {"T": 1, "B": 1, "D": 4, "H": 4}
    [failed] = judged(target.replace("steps.py", f"{tmp_path}/steps.py"), sizes=sizes, only="contract.call").failures()
    assert failed.reason == f"pullback was given {told}, with h and c each float64[1, 4] at T=1, B=1, D=4, H=4"


def test_a_cell_of_flax_that_cannot_be_called_is_told_how_it_is(tmp_path):
    (tmp_path / "steps.py").write_text(STEPS)
    with pytest.raises(TargetError, match=r"building it for D, H = 3, 5 or calling it as cell\(\(c, h\), x\) raised TypeError: "):
        load(f"flax:{tmp_path}/steps.py:Once")


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

class Own(nnx.Module):
    layout = {"order": "ifgo", "packed": True, "joint": "split", "transposed": True,
              "names": {"W_x": "wx.kernel", "W_h": "wh.kernel", "b": "wx.bias"}}

    def __init__(self, D, H, *, rngs):
        self.wx, self.wh = nnx.Linear(D, 4 * H, rngs=rngs), nnx.Linear(H, 4 * H, use_bias=False, rngs=rngs)

    def __call__(self, carry, x):
        c, h = carry
        i, f, g, o = jnp.split(self.wx(x) + self.wh(h), 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
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


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_a_module_of_nnx_that_takes_no_dtype_is_given_its_arrays_in_that_of_the_case(tmp_path, dtype):
    (tmp_path / "cells.py").write_text(NNX_SUBCLASS)
    verdict = judged(f"flax:{tmp_path}/cells.py:Own", dtypes=(dtype,), only="contract.*,forward.*,grad.*,numerics.effective_precision")
    assert (verdict.outcome, verdict.forward, verdict.gradients) == ("pass",) * 3


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


def onnx_model(path, gates=(0, 1, 2, 3), double=False, as_inputs=False, biases=True, states=("h0", "c0"), more=(), **attributes) -> str:
    """Write a model of D = 2, H = 4 with weights of its own, which takes its gates from them in the order `gates`."""
    from onnx import TensorProto, helper, numpy_helper, save

    kind, dtype = (TensorProto.DOUBLE, np.float64) if double else (TensorProto.FLOAT, np.float32)
    H, D, order = 4, 2, np.concatenate([np.arange(4 * g, 4 * g + 4) for g in gates])
    weights = {"kernel": np.ones((1, 4 * H, D), dtype), "recurrent": np.ones((1, 4 * H, H), dtype), "bias": np.ones((1, 8 * H), dtype)}
    orders = {"zero": np.zeros((1, 1, H), dtype), "rows": order, "both": np.concatenate([order, order + 4 * H])}
    nodes = [helper.make_node("Gather", [k, "both" if k == "bias" else "rows"], [f"{k}_in_order"], axis=1) for k in weights]
    shapes = {"x": ("T", "B", D), "h0": (1, "B", H), "c0": (1, "B", H), **{k: v.shape for k, v in weights.items()}}
    inputs = ["x", *(k for k in states if k != "zero"), *(weights if as_inputs else ())]
    given = ["x", "kernel_in_order", "recurrent_in_order", "bias_in_order" if biases else "", "", *states]
    nodes += [helper.make_node("LSTM", given, ["y"], hidden_size=H, **attributes), helper.make_node("Relu", ["y"], ["positive"]), *more]
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info(k, kind, shapes[k]) for k in inputs],
        [helper.make_tensor_value_info("positive", kind, ("T", 1, "B", H))],
        [numpy_helper.from_array(v, k) for k, v in {**({} if as_inputs else weights), **orders}.items()],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8), path)
    return str(path)


def judged_forward(target: str):
    faces = load(target)
    return run(target, faces), faces[0]


@pytest.mark.parametrize("target", ["onnx:", "onnx:reference:"])
def test_onnx_kernels_pass_forward_and_it_is_said_that_no_gradient_was_judged(target):
    verdict, face = judged_forward(target)
    assert (verdict.outcome, verdict.forward, verdict.gradients, verdict.kind) == ("pass", "pass", "not provided", "textbook")
    assert verdict.dtypes == (("float32",) if target == "onnx:" else ("float64",))
    assert not face.supports.sizes
    outcomes = {r.id: r.outcome for r in verdict.results}
    assert {outcomes[f"forward.{k}"] for k in ("h", "c_T", "h_T", "initial_state")} == {"pass"}
    assert words.meaning(verdict) == (
        "forward: pass; gradients: not provided; behaviour: pass. No gradient was judged: the candidate gives none, "
        "and its outputs alone were held against the textbook's"
    )


@pytest.mark.parametrize(
    ("how", "dtype"),
    [
        ({}, "float32"),
        ({"as_inputs": True}, "float32"),
        ({"biases": False, "states": ()}, "float32"),
        ({"double": True}, "float64"),
        ({"states": ("zero", "zero")}, "float32"),
    ],
)
def test_an_onnx_model_is_judged_with_the_weights_of_the_case(tmp_path, how, dtype):
    path = onnx_model(tmp_path / "model.onnx", **how)
    verdict, face = judged_forward(f"onnx:reference:{path}" if dtype == "float64" else f"onnx:{path}")
    assert (verdict.outcome, verdict.gradients, verdict.dtypes) == ("pass", "not provided", (dtype,))
    assert face.supports.sizes == {"D": 2, "H": 4}
    assert face.supports.initial_state == bool(how.get("states", True))


@pytest.mark.parametrize("engine", ["", "reference:"])
def test_an_onnx_model_with_swapped_gates_is_named(tmp_path, engine):
    path = onnx_model(tmp_path / "model.onnx", gates=(0, 2, 1, 3), double=bool(engine))
    verdict, _ = judged_forward(f"onnx:{engine}{path}")
    assert [r.id for r in verdict.failures()] == ["forward.h"]
    assert "write order='ifoc' in the layout" in verdict.failures()[0].reason
    assert (verdict.outcome, verdict.gradients, verdict.kind) == ("fail", "not provided", "textbook")


@pytest.mark.parametrize(
    ("attributes", "named"),
    [
        ({"activations": ["Sigmoid", "Elu", "Tanh"]}, "activations = ['Sigmoid', 'Elu', 'Tanh']"),
        ({"activations": ["HardSigmoid", "Tanh", "Tanh"], "activation_alpha": [0.3]}, "activation_alpha = [0.3"),
        ({"layout": 1, "clip": 0.5}, "layout = 1"),
    ],
)
def test_an_attribute_that_is_not_known_is_one_sentence(tmp_path, attributes, named):
    path = onnx_model(tmp_path / "model.onnx", **attributes)
    with pytest.raises(TargetError) as refused:
        load(f"onnx:{path}")
    assert str(refused.value).startswith(f"onnx:{path}: its LSTM node has ")
    assert named in str(refused.value)
    assert str(refused.value).endswith(", which is not supported; a node without it is due")


@pytest.mark.parametrize(
    ("attributes", "more", "variant"),
    [
        ({"input_forget": 1, "clip": 1.5}, (), "coupled='f', idle_gate=True, preactivation_clip=1.5"),
        ({"direction": "reverse", "activations": ["HardSigmoid", "Softsign", "Relu"]}, (), None),
        ({"direction": "bidirectional"}, ("P", "sequence_lens"), "peephole=True, direction='both', mask='zero', lengths=True"),
    ],
)
def test_the_attributes_of_a_node_are_the_variant_that_it_is_judged_as(tmp_path, attributes, more, variant):
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper, save

    dirs, D, H = 2 if attributes.get("direction") == "bidirectional" else 1, 3, 4
    shapes = {"W": (dirs, 4 * H, D), "R": (dirs, 4 * H, H), "B": (dirs, 8 * H)} | ({"P": (dirs, 3 * H)} if "P" in more else {})
    arrays = [numpy_helper.from_array(np.ones(s, np.float32), k) for k, s in shapes.items()]
    names = ["X", "W", "R", "B", "sequence_lens" if "sequence_lens" in more else "", "h", "c", *(["P"] if "P" in more else [])]
    node = helper.make_node("LSTM", names, ["Y", "Y_h", "Y_c"], hidden_size=H, **attributes)
    given = dict.fromkeys(("X", "h", "c"), TensorProto.FLOAT) | ({"sequence_lens": TensorProto.INT32} if "sequence_lens" in more else {})
    inputs = [helper.make_tensor_value_info(k, kind, None) for k, kind in given.items()]
    outputs = [helper.make_tensor_value_info(k, TensorProto.FLOAT, None) for k in ("Y", "Y_h", "Y_c")]
    graph = helper.make_graph([node], "g", inputs, outputs, arrays)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8), tmp_path / "model.onnx")
    faces = load(f"onnx:{tmp_path}/model.onnx")
    assert variant is None or faces[0].variant.words == variant
    few = [replace(f, supports=replace(f.supports, sizes={"D": D, "H": H, "T": "at most 6", "B": "at most 3"})) for f in faces]
    verdict = run("onnx", few, only="contract.*,forward.*")
    assert {r.id: r.outcome for r in verdict.results if r.id in ("forward.h", "forward.h_T", "forward.c_T")} == dict.fromkeys(
        ("forward.h", "forward.c_T", "forward.h_T"), "pass"
    ), [(r.id, r.reason) for r in verdict.failures()]
    assert verdict.kind == "variant"


def test_defaults_that_are_written_out_are_defaults(tmp_path):
    path = onnx_model(tmp_path / "model.onnx", activations=["Sigmoid", "Tanh", "Tanh"], direction="forward", clip=0.0, layout=0)
    assert load(f"onnx:{path}")[0].kind == "forward"


def test_an_onnx_model_that_cannot_be_judged_says_why(tmp_path, monkeypatch):
    from onnx import helper

    def refused(target: str) -> str:
        with pytest.raises(TargetError) as error:
            load(target)
        return str(error.value)

    forms = "the target must be onnx:, onnx:PATH, onnx:reference: or onnx:reference:PATH"
    assert refused("onnx:reference:nowhere.onnx") == f"there is no file nowhere.onnx; {forms}"
    (tmp_path / "text.onnx").write_text("no model")
    assert "it cannot be read as an ONNX model (DecodeError: " in refused(f"onnx:{tmp_path}/text.onnx")
    twice = helper.make_node("LSTM", ["x", "kernel", "recurrent"], ["z"], hidden_size=4)
    path = onnx_model(tmp_path / "two.onnx", more=[twice])
    assert refused(f"onnx:{path}").endswith("it holds 2 LSTM nodes (its nodes: Gather, LSTM, Relu); one is due")
    path = onnx_model(tmp_path / "double.onnx", double=True)
    due = f"it is of float64, in which onnxruntime has no LSTM; judge it with onnx:reference:{path}"
    assert refused(f"onnx:{path}") == f"onnx:{path}: {due}"
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    due = "onnx: needs onnxruntime, which is not installed; install it with: pip install 'lstm-ref[onnx]'"
    assert refused("onnx:") == due
    assert load("onnx:reference:")


def test_doctor_and_check_know_that_onnx_gives_no_gradients(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli.app, ["doctor", "onnx:reference:"])
    assert done.exit_code == 0, done.output
    for line in (
        "a layer through forward(inputs), without gradients",
        "gradient of anything, declared",
        "ready: lstm-ref check onnx:reference:",
    ):
        assert line in done.output
    done = CliRunner().invoke(cli.app, ["check", "onnx:reference:", "--sizes", "T=3,B=2,D=3,H=4"])
    assert done.exit_code == 0, done.output
    assert "gradients: not provided" in done.output


CELLS_OF_THEIR_OWN = """
import equinox, flax.linen, haiku, jax, jax.numpy as jnp
from flax import nnx

NAMES = dict(order="ifgo", packed=True, joint="split", transposed=True)

def step(a, c):
    i, f, g, o = jnp.split(a, 4, -1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c

class Equinox(equinox.Module):
    layout = dict(NAMES, names=dict(W_x="W.0", W_h="W.1", b="c"))
    W: list
    c: jax.Array

    def __init__(self, D, H, *, key):
        self.W, self.c = [jnp.ones((D, 4 * H)), jnp.ones((H, 4 * H))], jnp.ones(4 * H)

    def __call__(self, x, state, *, key=None):
        return step(x @ self.W[0] + state[0] @ self.W[1] + self.c, state[1])

class EquinoxMore(Equinox):
    more: jax.Array

    def __init__(self, D, H, *, key):
        super().__init__(D, H, key=key)
        self.more = jnp.ones(H)

class Haiku(haiku.RNNCore):
    layout = dict(NAMES, names=dict(W_x="x_to.w", W_h="h_to.w", b="b"))

    def __init__(self, H, name=None):
        super().__init__(name)
        self.H, self.from_x = H, haiku.Linear(4 * H, with_bias=False, name="x_to")

    def __call__(self, x, s):
        b = haiku.get_parameter("b", (4 * self.H,), x.dtype, init=jnp.zeros)
        h, c = step(self.from_x(x) + haiku.Linear(4 * self.H, with_bias=False, name="h_to")(s.hidden) + b, s.cell)
        return h, haiku.LSTMState(h, c)

    def initial_state(self, batch_size):
        raise NotImplementedError

class Linen(flax.linen.Module):
    layout = dict(NAMES, names=dict(W_x="wx", W_h="to_h.kernel", b="b"))
    features: int

    @flax.linen.compact
    def __call__(self, carry, x):
        c, h = carry
        w = self.param("wx", flax.linen.initializers.ones, (x.shape[-1], 4 * self.features))
        b = self.param("b", flax.linen.initializers.ones, (4 * self.features,))
        h, c = step(x @ w + flax.linen.Dense(4 * self.features, use_bias=False, name="to_h", param_dtype=x.dtype)(h) + b, c)
        return (c, h), h

class LinenCut(Linen):
    @flax.linen.compact
    def __call__(self, carry, x):
        return super().__call__((jax.lax.stop_gradient(carry[0]), carry[1]), x)

class Nnx(nnx.Module):
    layout = dict(NAMES, names=dict(W_x="wx", W_h="wh", b="o"))

    def __init__(self, D, H, *, rngs):
        self.wx, self.wh, self.o = (nnx.Param(jnp.ones(s)) for s in ((D, 4 * H), (H, 4 * H), (4 * H,)))

    def __call__(self, carry, x):
        c, h = carry
        h, c = step(x @ self.wx[...] + h @ self.wh[...] + self.o[...], c)
        return (c, h), h

class NnxMissing(Nnx):
    layout = dict(NAMES, names=dict(W_x="wx", W_h="wh", b="bias"))
"""


@pytest.mark.parametrize("target", ["equinox:Equinox", "haiku:Haiku", "flax:LinenCut", "flax:Nnx"])
def test_the_arrays_of_a_cell_of_ones_own_are_those_that_its_layout_names(tmp_path, target):
    """They have other names than the framework's, lie deeper or at the top, and no constructor takes a dtype."""
    (tmp_path / "cells.py").write_text(CELLS_OF_THEIR_OWN)
    verdict = judged(target.replace(":", f":{tmp_path}/cells.py:"), only="contract.*,forward.h,grad.*.autodiff")
    assert verdict.forward == "pass"
    assert verdict.gradients == ("fail" if "Cut" in target else "pass"), [(r.id, r.reason) for r in verdict.failures()]


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        (
            "equinox:EquinoxMore",
            "the module's parameters are W.0 (3, 20), W.1 (5, 20), c (20,), more (5,); the layout that it declares names W.0, W.1, c: "
            "nothing is put into more",
        ),
        (
            "flax:NnxMissing",
            "the module's parameters are o (20,), wh (5, 20), wx (3, 20); the layout that it declares names wx, wh, bias: "
            "there is no bias, and nothing is put into o",
        ),
    ],
)
def test_arrays_of_a_cell_of_ones_own_that_no_weight_is_for_are_refused(tmp_path, target, sentence):
    (tmp_path / "cells.py").write_text(CELLS_OF_THEIR_OWN)
    target = target.replace(":", f":{tmp_path}/cells.py:")
    with pytest.raises(TargetError) as refused:
        load(target)
    assert str(refused.value) == f"{target}: {sentence}"


A_MODULE_OF_ITS_OWN = """
import torch

class Own(torch.nn.Module):
    cut = False

    def __init__(self, D, H):
        super().__init__()
        self.X, self.R = torch.nn.Linear(D, 4 * H), torch.nn.Linear(H, 4 * H, bias=False)

    def forward(self, x, state):
        h, c, every = state[0][0], state[1][0], []
        for x_t in x:
            i, f, o, g = (self.X(x_t) + self.R(h.detach() if self.cut else h)).chunk(4, -1)
            c = torch.sigmoid(f + 1) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            every.append(h)
        return torch.stack(every), (h[None], c[None])

class Cut(Own):
    cut = True

class CutOff(torch.nn.LSTM):
    which = "c"

    def forward(self, x, state):
        h, (h_T, c_T) = super().forward(x, state)
        if self.which == "all":
            return h.detach(), (h_T.detach(), c_T.detach())
        return h, (h_T, c_T.detach())

class AllCutOff(CutOff):
    which = "all"

class BatchFirst(torch.nn.LSTM):
    def __init__(self, D, H):
        super().__init__(D, H, batch_first=True)

class Masked(Own):
    variant = {"mask": "carry"}
    layout = None

    def forward(self, x, state, mask):
        h, c, every = state[0][0], state[1][0], []
        for x_t, m in zip(x, mask[..., None]):
            i, f, g, o = (self.X(x_t) + self.R(h)).chunk(4, -1)
            new = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h, c = m * torch.sigmoid(o) * torch.tanh(new) + (1 - m) * h, m * new + (1 - m) * c
            every.append(h)
        return torch.stack(every), (h, c)

class Short(Masked):
    def forward(self, x, state, mask):
        y, (h, c) = super().forward(x, state, mask)
        return y, (h[:, 1:], c)

class Peephole(Own):
    variant = {"peephole": True}

class Joint(torch.nn.Module):
    def __init__(self, D, H):
        super().__init__()
        self.lin = torch.nn.Linear(H + D, 4 * H)

class Declared(Own):
    layout = dict(order='ifog', packed=True, joint='split', forget_bias=1.0, names={'W_x': 'X.weight', 'W_h': 'R.weight', 'b': 'X.bias'})
"""


def test_a_module_whose_layout_was_found_is_told_the_whole_line_and_diagnosed_under_it(tmp_path):
    """A fault is named under the declaration that the forward pass has, not under the one that was guessed."""
    (tmp_path / "own.py").write_text(A_MODULE_OF_ITS_OWN)
    right = judged(f"torch:{tmp_path}/own.py:Own")
    assert [r.id for r in right.failures()] == ["forward.h"]
    line = A_MODULE_OF_ITS_OWN.splitlines()[-1].strip()
    assert f"write order='ifog', forget_bias=1.0 in the layout (in full: {line})" in right.failures()[0].reason
    assert judged(f"torch:{tmp_path}/own.py:Declared").outcome == "pass"
    wrong = judged(f"torch:{tmp_path}/own.py:Cut")
    assert wrong.kind == "textbook"
    assert "the part of dh_t that comes back from t+1 is missing (B:hidden)" in words.explanation(wrong)
    unprovided = next(r for r in wrong.results if r.id == "grad.h0.autodiff")
    assert (unprovided.outcome, unprovided.reason) == ("not run", "blocked by contract.keys")


DIRECTIONS_OF_THEIR_OWN = """
import torch

class Cell(torch.nn.Module):
    def __init__(self, D, H):
        super().__init__()
        self.x, self.h = torch.nn.Linear(D, 4 * H), torch.nn.Linear(H, 4 * H, bias=False)

    def forward(self, xs, h, c):
        every = []
        for x in xs:
            i, f, g, o = (self.x(x) + self.h(h)).chunk(4, -1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            every.append(h)
        return torch.stack(every), h, c

class Both(torch.nn.Module):
    variant = {"direction": "both"}
    layout = dict(
        order="ifgo", packed=True, joint="split", directions={"forward": "fw", "reverse": "bw"},
        names={"W_x": "{direction}.x.weight", "W_h": "{direction}.h.weight", "b": "{direction}.x.bias"},
    )

    def __init__(self, D, H):
        super().__init__()
        self.fw, self.bw = Cell(D, H), Cell(D, H)

    def forward(self, x, states):
        (h, back_h), (c, back_c) = states
        y, h, c = self.fw(x, h, c)
        back, back_h, back_c = self.bw(x.flip(0), self.into_the_reverse(back_h), back_c)
        return torch.cat([y, back.flip(0)], -1), (torch.stack([h, back_h]), torch.stack([c, back_c]))

    def into_the_reverse(self, h):
        return h

class Cut(Both):
    def into_the_reverse(self, h):
        return h.detach()

class Unnamed(Both):
    layout = {**Both.layout, "directions": {}}
"""


def test_directions_that_are_modules_of_their_own_are_named(tmp_path):
    (tmp_path / "own.py").write_text(DIRECTIONS_OF_THEIR_OWN)
    only = "contract.*,forward.*,grad.*.autodiff"
    assert judged(f"torch:{tmp_path}/own.py:Both", only=only).outcome == "pass"
    wrong = judged(f"torch:{tmp_path}/own.py:Cut", only=only)
    assert (wrong.forward, wrong.gradients) == ("pass", "fail")
    assert {r.id for r in wrong.failures() if r.chapter == "grad"} == {"grad.h0.autodiff"}
    with pytest.raises(TargetError, match=r"forward\.x\.weight"):
        load(f"torch:{tmp_path}/own.py:Unnamed")


def test_no_difference_accuses_where_the_loss_bends_within_its_step():
    """Eight chaotic steps in float32: all points of every rule lie beyond the place where the slope is measured, and agree."""
    pytest.importorskip("torch")
    (face,) = load("torch:LSTM(proj_size=2)")
    bench = Bench(face, tol.PRECISIONS["float32"], face.make())
    spec = cases.Spec(Sizes(8, 4, 4, 8, 2), "large", "all", 0.001, "random", "plain", 1.0, 10269549)  # input values
    evidence = judge(bench, bench.case(fitted(spec, face))).evidence
    assert "J bends too much within the shortest step" in evidence["grad.h0.differences"].rule
    assert not [k for k, e in evidence.items() if e.outcome == "fail"]


MODULES_THAT_KEEP = """
import torch

class Tanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, slot, t):
        ctx.slot, ctx.t, slot[t] = slot, t, torch.tanh(a)
        return slot[t].clone()

    @staticmethod
    def backward(ctx, d):
        return d * (1 - ctx.slot[ctx.t] ** 2), None, None

class Right(torch.nn.Module):
    '''Its weights under a second name, and a cache of its own for every call.'''
    fresh, keeps, kept = True, False, None

    def __init__(self, D, H):
        super().__init__()
        self.cell = torch.nn.LSTMCell(D, H)
        self.weights, self.slot = list(self.cell.parameters()), {}

    def forward(self, x, state):
        (h, c), every, (w, u, b, d) = (s[0] for s in state), [], self.weights
        if self.keeps:
            if self.kept is not None and self.kept[0].shape == h.shape:
                h, c = (h + self.kept[0]) / 2, c
            self.kept = (h.detach(), c.detach())
        slot = {} if self.fresh else self.slot
        for t, x_t in enumerate(x):
            i, f, g, o = (x_t @ w.T + h @ u.T + b + d).chunk(4, -1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * Tanh.apply(c, slot, t)
            every.append(h)
        return torch.stack(every), (h[None], c[None])

class Packed(Right):
    '''Where no gradient is asked for, its weights are packed once, and again when one of them has a new version.'''
    packed_at, packed = None, None

    def forward(self, x, state):
        versions = [w._version for w in self.cell.parameters()]
        if not torch.is_grad_enabled() and versions != self.packed_at:
            self.packed_at, self.packed = versions, [w.detach().clone() for w in self.cell.parameters()]
        self.weights = list(self.cell.parameters()) if torch.is_grad_enabled() else self.packed
        return super().forward(x, state)

class OneSlot(Right):
    fresh = False

class Stateful(Right):
    keeps = True

class Dropping(Right):
    def forward(self, x, state):
        y, states = super().forward(x, state)
        return torch.nn.functional.dropout(y, training=self.training), states

class NotDropping(Dropping):
    def __init__(self, D, H):
        super().__init__(D, H)
        self.eval()
"""


@pytest.mark.parametrize(
    ("name", "caught"),
    [
        ("Right", set()),
        ("Packed", set()),
        ("NotDropping", set()),
        ("OneSlot", {"state.interleaved"}),
        ("Stateful", {"state.repeat"}),
        ("Dropping", {"state.repeat"}),
    ],
)
def test_what_a_torch_module_keeps_from_call_to_call_is_met_by_the_next(tmp_path, name, caught):
    """A module is made once, as by its users: one cache for all calls, and a state that is kept, are caught; weights that are packed
    until an optimiser writes others are fine."""
    (tmp_path / "keeps.py").write_text(MODULES_THAT_KEEP)
    verdict = judged(f"torch:{tmp_path}/keeps.py:{name}", only="contract.*,forward.h,grad.W_f.*,state.*")
    failed = {r.id: r.reason for r in verdict.failures()}
    assert set(failed) == caught if name not in ("Stateful", "Dropping") else caught <= set(failed)
    if "state.repeat" in caught:
        due = (
            "the output h of the same call is another one than before: it depends on earlier calls, or is drawn at random; "
            "keep no state from one call to the next, and turn dropout off (torch: self.eval() in the constructor)"
        )
        assert failed["state.repeat"] == due


FLAT = """
import torch

class Same(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y):
        return y.clone()

    @staticmethod
    def backward(ctx, dy):
        return {backward}

class Flat(torch.nn.Module):
    def __init__(self, D, H):
        super().__init__()
        self.lstm = torch.nn.LSTM(D, H)

    def forward(self, x, state):
        y, state = self.lstm(x, state)
        return Same.apply(y), state
"""


@pytest.mark.parametrize(
    ("backward", "failed"),
    [
        ("dy.view(-1).view(dy.shape)", {"state.noncontiguous"}),
        ("torch.as_strided(dy, dy.shape, torch.empty(dy.shape).stride()).clone()", {"state.noncontiguous"}),
        ("dy.contiguous().view(-1).view(dy.shape)", set()),
        ("dy.reshape(-1).view(dy.shape)", set()),
    ],
)
def test_what_flows_into_a_torch_function_may_lie_in_any_way_in_memory(tmp_path, backward, failed):
    (tmp_path / "flat.py").write_text(FLAT.replace("{backward}", backward))
    assert {r.id for r in judged(f"torch:{tmp_path}/flat.py:Flat").failures()} == failed


def test_torch_computes_on_one_thread_and_then_on_as_many_as_before():
    import torch

    seen = []

    class Counts(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            seen.append(torch.get_num_threads())
            return x.clone()

        @staticmethod
        def backward(context, g):
            seen.append(torch.get_num_threads())
            return g

    layer = Layer(lambda inputs, once: {"h": Counts.apply(inputs["x"])})
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        outputs, pull = layer.pullback({"x": np.ones((1, 1, 1))})
        pull(outputs)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == [1, 1]


def test_a_torch_module_is_given_its_inputs_where_its_parameters_are():
    """Here that is torch's device without memory, which every machine has."""
    import torch

    class Elsewhere(torch.nn.LSTM):
        def __init__(self, D, H):
            super().__init__(D, H, device="meta")

        def forward(self, x, states):
            raise RuntimeError(f"given on {[str(q.device) for q in (x, *states, self.weight_ih_l0)]}")

    layer = Layer(torch_module.function(Elsewhere, {}))
    weights = {k: np.ones(tuple(p.shape)) for k, p in Elsewhere(2, 4).named_parameters()}
    with pytest.raises(RuntimeError, match=r"given on \['meta', 'meta', 'meta', 'meta'\]"):
        layer.forward({"x": np.ones((3, 5, 2)), "h0": np.ones((5, 4)), "c0": np.ones((5, 4)), **weights})


def test_an_output_that_is_detached_is_judged_as_one_through_which_nothing_flows_back(tmp_path):
    (tmp_path / "own.py").write_text(A_MODULE_OF_ITS_OWN)
    verdict = judged(f"torch:{tmp_path}/own.py:CutOff", only="contract.*,forward.*,grad.*.autodiff")
    assert verdict.forward == "pass"
    assert {r.id for r in verdict.failures()} >= {"grad.c0.autodiff", "grad.W_f.autodiff"}
    assert not [r.id for r in verdict.failures() if r.id[:8] == "contract"]
    assert "the cotangent of the returned c_T is missing (B:cell)" in words.explanation(verdict)
    none = judged(f"torch:{tmp_path}/own.py:AllCutOff", only="contract.*,forward.*,grad.W_f.autodiff")
    assert [r.id for r in none.failures()] == ["contract.keys"]
    assert "returned no gradient of x, h0, c0, W_f" in none.failures()[0].reason


IN_PLACE = """
import torch

class Squash(torch.autograd.Function):
    @staticmethod
    def forward(ctx, c):
        ctx.save_for_backward(c.tanh())
        return c.tanh(), c.clone()

    @staticmethod
    def backward(ctx, d_tanh, dc):
        (t,) = ctx.saved_tensors
        return dc.add_(d_tanh * (1 - t * t))

class Copying(Squash):
    @staticmethod
    def backward(ctx, d_tanh, dc):
        return Squash.backward(ctx, d_tanh, dc.clone())

class InPlace(torch.nn.LSTMCell):
    squash = Squash

    def forward(self, x, state):
        h, c = state
        a = x @ self.weight_ih.T + self.bias_ih + h @ self.weight_hh.T + self.bias_hh
        i, f, g, o = a.chunk(4, 1)
        t, c = self.squash.apply(f.sigmoid() * c + i.sigmoid() * g.tanh())
        return o.sigmoid() * t, c

class OnACopy(InPlace):
    squash = Copying
"""


def test_a_function_that_writes_into_the_gradient_that_it_is_given_changes_what_its_caller_holds(tmp_path):
    (tmp_path / "own.py").write_text(IN_PLACE)
    only = "contract.*,grad.*.autodiff,state.inputs_unmutated"
    (failed,) = judged(f"torch:{tmp_path}/own.py:InPlace", only=only).failures()
    assert failed.id == "state.inputs_unmutated"
    assert "changed the cotangent c_T that it was given; work on a copy" in failed.reason
    assert judged(f"torch:{tmp_path}/own.py:OnACopy", only=only).outcome == "pass"


@pytest.mark.parametrize("name", ["BatchFirst", "Masked"])
def test_a_torch_module_that_declares_no_layout_says_itself_what_it_can(tmp_path, name):
    """The batch first of a layer, and the weights of one with a mask; states may be (B, H)."""
    (tmp_path / "own.py").write_text(A_MODULE_OF_ITS_OWN)
    verdict = judged(f"torch:{tmp_path}/own.py:{name}", only="contract.*,forward.*,grad.W_f.autodiff")
    assert not verdict.failures(), [(r.id, r.reason) for r in verdict.failures()]
    assert verdict.forward == verdict.gradients == "pass"


MODULES_WITH_STATES_OF_ONE_FORM = """
import torch
from typing import List, Tuple

class Rows(torch.nn.Module):
    gain = 1.0

    def __init__(self, D: int, H: int):
        super().__init__()
        self.lstm = torch.nn.LSTMCell(D, H)

    def forward(self, x, state):
        (h, c), every = state, []
        for x_t in x:
            h, c = self.lstm(x_t, (h, c))
            every.append(h)
        return torch.stack(every), (h, c * self.gain)

class Off(Rows):
    gain = 1 + 1e-6

class Scripted(torch.jit.ScriptModule):
    def __init__(self, D: int, H: int):
        super().__init__()
        self.weight_ih_l0, self.weight_hh_l0, self.bias_ih_l0, self.bias_hh_l0 = (
            torch.nn.Parameter(torch.zeros(shape)) for shape in ((4 * H, D), (4 * H, H), (4 * H,), (4 * H,))
        )

    @torch.jit.script_method
    def forward(self, x: torch.Tensor, state: Tuple[torch.Tensor, torch.Tensor]) -> Tuple[torch.Tensor, Tuple[torch.Tensor, torch.Tensor]]:
        h, c = state
        every: List[torch.Tensor] = []
        for t in range(x.size(0)):
            a = torch.mm(x[t], self.weight_ih_l0.t()) + self.bias_ih_l0 + torch.mm(h, self.weight_hh_l0.t()) + self.bias_hh_l0
            i, f, g, o = a.chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            every.append(h)
        return torch.stack(every), (h, c)

class Widened(torch.nn.LSTM):
    # with states (1, B, H) it is one axis too wide, and does not raise

    def forward(self, x, state):
        y, (h, c) = super().forward(x, tuple(s[None] if s.ndim == 2 else s for s in state))
        return (y, (h[0], c[0])) if state[0].ndim == 2 else (y[None], (h, c))

class Neither(Rows):
    def forward(self, x, state):
        return super().forward(x, state)[1 + state[0].ndim]
"""


@pytest.mark.parametrize(("name", "failed"), [("Rows", set()), ("Scripted", set()), ("Widened", set()), ("Off", {"forward.c_T"})])
def test_a_torch_module_is_given_its_states_in_the_form_that_it_takes(tmp_path, name, failed):
    (tmp_path / "rows.py").write_text(MODULES_WITH_STATES_OF_ONE_FORM)
    verdict = judged(f"torch:{tmp_path}/rows.py:{name}", only="contract.*,forward.*,grad.W_f.*,grad.h0.*,state.*")
    assert {r.id for r in verdict.failures()} == failed, [(r.id, r.reason) for r in verdict.failures()]
    assert failed or verdict.outcome == "pass"


def test_a_torch_module_that_takes_its_states_in_no_form_is_told_what_each_raised(tmp_path):
    """What the other interpreter of torch says has its reason in the last line."""
    (tmp_path / "rows.py").write_text(MODULES_WITH_STATES_OF_ONE_FORM)
    (face,) = load(f"torch:{tmp_path}/rows.py:Neither")
    found = examine(face, tol.PRECISIONS["float64"])
    told = found.problems[0]
    assert told.check == "contract.call"
    assert "hx[0] to be 1D or 2D, got 3D instead with states (1, B, H), and IndexError: tuple index out of range " in told.sentence
    assert "out of range with states (B, H) at T=4, B=2, D=3, H=5 (" in told.sentence
    assert (
        "module(x, (h0, c0)); the states of one layer as (1, B, H), or as (B, H) where it takes those, or a step at a time"
        in doctor.text(found, face.name)
    )


MODULES_OF_ONE_STEP = """
import torch

class Pair(torch.nn.Module):
    layout = dict(order="ifgo", packed=True, joint="split", names={"W_x": "x.weight", "W_h": "h.weight", "b": "x.bias"})

    def __init__(self, D, H):
        super().__init__()
        self.x, self.h = torch.nn.Linear(D, 4 * H), torch.nn.Linear(H, 4 * H, bias=False)

    def step(self, x, h, c):
        i, f, g, o = (self.x(x) + self.h(h)).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c

    def forward(self, x, state):
        return self.step(x, *state)

class Three(Pair):
    def forward(self, x, h, c):
        return self.step(x, h, c)

class Output(Pair):
    def forward(self, x, state):
        h, c = self.step(x, *state)
        return h, (h, c)

class Wrapped(torch.nn.Module):
    def __init__(self, D, H):
        super().__init__()
        self.cell = torch.nn.LSTMCell(D, H)

    def forward(self, x, state):
        return self.cell(x, state)

class Cut(Pair):
    def forward(self, x, state):
        h, c = self.step(x, *state)
        return h, c.detach()

class Sum(Pair):
    def forward(self, x, state):
        return sum(self.step(x, *state))
"""


@pytest.mark.parametrize("name", ["Pair", "Three", "Output", "Wrapped"])
def test_a_torch_module_of_one_step_is_called_over_time(tmp_path, name):
    """Some of them take whole sequences too, and broadcast: what comes back has the axis of time where no state has one."""
    (tmp_path / "steps.py").write_text(MODULES_OF_ONE_STEP)
    verdict = judged(f"torch:{tmp_path}/steps.py:{name}", only="contract.*,forward.*,grad.W_f.*,grad.h0.*,state.*")
    assert verdict.outcome == "pass", [(r.id, r.reason) for r in verdict.failures()]


def test_a_wrong_torch_module_of_one_step_is_diagnosed_and_one_that_returns_no_state_is_told_so(tmp_path):
    (tmp_path / "steps.py").write_text(MODULES_OF_ONE_STEP)
    wrong = judged(f"torch:{tmp_path}/steps.py:Cut", only="contract.*,forward.*,grad.*.autodiff")
    assert (wrong.forward, wrong.gradients) == ("pass", "fail")
    assert "(B:c" in words.explanation(wrong)  # the carry, or what comes back into the cell
    none = judged(f"torch:{tmp_path}/steps.py:Sum", only="contract.*")
    assert DUE_OF_A_MODULE in none.failures()[0].reason


DUE_OF_A_MODULE = "(y, (h_n, c_n)) is due, as torch.nn.LSTM returns it"
MODULES_CALLED_IN_OTHER_WAYS = """
import torch

class Full(torch.nn.Module):
    cut = False

    def __init__(self, D, H):
        super().__init__()
        self.lstm = torch.nn.LSTMCell(D, H)

    def run(self, x, state=None):
        h = c = x.new_zeros(x.shape[1], self.lstm.hidden_size)
        (h, c), every = state or (h, c), []
        for x_t in x:
            h, c = self.lstm(x_t, (h.detach() if self.cut else h, c))
            every.append(h)
        return torch.stack(every), (h, c)

class XAlone(Full):
    supports = {"initial_state": False}

    def forward(self, x):
        return self.run(x)

class IgnoresStates(XAlone):
    def forward(self, x, state):
        return self.run(x)

class YAlone(Full):
    supports = {"initial_state": False, "c_T": False}

    def forward(self, x):
        return self.run(x)[0]

class YAloneCut(YAlone):
    cut = True

class LastAlone(Full):
    supports = {"h": False, "c_T": False}

    def forward(self, x, state):
        return self.run(x, state)[1][0]

class LastAsY(Full):
    supports = {"h": False}

    def forward(self, x, state):
        y, (h, c) = self.run(x, state)
        return h, (h, c)

class Undeclared(Full):
    def forward(self, x):
        return self.run(x)

class Sequence(Full):
    def forward(self, x, state):
        return self.run(x, state)[0]

class Three(Full):
    def forward(self, x, state):
        y, (h, c) = self.run(x, state)
        return y, h, c

class StepOfThree(Full):
    def forward(self, x_t, h, c):
        h, c = self.lstm(x_t, (h, c))
        return h, h, c

class Named(Full):
    def forward(self, x, state):
        y, (h, c) = self.run(x, state)
        return {"y": y, "state": [h, c]}

class Exchanged(Full):
    def forward(self, x, state):
        y, (h, c) = self.run(x, state)
        return y, (c, h)
"""


@pytest.mark.parametrize("name", ["XAlone", "IgnoresStates", "YAlone", "YAloneCut", "LastAlone", "LastAsY"])
def test_a_torch_module_is_called_and_read_as_what_it_declares(tmp_path, name):
    (tmp_path / "own.py").write_text(MODULES_CALLED_IN_OTHER_WAYS)
    verdict = judged(f"torch:{tmp_path}/own.py:{name}", only="contract.*,forward.*,grad.*.autodiff")
    assert verdict.forward == verdict.behaviour == "pass", [(r.id, r.reason) for r in verdict.failures()]
    assert verdict.gradients == ("fail" if "Cut" in name else "pass")
    assert "Cut" not in name or "the part of dh_t that comes back from t+1 is missing (B:hidden)" in words.explanation(verdict)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "Undeclared",
            "called as module(x, (h0, c0)), or for each step as module(x_t, (h, c)) or module(x_t, h, c), to return (h, c) or (y, (h, c)), "
            "and as module(x) where it declares supports = {'initial_state': False} at T=",
        ),
        ("StepOfThree", "or module(x_t, h, c), to return (h, c) or (y, (h, c)), and as module(x) where"),
        ("Sequence", f"returned a Tensor; {DUE_OF_A_MODULE}; one that returns y alone declares supports = {{'c_T': False}} at T="),
        ("Three", f"returned (a Tensor, a Tensor, a Tensor); {DUE_OF_A_MODULE}; a subclass of it may put that in order"),
        ("Named", f"returned a dict with y, state; {DUE_OF_A_MODULE}"),
    ],
)
def test_a_torch_module_that_is_called_in_another_way_is_told_how(tmp_path, name, told):
    """A batch of two and two steps, too: a tensor of two is no pair."""
    (tmp_path / "own.py").write_text(MODULES_CALLED_IN_OTHER_WAYS)
    (face,) = load(f"torch:{tmp_path}/own.py:{name}")
    for sizes in (Sizes(4, 2, 3, 5, 2), Sizes(2, 2, 3, 2, 2)):
        bench = Bench(face, tol.PRECISIONS["float64"], face.make())
        found = judge(bench, bench.case(cases.Spec(sizes)), with_differences=False).evidence
        assert told.replace("'", '"') in found["contract.call"].rule
        assert "forward.h" not in found


def test_states_that_are_exchanged_at_the_end_are_no_initial_state_that_is_ignored(tmp_path, monkeypatch):
    """Where gates are shut h0 does not count, and h says nothing of it; what is handed over is no state, and tells of no gradient."""
    (tmp_path / "own.py").write_text(MODULES_CALLED_IN_OTHER_WAYS)
    shut = cases.Spec(Sizes(5, 3, 3, 4, 2), "extreme", seed=14)
    monkeypatch.setattr(cases, "CORNERS", (*cases.CORNERS, shut))
    verdict = judged(f"torch:{tmp_path}/own.py:Exchanged", only="contract.*,forward.*,law.time_split", sizes={})
    assert {r.id for r in verdict.failures()} == {"forward.c_T", "forward.h_T"}
    outcomes = {r.id: r.outcome for r in verdict.results}
    assert (outcomes["forward.h"], outcomes["forward.initial_state"]) == ("pass", "pass")


def test_states_that_are_exchanged_at_both_ends_leave_the_gradients_right(tmp_path):
    source = """
import torch

class Exchanged(torch.nn.LSTM):
    def forward(self, x, states):
        y, last = super().forward(x, states[::-1])
        return y, last[::-1]
"""
    (tmp_path / "own.py").write_text(source)
    verdict = judged(f"torch:{tmp_path}/own.py:Exchanged", sizes={}, only="contract.*,forward.*,grad.*.differences,law.time_split")
    assert (verdict.forward, verdict.gradients, verdict.behaviour) == ("fail", "pass", "pass")
    assert {r.id for r in verdict.failures()} == {"forward.h", "forward.c_T", "forward.h_T"}


def test_a_cell_that_has_its_states_the_other_way_round_has_right_gradients(tmp_path):
    source = """
import torch

class Exchanged(torch.nn.Module):
    def __init__(self, D, H):
        super().__init__()
        self.cell = torch.nn.LSTMCell(D, H)

    def forward(self, x, state):
        h, c = self.cell(x, state[::-1])
        return h, (c, h)

class CutOff(Exchanged):
    def forward(self, x, state):
        return super().forward(x, (state[0], state[1].detach()))
"""
    (tmp_path / "own.py").write_text(source)
    only = "contract.*,forward.*,grad.*.differences,law.time_split"
    right, wrong = (judged(f"torch:{tmp_path}/own.py:{name}", sizes={}, only=only) for name in ("Exchanged", "CutOff"))
    assert (right.forward, right.gradients, right.behaviour) == ("fail", "pass", "pass")
    assert {r.id for r in right.failures()} == {"forward.h", "forward.c_T"}
    assert "grad.W_f.differences" in {r.id for r in wrong.failures()}


def test_last_states_that_are_detached_are_named_together(tmp_path):
    source = """
import torch

class Detached(torch.nn.LSTM):
    def forward(self, x, states):
        y, last = super().forward(x, states)
        return y, tuple(s.detach() for s in last)
"""
    (tmp_path / "own.py").write_text(source)
    verdict = judged(f"torch:{tmp_path}/own.py:Detached", sizes={}, only="forward.*,grad.*")
    assert "what flows in on the returned states is missing (B:hidden): gain 0.000 on s_h and s_c" in words.explanation(verdict)


def test_what_torch_compile_makes_is_asked_for_gradients_more_than_once():
    torch = pytest.importorskip("torch")
    compiled = torch.compile(lambda x: torch.tanh(torch.tanh(x) ** 2), backend="aot_eager", dynamic=True)
    _, pull = Layer(lambda inputs, once: {"h": compiled(inputs["x"])}).pullback({"x": np.linspace(-2, 2, 5)})
    first, again = (pull({"h": np.ones(5)})["x"] for _ in range(2))
    inner = np.tanh(np.linspace(-2, 2, 5))
    np.testing.assert_allclose(first, (1 - np.tanh(inner**2) ** 2) * 2 * inner * (1 - inner**2), rtol=1e-12, atol=1e-300)
    assert np.array_equal(first, again)


def test_a_traceback_inside_a_message_is_told_by_the_line_at_its_end():
    inner = "Traceback of TorchScript (most recent call last):\n  File my.py, line 3\n    c = f * c\n        ~~~ <--- HERE\n"
    said = RuntimeError(f"The following operation failed in the TorchScript interpreter.\n{inner}RuntimeError: mat1 is 3-D\n")
    assert contract.in_a_line(said) == "RuntimeError: mat1 is 3-D"
    assert contract.in_a_line(ValueError("first\nTypeError: second")) == "ValueError: first"


def test_a_torch_module_whose_state_has_another_shape_is_told_what_came(tmp_path):
    (tmp_path / "own.py").write_text(A_MODULE_OF_ITS_OWN)
    verdict = judged(f"torch:{tmp_path}/own.py:Short", only="contract.*,forward.*,grad.W_f.autodiff")
    failed = {r.id: r.reason for r in verdict.failures()}
    assert set(failed) == {"contract.shapes"}
    assert failed["contract.shapes"] == "forward returned h_T with shape (3, 3); (3, 4) is due"


def test_a_torch_module_of_a_variant_with_arrays_of_its_own_is_told_that_it_declares_no_layout(tmp_path):
    (tmp_path / "own.py").write_text(A_MODULE_OF_ITS_OWN)
    with pytest.raises(TargetError) as refused:
        load(f"torch:{tmp_path}/own.py:Peephole")
    assert "; it declares no layout, and that of its framework, with this variant, names weight_ih_l0, " in str(refused.value)
    assert str(refused.value).endswith("and nothing is put into X.weight, X.bias, R.weight")


def test_a_torch_module_with_one_weight_is_told_a_layout_for_one_weight(tmp_path):
    (tmp_path / "own.py").write_text(A_MODULE_OF_ITS_OWN)
    with pytest.raises(TargetError) as refused:
        load(f"torch:{tmp_path}/own.py:Joint")
    due = "layout = dict(order='ifgo', packed=True, joint='hx', biases=1, names={'W': …, 'b': …}), with 'xh' for a weight on [x, h]"
    assert str(refused.value).endswith(
        f"parameters are lin.weight (20, 8), lin.bias (20,) for D = 3, H = 5; give the class a `layout` that names them, as in {due}"
    )


@pytest.mark.parametrize(
    ("name", "what"), [("Stack", "a model around other layers"), ("Both", "a wrapper around other layers"), ("made", "no class")]
)
def test_what_is_neither_a_layer_nor_a_cell_of_keras_is_refused(tmp_path, name, what):
    classes = "class Stack(keras.Model):\n    pass\n\n\nclass Both(keras.layers.Bidirectional):\n    pass\n"
    (tmp_path / "own.py").write_text(f"import keras\n\n\n{classes}\n\ndef made(units):\n    return Stack()\n")
    with pytest.raises(TargetError) as refused:
        load(f"keras:{tmp_path}/own.py:{name}")
    due = "a layer, as a subclass of keras.layers.LSTM or RNN, or a cell is due, built as Class(units)"
    assert str(refused.value) == f"keras:{tmp_path}/own.py:{name}: it is {what}; {due}"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("pair", "pullback returned no dict; one of the outputs is due, {'h': (T, B, H), 'c_T': (B, H)} at T="),
        (
            "packed",
            ": 'W_x' at T=4, B=2, D=3, H=5 (own.py:6); it is given x, h0, c0, W_f, W_i, W_c, W_o, b_f, b_i, b_c, b_o: if yours",
        ),
    ],
)
def test_a_function_in_jax_that_returns_a_pair_or_declares_no_layout_is_told(tmp_path, name, told):
    (tmp_path / "own.py").write_text(
        "def pair(p):\n    return p['x'], (p['h0'], p['c0'])\n\n\ndef packed(p):\n    return {'h': p['x'] @ p['W_x'].T, 'c_T': p['c0']}\n"
    )
    (face,) = load(f"jax:{tmp_path}/own.py:{name}")
    bench = Bench(face, tol.PRECISIONS["float64"], face.make())
    found = judge(bench, bench.case(cases.Spec(Sizes(4, 2, 3, 5, 2))), with_differences=False).evidence
    assert told in found["contract.call"].rule


FUNCTIONS_THAT_RETURN_MORE = """
import collections
import sys

import jax
import jax.numpy as jnp

sys.path.insert(0, {examples!r})
from jax_scan import lstm

Outputs = collections.namedtuple("Outputs", "h c_T steps")


def named(p):
    found = lstm(p)
    return Outputs(found["h"], found["c_T"], jnp.arange(3))


def with_none(p):
    return {{**lstm(p), "h_T": None, "n": jnp.int32(4)}}


@jax.custom_vjp
def ruled(p):
    return lstm(p)


def forward_rule(p):
    found, back = jax.vjp(lstm, p)
    return {{k: 1.01 * v for k, v in found.items()}}, back


ruled.defvjp(forward_rule, lambda back, s: back(s))
named.layout = with_none.layout = ruled.layout = lstm.layout
"""


@pytest.mark.parametrize("name", ["named", "with_none", "ruled"])
def test_what_a_function_in_jax_gives_where_it_is_differentiated_is_what_is_judged(tmp_path, name):
    """The forward rule of a custom_vjp may give other outputs than the function; its gradients are right."""
    (tmp_path / "own.py").write_text(FUNCTIONS_THAT_RETURN_MORE.format(examples=str(EXAMPLES)))
    verdict = judged(f"jax:{tmp_path}/own.py:{name}", only="contract.*,forward.*,grad.*,sizes.ones")
    assert (verdict.forward, verdict.gradients) == ("fail" if name == "ruled" else "pass", "pass")
    failed = {r.id: r.worst.rule for r in verdict.failures()}
    assert set(failed) == ({"forward.h", "forward.c_T"} if name == "ruled" else set())
    if failed:
        due = "h of forward(inputs), where no gradient is asked for, is another than h of pullback(inputs), where one is"
        assert failed["forward.h"] == due


MODULES_WITH_NAMES_OF_THEIR_OWN = """
import torch

GATES = {"f": "forget_gate", "i": "input_gate", "g": "cell_gate", "o": "output_gate"}

class Words(torch.nn.Module):
    layout = dict(order="figo", joint="hx", gates=GATES, names={"W": "{gate}.weight", "b": "{gate}.bias"})
    cut = False

    def __init__(self, D, H):
        super().__init__()
        for name in GATES.values():
            setattr(self, name, torch.nn.Linear(H + D, H))

    def forward(self, x, state):
        (h, c), every = state, []
        for x_t in x:
            z = torch.cat([h, x_t], 1)
            f, i, g, o = (getattr(self, name)(z) for name in GATES.values())
            c = torch.sigmoid(f.detach() if self.cut else f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            every.append(h)
        return torch.stack(every), (h, c)

class WordsCut(Words):
    cut = True

class WordsUndeclared(Words):
    layout = None

class Misspelt(Words):
    layout = dict(Words.layout, gates={"c": "cell_gate"})

class Deep(torch.nn.Module):
    def __init__(self, D, H, **how):
        super().__init__()
        self.rnn = torch.nn.LSTM(D, H, 2, bidirectional=True)

class More(torch.nn.Module):
    def __init__(self, D, H, layers):
        super().__init__()

made = torch.nn.LSTM(3, 4)

def makes(D, H):
    return torch.nn.LSTM(D, H)
"""


@pytest.mark.parametrize("name", ["Words", "WordsCut"])
def test_gates_have_names_of_their_own(tmp_path, name):
    (tmp_path / "own.py").write_text(MODULES_WITH_NAMES_OF_THEIR_OWN)
    verdict = judged(f"torch:{tmp_path}/own.py:{name}", only="contract.*,forward.*,grad.*.autodiff")
    assert verdict.forward == "pass", [(r.id, r.reason) for r in verdict.failures()]
    assert verdict.gradients == ("fail" if "Cut" in name else "pass")
    assert "Cut" not in name or "grad.x.autodiff" in {r.id for r in verdict.failures()}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "WordsUndeclared",
            "layout = dict(order='figo', joint='hx', gates={'f': 'forget_gate', 'i': …, 'g': …, 'o': …}, names={'W': '{gate}.weight', "
            "'b': '{gate}.bias'}), where {gate} stands for what gates says, else for the letter, with 'xh' for a weight on [x, h]",
        ),
        ("Misspelt", "layout gates has ['c']; its keys are the letters of the order 'figo'"),
        ("Deep", "declare variant = {'layers': 2, 'direction': 'both'} in the class, or give it a `layout` that names them"),
        ("More", "argument: 'layers'; it is built as Class(D, H): give the rest a default, or name a function of (D, H) that builds it"),
        ("made", "it is a LSTM that is made already; one is made for each size: name its class, or a function of (D, H)"),
    ],
)
def test_a_torch_module_that_cannot_be_filled_or_built_is_told_what_to_write(tmp_path, name, told):
    (tmp_path / "own.py").write_text(MODULES_WITH_NAMES_OF_THEIR_OWN)
    with pytest.raises(TargetError) as refused:
        load(f"torch:{tmp_path}/own.py:{name}")
    assert str(refused.value).endswith(told)
    assert load(f"torch:{tmp_path}/own.py:makes")


def test_a_class_of_a_framework_that_is_given_as_an_object_is_named_with_its_module(monkeypatch):
    torch = pytest.importorskip("torch")

    class Local(torch.nn.LSTM):
        pass

    with pytest.raises(TargetError, match=r"; it is of torch: name it as torch:module:Class, at the top of a module, and torch differ"):
        plug(Local)
    with pytest.raises(TargetError, match=r"; it is of torch: name it as torch:LSTM, and torch differentiates it$"):
        plug(torch.nn.LSTM)
    Local.__qualname__, Local.__module__ = "Local", "__main__"
    with pytest.raises(TargetError, match=r"; it is of torch: name it as torch:__main__:Local, and torch differentiates it$"):
        plug(Local)
    monkeypatch.setattr(sys.modules["__main__"], "Local", Local, raising=False)
    assert load("torch:__main__:Local")
    assert plug(Local(3, 4))[0].remark.startswith("it is of torch: name it as torch:__main__:Local, ")


def test_what_is_of_a_framework_and_named_without_it_is_told_how_it_is_named(tmp_path):
    (tmp_path / "own.py").write_text(MODULES_WITH_NAMES_OF_THEIR_OWN)
    with pytest.raises(TargetError) as refused:
        load(f"{tmp_path}/own.py:Words")
    assert str(refused.value).endswith(f"; it is of torch: name it as torch:{tmp_path}/own.py:Words, and torch differentiates it")
    (made,) = load(f"{tmp_path}/own.py:made")
    assert made.remark == "it is of torch: name it as torch:module:Class, by its class, and torch differentiates it"
    (tmp_path / "free.py").write_text("class Free:\n    def forward(self, inputs):\n        return inputs\n")
    assert load(f"{tmp_path}/free.py:Free")[0].remark == ""
