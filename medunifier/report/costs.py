"""Costs of each stage, from the records that the stages left in results/runs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cost:
    """Costs of one stage."""

    stage: str
    node: str
    device: str
    slurm_job: str  # `none` outside a cluster
    wall_seconds: float
    queue_seconds: float | None
    gpu_hours: float
    cpu_efficiency: float  # 0 to 1
    peak_memory_mib: float
    memory_efficiency: float | None  # peak over what was requested


def read_costs(folder: Path, stages: Iterable[str]) -> list[Cost]:
    """Return the costs of those of `stages` that have a record in `folder`, in the order of `stages`."""
    costs = []
    for stage in stages:
        path = folder / f"{stage}.json"
        record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if spent := record.get("costs"):
            costs.append(
                Cost(
                    stage=stage,
                    node=record["node"],
                    device=record["device"] if record["gpu_type"] == "none" else record["gpu_type"],
                    slurm_job=record["slurm_job_id"],
                    wall_seconds=spent["wall_seconds"],
                    queue_seconds=spent.get("queue_seconds"),
                    gpu_hours=spent["gpus"] * spent["wall_seconds"] / 3600,
                    cpu_efficiency=spent["cpu_efficiency"],
                    peak_memory_mib=spent["peak_memory_mib"],
                    memory_efficiency=spent.get("memory_efficiency"),
                )
            )
    return costs
