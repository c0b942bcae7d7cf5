"""simulate: parameters -> phantom radiographs with their reports, and a stand-in ViT."""

import os
import shutil
from pathlib import Path

from medunifier.phantom.data_sets import GRID, README, generating, write_copy, write_mimic
from medunifier.phantom.stand_in_vit import write_vit
from medunifier.runtime.params import Params
from medunifier.stage import run_stage
from medunifier.tracking import LocalRun

ROOT = Path("data/simulated")


def simulate(params: Params, run: LocalRun) -> None:
    """Generate the phantom radiographs, write their reports, and seed the stand-in ViT.

    Reads nothing but parameters: seed, simulate. Writes data/simulated (see the README.md there). With
    simulate.patients and all of simulate.copies 0, only the ViT is made. MLflow gets the first images of the
    MIMIC copy in one grid; without patients there is none.
    """
    settings = params.simulate
    partial_root = ROOT.with_name(f".{ROOT.name}.partial")
    for folder in (partial_root, ROOT):
        if folder.exists():
            shutil.rmtree(folder)
    partial_root.mkdir(parents=True)
    (partial_root / "README.md").write_text(README, encoding="utf-8")
    write_vit(partial_root / "vit", settings.vit, params.seed)
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
