"""pytest plugin: a thin door to the engine. `pytest --lstm module:MyLSTM` judges an LSTM with the shipped checks.

It imports nothing beyond pytest and changes nothing unless --lstm is given. Each target and dtype is judged once, by the
process that runs the first of its tests; what was found travels to the process that reports with that test's own report.
"""

from __future__ import annotations

import json
import pathlib
import warnings

import pytest

DEFAULT_TARGETS = pytest.StashKey[list]()  # what to judge without --lstm; set by this repository's own conftest only
_FIXTURE = "lstm_result"
_VERDICTS = pytest.StashKey[dict]()
_EXPECTED = pytest.StashKey[tuple]()
_COLLECTED = pytest.StashKey[dict]()  # (target, dtype) -> ids of the checks that have a test
_TOLD = pytest.StashKey[str]()  # of a test: what was found with it, as JSON
NOTHING_JUDGED = "--lstm was given, but no check of lstm-ref was run: see -k, -m, --deselect and python_functions"
NEED_A_TARGET = ("report", "html", "expect", "github", "badge")


def pytest_addoption(parser):
    group = parser.getgroup("lstm-ref", "lstm-ref: judge an LSTM's gradients")
    group.addoption(
        "--lstm", action="append", default=[], metavar="TARGET", help="module:attribute, file.py:attribute, ref: or torch:; may be repeated"
    )
    group.addoption("--lstm-profile", default="quick", metavar="NAME", help="quick (default), dev, ci or nightly")
    group.addoption("--lstm-dtype", default=None, metavar="DTYPES", help="float64 (default), float32, …; several with commas")
    group.addoption("--lstm-isolate", action="store_true", help="run the LSTM in a process of its own, which may crash or hang")
    group.addoption("--lstm-seed", default=None, type=int, metavar="N", help="seed of the drawn cases")
    group.addoption("--lstm-report", default=None, metavar="FILE", help="write the verdicts as JSON")
    group.addoption("--lstm-html", default=None, metavar="FILE", help="write the verdicts as a page")
    group.addoption("--lstm-expect", default=None, metavar="FILE", help="a file of expected failures: such tests xfail")
    group.addoption("--lstm-github", action="store_true", help="write annotations, and a summary to $GITHUB_STEP_SUMMARY")
    group.addoption("--lstm-badge", default=None, metavar="FILE", help="write a badge, as the JSON that shields.io reads")


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config, parser, args):
    """Add the shipped checks: as the only ones where no path is named, else beside what is, but where some of them are named."""
    known = early_config.known_args_namespace
    if getattr(known, "lstm", None):
        files = [str(p) for p in _check_files()]
        named = {str(pathlib.Path(arg.partition("::")[0]).resolve()) for arg in args}
        args.extend([] if named & set(files) else files)


def _check_files() -> list[pathlib.Path]:
    here = pathlib.Path(__file__).resolve().parent
    for folder in (here / "checks", here.parent / "checks"):
        if files := sorted(folder.glob("test_lstm_*.py")):
            return files
    raise pytest.UsageError("lstm-ref is installed without its checks; install it again")


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makemodule(module_path, parent):
    """Name the shipped checks alike wherever they are installed: they are outside of the project, where pytest leaves names empty."""
    config = parent.config
    if not config.getoption("lstm") or module_path not in _check_files() or module_path.is_relative_to(config.rootpath):
        return None
    return pytest.Module.from_parent(parent, path=module_path, nodeid=f"lstm_ref/checks/{module_path.name}")


def pytest_configure(config):
    config.stash[_VERDICTS], config.stash[_EXPECTED], config.stash[_COLLECTED] = {}, (), {}
    asked = config.getoption("lstm")
    if not asked and (named := [k for k in NEED_A_TARGET if config.getoption(f"lstm_{k}", None)]):
        raise pytest.UsageError(f"lstm-ref: --lstm-{named[0]} needs --lstm, which names what is judged")
    for target in asked:
        _faces(config, target)  # a target that cannot be plugged in is a usage error, before anything is collected
    if asked:
        _known_profile(config.getoption("lstm_profile"))
        _read_expected(config)
    session = Session(config)
    session.begin()
    config.pluginmanager.register(session, "lstm-ref session")


