"""Campaign memory: what is predicted before a case is judged, against what judging it takes.

Each case is judged in a process of its own, which has judged a tiny case before: measured is by how much the largest resident set
grows (ru_maxrss). A prediction under 1 of what was measured would let a case start that does not fit.

"in parts" is a layer of which half of the memory is granted, so that truth and condition take some rows of the batch at a time.

    python benchmarks/campaign_memory.py [--small]
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys

from rounds import table

SIZES = [(64, 4, 32, 32), (64, 16, 64, 64), (64, 16, 128, 128), (16, 4, 512, 512), (128, 16, 128, 128), (256, 8, 200, 128)]
SIZES += [(64, 32, 256, 256)]


def judged(sizes: tuple[int, ...], how: str) -> dict:
    """Judge one case here; predicted and measured GB."""
    from lstm_ref.campaign.memory import predicted, rows_within
    from lstm_ref.campaign.work import one_thread
    from lstm_ref.candidates.load import load
    from lstm_ref.cases import Spec
    from lstm_ref.judgement.judge import Bench
    from lstm_ref.judgement.run import evidence_of
    from lstm_ref.judgement.tolerances import PRECISIONS
    from lstm_ref.reference.symbols import Sizes

    face, largest = load("ref:")[how == "model"], Spec(Sizes(*sizes, 10))
    bench, due = Bench(face, PRECISIONS["float32"], face.make()), predicted(largest, how == "model")
    if how == "layer, in parts":
        bench.rows, due = rows_within(largest, due / 2)
    with one_thread():
        evidence_of(bench, Spec(Sizes(3, 2, 2, 2, 3)), lambda check: True, True, False, False)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        evidence_of(bench, largest, lambda check: True, True, False, False)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"predicted": due / 2**30, "measured": (after - before) / 2**20}


def main() -> None:
    if "--one" in sys.argv:
        print(json.dumps(judged(*json.loads(sys.argv[-1]))))
        return
    rows = []
    for sizes in SIZES[: 3 if "--small" in sys.argv else None]:
        for how in ("layer", "model", *(["layer, in parts"] if max(sizes[1:]) > 100 and sizes[1] > 8 else [])):
            command = [sys.executable, __file__, "--one", json.dumps([sizes, how])]
            found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            name, share = "T={}, B={}, D={}, H={}".format(*sizes), found["predicted"] / found["measured"]
            rows.append((name, how, found["predicted"], found["measured"], share))
    table(("case", "level", "predicted GB", "measured GB", "predicted ÷ measured"), rows)


if __name__ == "__main__":
    main()
