"""Bring one journal into MLflow's store: runs, metrics, parameters, tags, artifacts and status, each once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from medunifier.tracking.journal import Journal
from medunifier.tracking.settings import (
    CONFIGURATION_TAG,
    EXECUTION_TAG,
    PARENT_TAG,
    SOURCE_EXECUTION_TAG,
    STATE_FOLDER_TAG,
)
from medunifier.tracking.store import MOST_METRICS, Point, RunMissingError, Store, StoredRun


@dataclass
class Batch:
    """The content of journal entries that goes to the store together."""

    points: list[Point] = field(default_factory=list)
    summary: list[Point] = field(default_factory=list)  # final metrics, for the parent run
    params: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    artifacts: list[tuple[str, str]] = field(default_factory=list)  # (file in the journal's folder, folder)
    reused: list[dict[str, Any]] = field(default_factory=list)
    callers: list[dict[str, Any]] = field(default_factory=list)
    status: str | None = None
    time: int = 0  # of the last entry
    end: int = 0  # position in the journal after the last entry

    def add(self, entry: Mapping[str, Any], end: int, stage: str) -> None:
        """Add one entry of the journal; of one that is damaged only that it has been read."""
        time, step = entry.get("time", self.time), entry.get("step", 0)
        self.points += [Point(key, value, time, step) for key, value in entry.get("curve", {}).items()]
        final = entry.get("metrics", {})
        self.points += [Point(key, value, time) for key, value in (final | entry.get("costs", {})).items()]
        self.summary += [Point(f"{stage}/{key}", value, time) for key, value in final.items()]
        self.params |= entry.get("params", {})
        self.tags |= entry.get("tags", {})
        self.reused += entry.get("reused", [])
        if entry.get("caller"):
            self.callers.append(entry["caller"])
        if "artifact" in entry:
            self.artifacts.append((entry["artifact"], entry["folder"]))
        self.status = entry.get("status", self.status)
        self.time, self.end = time, end


class Parents:
    """The parent runs of one store, and the status of their children, remembered between deliveries."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.known: dict[str, StoredRun] = {}  # digest of the configuration -> parent
        self.children: dict[str, dict[str, StoredRun]] = {}  # parent's id -> child's id -> child
        self.states: dict[str, dict[str, str]] = {}  # parent's id -> child's id -> status, in order of change
        self.settled: dict[str, str] = {}  # parent's id -> its status

    def find(self, configuration: Mapping[str, Any], started: int) -> str:
        """Return the id of the configuration's parent run; create it if there is none."""
        key = configuration["digest"]
        if key not in self.known:
            preset = configuration["preset"]
            run = self.store.find_or_create(
                f"{preset} {key[:8]}",
                {CONFIGURATION_TAG: key, "preset": preset},
                configuration["tags"],
                started,
            )
            self.store.log(run.run_id, params=configuration["parameters"])
            self.known[key] = run
            self.settled[run.run_id] = run.status
            self.load_children(run.run_id)
        return self.known[key].run_id

    def load_children(self, parent_id: str) -> None:
        """Ask the store for the children of a parent run."""
        found = self.store.find({PARENT_TAG: parent_id})
        self.children[parent_id] = {run.run_id: run for run in found}
        by_end = sorted(found, key=lambda run: run.ended or 0)
        self.states[parent_id] = {run.run_id: run.status for run in by_end}

    def forget(self) -> None:
        """Ask the store again next time: a run has disappeared."""
        self.known, self.children, self.states, self.settled = {}, {}, {}, {}

    def shown(self, parent_id: str) -> set[str]:
        """Return the executions, and runs, that the parent's children are or completely stand for."""
        keys = (EXECUTION_TAG, SOURCE_EXECUTION_TAG, "source_run_id")
        states = self.states[parent_id]
        children = [
            run
            for run in self.children[parent_id].values()
            if not ("cached" in run.tags and states.get(run.run_id) == "RUNNING")
        ]
        return {run.run_id for run in children} | {run.tags.get(key, "") for run in children for key in keys}

    def note(self, parent_id: str, child: StoredRun, status: str, time: int) -> None:
        """Give the parent its last child's status, or RUNNING while any child runs."""
        self.children[parent_id].setdefault(child.run_id, child)
        states = self.states[parent_id]
        states.pop(child.run_id, None)
        states[child.run_id] = status
        status = "RUNNING" if "RUNNING" in states.values() else status
        if status != "RUNNING" or self.settled.get(parent_id) != "RUNNING":
            self.store.set_status(parent_id, status, time)
            self.settled[parent_id] = status


