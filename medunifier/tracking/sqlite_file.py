"""The file of a SQLite store: made, checked and brought up to date by MLflow's client and commands; its errors."""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from medunifier.tracking.settings import EXPERIMENT, StoreError, patience

ABANDONED = 3600.0  # seconds after which a half-made store belongs to nobody
# The pages for training, not those for language agents.
KIND_TAG = ("mlflow.experimentKind", "custom_model_development")


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def explain(uri: str, error: Exception) -> str:
    """Return the user's message for a failure of a store."""
    text = first_line(error)
    if "database is locked" in str(error):
        return locked_message(uri)
    if "not a database" in str(error) or "malformed" in str(error):
        return damaged_message(uri, text)
    return (
        f"{uri}: the MLflow store cannot be used: {text}; "
        "start the server or correct MLFLOW_TRACKING_URI, then run the same command again"
    )


def locked_message(where: object) -> str:
    """Return the message for a database that another program keeps locked."""
    return (
        f"{where}: the MLflow database is locked by another program; close it (an sqlite shell, a stopped "
        "`mlflow ui`: `fuser mlflow.db` names it), then run the same command again"
    )


def damaged_message(where: object, reason: str) -> str:
    """Return the message for a file that is no database any more."""
    return f"{where}: damaged ({reason}); move the file away and run the same command again"


def sqlite_path(uri: str) -> Path | None:
    """Return the file of a plain `sqlite:///` URI, else None."""
    prefix = "sqlite:///"
    return Path(unquote(uri[len(prefix) :])) if uri.startswith(prefix) and "?" not in uri else None


def sqlite_uri(path: Path) -> str:
    """Return the URI of a SQLite file, independent of the working directory."""
    return f"sqlite:///{path.absolute()}"


def file_identity(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from another that takes its name; None if there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def artifact_location(path: Path) -> str:
    """Return where the artifacts of a SQLite store go: into a folder beside it."""
    return (path.absolute().parent / "mlartifacts").as_uri()


def prepare_sqlite(path: Path) -> None:
    """Make sure that the file holds the tables of the installed MLflow.

    Simultaneous processes each make a store under a temporary name; the first to finish gives it its name.
    """
    if not path.exists():
        create_sqlite(path)
        return
    check_sqlite(path)
    try:
        MlflowClient(sqlite_uri(path)).get_experiment_by_name(EXPERIMENT)
    except MlflowException as error:
        if "db upgrade" not in str(error):  # MLflow refuses an older schema and names the command
            raise StoreError(explain(str(path), error)) from error
        upgrade_sqlite(path)


def create_sqlite(path: Path) -> None:
    """Make a store with the experiment; whoever is killed meanwhile leaves no half-made one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{path.name}.*.partial"):
        if time.time() - left.stat().st_mtime > ABANDONED:
            left.unlink(missing_ok=True)
    partial = path.with_name(f".{path.name}.{platform.node()}-{os.getpid()}.partial")
    partial.unlink(missing_ok=True)
    try:
        client = MlflowClient(sqlite_uri(partial))
        client.create_experiment(EXPERIMENT, artifact_location(path), dict([KIND_TAG]))
        with suppress(FileExistsError):  # another process has made the store meanwhile
            os.link(partial, path)
    except Exception as error:
        raise StoreError(f"{path}: MLflow could not make this store: {first_line(error)}") from error
    finally:
        partial.unlink(missing_ok=True)


def check_sqlite(path: Path) -> None:
    """Raise StoreError if the file cannot be read as a database within `patience()` seconds."""
    try:
        database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=patience())
        try:
            database.execute("BEGIN IMMEDIATE")
            database.execute("PRAGMA schema_version").fetchone()
        finally:
            database.close()
    except sqlite3.Error as error:
        text = str(error)
        if "locked" in text:
            raise StoreError(locked_message(path)) from error
        if "not a database" in text or "malformed" in text:
            raise StoreError(damaged_message(path, text)) from error
        raise StoreError(
            f"{path}: the MLflow database cannot be used: {text}; check the disk and the file's permissions"
        ) from error


def inspect_sqlite(path: Path) -> list[str]:
    """Return what is wrong with a SQLite store, looking at a copy of the file.

    Raises:
        StoreError: If it cannot be used at all.
    """
    if not path.exists():  # the first run will make it
        return []
    check_sqlite(path)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        shutil.copyfile(path, copy)
        lacks = f"{path}: lacks the tables of the installed MLflow, or the experiment"
        try:
            found = MlflowClient(sqlite_uri(copy)).get_experiment_by_name(EXPERIMENT)
        except MlflowException as error:
            return [lacks if "db upgrade" in str(error) else explain(str(path), error)]
        return [] if found else [lacks]


def upgrade_sqlite(path: Path) -> None:
    """Bring the tables to the schema of the installed MLflow, by MLflow's own command."""
    done = subprocess.run(
        [sys.executable, "-m", "mlflow", "db", "upgrade", sqlite_uri(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        newer = "Can't locate revision" in reason
        advice = "install the newer MLflow that wrote it, or " if newer else ""
        raise StoreError(
            f"{path}: MLflow could not bring this store up to date: {reason}; "
            f"{advice}move the file away and run the same command again"
        )
