"""The present configuration (content of params.yaml) and the stages that it reuses, for the uploader.

MLflow shows one parent run for each configuration; a stage whose results come from the cache or from an earlier
configuration appears there as a child run with `cached = true`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from medunifier.runtime.dvc_pipeline import Pipeline, digest, flatten
from medunifier.tracking import provenance
from medunifier.tracking.costs import record_path
from medunifier.tracking.journal import Journal
from medunifier.tracking.settings import now, store_uri

METRICS = Path("results/metrics")


def describe(pipeline: Pipeline) -> dict[str, Any]:
    """Return what identifies the configuration and what its parent run shows."""
    return {
        "digest": digest(pipeline.parameters),
        "preset": str(pipeline.parameters.get("preset", "configuration")),
        "tags": provenance.common(),
        "parameters": flatten(pipeline.parameters),
    }


def reused_stages(pipeline: Pipeline, names: Iterable[str], *, only_unchanged: bool) -> list[dict[str, Any]]:
    """Describe the last executions of the stages `names`, each with its metrics, parameters and times.

    Args:
        pipeline: The stages with the parameters of the present configuration.
        names: Stages whose results are there; one without a readable record of its execution is passed over.
        only_unchanged: Pass over stages that ran in this configuration, and those whose command, parameters or
            inputs differ from those of their last execution.
    """
    found = []
    configuration = digest(pipeline.parameters)
    for name in names:
        path = record_path(name, pipeline.stages[name].outputs)
        record = _read_object(path)
        execution = record.get("execution_id") or record.get("run_id")  # earlier versions: MLflow's id
        if execution is None:
            continue
        if only_unchanged and record.get("configuration") == configuration:
            continue
        signature = pipeline.signature(name)
        if only_unchanged and record.get("signature") != signature:
            continue
        found.append(
            {
                "stage": name,
                "execution_id": execution,
                "tags": provenance.tags(name, signature)
                | {key: record[key] for key in ("device", "node", "git_commit") if key in record},
                "started": record.get("started"),
                "ended": record.get("ended"),
                "metrics": _read_object(METRICS / f"{name}.json"),
                "parameters": pipeline.stage_parameters(name),
            }
        )
    return found


def _read_object(path: Path) -> dict[str, Any]:
    """Return a JSON object; an empty one if the file is not there or damaged, which `workflow.doctor` finds."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def request(**entry: Any) -> Journal:
    """Leave the uploader a request: a journal with one entry."""
    journal = Journal.create({"uri": store_uri(), "started": now()} | entry.pop("about", {}))
    journal.append(**entry)
    journal.release()
    return journal


def request_adoption(names: Iterable[str]) -> Journal:
    """Ask the uploader to show these stages, up to date in DVC's eyes, under the present configuration.

    Those that the configuration shows already, executed or reused, stay as they are.
    """
    pipeline = Pipeline()
    reused = reused_stages(pipeline, names, only_unchanged=False)
    return request(about={"configuration": describe(pipeline)}, reused=reused)


def up_to_date_stages() -> list[str]:
    """Return the names of the stages whose results DVC finds up to date."""
    from dvc.repo import Repo  # only `tracking adopt` needs DVC, which takes a second to import

    with Repo() as repo:
        changed = repo.status()
    return [name for name in Pipeline().stages if name not in changed]