class Delivery:
    """What the store has of one journal, and the way to bring it more."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        progress = journal.progress
        self.offset: int = progress.get("offset", 0)
        self.run_id: str | None = progress.get("run_id")
        self.status: str | None = progress.get("status")
        self.time: int = progress.get("time", 0)  # of the last entry that the store has
        # Each `dvc` process that has run the stage, as the stage has named it (`run.calling_dvc`).
        self.callers = [entry["caller"] for entry, _ in journal.entries(0) if entry.get("caller")]

    @property
    def is_request(self) -> bool:
        """Whether the journal asks something of the uploader rather than report an execution."""
        return "stage" not in self.journal.about

    @property
    def ended(self) -> bool:
        """Whether the store knows the end of the execution, or the request has been met."""
        return self.is_request or self.status in ("FINISHED", "FAILED")

    def send(self, store: Store, parents: Parents) -> bool:
        """Give the store what it does not have yet; return whether there was anything.

        A batch that was sent but not noted in `progress.json` is sent again: in the store, the same value of the
        same metric at the same step and time counts once, and so do parameters, tags and artifacts.

        Raises:
            StoreError: If the store cannot be used now.
        """
        try:
            return self._send_all(store, parents)
        except RunMissingError as error:
            print(error, flush=True)
            parents.forget()
            if error.deleted and self.run_id is not None and store.get(self.run_id) is None:
                self._abandon()  # somebody has deleted it, and does not want to see it again
            else:
                self.offset, self.run_id, self.status = 0, None, None
                self._save()
            return True

    def _send_all(self, store: Store, parents: Parents) -> bool:
        about = self.journal.about
        sent = False
        batch = Batch()
        for entry, end in self.journal.entries(self.offset):
            if not entry:
                print(f"{self.journal.path}: an entry is damaged and left out", flush=True)
            batch.add(entry, end, about.get("stage", ""))
            if len(batch.points) >= MOST_METRICS:
                self._send_batch(store, parents, batch)
                sent, batch = True, Batch()
        if batch.end:
            self._send_batch(store, parents, batch)
            sent = True
        if self.status == "RUNNING" and not self.journal.alive:
            # Its last words are on disk before its lock is free: look once more before it counts as killed.
            if next(self.journal.entries(self.offset), None) is None:
                self._set_status(store, parents, "KILLED", self.time)
                self._save()
            sent = True
        return sent

    def _send_batch(self, store: Store, parents: Parents, batch: Batch) -> None:
        about = self.journal.about
        if "configuration" in about:
            parent_id = parents.find(about["configuration"], about["started"])
            for reused in batch.reused:
                show_reused(store, parents, parent_id, about["configuration"]["digest"], reused, batch.time)
            if not self.is_request:
                self._send_execution(store, parents, parent_id, batch)
        self.offset, self.time = batch.end, batch.time
        self.callers = batch.callers
        self._save()

    def _send_execution(self, store: Store, parents: Parents, parent_id: str, batch: Batch) -> None:
        about = self.journal.about
        if self.run_id is None:
            key = {EXECUTION_TAG: about["execution_id"], PARENT_TAG: parent_id}
            run = store.find_or_create(about["stage"], key, about["tags"], about["started"])
            self.run_id, self.status = run.run_id, "RUNNING"
            parents.children[parent_id][run.run_id] = run
            self._close_lost(store, parents, parent_id)
        store.log(self.run_id, batch.points, batch.params, batch.tags)
        if batch.summary:
            store.log(parent_id, batch.summary)
        for path, folder in batch.artifacts:
            store.add_artifact(self.run_id, self.journal.folder / path, folder)
        if batch.status is not None:
            self._set_status(store, parents, batch.status, batch.time)

    def _set_status(self, store: Store, parents: Parents, status: str, time: int) -> None:
        assert self.run_id is not None
        parent_id = parents.find(self.journal.about["configuration"], self.journal.about["started"])
        store.set_status(self.run_id, status, time)
        parents.note(parent_id, parents.children[parent_id][self.run_id], status, time)
        self.status = status

    def _close_lost(self, store: Store, parents: Parents, parent_id: str) -> None:
        """Mark runs of the stage that have lost their journal as killed: nobody will ever end them."""
        about = self.journal.about
        known = {journal.about["execution_id"] for journal in Journal.all(about["stage"])}
        for run in list(parents.children[parent_id].values()):
            mine = run.tags.get(STATE_FOLDER_TAG) == about["tags"][STATE_FOLDER_TAG]
            same = run.tags.get("dvc_stage") == about["stage"]
            state = parents.states[parent_id].get(run.run_id)
            if mine and same and state == "RUNNING" and run.tags.get(EXECUTION_TAG) not in known:
                store.set_status(run.run_id, "KILLED", about["started"])
                parents.note(parent_id, run, "KILLED", about["started"])

    def _abandon(self) -> None:
        self.offset, self.status = self.journal.size, "FAILED"
        self._save()

    def _save(self) -> None:
        self.journal.save_progress(
            {"offset": self.offset, "run_id": self.run_id, "status": self.status, "time": self.time}
        )


def show_reused(
    store: Store,
    parents: Parents,
    parent_id: str,
    configuration: str,
    reused: Mapping[str, Any],
    time: int,
) -> None:
    """Show an execution of a stage under a configuration that reuses its results, unless it is there already.

    Args:
        store: Where.
        parents: The parent runs there.
        parent_id: The run of the configuration.
        configuration: Digest of the configuration.
        reused: See `configuration.reused_stages`.
        time: When it was reused; times of the execution go before it where they are known.
    """
    execution, stage = reused["execution_id"], reused["stage"]
    if execution in parents.shown(parent_id):
        return
    sources = [run for run in store.find({EXECUTION_TAG: execution}) if "cached" not in run.tags]
    source = sources[0] if sources else store.get(execution)
    started = source.started if source else reused["started"] or time
    ended = (source and source.ended) or reused["ended"] or time
    tags = dict(reused["tags"])
    if source is not None:  # where the work was done, not where it was found again
        tags |= {key: source.tags[key] for key in ("device", "node", "git_commit") if key in source.tags}
    tags |= {
        CONFIGURATION_TAG: configuration,
        "cached": "true",
        "source_run_id": source.run_id if source else execution,
    }
    key = {SOURCE_EXECUTION_TAG: execution, PARENT_TAG: parent_id}
    run = store.find_or_create(stage, key, tags, started)
    points = [Point(name, value, ended) for name, value in reused["metrics"].items()]
    store.log(run.run_id, points, reused["parameters"])
    store.log(parent_id, [Point(f"{stage}/{point.key}", point.value, ended) for point in points])
    store.set_status(run.run_id, "FINISHED", ended)
    parents.children[parent_id][run.run_id] = run
    parents.note(parent_id, run, "FINISHED", time)