def _known_profile(name: str) -> None:
    from .judgement.run import PROFILES

    if name not in PROFILES:
        raise pytest.UsageError(f"lstm-ref: the profile is {name!r}; it must be one of {', '.join(PROFILES)}")


def _read_expected(config) -> None:
    path = config.getoption("lstm_expect")
    if path is None:
        return
    from .judgement import expected

    try:
        config.stash[_EXPECTED] = expected.read(path)
        for target in config.getoption("lstm"):
            expected.due(config.stash[_EXPECTED], target, _faces(config, target), path)
    except ValueError as error:
        raise pytest.UsageError(f"lstm-ref: {error}") from None


def pytest_generate_tests(metafunc):
    if _FIXTURE not in metafunc.fixturenames:
        return
    targets = _targets(metafunc.config)
    if not targets:
        raise pytest.UsageError("no LSTM is named; say which to judge: pytest --lstm module:MyLSTM")
    chapter = metafunc.module.CHAPTER
    params, ids = [], []
    for target in targets:
        for dtype in _dtypes(metafunc.config, target):
            for id_ in _ids(metafunc.config, target, chapter):
                params.append((target, dtype, id_))
                ids.append(f"{target}|{dtype}|{id_}")
    metafunc.parametrize(_FIXTURE, params, ids=ids, indirect=True)


def pytest_collection_finish(session):
    """Note which checks have a test after -k, -m, --lf and the like: the others are deselected in the verdict, too."""
    collected = session.config.stash[_COLLECTED]
    for item in session.items:
        if (param := getattr(item, "callspec", None)) is not None and _FIXTURE in param.params:
            target, dtype, id_ = param.params[_FIXTURE]
            collected.setdefault((target, dtype), set()).add(id_)


def _targets(config) -> list[str]:
    return list(dict.fromkeys(config.getoption("lstm") or config.stash.get(DEFAULT_TARGETS, [])))


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
    from .judgement.expected import held
    from .judgement.run import run
    from .judgement.verdict import narrowed

    known, faces = config.stash[_VERDICTS], _faces(config, target)
    if (target, dtype) not in known:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the session may turn warnings into errors; they are not the candidate's
            try:
                verdict = run(target, faces, config.getoption("lstm_profile"), (dtype,), config.getoption("lstm_seed"))
                if ids := config.stash[_COLLECTED].get((target, dtype)):
                    verdict = narrowed(verdict, lambda r: r.id in ids)
                verdict = held(verdict, faces, config.stash[_EXPECTED], config.getoption("lstm_expect"))
                known[target, dtype] = explained(verdict, faces)
            except ValueError as error:
                raise pytest.UsageError(f"lstm-ref: {error}") from None
    return known[target, dtype]


@pytest.fixture
def lstm_result(request):
    """The result of one check: (id, outcome, …). Only the tests of the shipped checks use it."""
    from .judgement.run import Interrupted
    from .report import session

    target, dtype, id_ = request.param
    config = request.config
    first = (target, dtype) not in config.stash[_VERDICTS]
    try:
        verdict = _verdict(config, target, dtype)
    except Interrupted as stop:
        _pass_on(config, stop.verdict, request.node)
        raise
    if first or (target, dtype, "told") not in config.stash[_VERDICTS]:
        config.stash[_VERDICTS][target, dtype, "told"] = True
        _pass_on(config, verdict, request.node)
    result = next(r for r in verdict.results if r.id == id_ and r.dtype == dtype)
    request.node.user_properties += session.properties(result, verdict)
    return result, verdict, config


def _pass_on(config, verdict, item) -> None:
    """Put what was found into the report of the test that judged it; here and now, too, for a run that is interrupted."""
    from .report import session

    faces = _faces(config, verdict.target)
    told = session.told(verdict, faces, config.option, [list(key) for key in config.stash[_COLLECTED]])
    item.stash[_TOLD] = json.dumps(told)
    config.pluginmanager.get_plugin("lstm-ref session").take(told)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if _TOLD in item.stash:
        report.lstm_ref = item.stash[_TOLD]
        del item.stash[_TOLD]
    return report


