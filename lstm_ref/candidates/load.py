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
import contextlib
import difflib
import functools
import importlib
import importlib.util
import inspect
import itertools
import pathlib
import shlex
import sys

import numpy as np

from ..reference.variant import Variant, VariantError
from ..reference.variant import parse as parse_variant
from .contract import REDUCTIONS, Candidate, ContractError, TimeLimit, accepts_taps, in_a_line, parse_supports, place, time_limit
from .contract import kind as kind_of
from .layout import Layout, LayoutError, resolve
from .student import is_student

AS_A_SCRIPT = 'what a script does belongs below if __name__ == "__main__":, since the file is imported'

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
# what a class says of itself, each as one of these types
DECLARED: dict[str, tuple] = {
    "layout": (str, dict, Layout),
    "supports": (dict,),
    "variant": (dict, Variant),
    "reduction": (str,),
}
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
    if not kind or not rest:
        raise TargetError(f"the target {target!r} names no LSTM; it must be one of {FORMS}")
    return plug(_attribute(kind, rest, target), target)


def plug(thing, name: str | None = None) -> list[Candidate]:
    """A class, a factory without arguments, or an instance, as candidates. Raises TargetError."""
    name = name or getattr(thing, "__name__", type(thing).__name__)
    factory = isinstance(thing, type) or (callable(thing) and not _ways(thing))
    instance = _instance(thing, name) if factory else thing
    framed = _with_its_framework(instance, name)
    make = thing if factory else lambda: thing
    params = _said(instance, "params", name)
    if is_student(instance):
        return [Candidate(name, "student", make, factory)]
    ways = _ways(instance)
    if not ways and params is not None and all(callable(_said(instance, k, name)) for k in ("loss", "gradients")):
        raise TargetError(f"{name}: params is {kind_of(params)}; a dict from names to arrays is due, and gradients keyed as it is")
    if not ways:
        methods = ", ".join(m for m in dir(instance) if not m.startswith("_")) or "none"
        raise TargetError(
            f"{name} has none of the methods that the contract knows (its own: {methods}); give it forward(inputs) and "
            "vjp(inputs, cotangents), or pullback(inputs), or loss_and_gradients(inputs), or params, loss() and gradients()"
            + (framed and f"; {framed}")
        )
    says = {k: _said(instance, k, name) for k in DECLARED}
    reduction = "sum" if says["reduction"] is None else says["reduction"]
    if reduction not in REDUCTIONS:
        raise TargetError(f"{name} declares reduction {reduction!r}; it must be one of {', '.join(map(repr, REDUCTIONS))}")
    try:
        layout, supports, variant = resolve(says["layout"]), parse_supports(says["supports"]), parse_variant(says["variant"])
    except (LayoutError, ContractError, VariantError) as error:
        raise TargetError(f"{name}: {error}") from None
    taps, remark = accepts_taps(instance), "; ".join(filter(None, (_misspelt(instance), framed if ways == ["forward"] else "")))
    return [Candidate(name, way, make, factory, layout, supports, reduction, taps, variant, remark=remark) for way in ways]


def _said(instance, what: str, name: str):
    """What an instance says of itself. Raises TargetError where asking for it raises."""
    try:
        return getattr(instance, what, None)
    except Exception as error:  # a property may raise anything
        raise TargetError(f"{name}: its {what} raised {in_a_line(error)}{place(error)}; it is read before anything is called") from None


def _misspelt(thing) -> str:
    """A remark on attributes that are declarations but for a slip, in a sentence; empty where there are none."""
    found = []
    for k, types in DECLARED.items():
        others = (a for a in dir(thing) if not a.startswith("_") and a not in DECLARED)
        near = [a for a in difflib.get_close_matches(k, others, cutoff=0.8) if isinstance(inspect.getattr_static(thing, a, None), types)]
        if near and inspect.getattr_static(thing, k, None) is None:
            found.append(f"nothing reads its {near[0]}, and it declares no {k}; if that is meant, name it so")
    return "; ".join(found)


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
            made = make()
    except TimeLimit:
        raise TargetError(f"{name}() did not return within {LOAD_SECONDS:g} s") from None
    except Exception as error:
        raise TargetError(
            f"{name}() raised {type(error).__name__}: {error}; "
            + (_with_its_framework(make, name) or "name a class or function that needs no arguments, or an instance")
        ) from error
    if isinstance(made, type):
        due = f"an instance is due: name the class itself, or return {made.__name__}()"
        raise TargetError(f"{name}() returned the class {made.__name__}; {due}")
    return made


