"""workflow/resources.yaml and a site's own workflow/site.yaml as the keywords of Snakemake's rules."""

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from medunifier.runtime.errors import InputError
from medunifier.runtime.yaml import read_yaml

RESOURCES_FILE = Path(__file__).with_name("resources.yaml")
SITE_FILE = Path(__file__).with_name("site.yaml")
NEEDS = {
    "cpus": int,
    "mem_mb": int,
    "runtime": int,
    "gpus": int,
    "gpu_type": str,
    "nodes": int,
    "local": bool,
    "group": str,
    "retries": int,
    "warning": int,
}
OPTIONAL = {"gpu_type": "", "group": "", "retries": 0, "warning": 0}
# key of site.yaml -> Snakemake's name for it
SITE = {
    "partition": "slurm_partition",
    "account": "slurm_account",
    "qos": "qos",
    "constraint": "constraint",
    "cluster": "cluster",
    "extra": "slurm_extra",
}
GPU_STAGES = "gpu_stages"  # in site.yaml: what holds for every family that asks for GPUs
LARGEST = 3  # memory and run time grow up to three times the first attempt's

Needs = dict[str, Any]


def load_resources(
    families: Iterable[str], path: Path = RESOURCES_FILE, site_path: Path = SITE_FILE
) -> dict[str, Needs]:
    """Return what each stage family needs, from `path` and, where it exists, the site's own file.

    Values are taken from the family's entry in the site's file, then its `gpu_stages` for families with GPUs, the
    family's entry in `path`, the site's `default` and the `default` of `path`.

    Raises:
        InputError: No file, a family that dvc.yaml does not have, an unknown key, a value of the wrong type, or a
            `default` that is not whole.
    """
    families = list(families)
    common = _read(path, ["default", *families], NEEDS)
    if missing := NEEDS.keys() - OPTIONAL.keys() - common.get("default", {}).keys():
        raise InputError(
            f"{path}: default: {', '.join(sorted(missing))} missing; what a stage needs that sets nothing"
        )
    names = ["default", GPU_STAGES, *families]
    site = _read(site_path, names, NEEDS | dict.fromkeys(SITE, str)) if os.path.lexists(site_path) else {}
    needs = {}
    for family in families:
        own = site.get(family, {})
        base = OPTIONAL | common["default"] | site.get("default", {}) | common.get(family, {})
        has_gpu = (base | own)["gpus"] > 0
        needs[family] = base | (site.get(GPU_STAGES, {}) if has_gpu else {}) | own
    return needs


def snakemake_resources(needs: Needs) -> dict[str, Any]:
    """Return the keywords of a rule's `resources`: numbers, texts, and functions of the attempt for what grows."""

    def growing(first: int) -> Callable:
        return lambda wildcards, attempt: first * min(attempt, LARGEST)

    resources: dict[str, Any] = {key: growing(needs[key]) for key in ("mem_mb", "runtime")}
    resources["nodes"] = needs["nodes"]
    if needs["nodes"] > 1:
        # `mpi` makes Snakemake run the stage's command beside the nodes' tasks rather than as one of them:
        # workflow.launch then starts one task on each node.
        resources |= {"mpi": "srun", "tasks": needs["nodes"], "tasks_per_gpu": 0}
    if needs["gpus"]:  # per node; a request for 0 GPUs is refused where a partition has none
        resources["gres"] = ":".join(
            ["gpu", *([needs["gpu_type"]] if needs["gpu_type"] else []), str(needs["gpus"])]
        )
    resources |= {name: needs[key] for key, name in SITE.items() if needs.get(key)}
    if needs["warning"]:
        signal = f"--signal=USR1@{needs['warning']}"
        resources["slurm_extra"] = f"{signal} {resources.get('slurm_extra', '')}".strip()
    return resources


def describe(needs: Needs) -> str:
    """Return in words what a stage's first attempt requests from a cluster, to follow its message."""
    if needs["local"]:
        return "; runs beside snakemake"
    nodes = f"{needs['nodes']} nodes, each " if needs["nodes"] > 1 else ""
    gpus = (
        f"{needs['gpus']} GPU{' ' + needs['gpu_type'] if needs['gpu_type'] else ''}"
        if needs["gpus"]
        else "no GPU"
    )
    cores = "1 core" if needs["cpus"] == 1 else f"{needs['cpus']} cores"
    site = "".join(f", {key} {needs[key]}" for key in SITE if needs.get(key))
    return f"; asks for {nodes}{gpus}, {cores}, {needs['mem_mb']} MiB, {needs['runtime']} min{site}"


def _read(path: Path, families: list[str], kinds: Mapping[str, type]) -> dict[str, Needs]:
    """Return the content of one of the two files, checked."""
    entries = read_yaml(path, missing="restore it: git checkout workflow/resources.yaml") or {}
    if not isinstance(entries, dict):
        raise InputError(f"{path}: expected a mapping of stage families at the top")
    for family, values in entries.items():
        if family not in families:
            raise InputError(f"{path}: {family} is no stage of dvc.yaml; allowed: {', '.join(families)}")
        if not isinstance(values, dict | None):
            raise InputError(
                f"{path}: {family}: {values!r} is refused; allowed: {', '.join(kinds)}, each with a value"
            )
        for key, value in (values or {}).items():
            kind = kinds.get(key)
            if kind is None or type(value) is not kind or (kind is int and value < 0):
                allowed = ", ".join(f"{name} ({kind.__name__}, not negative)" for name, kind in kinds.items())
                allowed = allowed.replace("str, not negative", "str").replace("bool, not negative", "bool")
                raise InputError(f"{path}: {family}.{key}: {value!r} is refused; allowed: {allowed}")
    return {family: values or {} for family, values in entries.items()}
