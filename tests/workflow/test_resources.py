"""workflow/resources.yaml: complete, checked, growing with the attempt."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stages.errors import InputError
from tests.workflow.toy import REPO
from workflow.resources import load_resources, snakemake_resources

DEFAULT = "default: {cpus: 1, mem_mb: 100, runtime: 5, gpus: 0, nodes: 1, local: false}\n"


def test_the_real_file_fits_the_real_pipeline() -> None:
    families = set(YAML(typ="safe").load(REPO / "dvc.yaml")["stages"])
    needs = load_resources(families)
    assert set(needs) == families
    assert all(need["mem_mb"] <= 8000 for need in needs.values()), "the demo has 8 GB"


def test_default_fills_in(tmp_path: Path) -> None:
    path = tmp_path / "resources.yaml"
    path.write_text(DEFAULT + "train: {gpus: 4}\n")
    needs = load_resources(["train", "score"], path)
    assert needs["train"] == needs["score"] | {"gpus": 4}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("trian: {gpus: 1}", "trian is no stage of dvc.yaml; allowed: default, train"),
        ("train: {gpu: 1}", "train.gpu: 1 is refused; allowed: cpus (int"),
        ("train: {mem_mb: 4G}", "train.mem_mb: '4G' is refused"),
        ("train: {gpus: -1}", "train.gpus: -1 is refused"),
        ("train: {gpus: true}", "train.gpus: True is refused"),
    ],
)
def test_mistakes_are_refused(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "resources.yaml"
    path.write_text(DEFAULT + line + "\n")
    with pytest.raises(InputError) as caught:
        load_resources(["train"], path)
    assert message in str(caught.value)


def test_memory_and_time_grow_with_the_attempt() -> None:
    needs = {"cpus": 4, "mem_mb": 100, "runtime": 30, "gpus": 2, "nodes": 1, "local": False}
    resources = snakemake_resources(needs)
    assert [resources["mem_mb"](None, attempt) for attempt in (1, 2, 3)] == [100, 200, 300]
    assert resources["runtime"](None, 2) == 60
    assert resources["nodes"] == 1 and resources["gpu"] == 2
    assert "gpu" not in snakemake_resources(needs | {"gpus": 0})
