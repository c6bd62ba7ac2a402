"""Command line: a thin door to the engine."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import math
import os
import pathlib
import signal
import threading
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Is an LSTM's gradient right?", pretty_exceptions_enable=False)
PASS, FAIL, USAGE, INCONCLUSIVE = 0, 1, 2, 3
EXPECT_FILE = "lstm-ref.toml"  # of expected failures, for `expect`; `check` reads one only where it is named
CODES = {"pass": PASS, "fail": FAIL, "inconclusive": INCONCLUSIVE}
FAILURES = ".lstm-ref"  # folder for counterexamples

Target = Annotated[
    str, typer.Argument(help="module:attribute, file.py:attribute, ref:, torch:, jax:, flax:, cmd:PROGRAM, lib:PATH, … (README)")
]
Dtype = Annotated[str | None, typer.Option(help="float64 (default), float32, bfloat16, float16; several with commas")]
Isolate = Annotated[bool, typer.Option("--isolate", help="run the LSTM in a process of its own, which may crash or hang")]
Seed = Annotated[int | None, typer.Option(help="seed of the drawn cases (quick and ci have a fixed one)")]


def _told_version(asked: bool) -> None:
    if asked:
        from .judgement.run import versions

        own, *rest = sorted(versions().items(), key=lambda told: told[0] != "lstm-ref")
        typer.echo(f"{' '.join(own)} ({', '.join(map(' '.join, rest))})")
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", callback=_told_version, is_eager=True, help="the versions that a verdict rests on")]


@app.callback()
def _every_command(version: Version = False) -> None:
    pass


@app.command()
def check(
    target: Target,
    profile: Annotated[str, typer.Option(help="quick, dev, ci or nightly")] = "quick",
    dtype: Dtype = None,
    seed: Seed = None,
    only: Annotated[str | None, typer.Option(help="patterns of check ids, such as 'grad.*,state.repeat'")] = None,
    sizes: Annotated[str | None, typer.Option(help="hold sizes fixed in every case, such as T=16,H=64")] = None,
    report: Annotated[pathlib.Path | None, typer.Option(help="also write the verdict as JSON, with that of --against")] = None,
    html: Annotated[pathlib.Path | None, typer.Option(help="also write it as a page (needs the extra html)")] = None,
    isolate: Isolate = False,
    expect: Annotated[pathlib.Path | None, typer.Option(help="a file of expected failures, as `lstm-ref expect update` writes")] = None,
    github: Annotated[bool, typer.Option("--github", help="write annotations, and a summary to $GITHUB_STEP_SUMMARY")] = False,
    badge: Annotated[pathlib.Path | None, typer.Option(help="write a badge, as the JSON that shields.io reads")] = None,
    against: Annotated[str | None, typer.Option(help="another target: judge both, and hold one against the other")] = None,
) -> None:
    """Judge every gradient of an LSTM. Exit code 0 pass, 1 fail, 2 usage, 3 inconclusive."""
    from .candidates.place import place
    from .candidates.printed import printed
    from .diagnosis.explain import explained
    from .judgement import expected
    from .judgement.against import pairs
    from .judgement.run import Interrupted, run
    from .report import html as html_report
    from .report import json_report, terminal

    console, began = Console(), datetime.datetime.now(datetime.UTC)
    faces, verdicts, layouts, held, why = [], [], [], [], ""
    try:
        _can_write(report, html, badge)
        if html is not None:
            html_report.ready()
        with _stopped_once(), terminal.progress(Console(stderr=True)) as progress, printed() as foreign:
            try:
                known = expected.read(expect) if expect else ()
                faces = [_at_sizes(face, sizes) for face in _loaded(target, isolate)]
                expected.due(known, target, faces, expect)
                others = [_at_sizes(face, sizes) for face in _loaded(against, isolate)] if against else []
                layouts = [faces[0].layout, *(face.layout for face in others[:1])]
                paired = pairs(faces, others) if against else []
                verdicts.append(run(target, faces, profile, _dtypes(dtype), seed, only, progress))
                verdicts[0] = explained(expected.held(verdicts[0], faces, known, expect), faces)
                if against:
                    verdicts.append(run(against, others, profile, verdicts[0].dtypes, seed, only, progress))
                    held = _held(paired, verdicts[0].dtypes, progress)
            except Interrupted as stop:
                verdicts.append(stop.verdict)
                why = stop.verdict.incomplete
            except KeyboardInterrupt:
                why = "interrupted before all that was asked for was done" if verdicts else "interrupted before a case was judged"
    except ValueError as error:
        raise _usage(error) from None
    files = [keep_counterexamples(v, pathlib.Path(FAILURES)) for v in verdicts[:1]]
    for v, kept in zip(verdicts, files, strict=False):
        terminal.card(console, v, layouts[0], kept)
    if github or any(path is not None for path in (report, html, badge)):
        runs = [json_report.run_data(v, layout, kept) for v, layout, kept in zip(verdicts, layouts, [*files, {}], strict=False)]
        document = json_report.document(runs, held, why, began)
        _written(document, report, html, badge)
        if github:
            _to_github(document, {target: place(faces[0], target)} if faces else {})
    code = CODES[verdicts[0].outcome] if verdicts else INCONCLUSIVE
    if len(verdicts) > 1:
        terminal.side_by_side(console, verdicts[1], held)
        code = FAIL if any(c.outcome == "differ" for c in held) else code
        code = INCONCLUSIVE if code == PASS and any(c.outcome != "agree" for c in held) else code
    for told in filter(None, (foreign.told, why)):
        Console(stderr=True).print(f"lstm-ref: {told}", style="yellow", highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(INCONCLUSIVE if why and code == PASS else code)


def _to_github(document: dict, places: dict) -> None:
    from .report import github

    typer.echo(github.errors(document, {k: p for k, p in places.items() if p is not None}), nl=False)
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        try:
            github.append(path, github.summary(document))
        except OSError as error:
            raise _usage(ValueError(f"$GITHUB_STEP_SUMMARY is {path}, which cannot be written: {error.strerror}")) from None


def _written(document: dict, report: pathlib.Path | None, html: pathlib.Path | None, badge: pathlib.Path | None = None) -> None:
    """Write the document as JSON, as a page and as a badge, where they are asked for."""
    from .report import github, json_report
    from .report import html as html_report

    try:
        if report is not None:
            json_report.write(report, json_report.dumps(document))
        if html is not None:
            json_report.write(html, html_report.page(document))
        if badge is not None:
            json_report.write(badge, github.badge(document))
    except OSError as error:
        raise _usage(error) from None


def _can_write(*paths: pathlib.Path | None) -> None:
    """Raise ValueError for a file that cannot be written, before a run and not after it."""
    for path in filter(None, paths):
        if path.is_dir() or not path.parent.is_dir():
            raise ValueError(f"{path} cannot be written: {'it is a folder' if path.is_dir() else f'there is no folder {path.parent}'}")


@contextlib.contextmanager
def _stopped_once():
    """Turn the first Ctrl-C, or the first request to end, into a KeyboardInterrupt; a second one ends the process at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = [s for s in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(s) is not signal.SIG_IGN]

    def stop(signum, frame):
        for s in asked:
            signal.signal(s, signal.SIG_DFL)
        raise KeyboardInterrupt

    before = {s: signal.signal(s, stop) for s in asked}
    try:
        yield
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


