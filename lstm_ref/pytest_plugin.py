"""pytest plugin: a thin door to the engine. `pytest --lstm module:MyLSTM` judges an LSTM with the shipped checks.

It imports nothing beyond pytest and changes nothing unless --lstm is given.
"""

from __future__ import annotations

import pathlib
import warnings

import pytest

DEFAULT_TARGETS = pytest.StashKey[list]()  # what to judge without --lstm; set by this repository's own conftest only
_FIXTURE = "lstm_result"
_VERDICTS = pytest.StashKey[dict]()
NOTHING_JUDGED = "--lstm was given, but no check of lstm-ref was run: see -k, -m, --deselect and python_functions"


def pytest_addoption(parser):
    group = parser.getgroup("lstm-ref", "lstm-ref: judge an LSTM's gradients")
    group.addoption(
        "--lstm", action="append", default=[], metavar="TARGET", help="module:attribute, file.py:attribute, ref: or torch:; may be repeated"
    )
    group.addoption("--lstm-profile", default="quick", metavar="NAME", help="quick (default), dev, ci or nightly")
    group.addoption("--lstm-dtype", default=None, metavar="DTYPES", help="float64 (default), float32, …; several with commas")
    group.addoption("--lstm-isolate", action="store_true", help="run the LSTM in a process of its own, which may crash or hang")
    group.addoption("--lstm-seed", default=None, type=int, metavar="N", help="seed of the drawn cases")


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config, parser, args):
    """Add the shipped checks: as the only ones where no path is named, else beside what is."""
    known = early_config.known_args_namespace
    if getattr(known, "lstm", None):
        args.extend(str(p) for p in _check_files())


def _check_files() -> list[pathlib.Path]:
    here = pathlib.Path(__file__).resolve().parent
    for folder in (here / "checks", here.parent / "checks"):
        if files := sorted(folder.glob("test_lstm_*.py")):
            return files
    raise pytest.UsageError("lstm-ref is installed without its checks; install it again")


def pytest_configure(config):
    config.stash[_VERDICTS] = {}
    for target in config.getoption("lstm"):
        _faces(config, target)  # a target that cannot be plugged in is a usage error, before anything is collected
    if config.getoption("lstm"):
        _known_profile(config.getoption("lstm_profile"))


def _known_profile(name: str) -> None:
    from .judgement.run import PROFILES

    if name not in PROFILES:
        raise pytest.UsageError(f"lstm-ref: the profile is {name!r}; it must be one of {', '.join(PROFILES)}")


def pytest_generate_tests(metafunc):
    if _FIXTURE not in metafunc.fixturenames:
        return
    targets = metafunc.config.getoption("lstm") or metafunc.config.stash.get(DEFAULT_TARGETS, [])
    if not targets:
        raise pytest.UsageError("no LSTM is named; say which to judge: pytest --lstm module:MyLSTM")
    chapter = metafunc.module.CHAPTER
    params, ids = [], []
    for target in dict.fromkeys(targets):
        for dtype in _dtypes(metafunc.config, target):
            for id_ in _ids(metafunc.config, target, chapter):
                params.append((target, dtype, id_))
                ids.append(f"{target}|{dtype}|{id_}")
    metafunc.parametrize(_FIXTURE, params, ids=ids, indirect=True)


def _faces(config, target: str):
    from .candidates.load import TargetError

    if config.getoption("lstm_isolate"):
        from .candidates.isolate import isolated as load
    else:
        from .candidates.load import load
    known = config.stash[_VERDICTS]
    if target not in known:
        try:
            known[target] = load(target)
        except TargetError as error:
            raise pytest.UsageError(f"lstm-ref: {error}") from None
    return known[target]


def _ids(config, target: str, chapter: str) -> list[str]:
    from .judgement.manifest import manifest

    faces = _faces(config, target)
    if faces[0].kind == "student":
        return [r.id for r in _verdict(config, target, "float64").results if r.chapter == chapter]
    return [c.id for c in manifest(faces) if c.id.partition(".")[0] == chapter]


def _dtypes(config, target: str) -> tuple[str, ...]:
    asked = config.getoption("lstm_dtype")
    if asked:
        return tuple(d.strip() for d in asked.split(",") if d.strip())
    declared = next((f.supports.dtypes for f in _faces(config, target) if f.supports.dtypes), None)
    return declared or ("float64",)


def _verdict(config, target: str, dtype: str):
    """The verdict on one target at one dtype, judged once per session."""
    from .diagnosis.explain import explained
    from .judgement.run import run

    known, faces = config.stash[_VERDICTS], _faces(config, target)
    if (target, dtype) not in known:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the session may turn warnings into errors; they are not the candidate's
            try:
                asked = (config.getoption("lstm_profile"), (dtype,), config.getoption("lstm_seed"))
                known[target, dtype] = explained(run(target, faces, *asked), faces)
            except ValueError as error:
                raise pytest.UsageError(f"lstm-ref: {error}") from None
    return known[target, dtype]


@pytest.fixture
def lstm_result(request):
    """The result of one check: (id, outcome, …). Only the tests of the shipped checks use it."""
    from .report import words

    target, dtype, id_ = request.param
    verdict = _verdict(request.config, target, dtype)
    told = words.headline(verdict) + ("\n" + words.explanation(verdict) if verdict.explanation else "")
    request.node.user_properties.append(("lstm_ref_verdict", told))
    return next(r for r in verdict.results if r.id == id_ and r.dtype == dtype), verdict, request.config


def hold(judged) -> None:
    """Turn a result into a pytest outcome: what is not provided is skipped, what cannot be told fails as inconclusive."""
    from .report import words

    result, verdict, config = judged
    if result.outcome == "pass":
        return
    if result.outcome in ("not provided", "deselected"):
        pytest.skip(words.summary_line(result))
    if result.outcome == "fail":
        layout = next((f.layout for f in _faces(config, verdict.target)), None)
        own = result.counterexample is not None and result.counterexample.primary
        told = "\n" + words.explanation(verdict) if own and verdict.explanation else ""
        pytest.fail(words.failure(result, verdict.target, layout if own else None) + told, pytrace=False)
    if verdict.outcome == "fail" and result.reason.startswith("blocked by"):
        pytest.skip(words.summary_line(result))
    pytest.fail(f"inconclusive: {words.summary_line(result)}", pytrace=False)


def pytest_runtest_logreport(report):
    for name, value in report.user_properties:
        if name == "lstm_ref_verdict":
            _seen[value.split(" cases in ")[0]] = value


_seen: dict[str, str] = {}


def pytest_sessionfinish(session, exitstatus):
    config = session.config
    if not config.getoption("lstm") or hasattr(config, "workerinput") or config.option.collectonly:
        return
    if not _seen and exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.USAGE_ERROR


def pytest_terminal_summary(terminalreporter, exitstatus, config):
    if config.option.collectonly or not (_seen or config.getoption("lstm")):
        return
    terminalreporter.section("lstm-ref")
    for text in _seen.values() or [f"ERROR: {NOTHING_JUDGED}"]:
        for line in text.splitlines():
            terminalreporter.write_line(line)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Keep each target and dtype on one worker, since its cases are judged once for all its checks."""
    if not config.getoption("lstm") or config.getoption("dist", "no") not in ("load", "no"):
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ByTarget(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return nodeid.partition("[")[2].rpartition("|")[0] or nodeid

    return ByTarget(config, log)
