"""workflow/resources.yaml as the keywords of Snakemake's `threads` and `resources`."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from stages.errors import InputError

RESOURCES_FILE = Path(__file__).with_name("resources.yaml")
KEYS = {"cpus": int, "mem_mb": int, "runtime": int, "gpus": int, "nodes": int, "local": bool}


def load_resources(families: Iterable[str], path: Path = RESOURCES_FILE) -> dict[str, dict[str, int | bool]]:
    """The resources of each family, filled up from `default`.

    Raises InputError for a family that dvc.yaml does not have, an unknown key or a value of the wrong type.
    """
    from ruamel.yaml import YAML

    entries = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    families = list(families)
    for family, values in entries.items():
        if family not in families and family != "default":
            raise InputError(
                f"{path}: {family} is no stage of dvc.yaml; allowed: default, {', '.join(families)}"
            )
        for key, value in values.items():
            kind = KEYS.get(key)
            if kind is None or type(value) is not kind or value < 0:
                allowed = ", ".join(f"{name} ({kind.__name__}, not negative)" for name, kind in KEYS.items())
                raise InputError(f"{path}: {family}.{key}: {value!r} is refused; allowed: {allowed}")
    return {family: entries["default"] | entries.get(family, {}) for family in families}


def snakemake_resources(needs: Mapping[str, int | bool]) -> dict[str, int | Callable]:
    """The keywords of a rule's `resources`; memory and run time grow with the attempt."""

    def growing(first: int) -> Callable:
        return lambda wildcards, attempt: first * attempt

    resources = {key: growing(needs[key]) for key in ("mem_mb", "runtime")}
    resources["nodes"] = needs["nodes"]
    if needs["gpus"]:  # a request for 0 GPUs is refused where a partition has none
        resources["gpu"] = needs["gpus"]
    return resources
