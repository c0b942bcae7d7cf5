"""MLflow's SQLite store without MLflow."""

from __future__ import annotations

import shutil
import sqlite3
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from medunifier.tracking.interface import Point, StoredRun, StoreError, metric_name, now, patience

KNOWN_SCHEMAS = {"dc11669786a5"}  # alembic revisions of the tables written here: MLflow 3.17


class SqliteStore:
    """MLflow's tables in a SQLite file, written directly. One short transaction for each operation."""

    def __init__(self, path: Path, experiment: int, location: str) -> None:
        self.path = path.absolute()
        self.experiment = experiment
        self.location = location

    def connect(self, write: bool = False) -> AbstractContextManager[sqlite3.Connection]:
        """One transaction on the store."""
        return transaction(self.path, write)

    def find(self, tags: Mapping[str, str]) -> list[StoredRun]:
        query = "SELECT run_uuid FROM runs WHERE experiment_id = ? AND lifecycle_stage = 'active'"
        values: list[Any] = [self.experiment]
        for key, value in tags.items():
            query += " AND run_uuid IN (SELECT run_uuid FROM tags WHERE key = ? AND value = ?)"
            values += [key, value]
        with self.connect() as database:
            rows = database.execute(query + " ORDER BY start_time, rowid", values).fetchall()
            return [self.read(database, run_id) for (run_id,) in rows]

    def get(self, run_id: str) -> StoredRun | None:
        with self.connect() as database:
            return self.read(database, run_id)

    @staticmethod
    def read(database: sqlite3.Connection, run_id: str) -> StoredRun | None:
        row = database.execute("SELECT status FROM runs WHERE run_uuid = ?", (run_id,)).fetchone()
        tags = database.execute("SELECT key, value FROM tags WHERE run_uuid = ?", (run_id,)).fetchall()
        return StoredRun(run_id, row[0], dict(tags)) if row else None

    def create(self, name: str, tags: Mapping[str, str]) -> str:
        run_id = uuid.uuid4().hex
        columns = {
            "run_uuid": run_id,
            "name": name,
            "source_type": "UNKNOWN",
            "source_name": "",
            "entry_point_name": "",
            "user_id": tags.get("mlflow.user", "unknown"),
            "status": "RUNNING",
            "start_time": now(),
            "source_version": "",
            "lifecycle_stage": "active",
            "artifact_uri": f"{self.location}/{run_id}/artifacts",
            "experiment_id": self.experiment,
        }
        with self.connect(write=True) as database:
            marks = ", ".join("?" for _ in columns)
            database.execute(
                f"INSERT INTO runs ({', '.join(columns)}) VALUES ({marks})", tuple(columns.values())
            )
            self.insert_tags(database, run_id, {"mlflow.runName": name, **tags})
        return run_id

    @staticmethod
    def insert_tags(database: sqlite3.Connection, run_id: str, tags: Mapping[str, str]) -> None:
        rows = [(key, str(value), run_id) for key, value in tags.items()]
        database.executemany("INSERT OR REPLACE INTO tags (key, value, run_uuid) VALUES (?, ?, ?)", rows)

    def log(
        self, run_id: str, points: Sequence[Point], params: Mapping[str, Any], tags: Mapping[str, str]
    ) -> None:
        rows = [(metric_name(p.key), float(p.value), p.time, run_id, p.step) for p in points]
        with self.connect(write=True) as database:
            if self.read(database, run_id) is None:
                raise StoreError(f"{self.path}: holds no run {run_id}; was it deleted?")
            self.insert_tags(database, run_id, tags)
            database.executemany(
                "INSERT OR IGNORE INTO params (key, value, run_uuid) VALUES (?, ?, ?)",
                [(key, str(value), run_id) for key, value in params.items()],
            )
            database.executemany(
                "INSERT OR IGNORE INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES (?, ?, ?, ?, ?, 0)",
                rows,
            )
            # MLflow's rule: the latest value is the one of the highest step, then time, then value.
            database.executemany(
                "INSERT INTO latest_metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES (?, ?, ?, ?, ?, 0) "
                "ON CONFLICT (key, run_uuid) DO UPDATE SET "
                "value = excluded.value, timestamp = excluded.timestamp, step = excluded.step "
                "WHERE (excluded.step, excluded.timestamp, excluded.value) > (step, timestamp, value)",
                rows,
            )

    def set_status(self, run_id: str, status: str) -> None:
        end = None if status == "RUNNING" else now()
        with self.connect(write=True) as database:
            database.execute(
                "UPDATE runs SET status = ?, end_time = ? WHERE run_uuid = ?", (status, end, run_id)
            )

    def add_artifact(self, run_id: str, path: Path, folder: str) -> None:
        with self.connect() as database:
            (location,) = database.execute(
                "SELECT artifact_uri FROM runs WHERE run_uuid = ?", (run_id,)
            ).fetchone()
        target = local_path(location) / folder / path.name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        except OSError as error:
            raise StoreError(f"{target}: the artifact could not be written: {error.strerror}") from error


@contextmanager
def transaction(path: Path, write: bool = False) -> Iterator[sqlite3.Connection]:
    """One transaction on an existing SQLite file; waits `patience()` for others, then raises StoreError."""
    try:
        database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=patience())
        try:
            database.isolation_level = None
            database.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            yield database
            database.execute("COMMIT")
        finally:
            database.close()  # rolls back what was not committed
    except sqlite3.Error as error:
        raise StoreError(explain(path, error)) from error


def explain(path: Path, error: sqlite3.Error) -> str:
    """The user's message for a failure of SQLite."""
    text = str(error)
    if "locked" in text:
        return (
            f"{path}: the MLflow database is locked by another program for over {patience():.0f} s; "
            f"close it (an sqlite shell, a stopped `mlflow ui`: `fuser {path.name}` names it), "
            "then run the same command again"
        )
    if "not a database" in text or "malformed" in text:
        return f"{path}: damaged ({text}); move the file away and run the same command again"
    return f"{path}: the MLflow database cannot be used: {text}; check the disk and the file's permissions"


def local_path(location: str) -> Path | None:
    """The folder behind an artifact location on this machine, else None."""
    parsed = urlparse(location)
    return Path(unquote(parsed.path)) if parsed.scheme in ("", "file") else None