def hold(judged) -> None:
    """Turn a result into a pytest outcome: what is not provided is skipped, what is expected to fail xfails, what cannot be told
    fails as inconclusive."""
    from .report import words

    result, verdict, config = judged
    line = words.summary_line(result)
    if result.outcome == "pass":
        return
    if result.outcome in ("not provided", "deselected", "blocked"):
        pytest.skip(line)
    if result.outcome == "expected failure":
        pytest.xfail(result.reason)
    if result.outcome in ("fail", "expected failure"):  # the latter under --runxfail
        layout = next((f.layout for f in _faces(config, verdict.target)), None)
        own = result.counterexample is not None and result.counterexample.primary
        told = "\n" + words.explanation(verdict) if own and verdict.explanation else ""
        pytest.fail(words.failure(result, verdict.target, layout if own else None) + told, pytrace=False)
    if result.outcome == "unexpected pass":
        pytest.fail(line, pytrace=False)
    if verdict.outcome == "fail" and result.reason.startswith("blocked by"):
        pytest.skip(line)
    pytest.fail(f"inconclusive: {line}", pytrace=False)


class Session:
    """What the process that reports has heard so far, from its own tests or from the workers of xdist: `found` holds what was told
    of each (target, dtype), `lost` which workers died."""

    def __init__(self, config):
        self.config, self.found, self.lost, self.annotations = config, {}, [], ""

    @property
    def silent(self) -> bool:
        """Whether another process reports, or nothing is run."""
        return hasattr(self.config, "workerinput") or self.config.option.collectonly

    def begin(self) -> None:
        """Write reports that say that the run has not ended: a path that cannot be written is a usage error, and a process that
        is killed leaves them."""
        if self.config.getoption("lstm") and not self.silent:
            self._write("the run has not ended", ended=False)

    def take(self, told: dict) -> None:
        self.found[told["target"], told["dtype"]] = told

    def pytest_runtest_logreport(self, report):
        if (text := getattr(report, "lstm_ref", None)) is not None:
            self.take(json.loads(text))

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node, error):
        if error:
            self.lost.append(f"worker {node.gateway.id} died")

    def pytest_sessionfinish(self, session, exitstatus):
        if not self.config.getoption("lstm") or self.silent:
            return
        if not self.found and exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.USAGE_ERROR
        self.annotations = self._write(self._incomplete(session, exitstatus), ended=True)

    def _incomplete(self, session, exitstatus) -> str:
        """Why the reports are not whole; "" if they are."""
        due = {tuple(key) for told in self.found.values() for key in told["due"]} or {
            (target, dtype) for target in _targets(self.config) for dtype in _dtypes(self.config, target)
        }
        missing = ", ".join(f"{target} {dtype}" for target, dtype in sorted(due - set(self.found)))
        stopped = session.shouldfail or session.shouldstop
        why = list(dict.fromkeys(self.lost))
        if exitstatus == pytest.ExitCode.INTERRUPTED and not stopped:
            why.append("interrupted")
        if exitstatus == pytest.ExitCode.INTERNAL_ERROR:
            why.append("pytest ended with an internal error")
        if missing:
            why += [str(stopped)] if stopped else []
            why.append(f"not judged: {missing}")
        return "; ".join(why)

    def _found(self) -> list[dict]:
        return [self.found[key] for key in sorted(self.found, key=self._turn)]

    def _turn(self, key: tuple[str, str]) -> tuple[int, int]:
        """Targets in the order in which they were named, dtypes likewise."""
        targets = _targets(self.config)
        return targets.index(key[0]), list(_dtypes(self.config, key[0])).index(key[1])

    def _write(self, incomplete: str, ended: bool) -> str:
        from .report import session

        try:
            return session.write(self.config.option, self._found(), incomplete, ended)
        except ValueError as error:
            raise pytest.UsageError(f"lstm-ref: {error}") from None

    def pytest_terminal_summary(self, terminalreporter, exitstatus, config):
        if self.silent or not (self.found or config.getoption("lstm")):
            return
        terminalreporter.section("lstm-ref")
        for told in self._found():
            for line in told["lines"]:
                terminalreporter.write_line(line)
        if not self.found:
            terminalreporter.write_line(f"ERROR: {NOTHING_JUDGED}")
        if config.getoption("lstm_github"):
            terminalreporter.write(self.annotations)
        for option in ("report", "html", "badge"):
            if path := config.getoption(f"lstm_{option}"):
                terminalreporter.write_line(f"wrote {path}")


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
