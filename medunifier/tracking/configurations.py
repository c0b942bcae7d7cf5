"""One MLflow run for each configuration (each content of params.yaml), the parent of its stages' runs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from medunifier.runtime.dvc_pipeline import Pipeline, digest, flatten
from medunifier.tracking import provenance
from medunifier.tracking.costs import record_path
from medunifier.tracking.interface import PARENT_TAG, Point, Store, exclusive, now
from medunifier.tracking.journal import settle_parent
from medunifier.tracking.store import open_store


def find_parent(store: Store, pipeline: Pipeline) -> str:
    """Id of the run of the present configuration, made if need be. Call it under `exclusive()`."""
    configuration = digest(pipeline.parameters)
    found = store.find({"configuration": configuration})
    if found:
        return found[0].run_id
    preset = str(pipeline.parameters.get("preset", "configuration"))
    tags = provenance.common() | {"configuration": configuration, "preset": preset}
    run_id = store.create(f"{preset} {configuration[:8]}", tags)
    store.log(run_id, [], flatten(pipeline.parameters), {})
    return run_id


def adopt(names: Iterable[str]) -> list[str]:
    """Shows stages whose results were restored or reused under the present configuration's run.

    Each gets a child run with `cached = true`, `source_run_id` and its metrics, unless the configuration has
    it already. `names` must be up to date in DVC's eyes. Returns those that were new.
    """
    pipeline = Pipeline()
    store = open_store()
    with exclusive():
        return adopt_under(store, find_parent(store, pipeline), pipeline, names, only_unchanged=False)


def adopt_under(
    store: Store, parent_id: str, pipeline: Pipeline, names: Iterable[str], *, only_unchanged: bool
) -> list[str]:
    """`adopt` for a known parent; `only_unchanged` passes over runs whose inputs or parameters differ now."""
    children = store.find({PARENT_TAG: parent_id})
    present = {child.run_id for child in children} | {child.tags.get("source_run_id") for child in children}
    adopted = []
    for name in names:
        record = record_path(name, pipeline.stages[name].outputs)
        if not record.exists():
            continue  # not run yet: there is nothing to show
        source_id = json.loads(record.read_text(encoding="utf-8"))["run_id"]
        if source_id in present:
            continue
        signature = pipeline.signature(name)
        source = store.get(source_id)
        if only_unchanged and source is not None and source.tags.get("stage_signature") != signature:
            continue
        tags = provenance.tags(name, signature)
        if source is not None:  # where the work was done, not where it was found again
            tags |= {key: source.tags[key] for key in ("device", "node", "git_commit") if key in source.tags}
        tags |= {PARENT_TAG: parent_id, "cached": "true", "source_run_id": source_id}
        run_id = store.create(name, tags)
        report = Path("results/metrics") / f"{name}.json"
        metrics = json.loads(report.read_text(encoding="utf-8")) if report.exists() else {}
        moment = now()
        points = [Point(key, value, moment) for key, value in metrics.items()]
        store.log(run_id, points, pipeline.stage_parameters(name), {})
        store.log(parent_id, [Point(f"{name}/{p.key}", p.value, moment) for p in points], {}, {})
        store.set_status(run_id, "FINISHED")
        adopted.append(name)
    if adopted:
        settle_parent(store, parent_id)
    return adopted


def up_to_date_stages() -> list[str]:
    """Names of the stages whose results DVC finds up to date."""
    from dvc.repo import Repo

    with Repo() as repo:
        changed = repo.status()
    return [name for name in Pipeline().stages if name not in changed]