def _with_its_framework(thing, name: str) -> str:
    """How something of a framework is named so that the framework differentiates it; empty for all else."""
    cls = thing if isinstance(thing, type) else type(thing)
    kind = next((k for c in cls.__mro__ if (k := c.__module__.partition(".")[0]) in FRAMEWORKS), "")
    due = name if isinstance(thing, type) or cls.__name__ == name.rpartition(":")[2] else "module:Class, by its class"
    if ":" not in name and cls.__module__.partition(".")[0] != kind:  # given as an object
        due = f"{cls.__module__}:{cls.__name__}" if cls.__qualname__ == cls.__name__ else "module:Class, at the top of a module"
    return f"it is of {kind}: name it as {kind}:{due}, and {kind} differentiates it" if kind else ""


def _attribute(module: str, path: str, target: str):
    try:
        with np.errstate(), time_limit(LOAD_SECONDS), _own_arguments(module):  # what a module sets on import is put back
            found = _from_file(pathlib.Path(module)) if module.endswith(".py") else _from_module(module)
    except TargetError:
        raise
    except TimeLimit:
        raise TargetError(f"importing {module} took longer than {LOAD_SECONDS:g} s; {AS_A_SCRIPT}") from None
    except (Exception, SystemExit) as error:
        hint = _in_its_package(module, path) if "relative import" in str(error) else ""
        if not isinstance(error, (ImportError, SyntaxError)):
            hint = f"{place(error)}; {AS_A_SCRIPT}"
        raise TargetError(f"{module} could not be imported: {type(error).__name__}: {error}{hint}") from error
    for part in path.split("."):
        if not hasattr(found, part):
            names = ", ".join(n for n in vars(found) if not n.startswith("_")) or "nothing public"
            raise TargetError(f"{module} has no {path!r} (it has {names})")
        found = getattr(found, part)
    return found


@contextlib.contextmanager
def _own_arguments(module: str):
    """A module that reads the command line when it is imported finds its own name there, and none of our arguments."""
    before, sys.argv = sys.argv, [module]
    try:
        yield
    finally:
        sys.argv = before


def _in_its_package(module: str, path: str) -> str:
    """How a file is named that imports from beside it with a dot: as a module of its package."""
    file = pathlib.Path(module).resolve()
    folders = list(itertools.takewhile(lambda folder: (folder / "__init__.py").is_file(), file.parents))
    if not folders:
        return "; its folder is no package, which a dot needs: give it an __init__.py, or import without the dot"
    dotted, root = ".".join([*(f.name for f in reversed(folders)), file.stem]), folders[-1].parent
    there = "" if root == pathlib.Path.cwd() else f", in the folder {root}"
    return f"; it is a file of the package {folders[-1].name}: name it as a module, {dotted}:{path}{there}"


def _from_module(name: str):
    if "" not in sys.path and (here := str(pathlib.Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    return importlib.import_module(name)


def _from_file(path: pathlib.Path):
    if not path.is_file():
        raise TargetError(f"there is no file {path}")
    if (folder := str(path.resolve().parent)) not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(_free(path), path)
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(spec.name)
    sys.modules[spec.name] = module  # dataclasses and pickles of the file look it up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        if before is None:
            del sys.modules[spec.name]
        else:
            sys.modules[spec.name] = before
        raise
    return module


def _free(path: pathlib.Path) -> str:
    """The name of a file as a module: its own, but for one that stands for another module already, as that of an operator.py would."""
    name = path.stem
    while name in sys.modules and _file(sys.modules[name]) != path.resolve():
        name += "_"
    return name


def _file(module) -> pathlib.Path | None:
    return pathlib.Path(file).resolve() if (file := getattr(module, "__file__", None)) else None


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
        how, remark = getattr(adapter, "CALLED", ""), _misspelt(found) if isinstance(found, type) else ""
        return Candidate(target, way, make, True, layout, parse_supports(supports), variant=variant, called=how, remark=remark)
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
