"""simulate: parameters -> phantom radiographs with their reports."""

import os
import shutil
from pathlib import Path

from medunifier.phantom.data_sets import GRID, README, generating, write_copy, write_mimic
from medunifier.runtime.params import Params
from medunifier.stage import run_stage
from medunifier.tracking import LocalRun

ROOT = Path("data/simulated")


def simulate(params: Params, run: LocalRun) -> None:
    """Generate the phantom radiographs and write their reports.

    Reads nothing but parameters: seed, simulate. Writes data/simulated (see the README.md there). With
    simulate.patients and all of simulate.copies 0, nothing but that file is made. MLflow gets the first images of the
    MIMIC copy in one grid; without patients there is none.
    """
    settings = params.simulate
    partial_root = ROOT.with_name(f".{ROOT.name}.partial")
    for folder in (partial_root, ROOT):
        if folder.exists():
            shutil.rmtree(folder)
    partial_root.mkdir(parents=True)
    (partial_root / "README.md").write_text(README, encoding="utf-8")
    copies = {name: count for name, count in vars(settings.copies).items() if count}
    metrics = {"patients": settings.patients} | {f"images_{name}": count for name, count in copies.items()}
    with generating(settings.patients + sum(copies.values())) as mapped:
        if settings.patients:
            metrics |= write_mimic(mapped, partial_root, settings, params.seed)
        for name, count in copies.items():
            write_copy(name, mapped, partial_root, count, settings, params.seed)
    run.metrics(metrics)
    run.log(", ".join(f"{metrics.get(name, 0)} {name}" for name in ("patients", "studies", "images")))
    run.log(", ".join(f"{count} images as {name}" for name, count in copies.items()) or "no copies")
    os.replace(partial_root, ROOT)
    if settings.patients:
        run.artifact(ROOT / GRID)


if __name__ == "__main__":
    run_stage(simulate)
