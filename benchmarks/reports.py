"""Reports: what a JSON report and an HTML page add to a run of the ci profile.

Runs of `lstm-ref check examples/my_lstm.py:MyLSTM --profile ci` with and without `--report --html` take turns, as processes of
their own; and in one process the reports of a finished ci verdict are timed alone. The rival is the run without. "CPU" is the
processor time of the run, which other work on the machine disturbs less than the clock.

    python benchmarks/reports.py [ROUNDS]
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import tempfile
from statistics import median

from rounds import interleaved, ratio, seconds, table

from lstm_ref import verify
from lstm_ref.candidates.load import load
from lstm_ref.report import html, json_report

TARGET = f"{pathlib.Path(__file__).parents[1]}/examples/my_lstm.py:MyLSTM"


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    with tempfile.TemporaryDirectory() as folder:
        check = [sys.executable, "-m", "lstm_ref", "check", TARGET, "--profile", "ci"]

        spent: dict[str, list[float]] = {"without": [], "with": []}

        def run(name: str, *more: str):
            def once():
                before = os.times()
                subprocess.run([*check, *more], cwd=folder, check=True, capture_output=True)
                after = os.times()
                cpu = after.children_user + after.children_system - before.children_user - before.children_system
                spent[name].append(cpu)

            return once

        rivals = {"without": run("without"), "with": run("with", "--report", "out.json", "--html", "out.html")}
        times = interleaved(rivals, rounds, warm_up=False)
        rows = [
            (name, len(t), median(t), ratio(t, times["without"]), median(spent[name]), ratio(spent[name], spent["without"]))
            for name, t in times.items()
        ]
        table(("run of ci", "rounds", "seconds", "÷ without", "CPU", "÷ without"), rows)
        sizes = {name: (pathlib.Path(folder) / f"out.{name}").stat().st_size for name in ("json", "html")}
        print(f"out.json {sizes['json']:,} bytes, out.html {sizes['html']:,} bytes\n")
    verdict, layout = verify(TARGET, profile="ci"), load(TARGET)[0].layout
    made: dict = {}
    steps = {
        "as JSON": lambda: made.update(document=json_report.document([json_report.run_data(verdict, layout)])),
        "JSON as text": lambda: json_report.dumps(made["document"]),
        "page, the first": lambda: html.page(made["document"]),
        "page, again": lambda: html.page(made["document"]),
    }
    alone = {name: seconds(step) for name, step in steps.items()}
    table(("reports alone", "seconds", "% of the run"), [(name, s, 100 * s / verdict.seconds) for name, s in alone.items()])


if __name__ == "__main__":
    main()
