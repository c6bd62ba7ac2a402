"""Load: what a user names on the command line, as candidates.

    module:attribute     file.py:attribute     ref:     torch:     torch:LSTM(batch_first=True)     torch:module:Class
    jax:module:function     equinox:     flax:     flax:OptimizedLSTMCell     haiku:     keras:     equinox:module:Class, …
    onnx:     onnx:model.onnx     onnx:reference:     onnx:reference:model.onnx, forward only
    cmd:PROGRAM ARG …, an LSTM in any language (docs/any-language.md)
    lib:PATH, a shared library with the C functions of lstm_ref.h (docs/shared-libraries.md)

The attribute is a class, a function without arguments that makes an instance, or an instance.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import pathlib
import shlex
import sys

import numpy as np

from ..reference.variant import VariantError
from ..reference.variant import parse as parse_variant
from .contract import REDUCTIONS, Candidate, ContractError, TimeLimit, accepts_taps, parse_supports, time_limit
from .layout import LayoutError, resolve
from .student import is_student

# Each has an adapter, the file that knows its conventions. All adapters share one skeleton; in the order in which it is called:
#   CLASSES                                     the names of the LSTMs of the framework itself, the first where none is named
#   OPTIONS                                     what may be set of those, as in torch:LSTM(num_layers=2)
#   CALLED                                      where there is one: how a user's class is called, in words
#   engine()                                    the module whose `Layer(function)` runs and differentiates, through the contract
#   find(name)                                  the LSTM of that name: a class, or what else `thing` below is
#   variant(thing, options, declared)           the Variant that it is, where one may be `declared` by a user's class
#   layout(thing, options, variant, declared)   how its arrays lie; `declared` is None where it does not say so itself
#   supports(thing, options, variant)           what is asked of it, where it does not say so itself
#   function(thing, options)                    the LSTM as a function from a dict of arrays to a dict of outputs
# Anything in it raises ValueError for what cannot be judged, with a sentence that goes on after the target.
FRAMEWORKS = {
    "torch": "torch_module",
    "jax": "jax_function",
    "equinox": "equinox_cell",
    "flax": "flax_cell",
    "haiku": "haiku_lstm",
    "keras": "keras_lstm",
    "onnx": "onnx_node",
}
KINDS = ("ref", "cmd", "lib", *FRAMEWORKS)  # what is no module when it stands before the colon
PACKAGES = {"haiku": "dm-haiku", "torch": "PyTorch"}  # where the package is not named as its module is
LOAD_SECONDS = 60.0  # importing a framework takes its time
FORMS = (
    "module:attribute, file.py:attribute, ref:, torch:, torch:module:Class, "
    "jax:module:function, equinox:, flax:, haiku:, keras:, onnx:PATH, cmd:PROGRAM ARG …, lib:PATH"
)


class TargetError(ValueError):
    """A target that cannot be plugged in; the text says what was seen and what to do."""


def load(target: str) -> list[Candidate]:
    """The candidates that a target names: one, or a layer and a model where it offers both."""
    kind, colon, rest = target.partition(":")
    if target == "ref:":
        from .reference import ReferenceLayer, ReferenceModel

        return [*plug(ReferenceLayer, target), *plug(ReferenceModel, target)]
    if kind == "cmd" and rest.strip():
        return _command(target, rest)
    if kind == "lib" and rest:
        return _library(target, rest)
    if kind in FRAMEWORKS and colon:
        return [_framework(kind, rest, target)]
    if not colon or not rest:
        raise TargetError(f"the target {target!r} names no LSTM; it must be one of {FORMS}")
    return plug(_attribute(kind, rest, target), target)


def plug(thing, name: str | None = None) -> list[Candidate]:
    """A class, a factory without arguments, or an instance, as candidates. Raises TargetError."""
    name = name or getattr(thing, "__name__", type(thing).__name__)
    factory = isinstance(thing, type) or (callable(thing) and not _ways(thing))
    instance = _instance(thing, name) if factory else thing
    make = thing if factory else lambda: thing
    if is_student(instance):
        return [Candidate(name, "student", make, factory)]
    ways = _ways(instance)
    if not ways:
        methods = ", ".join(m for m in dir(instance) if not m.startswith("_")) or "none"
        raise TargetError(
            f"{name} has none of the methods that the contract knows (its own: {methods}); give it forward(inputs) and "
            "vjp(inputs, cotangents), or pullback(inputs), or loss_and_gradients(inputs), or params, loss() and gradients()"
        )
    reduction = getattr(instance, "reduction", "sum")
    if reduction not in REDUCTIONS:
        raise TargetError(f"{name} declares reduction {reduction!r}; it must be one of {', '.join(map(repr, REDUCTIONS))}")
    try:
        layout = resolve(getattr(instance, "layout", None))
        supports = parse_supports(getattr(instance, "supports", None))
        variant = parse_variant(getattr(instance, "variant", None))
    except (LayoutError, ContractError, VariantError) as error:
        raise TargetError(f"{name}: {error}") from None
    return [Candidate(name, way, make, factory, layout, supports, reduction, accepts_taps(instance), variant) for way in ways]


def _ways(thing) -> list[str]:
    """How this object gives gradients: one way at layer level, one at model level."""

    def has(method: str) -> bool:
        return callable(getattr(thing, method, None))

    layer = "pullback" if has("pullback") else "vjp" if has("forward") and has("vjp") else None
    model = "loss_and_gradients" if has("loss_and_gradients") else None
    if not layer and not model and has("forward"):
        layer = "forward"
    return [way for way in (layer, model) if way]


def _instance(make, name: str):
    try:
        with np.errstate(), time_limit(LOAD_SECONDS):
            return make()
    except TimeLimit:
        raise TargetError(f"{name}() did not return within {LOAD_SECONDS:g} s") from None
    except Exception as error:
        raise TargetError(
            f"{name}() raised {type(error).__name__}: {error}; name a class or function that needs no arguments, or an instance"
        ) from error


def _attribute(module: str, path: str, target: str):
    try:
        with np.errstate(), time_limit(LOAD_SECONDS):  # what a module sets on import is put back
            found = _from_file(pathlib.Path(module)) if module.endswith(".py") else _from_module(module)
    except TargetError:
        raise
    except TimeLimit:
        raise TargetError(f"importing {module} took longer than {LOAD_SECONDS:g} s") from None
    except (Exception, SystemExit) as error:
        raise TargetError(f"{module} could not be imported: {type(error).__name__}: {error}") from error
    for part in path.split("."):
        if not hasattr(found, part):
            names = ", ".join(n for n in vars(found) if not n.startswith("_")) or "nothing public"
            raise TargetError(f"{module} has no {path!r} (it has {names})")
        found = getattr(found, part)
    return found


def _from_module(name: str):
    if "" not in sys.path and (here := str(pathlib.Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    return importlib.import_module(name)


def _from_file(path: pathlib.Path):
    if not path.is_file():
        raise TargetError(f"there is no file {path}")
    if (folder := str(path.resolve().parent)) not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(path.stem)
    sys.modules[path.stem] = module  # dataclasses and pickles of the file look it up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        if before is None:
            del sys.modules[path.stem]
        else:
            sys.modules[path.stem] = before
        raise
    return module


def _library(target: str, path: str) -> list[Candidate]:
    """A shared library, in a process of its own: a wrong kernel may take its process down."""
    from .pipe import program

    if not pathlib.Path(path).is_file():
        raise TargetError(f"there is no file {path}")
    try:
        return program([sys.executable, "-m", "lstm_ref.candidates.library", path], target)
    except TargetError as error:
        _, said, sentence = str(error).partition("answered: error ")
        raise TargetError(f"{target}: {sentence}" if said else str(error)) from None


def _command(target: str, rest: str) -> list[Candidate]:
    from .pipe import program

    try:
        argv = shlex.split(rest)
    except ValueError as error:
        raise TargetError(f"the target {target!r} is no command line: {error}") from None
    return program(argv, target)


def _framework(kind: str, rest: str, target: str) -> Candidate:
    """The LSTM of a framework, through its adapter."""
    adapter = importlib.import_module(f".{FRAMEWORKS[kind]}", __package__)
    try:
        adapter.engine()  # says what is wrong before a framework is imported on a backend that cannot be judged
        found, options = (_of_a_model if kind == "onnx" else _of_a_class)(adapter, kind, rest, target)
        said = {k: getattr(found, k, None) for k in ("variant", "layout")}
        with time_limit(LOAD_SECONDS):
            variant = adapter.variant(found, options, parse_variant(said["variant"]))
            layout = adapter.layout(found, options, variant, None if said["layout"] is None else resolve(said["layout"]))
            supports = found.supports if hasattr(found, "supports") else adapter.supports(found, options, variant)
            layer = adapter.engine().Layer
            make = functools.partial(layer, adapter.function(found, options))
        way = "pullback" if hasattr(layer, "pullback") else "forward"
        how = getattr(adapter, "CALLED", "")
        return Candidate(target, way, make, True, layout, parse_supports(supports), variant=variant, called=how)
    except TargetError:
        raise
    except ValueError as error:
        raise TargetError(f"{target}: {error}") from None
    except TimeLimit:
        raise TargetError(f"{target} was not built within {LOAD_SECONDS:g} s") from None
    except Exception as error:
        raise TargetError(f"{target}: building it raised {type(error).__name__}: {error}") from error


def _of_a_class(adapter, kind: str, rest: str, target: str) -> tuple:
    """A class or function, the framework's own or a user's, and its options."""
    name, options = _options(rest, target)
    module, colon, path = name.rpartition(":")
    if not colon or importlib.util.find_spec(kind) is None:
        _installed(kind, target)
    if not colon and not (adapter.CLASSES and name in ("", *adapter.CLASSES)):
        known = "".join(f", {kind}:{k}" for k in adapter.CLASSES)
        raise TargetError(f"the target {target!r} names no LSTM; it must be {kind}:module:attribute or {kind}:file.py:attribute{known}")
    found = _attribute(module, path, target) if colon else adapter.find(name or adapter.CLASSES[0])
    unknown = set(options) - set(adapter.OPTIONS)
    if unknown and any(found is adapter.find(k) for k in adapter.CLASSES):
        known = ", ".join(adapter.OPTIONS) or "nothing"
        raise TargetError(f"{target} sets {', '.join(sorted(unknown))}; what can be set is {known}")
    return found, options


def _of_a_model(adapter, kind: str, rest: str, target: str) -> tuple:
    """The LSTM in a file, or a plain one where none is named, and what runs it."""
    _installed(kind, target)
    evaluator, colon, path = rest.partition(":")
    if not colon or evaluator != "reference":
        _installed("onnxruntime", target, kind)
        evaluator, path = "onnxruntime", rest
    if path and not pathlib.Path(path).is_file():
        raise TargetError(f"there is no file {path}; the target must be onnx:, onnx:PATH, onnx:reference: or onnx:reference:PATH")
    return adapter.find(path), {"evaluator": evaluator}


def _installed(kind: str, target: str, extra: str = ""):
    """The module of a framework, which is named as the extra that installs it where `extra` says no other."""
    try:
        return importlib.import_module(kind)
    except ImportError:
        package = PACKAGES.get(kind, kind)
        line = f"pip install 'lstm-ref[{extra or kind}]'"
        raise TargetError(f"{target} needs {package}, which is not installed; install it with: {line}") from None


def _options(text: str, target: str) -> tuple[str, dict]:
    """`LSTM(batch_first=True)` as a name and its literals; nothing is evaluated."""
    if "(" not in text:
        return text, {}
    name, _, arguments = text.partition("(")
    try:
        call = ast.parse(f"f({arguments}", mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise ValueError
        return name, {k.arg: ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError, AttributeError):
        raise TargetError(f"the options of {target!r} are not understood; they must be literals, as in LSTM(batch_first=True)") from None