def _held(paired, dtypes, progress) -> list:
    """Every pair of candidates held against each other, at every dtype."""
    from .judgement.against import hold
    from .judgement.tolerances import PRECISIONS

    return [hold(one, other, PRECISIONS[d], progress) for d in dtypes for one, other in paired]


@app.command()
def doctor(
    target: Target,
    dtype: Annotated[str | None, typer.Option(help="float64 or float32 (default: what is declared)")] = None,
    isolate: Isolate = False,
) -> None:
    """Say what is understood of an LSTM, before a gradient is judged. Exit code 0 if it can be judged as it is, 1 if not, 2 usage."""
    from .judgement.doctor import examine
    from .judgement.tolerances import PRECISIONS
    from .report import doctor as report

    console, found = Console(), []
    try:
        if dtype is not None and dtype not in PRECISIONS:
            raise ValueError(f"the dtype is {dtype!r}; it must be one of {', '.join(PRECISIONS)}")
        for face in _loaded(target, isolate):
            found.append(examine(face, PRECISIONS[dtype or (face.supports.dtypes or ("float64",))[0]]))
            console.print(report.text(found[-1], target), highlight=False, markup=False, soft_wrap=True)
    except ValueError as error:
        raise _usage(error) from None
    raise typer.Exit(PASS if all(x.fits for x in found) else FAIL)


