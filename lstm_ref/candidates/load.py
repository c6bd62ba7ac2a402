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

FRAMEWORKS = {"jax": "jax_function", "equinox": "equinox_cell", "flax": "flax_cell", "haiku": "haiku_lstm", "keras": "keras_lstm"}
KINDS = ("ref", "torch", "cmd", "lib", "onnx", *FRAMEWORKS)  # what is no module when it stands before the colon
TORCH_OPTIONS = ("batch_first", "bias", "num_layers", "bidirectional", "proj_size")
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
    if kind == "torch" and colon:
        return [_torch(target, rest)]
    if kind == "cmd" and rest.strip():
        return _command(target, rest)
    if kind == "lib" and rest:
        return _library(target, rest)
    if kind == "onnx" and colon:
        return [_onnx(target, rest)]
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


def _torch(target: str, rest: str) -> Candidate:
    torch = _installed("torch", target)
    from .torch_lstm import PROBE, TorchError, TorchLayer, layout_of, variant_of

    name, options = _options(rest, target)
    if name in ("", "LSTM", "LSTMCell"):
        cls = getattr(torch.nn, name or "LSTM")
    else:
        module, colon, path = name.rpartition(":")
        if not colon:
            raise TargetError(f"the target {target!r} names no class; it must be torch:module:Class or torch:file.py:Class")
        cls = _attribute(module, path, target)
    packed = bool(options.pop("packed", False))
    if cls in (torch.nn.LSTM, torch.nn.LSTMCell) and (unknown := set(options) - set(TORCH_OPTIONS)):
        known = ", ".join((*TORCH_OPTIONS, "packed"))
        raise TargetError(f"{target} sets {', '.join(sorted(unknown))}; what can be set is {known}")

    def build(D, H):
        with torch.random.fork_rng(devices=[]):
            return cls(D, H, **options)

    try:
        with time_limit(LOAD_SECONDS):
            projection = options.get("proj_size", 0)
            sizes = (PROBE[0], PROBE[1] + (projection if isinstance(projection, int) else 0))
            module = build(*sizes)
            variant = variant_of(module, getattr(cls, "variant", None), packed)
            layout = layout_of(module, sizes, variant, getattr(cls, "layout", None), bool(options.get("batch_first")))
            limits = {"H": f"at least {variant.projection + 1}"} if variant.projection else None  # torch's own limit
            supports = parse_supports(getattr(cls, "supports", limits))
    except (TorchError, LayoutError, ContractError, VariantError) as error:
        raise TargetError(f"{target}: {error}") from None
    except Exception as error:
        raise TargetError(f"{target}: building {cls.__name__}{sizes} raised {type(error).__name__}: {error}") from error
    make = functools.partial(TorchLayer, build, packed)
    return Candidate(target, "pullback", make, True, layout, supports, variant=variant)


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


def _onnx(target: str, rest: str) -> Candidate:
    """A model with one LSTM node, or a plain node of any size, forward only."""
    from . import onnx_model

    _installed("onnx", target)
    first, colon, path = rest.partition(":")
    named = bool(colon) and first == "reference"
    start = onnx_model.reference if named else onnx_model.onnxruntime
    if not named:
        _installed("onnxruntime", target, "onnx")
    path = path if named else rest
    if path and not pathlib.Path(path).is_file():
        raise TargetError(f"there is no file {path}; the target must be onnx:, onnx:PATH, onnx:reference: or onnx:reference:PATH")
    try:
        node = onnx_model.read(path) if path else onnx_model.plain(1, "float32")
    except onnx_model.OnnxError as error:
        raise TargetError(f"{target}: {error}") from None
    declared = dict(node.supports)
    if not path and not named:
        declared["dtypes"] = ["float32"]
    if not named and declared["dtypes"] == ["float64"]:
        raise TargetError(f"{target}: it is of float64, in which onnxruntime has no LSTM; judge it with onnx:reference:{path}")
    make = functools.partial(onnx_model.Layer, (lambda H, dtype: node) if path else onnx_model.plain, start)
    return Candidate(target, "forward", make, True, node.layout, parse_supports(declared), variant=node.variant)


def _framework(kind: str, rest: str, target: str) -> Candidate:
    """A class or function of a framework through its adapter: all adapters share one skeleton."""
    adapter = importlib.import_module(f".{FRAMEWORKS[kind]}", __package__)
    name, options = _options(rest, target)
    module, colon, path = name.rpartition(":")
    try:
        adapter.engine()  # says what is wrong before a framework is imported on a backend that cannot be judged
        if not colon or importlib.util.find_spec(kind) is None:
            _installed(kind, target)
        if colon:
            found = _attribute(module, path, target)
        elif name in ("", *adapter.CLASSES) and adapter.CLASSES:
            found = adapter.find(name or adapter.CLASSES[0])
        else:
            known = "".join(f", {kind}:{k}" for k in adapter.CLASSES)
            raise TargetError(f"the target {target!r} names no LSTM; it must be {kind}:module:attribute or {kind}:file.py:attribute{known}")
        engine = adapter.engine()
        layout = resolve(found.layout) if getattr(found, "layout", None) is not None else adapter.layout(found)
        supports = parse_supports(getattr(found, "supports", engine.SIZES))
        variant = parse_variant(getattr(found, "variant", None))
        make = functools.partial(engine.Layer, adapter.function(found, options))
    except TargetError:
        raise
    except ValueError as error:
        raise TargetError(f"{target}: {error}") from None
    return Candidate(target, "pullback", make, True, layout, supports, variant=variant)


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
