"""examples/own_dataset: the commands of its README, up to a trained model."""

import json
import re
import shutil
from pathlib import Path

import polars as pl
import pytest
from ruamel.yaml import YAML

from tests.support.checkout import make_checkout
from tests.support.paths import REPO
from tests.support.small_encoder import FOLDER, VISION, write_small_encoder

EXAMPLE = REPO / "examples/own_dataset"
# A model and a training of seconds; the rest as in the example's preset.
TINY = {
    "vision": VISION,
    "tokenizer": {"vocab_size": 200},
    "model": {
        "width": 32, "layers": 1, "heads": 2, "projection": 16, "max_text_tokens": 24, "codebook_size": 16,
        "code_width": 8, "decoder_channels": [8, 8, 8, 8],
    },
    "pretrain": {"steps": 4, "batch_size": 4, "validate_every": 2, "checkpoint_every": 2},
}  # fmt: skip


def commands() -> list[str]:
    """The lines of the README's block of commands."""
    block = re.search(r"```bash\n(.*?)```", (EXAMPLE / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert block
    return block[1].splitlines()


def shrink(path: Path) -> None:
    """Put the values of TINY into params.yaml."""
    yaml = YAML()
    params = yaml.load(path.read_text(encoding="utf-8"))
    for section, values in TINY.items():
        params[section].update(values)
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(params, file)


@pytest.mark.slow
@pytest.mark.workflow
def test_the_commands_of_the_readme_lead_to_a_trained_model(tmp_path):
    checkout = make_checkout(tmp_path / "checkout")
    for name in ("examples", "docs"):
        shutil.copytree(REPO / name, checkout.folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPO / "params.yaml", checkout.folder)
    make_data, *copies, check, run = commands()
    assert run == "snakemake --profile local" and "make_data" in make_data and "--check" in check
    checkout.shell(f"{make_data} 24")
    for command in copies:
        checkout.shell(command)
    shrink(checkout.folder / "params.yaml")
    write_small_encoder(checkout.folder / FOLDER)

    rows = pl.read_csv(tmp_path / "hospital/studies.csv")
    frontal = rows.filter(pl.col("view").is_in(["PA", "AP"]))
    assert frontal["study"].n_unique() < len(frontal) < len(rows), "studies with several images; other views"
    text = checkout.shell(check)
    assert f"index    {len(rows)} images of 24 patients" in text and "decoded  12 of 12" in text

    checkout.call(f"{run} .state/stamps/pretrain@full")
    summary = json.loads((checkout.folder / "data/prepared/hospital/summary.json").read_text())
    assert summary["raw"] == len(rows) and sum(summary["kept"].values()) == len(frontal)
    prepared = pl.concat(
        pl.read_parquet(checkout.folder / f"data/prepared/hospital/{split}.parquet")
        for split in ("train", "validate", "test")
    )
    shared = prepared.group_by("study_id").agg(pl.len(), pl.col("report").n_unique().alias("reports"))
    assert shared["len"].max() > 1 and set(shared["reports"]) == {1}, "images of a study share its report"
    config = json.loads((checkout.folder / "models/full/config.json").read_text())
    assert config["width"] == 32 and (checkout.folder / "models/full/model.safetensors").stat().st_size > 0
    assert checkout.planned(f"{run} -n .state/stamps/pretrain@full") == []