@app.command()
def init(
    style: Annotated[str, typer.Argument(help="class, functions, torch, jax, c, command or student")],
    out: Annotated[pathlib.Path | None, typer.Option(help="the file to write (default: my_lstm.py or my_lstm.c)")] = None,
) -> None:
    """Write a commented adapter that works as it is, to put your own LSTM into. Never writes over a file."""
    from .candidates.start import write

    try:
        path, commands = write(style, out)
    except ValueError as error:
        raise _usage(error) from None
    Console().print(
        "\n".join([f"wrote {path}; it works as it is:", *(f"  {c}" for c in commands)]), highlight=False, markup=False, soft_wrap=True
    )


@app.command()
def replay(
    file: Annotated[pathlib.Path, typer.Argument(help="a counterexample that check has written")],
    lstm: Annotated[str, typer.Option(help="the target to run it on")],
    isolate: Isolate = False,
) -> None:
    """Run one saved counterexample again. Exit code 0 if it passes now, 1 if it still fails."""
    from .judgement.record import read
    from .judgement.run import replay as run_again
    from .report import words

    try:
        id_, dtype, case, variant = read(file)
        faces = _loaded(lstm, isolate)
        result = run_again(lstm, faces, id_, dtype, case, variant)
    except ValueError as error:
        raise _usage(error) from None
    console = Console()
    text = words.failure(result, lstm) if result.outcome == "fail" else words.summary_line(result)
    console.print(text, highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(CODES.get(result.outcome, INCONCLUSIVE))


@app.command()
def compare(
    before: Annotated[pathlib.Path, typer.Argument(help="a report, as check --report writes it")],
    after: Annotated[pathlib.Path, typer.Argument(help="another one: of the same LSTM later, or of another LSTM")],
    json: Annotated[bool, typer.Option("--json", help="print the comparison as JSON")] = False,
) -> None:
    """Say what got better or worse between two reports. Exit code 0 same or better, 1 worse, 2 usage, 3 incomparable."""
    from .report import compare as report
    from .report import json_report

    try:
        found = report.compare(json_report.load(before), json_report.load(after))
    except ValueError as error:
        raise _usage(error) from None
    text = report.dumps(found).rstrip() if json else report.text(found)
    Console().print(text, highlight=False, markup=False, emoji=False, soft_wrap=True)
    raise typer.Exit({"worse": FAIL, "incomparable": INCONCLUSIVE}.get(found.outcome, PASS))


expect_app = typer.Typer(no_args_is_help=True, help="Failures that are known: pin them to counterexamples, and remove what passes now.")
app.add_typer(expect_app, name="expect")
Expect = Annotated[pathlib.Path, typer.Option(help="the file of expected failures")]


@expect_app.command("update")
def expect_update(
    target: Target,
    reason: Annotated[str | None, typer.Option(help="why these failures are to be lived with; due where there is anything to pin")] = None,
    until: Annotated[datetime.datetime | None, typer.Option(formats=["%Y-%m-%d"], help="the last day on which they are expected")] = None,
    expect: Expect = pathlib.Path(EXPECT_FILE),
    profile: Annotated[str, typer.Option(help="quick, dev, ci or nightly")] = "quick",
    dtype: Dtype = None,
    seed: Seed = None,
    only: Annotated[str | None, typer.Option(help="patterns of check ids, such as 'grad.*,state.repeat'")] = None,
    isolate: Isolate = False,
) -> None:
    """Pin whatever fails now and is not expected yet. Exit code 0 if all that fails is expected then, 1 if not, 2 usage."""
    from .judgement import expected
    from .judgement.run import run
    from .report import expected as report
    from .report import terminal

    console, date = Console(), until.date() if until else None
    try:
        known = expected.read(expect) if expect.exists() else ()
        faces = _loaded(target, isolate)
        expected.due(known, target, faces, expect)
        with terminal.progress(Console(stderr=True)) as progress:
            verdict = expected.held(run(target, faces, profile, _dtypes(dtype), seed, only, progress), faces, known, expect)
            if verdict.failures() and not (reason or "").strip():
                raise ValueError(f"{report.failing(verdict)}; say why that is to be lived with: --reason 'a sentence'")
            made, without = expected.fresh(verdict, faces, reason, date, expect.parent / f"{expect.stem}.expected")
        expected.keep(expect, known, made)
    except ValueError as error:
        raise _usage(error) from None
    console.print(report.updated(verdict, list(made), without, str(expect)), highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(FAIL if without or any(r.outcome == "unexpected pass" for r in verdict.results) else PASS)


@expect_app.command("prune")
def expect_prune(target: Target, expect: Expect = pathlib.Path(EXPECT_FILE), isolate: Isolate = False) -> None:
    """Remove the entries whose counterexample passes now. Exit code 0, or 2 usage."""
    from .judgement import expected
    from .report import expected as report

    try:
        known = expected.read(expect)
        gone = expected.stale(known, target, _loaded(target, isolate))
        expected.remove(expect, known, gone)
    except ValueError as error:
        raise _usage(error) from None
    left = sum(e.target in ("", target) for e in known) - len(gone)
    Console().print(report.pruned(gone, left, target, str(expect)), highlight=False, markup=False, soft_wrap=True)


@app.command()
def checks() -> None:
    """List every check with its id."""
    from .judgement.manifest import CHECKS

    console = Console()
    for c in CHECKS.values():
        console.print(f"{c.id:<30} {c.title}", highlight=False, markup=False, soft_wrap=True)


@app.command()
def calibrate(
    targets: Annotated[list[str] | None, typer.Argument(help="LSTMs known to be right (default: ref:)")] = None,
    cases: Annotated[int, typer.Option(help="cases per target and dtype")] = 200,
    dtype: Annotated[str, typer.Option(help="dtypes, with commas")] = "float64,float32",
    seed: Annotated[int, typer.Option(help="seed of the cases")] = 1,
) -> None:
    """Measure error ÷ (u · condition) of correct LSTMs, by regime; tolerances grant 16. Exit code 1 on a false alarm."""
    from .candidates.load import load
    from .judgement.calibrate import calibrate as measure
    from .report.calibration import tables

    console, bar = Console(), Console(stderr=True)
    rows = []
    try:
        for target in targets or ["ref:"]:
            for face in load(target):
                for name in _dtypes(dtype):
                    with bar.status(f"{target} {face.kind} {name}") if bar.is_terminal else _nothing():
                        rows += measure(face, name, cases, seed)
    except ValueError as error:
        raise _usage(error) from None
    console.print(tables(rows), highlight=False)
    raise typer.Exit(FAIL if any(row.failed for row in rows) else PASS)


@app.command()
def identify(target: Target, dtype: Annotated[str, typer.Option(help="float64 or float32")] = "float64") -> None:
    """Find the layout, variant or reduction under which the forward pass is an LSTM. Exit code 0 if one fits, 1 if none does."""
    from .candidates.load import load
    from .judgement.reading import find, unread
    from .judgement.tolerances import PRECISIONS
    from .report import words

    console = Console()
    try:
        if dtype not in PRECISIONS:
            raise ValueError(f"the dtype is {dtype!r}; it must be one of {', '.join(PRECISIONS)}")
        faces = [face for face in load(target) if face.kind != "student"]
        if not faces:
            raise ValueError(f"{target} is an object with its own data: it has no forward pass to identify")
        reading = find(faces[0], PRECISIONS[dtype])
        why = "" if reading else unread(faces[0], PRECISIONS[dtype])
    except ValueError as error:
        raise _usage(error) from None
    console.print(words.identified(reading, faces[0], why), highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(PASS if reading is not None else FAIL)


@app.command()
def claims(
    pattern: Annotated[str, typer.Argument(help="ids of claims, such as 'P1.*' or 'P2.W_f,P3.*'")] = "*",
    seed: Annotated[int | None, typer.Option(help="seed of the drawn sequences (default: a fixed one)")] = None,
    json: Annotated[bool, typer.Option("--json", help="print the verdicts as JSON")] = False,
    markdown: Annotated[pathlib.Path | None, typer.Option(help="a page: write the verdicts between its two markers")] = None,
) -> None:
    """Judge published formulas of LSTM backpropagation: where each is exact, where not, and what is right instead."""
    from .claims import drawn, judge
    from .report import claims as report

    console, seed = Console(), drawn.SEED if seed is None else seed
    try:
        found = judge.rulings(judge.matching(pattern), judge.Bench(drawn.stream(seed)))
        if markdown is not None:
            markdown.write_text(report.refreshed(markdown.read_text(encoding="utf-8"), found), encoding="utf-8")
    except (ValueError, OSError) as error:
        raise _usage(error) from None
    if json:
        console.print(report.dumps(found, seed), highlight=False, markup=False, soft_wrap=True)
    else:
        report.show(console, found, seed)


@app.command()
def power(
    profile: Annotated[str, typer.Option(help="quick, dev, ci or nightly")] = "quick",
    dtype: Annotated[str, typer.Option(help="dtypes, with commas")] = "float64",
    matrix: Annotated[pathlib.Path | None, typer.Option(help="also write the kill matrix (mutant × check) as CSV")] = None,
    curve: Annotated[bool, typer.Option("--curve", help="only how small an error is seen, over weight scale and T")] = False,
) -> None:
    """Measure what the checks catch: a bank of wrong backward passes, and the smallest error. Exit code 1 if a mutant survives."""
    from .diagnosis import power as measure
    from .report import power as report
    from .report import terminal

    console, survivors, texts = Console(), 0, []
    try:
        for name in _dtypes(dtype) or ():
            with terminal.progress(Console(stderr=True)) as progress:
                sights = measure.curve(name, progress) if curve else None
                found = None if curve else measure.power(profile, name, progress)
            if sights is not None:
                report.show_curve(console, name, sights)
                continue
            report.show(console, found)
            survivors += sum(not k.checks for k in found.kills)
            texts.append(report.matrix(found))
    except ValueError as error:
        raise _usage(error) from None
    if matrix is not None:
        matrix.write_text("\n".join(texts), encoding="utf-8")
    raise typer.Exit(FAIL if survivors else PASS)


@app.command()
def flow(
    target: Target = "ref:",
    steps: Annotated[int | None, typer.Option(help="T (default: 60, or what is supported)")] = None,
    hidden: Annotated[int | None, typer.Option(help="H of drawn weights (default: 32, or what is supported)")] = None,
    forget_bias: Annotated[str | None, typer.Option(help="one or several, with commas (default: 0,1,3, or that of --weights)")] = None,
    scale: Annotated[float, typer.Option(help="of drawn weights: scale/√H · N(0, 1)")] = 0.5,
    seed: Annotated[int, typer.Option(help="seed of the sequence and of drawn weights")] = 0,
    weights: Annotated[
        pathlib.Path | None, typer.Option(help="trained weights, .npz, under the target's own names or the textbook's")
    ] = None,
    out: Annotated[str | None, typer.Option(help="pictures, .png or .svg, with commas (default: flow.png, none with --csv)")] = None,
    csv: Annotated[pathlib.Path | None, typer.Option(help="write the values as CSV")] = None,
    isolate: Isolate = False,
) -> None:
    """Plot how gradients flow back through time, in an LSTM and in a plain RNN: where they vanish, last or explode."""
    from .candidates.weights import read
    from .flow import flow as follow
    from .report import flow as report

    console = Console()
    try:
        pictures = report.files(out if out is not None else "" if csv is not None else "flow.png")
        faces = _loaded(target, isolate)
        face = next((f for f in faces if f.kind in ("pullback", "vjp")), faces[0])
        given = read(weights, face) if weights is not None else None
        found = follow(face, steps, hidden, seed, _numbers("--forget-bias", forget_bias), scale, given)
        if csv is not None:
            csv.write_text(report.table(found), encoding="utf-8")
        if pictures:
            report.save(found, target, pictures)
    except (ValueError, OSError) as error:
        raise _usage(error) from None
    written = [str(p) for p in (*pictures, csv) if p is not None]
    text = "\n".join([report.lines(found, target), *(f"wrote {p}" for p in written)])
    console.print(text, highlight=False, markup=False, soft_wrap=True)


class _Campaign(TyperGroup):
    """`campaign TARGET…` is `campaign run TARGET…`."""

    def parse_args(self, ctx, args: list[str]) -> list[str]:
        named = not args or args[0] in self.commands or args[0] == "--help"
        return super().parse_args(ctx, args if named else ["run", *args])


campaign = typer.Typer(cls=_Campaign, no_args_is_help=True, help="Judge LSTMs over a large space of cases, and lose none of them.")
app.add_typer(campaign, name="campaign")
Db = Annotated[pathlib.Path, typer.Option(help="the file that keeps every case")]
Workers = Annotated[int | None, typer.Option(min=1, help="how many cases at once (default: the cores of this machine)")]
Scheduler = Annotated[str | None, typer.Option(help="of Dask, such as tcp://host:8786; local starts one here")]


@campaign.command("run")
def campaign_run(
    targets: Annotated[list[str], typer.Argument(help="LSTMs, as for check")],
    cases: Annotated[int, typer.Option(min=1, help="how many, over all targets, dtypes, regimes and sizes")],
    sizes: Annotated[str, typer.Option(help="small, tiles, medium, real, each with its turns; sizes held, as in H=64")] = "small:9,tiles:1",
    dtypes: Annotated[str | None, typer.Option(help="float64, float32, bfloat16, float16 (default: what is declared)")] = None,
    regimes: Annotated[str | None, typer.Option(help="ordinary, saturated, … (default: all)")] = None,
    seed: Annotated[int | None, typer.Option(help="seed of the stream of cases (default: a fixed one)")] = None,
    db: Db = pathlib.Path("campaign.db"),
    workers: Workers = None,
    scheduler: Scheduler = None,
    isolate: Isolate = False,
    memory: Annotated[float | None, typer.Option(help="GiB that one case may take (default: a share of what is available)")] = None,
    hunt: Annotated[bool, typer.Option("--hunt", help="search for the largest error ÷ tolerance; nothing is kept")] = False,
) -> None:
    """Judge a numbered stream of cases into a database, or go on with it. Exit code 0 pass, 1 fail, 2 usage, 3 inconclusive."""
    from .campaign import drive
    from .campaign.hunt import hunt as search
    from .report import campaign as report

    known: dict[str, Any] = {"sizes": sizes, "dtypes": dtypes, "regimes": regimes, "seed": seed, "isolate": isolate}
    if hunt:
        worst: list = []
        _working(
            db, workers, scheduler, lambda of, n, bar: worst.extend(search(targets, cases, executor=of, workers=n, progress=bar, **known))
        )
        report.hunted(Console(), worst)
        raise typer.Exit(FAIL if any(w.evidence.outcome == "fail" for w in worst) else PASS)
    known["memory"] = memory
    _working(db, workers, scheduler, lambda of, n, bar: drive.run(targets, cases, db, executor=of, workers=n, progress=bar, **known))
    _reported(db)


@campaign.command("resume")
def campaign_resume(db: Db = pathlib.Path("campaign.db"), workers: Workers = None, scheduler: Scheduler = None) -> None:
    """Judge the cases that a database lacks. Exit codes as those of run."""
    from .campaign import drive

    _working(db, workers, scheduler, lambda of, n, bar: drive.resume(db, executor=of, workers=n, progress=bar))
    _reported(db)


@campaign.command("status")
def campaign_status(db: Db = pathlib.Path("campaign.db")) -> None:
    """Say where a campaign stands, while it runs too: progress, rate, time left, failures."""
    from .campaign import drive
    from .report import campaign as report

    try:
        report.standing(Console(), db, drive.status(db))
    except ValueError as error:
        raise _usage(error) from None


@campaign.command("report")
def campaign_report(
    db: Db = pathlib.Path("campaign.db"),
    json: Annotated[pathlib.Path | None, typer.Option("--json", help="also write the report as JSON")] = None,
    html: Annotated[pathlib.Path | None, typer.Option("--html", help="also write the report as a page")] = None,
) -> None:
    """Say what the cases judged so far have found. Exit codes as those of run."""
    _reported(db, json, html)


def _working(db: pathlib.Path, workers: int | None, scheduler: str | None, judge) -> None:
    """Judge, with a bar: `judge` is given an executor or None, how many workers there are, and the bar. Ctrl-C keeps what was judged."""
    from .report import terminal

    try:
        with _stopped_once(), contextlib.ExitStack() as stack:
            progress = stack.enter_context(terminal.progress(Console(stderr=True)))
            executor = None
            if scheduler is not None:
                from .campaign.dask import executor as of_dask

                executor, workers = stack.enter_context(of_dask(scheduler, workers))
            judge(executor, workers, progress)
    except KeyboardInterrupt:
        text = f"lstm-ref: stopped; every batch that came back is kept; go on with: lstm-ref campaign resume --db {db}"
        Console(stderr=True).print(text, style="yellow", highlight=False, markup=False, soft_wrap=True)
        raise typer.Exit(INCONCLUSIVE) from None
    except ValueError as error:
        raise _usage(error) from None


def _reported(db: pathlib.Path, json: pathlib.Path | None = None, html: pathlib.Path | None = None) -> None:
    """Report a campaign, on paper too where that is asked for, and end with its exit code."""
    from .report import campaign as report

    try:
        _can_write(json, html)
        found = _campaign_report(db)
    except ValueError as error:
        raise _usage(error) from None
    if json is not None or html is not None:
        _written(report.document(found), json, html)
    raise typer.Exit(CODES[found.outcome])


def _campaign_report(db: pathlib.Path):
    """Print what a campaign has found, and keep the counterexamples; the report."""
    from .campaign import store, verdicts
    from .judgement.record import file_name, json_text
    from .report import campaign as report

    with contextlib.closing(store.open_(db)) as opened:
        found = verdicts.report(opened)
    files: dict[str, str] = {}
    for bug in found.bugs:
        if bug.record is not None and not bug.ours:
            with contextlib.suppress(OSError):
                files[bug.key] = _kept(pathlib.Path(FAILURES) / file_name(bug.target, bug.key), json_text(bug.record))
    report.show(Console(), found, files)
    return found


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    """Finite numbers with commas between them; None where nothing was given."""
    if text is None:
        return None
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(math.isfinite(v) for v in found):
        raise ValueError(f"{option} is {text!r}; numbers with commas between them are due, such as 0,1,3")
    return found


def _loaded(target: str, isolate: bool) -> list:
    if isolate:
        from .candidates.isolate import isolated as load
    else:
        from .candidates.load import load
    return load(target)


def _at_sizes(face, text: str | None):
    """The candidate with some sizes held fixed, as if it supported no others."""
    if not text:
        return face
    given: dict[str, object] = {}
    for part in text.split(","):
        axis, _, size = part.strip().partition("=")
        if axis not in ("T", "B", "D", "H", "K") or not size.isdigit() or int(size) < 1:
            raise ValueError(f"--sizes has {part.strip()!r}; it must be like T=16,B=4 with the sizes T, B, D, H and K")
        given[axis] = int(size)
    return dataclasses.replace(face, supports=dataclasses.replace(face.supports, sizes={**face.supports.sizes, **given}))


def _nothing():
    return contextlib.nullcontext()


def _dtypes(text: str | None) -> tuple[str, ...] | None:
    return tuple(d.strip() for d in text.split(",") if d.strip()) if text else None


def keep_counterexamples(verdict, folder: pathlib.Path) -> dict[tuple[str, str], str]:
    """Write each counterexample once as JSON; the file by (check id, dtype). A folder that cannot be written is no error."""
    from .judgement.record import RecordError, dump, file_name

    files: dict[tuple[str, str], str] = {}
    for r in verdict.failures():
        if r.counterexample is None or not r.counterexample.primary:
            continue
        with contextlib.suppress(OSError, RecordError):
            files[r.id, r.dtype] = _kept(folder / file_name(verdict.target, r.id, r.dtype), dump(r.counterexample))
    return files


def _kept(path: pathlib.Path, text: str) -> str:
    """Write a counterexample, in a folder that is made where there is none; its path as text. Raises OSError."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return str(path)


def _usage(error: Exception) -> typer.Exit:
    Console(stderr=True).print(f"lstm-ref: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
    return typer.Exit(USAGE)


def main() -> None:
    app()
