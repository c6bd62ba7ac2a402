"""Reports: what a JSON report and an HTML page add to a run of the ci profile.

Runs of `lstm-ref check examples/my_lstm.py:MyLSTM --profile ci` with and without `--report --html` take turns, as processes of
their own; and in one process the reports of a finished ci verdict are timed alone. The rival is the run without.

    python benchmarks/reports.py [ROUNDS]
"""

from __future__ import annotations

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

        def run(*more: str):
            return lambda: subprocess.run([*check, *more], cwd=folder, check=True, capture_output=True)

        rivals = {"without": run(), "with": run("--report", "out.json", "--html", "out.html")}
        times = interleaved(rivals, rounds, warm_up=False)
        rows = [(name, len(t), median(t), ratio(t, times["without"])) for name, t in times.items()]
        table(("run of ci", "rounds", "seconds", "÷ without"), rows)
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
    spent = {name: seconds(step) for name, step in steps.items()}
    table(("reports alone", "seconds", "% of the run"), [(name, s, 100 * s / verdict.seconds) for name, s in spent.items()])


if __name__ == "__main__":
    main()
