"""Printed: what an LSTM prints while it is judged, thousands of lines maybe, kept out of the report and told in one line.

Only what goes to sys.stdout is. The lines of a debugger go on to where they went, and so does what compiled code prints.
"""

from __future__ import annotations

import contextlib
import sys

LONGEST_QUOTE = 60  # characters of the first line


class Printed:
    """Stands for sys.stdout: counts lines, keeps the beginning of the first; all else is that of the stream `through`."""

    def __init__(self, through):
        self.through, self.characters, self.breaks, self.begins = through, 0, 0, ""

    def __getattr__(self, name: str):
        return getattr(self.through, name)

    def write(self, text: str) -> int:
        if sys.gettrace() is not None:
            return self.through.write(text)
        self.characters += len(text)
        self.breaks += text.count("\n")
        self.begins += text[: LONGEST_QUOTE + 1 - len(self.begins)]
        return len(text)

    def writelines(self, lines) -> None:
        for line in lines:
            self.write(line)

    @property
    def told(self) -> str:
        """A sentence on what was printed; empty where nothing was."""
        if not self.characters:
            return ""
        first = self.begins.partition("\n")[0]
        quoted = f"{first[:LONGEST_QUOTE]}…" if len(first) > LONGEST_QUOTE else first
        many = f"{self.breaks:,} lines, which are" if self.breaks > 1 else "a line, which is"
        return f"the LSTM printed {many} not shown here; it begins {quoted!r}; lstm-ref replay shows what is printed in one case"


@contextlib.contextmanager
def printed():
    """Keep what is printed meanwhile; yields the Printed that knows of it."""
    kept = Printed(sys.stdout)
    with contextlib.redirect_stdout(kept):  # type: ignore[type-var]  # it writes as a stream does
        yield kept
