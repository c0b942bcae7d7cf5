"""Journals that no living stage writes any more: of killed stages, and of times when the store was out of order."""

from __future__ import annotations

from medunifier.tracking.interface import Store, store_uri
from medunifier.tracking.journal import Journal
from medunifier.tracking.store import open_store


def upload() -> int:
    """Sends what every leftover journal still holds; returns how many there were.

    The journal of a killed stage stays, so that the next execution of the same work continues its run.
    """
    store = open_store()
    count = 0
    for journal in Journal.all():
        if journal.about["uri"] != store_uri():
            print(f"{journal.folder}: belongs to {journal.about['uri']}; set MLFLOW_TRACKING_URI to send it")
        elif journal.claim():
            count += close(journal, store)
            journal.release()
            if journal.ended:
                journal.remove()
    return count


def retire(stage: str, store: Store) -> None:
    """Sends and forgets earlier, killed executions of a stage that has now finished."""
    for journal in Journal.all(stage):
        if journal.about["uri"] == store_uri() and journal.claim():
            close(journal, store)
            journal.release()
            journal.remove()


def close(journal: Journal, store: Store) -> bool:
    """Sends a dead stage's journal; False if the store had everything, or no longer holds the run."""
    if store.get(journal.about["run_id"]) is None:
        print(f"{journal.folder}: its run is no longer in {store_uri()}; forgotten")
        journal.append(status="FAILED")
        return False
    if journal.status == "RUNNING":
        journal.append(status="KILLED")
    return journal.send(store)
