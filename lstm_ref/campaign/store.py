"""Store: the cases of a campaign in one SQLite file. What a batch found is kept whole or not at all, and no case twice."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import socket
import sqlite3
import time
from collections.abc import Iterator
from typing import NamedTuple

from ..judgement.manifest import CHECKS
from ..judgement.run import versions
from ..judgement.verdict import FAIL, NOT_RUN
from .stream import CampaignError, Plan, plan_as_text, plan_from
from .work import ERROR, Bug, Found

FORMAT = "lstm-ref campaign 1"
PAGE = 10_000  # rows read at a time
WAIT = 30.0  # seconds for another reader or writer to be done
PATIENCE = 0.5  # seconds for the lock
SCHEMA = """
CREATE TABLE campaign (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE cases (k INTEGER PRIMARY KEY, outcome TEXT NOT NULL, ratio REAL NOT NULL, checks BLOB NOT NULL, digest BLOB NOT NULL,
                    told TEXT, signature TEXT);
CREATE INDEX failing ON cases (outcome) WHERE outcome <> 'pass';
CREATE TABLE loudest (subject INTEGER, name TEXT, passed INTEGER, ratio REAL, k INTEGER, evidence TEXT, PRIMARY KEY (subject, name))
                    WITHOUT ROWID;
CREATE TABLE bugs (subject INTEGER, signature TEXT, key TEXT, name TEXT, volume INTEGER, k INTEGER, counterexample TEXT,
                    explanation TEXT, ours INTEGER, PRIMARY KEY (subject, signature, key)) WITHOUT ROWID;
CREATE TABLE sessions (n INTEGER PRIMARY KEY, host TEXT, pid INTEGER, began REAL, last REAL, judged INTEGER, cpu REAL);
"""
KEPT = "INSERT OR IGNORE INTO cases VALUES (?, ?, ?, ?, ?, ?, ?)"
LOUDEST = """INSERT INTO loudest VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET passed = excluded.passed, ratio = excluded.ratio,
    k = excluded.k, evidence = excluded.evidence
    WHERE (excluded.passed, excluded.ratio, -excluded.k) > (loudest.passed, loudest.ratio, -loudest.k)"""
BUG = """INSERT INTO bugs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"""


class Progress(NamedTuple):
    """Where a campaign stands. `rate` is cases a second and `left` the seconds to go, both of the last session; None before its
    first batch."""

    judged: int
    cases: int
    failing: int
    not_run: int
    bugs: int
    rate: float | None
    left: float | None
    running: str


class Store:
    """An open database of one campaign."""

    def __init__(self, path: pathlib.Path, db: sqlite3.Connection):
        self.path, self.db = path, db
        self.session = 0

    # --- what it is about ----------------------------------------------------------------------------------------------------

    def value(self, key: str) -> str:
        found = self.db.execute("SELECT value FROM campaign WHERE key = ?", (key,)).fetchone()
        if found is None:
            raise CampaignError(f"{self.path} holds no {key}: the campaign was not begun; delete the file and run the campaign again")
        return found[0]

    @property
    def plan(self) -> Plan:
        return plan_from(self.value("plan"))

    @property
    def options(self) -> dict:
        """What the campaign was asked for, and `limit`, the bytes that a case may take."""
        return json.loads(self.value("options"))

    @property
    def cases(self) -> int:
        return int(self.value("cases"))

    # --- writing -------------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """A session begins: from now on what is kept counts for it."""
        with self._writing():
            told = (socket.gethostname(), os.getpid(), time.time(), time.time())
            self.session = self.db.execute("INSERT INTO sessions VALUES (NULL, ?, ?, ?, ?, 0, 0)", told).lastrowid or 0

    def keep(self, found: Found) -> int:
        """Keep what a batch found, in one transaction; the number of cases that were new."""
        with self._writing():
            before = self.db.total_changes
            self.db.executemany(KEPT, found.rows)
            new = self.db.total_changes - before
            loudest = [(n, c, e[0] == "pass", e[1], k, json.dumps(e)) for (n, c), (k, e) in found.loudest.items()]
            self.db.executemany(LOUDEST, loudest)
            self.db.executemany(BUG, [_bug_row(b) for b in found.bugs])
            told = (time.time(), new, found.seconds, self.session)
            self.db.execute("UPDATE sessions SET last = ?, judged = judged + ?, cpu = cpu + ? WHERE n = ?", told)
        return new

    def extend(self, cases: int) -> None:
        """From now on the campaign has at least so many cases."""
        with self._writing():
            self.db.execute("UPDATE campaign SET value = ? WHERE key = 'cases'", (str(max(cases, self.cases)),))

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction. Raises CampaignError, with a sentence, where the file cannot be written."""
        try:
            with self.db:
                self.db.execute("BEGIN IMMEDIATE")
                yield
        except sqlite3.OperationalError as error:
            raise self._cannot(error) from None

    def _cannot(self, error: sqlite3.Error) -> CampaignError:
        full = "full" in str(error) or "disk I/O" in str(error)
        what = "the disk is full" if "full" in str(error) else str(error)
        next_step = f"make room and go on with: lstm-ref campaign resume --db {self.path}" if full else "nothing of this batch was kept"
        return CampaignError(f"{self.path} could not be written ({what}); every batch before is kept; {next_step}")

    # --- reading -------------------------------------------------------------------------------------------------------------

    def missing(self, cases: int) -> Iterator[int]:
        """The numbers of the cases below `cases` that are not kept, rising; read page by page."""
        last = -1
        while True:
            page = [k for (k,) in self.db.execute("SELECT k FROM cases WHERE k > ? AND k < ? ORDER BY k LIMIT ?", (last, cases, PAGE))]
            end = page[-1] if len(page) == PAGE else cases - 1
            there = set(page)
            yield from (k for k in range(last + 1, end + 1) if k not in there)
            last = end
            if last >= cases - 1:
                return

    def rows(self) -> Iterator[tuple]:
        """Every case as it is kept, in order, page by page."""
        last = -1
        while page := self.db.execute("SELECT * FROM cases WHERE k > ? ORDER BY k LIMIT ?", (last, PAGE)).fetchall():
            yield from page
            last = page[-1][0]

    def known(self) -> frozenset[tuple[int, str]]:
        """The (subject, signature) whose first case is shrunk."""
        return frozenset(self.db.execute("SELECT subject, signature FROM bugs"))

    def count(self, where: str = "1") -> int:
        return self.db.execute(f"SELECT count(*) FROM cases WHERE {where}").fetchone()[0]

    def progress(self) -> Progress:
        session = self.db.execute("SELECT began, last, judged FROM sessions ORDER BY n DESC LIMIT 1").fetchone()
        judged, cases = self.count(), self.cases
        began, last, new = session or (0.0, 0.0, 0)
        rate = new / (last - began) if new and last > began else None
        left = max(cases - judged, 0) / rate if rate else None
        bugs = self.db.execute("SELECT count(DISTINCT key) FROM bugs").fetchone()[0]
        not_run = self.count(f"outcome IN ('{NOT_RUN}', '{ERROR}')")
        return Progress(judged, cases, self.count(f"outcome = '{FAIL}'"), not_run, bugs, rate, left, _holder(self.path))

    def seconds(self) -> float:
        """How long the campaign has run, all sessions together."""
        return self.db.execute("SELECT coalesce(sum(last - began), 0) FROM sessions").fetchone()[0]

    def close(self) -> None:
        self.db.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def told(reason: str) -> str:
    """The reason why a case was not judged, as it is kept."""
    return json.dumps({ERROR: reason})


def _bug_row(b: Bug) -> tuple:
    return (b.subject, b.signature, b.key, b.check, b.volume, b.k, b.counterexample, b.explanation, b.ours)


def create(path: pathlib.Path, plan: Plan, cases: int, options: dict) -> Store:
    """A new database. Raises CampaignError where there is one already, or none can be made."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        store = Store(path, _connected(path))
        with store._writing():
            for statement in filter(str.strip, SCHEMA.split(";")):
                store.db.execute(statement)
            told = {"format": FORMAT, "plan": plan_as_text(plan), "cases": str(cases), "options": json.dumps(options)}
            told |= {"checks": json.dumps(list(CHECKS)), "created": str(time.time()), "versions": json.dumps(versions())}
            store.db.executemany("INSERT INTO campaign VALUES (?, ?)", told.items())
        return store
    except OSError as error:
        raise CampaignError(f"{path} could not be made: {error}") from None


def open_(path: pathlib.Path) -> Store:
    """The database of a campaign. Raises CampaignError for anything else."""
    if not path.is_file():
        raise CampaignError(f"there is no campaign in {path}; begin one with: lstm-ref campaign TARGET --cases N --db {path}")
    try:
        store = Store(path, _connected(path))
        found = store.value("format")
    except sqlite3.DatabaseError as error:
        raise CampaignError(f"{path} is no campaign's database ({error})") from None
    if found != FORMAT:
        raise CampaignError(f"{path} has the format {found!r}; this lstm-ref reads {FORMAT!r}")
    if json.loads(store.value("checks")) != list(CHECKS):
        raise CampaignError(f"{path} was begun by another version of lstm-ref, whose checks were others; read it with that version")
    return store


def _connected(path: pathlib.Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=WAIT, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")  # a process that is killed loses nothing; a power cut at most the last batches
    return db


@contextlib.contextmanager
def locked(path: pathlib.Path) -> Iterator[None]:
    """Hold the campaign's lock, which ends with the process whatever ends it. Raises CampaignError where another has it."""
    import fcntl

    lock = _lock(path)
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("a+", encoding="utf-8")
    except OSError as error:
        raise CampaignError(f"{lock} could not be made: {error}") from None
    with file:
        until = time.monotonic() + PATIENCE
        while not _taken(file, fcntl.LOCK_EX) and time.monotonic() < until:
            time.sleep(PATIENCE / 10)  # who only asks for the status holds it for a moment
        if not _taken(file, fcntl.LOCK_EX):
            raise CampaignError(
                f"{path} is being written by another campaign ({_read(lock) or 'which has not said its name'}); "
                "wait for its end, or give this one a file of its own with --db"
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _taken(file, kind: int) -> bool:
    import fcntl

    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _lock(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(path.name + ".lock")


def _read(lock: pathlib.Path) -> str:
    try:
        return lock.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _holder(path: pathlib.Path) -> str:
    """Who is running the campaign; empty where nobody is."""
    import fcntl

    try:
        with _lock(path).open("r", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(_lock(path))
    except OSError:
        return ""
    return ""
