"""Which MLflow store is in use, made ready and opened.

Importing MLflow takes 4 to 6 seconds of CPU and opening its SQL store three more, too much for stages that
work for seconds. The default store is a SQLite file whose tables are few and old; `SqliteStore` writes them
directly, in milliseconds, if their schema is one it was tested with. Every other store (a server, PostgreSQL,
another schema) goes through MLflow's own client. Tests hold the two against each other.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

from medunifier.tracking.client_store import CLIENT_DEFAULTS, ClientStore
from medunifier.tracking.interface import (
    EXPERIMENT,
    SLOW_START,
    Store,
    StoreError,
    deleted_experiment,
    exclusive,
    store_uri,
)
from medunifier.tracking.sqlite_store import KNOWN_SCHEMAS, SqliteStore, local_path, transaction

CREATE_STORE = """
import sys
from mlflow.tracking import MlflowClient
client = MlflowClient(sys.argv[1])
if client.get_experiment_by_name(sys.argv[2]) is None:
    client.create_experiment(sys.argv[2], artifact_location=sys.argv[3])
"""


def prepare_store() -> None:
    """Makes the store ready: tables of the installed MLflow's schema, and the experiment. Of a server it makes sure
    that it answers; StoreError if it does not, before anything is computed.

    Simultaneous first writers would race for the tables, so this runs under a lock, from the workflow before
    any stage and from the first stage of a plain `dvc repro`. Takes milliseconds if nothing is to be done.
    """
    uri = store_uri()
    path = sqlite_path(uri)
    if path is None:
        ClientStore(uri)
        return
    if ready(path):
        return
    with exclusive(SLOW_START):
        if path.exists() and not ready(path):
            bring_up_to_date(path)
        elif not path.exists():
            partial = path.with_name(path.name + ".partial")  # whoever is killed leaves no half-made store
            partial.unlink(missing_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            bring_up_to_date(partial, path)
            os.replace(partial, path)


def bring_up_to_date(path: Path, final: Path | None = None) -> None:
    """Makes or upgrades the tables of a SQLite file, and the experiment; its artifacts go beside `final`."""
    uri = f"sqlite:///{path}"
    location = ((final or path).absolute().parent / "mlartifacts").as_uri()
    create = ["-c", CREATE_STORE, uri, EXPERIMENT, location]
    problem = run_mlflow(create)
    if "db upgrade" in problem:  # MLflow refuses an older schema and names the command
        problem = run_mlflow(["-m", "mlflow", "db", "upgrade", uri]) or run_mlflow(create)
    if problem:
        raise StoreError(f"{final or path}: MLflow could not prepare this store: {problem}")


def run_mlflow(arguments: list[str]) -> str:
    """Runs Python on MLflow in a process of its own; returns the last line it complained with, or nothing."""
    try:
        done = subprocess.run(
            [sys.executable, *arguments],
            env=CLIENT_DEFAULTS | os.environ,
            capture_output=True,
            text=True,
            timeout=SLOW_START,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {SLOW_START:.0f} s"
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["no message"])[-1]


def ready(path: Path) -> bool:
    """True if the SQLite file has tables of a known schema and the experiment."""
    if not path.exists():
        return False
    with transaction(path) as database:
        tables = {row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not {"alembic_version", "experiments"} <= tables:
            return False
        revisions = {row[0] for row in database.execute("SELECT version_num FROM alembic_version")}
        return revisions <= KNOWN_SCHEMAS and experiment_row(database) is not None


def experiment_row(database: sqlite3.Connection) -> tuple[int, str, str] | None:
    """(id, artifact location, active | deleted) of the experiment."""
    query = "SELECT experiment_id, artifact_location, lifecycle_stage FROM experiments WHERE name = ?"
    return database.execute(query, (EXPERIMENT,)).fetchone()


def open_store() -> Store:
    """The store in use, ready to write; StoreError if it cannot be reached in time."""
    path = sqlite_path(store_uri())
    if path is not None:
        prepare_store()
    if path is not None and ready(path):
        with transaction(path) as database:
            experiment, location, lifecycle = experiment_row(database)
        if lifecycle != "active":
            raise deleted_experiment(experiment)
        if local_path(location) is not None:
            return SqliteStore(path, experiment, location)
    return ClientStore(store_uri())


def sqlite_path(uri: str) -> Path | None:
    """The file behind a plain `sqlite:///` URI, else None."""
    prefix = "sqlite:///"
    return Path(unquote(uri[len(prefix) :])) if uri.startswith(prefix) and "?" not in uri else None
