"""workflow/resources.yaml: complete, checked, growing with the attempt."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from medunifier.runtime.errors import InputError
from tests.support.toy_pipeline import REPO
from workflow.resources import SITE_FILE, describe, load_resources, snakemake_resources

DEFAULT = "default: {cpus: 1, mem_mb: 100, runtime: 5, gpus: 0, nodes: 1, local: false}\n"


def test_the_real_file_fits_the_real_pipeline() -> None:
    families = set(YAML(typ="safe").load(REPO / "dvc.yaml")["stages"])
    needs = load_resources(families, site_path=Path("none"))
    assert set(needs) == families
    assert all(need["mem_mb"] <= 8000 for need in needs.values()), "the demo has 8 GB"


def test_default_fills_in(tmp_path: Path) -> None:
    path = tmp_path / "resources.yaml"
    path.write_text(DEFAULT + "train: {gpus: 4}\n")
    needs = load_resources(["train", "score"], path, tmp_path / "none")
    assert needs["train"] == needs["score"] | {"gpus": 4}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("trian: {gpus: 1}", "trian is no stage of dvc.yaml; allowed: default, train"),
        ("train: {gpu: 1}", "train.gpu: 1 is refused; allowed: cpus (int"),
        ("train: {mem_mb: 4G}", "train.mem_mb: '4G' is refused"),
        ("train: {gpus: -1}", "train.gpus: -1 is refused"),
        ("train: {gpus: true}", "train.gpus: True is refused"),
        ("train: {partition: gpu}", "train.partition: 'gpu' is refused"),
        ("train: [1]", "train: [1] is refused; allowed: cpus, mem_mb"),
        ("train: 5", "train: 5 is refused"),
    ],
)
def test_mistakes_are_refused(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "resources.yaml"
    path.write_text(DEFAULT + line + "\n")
    with pytest.raises(InputError) as caught:
        load_resources(["train"], path, tmp_path / "none")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "resources.yaml: not found; restore it: git checkout"),
        ("", "resources.yaml: default: cpus, gpus, local, mem_mb, nodes, runtime missing"),
        ("train: {cpus: 1}", "resources.yaml: default: cpus,"),
        (
            "default: {cpus: 1, mem_mb: 1, runtime: 5, gpus: 0, nodes: 1}",
            "resources.yaml: default: local missing",
        ),
        ("[]", "resources.yaml: default: cpus,"),
        ("[1]", "resources.yaml: expected a mapping of stage families"),
        ("{", "resources.yaml: not valid YAML"),
    ],
)
def test_a_missing_or_broken_file_is_told_by_name(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "resources.yaml").write_text(content)
    with pytest.raises(InputError) as caught:
        load_resources(["train"], tmp_path / "resources.yaml", tmp_path / "none")
    assert message in str(caught.value)


NEEDS = {"cpus": 4, "mem_mb": 100, "runtime": 30, "gpus": 2, "gpu_type": "", "nodes": 1, "local": False} | {
    "warning": 0
}


def test_memory_and_time_grow_with_the_attempt_to_three_times() -> None:
    resources = snakemake_resources(NEEDS)
    assert [resources["mem_mb"](None, attempt) for attempt in (1, 2, 3, 4)] == [100, 200, 300, 300]
    assert resources["runtime"](None, 2) == 60
    assert resources["nodes"] == 1 and "mpi" not in resources and "slurm_extra" not in resources


@pytest.mark.parametrize(
    ("changed", "gres"),
    [({}, "gpu:2"), ({"gpu_type": "a100"}, "gpu:a100:2"), ({"gpus": 0, "gpu_type": "a100"}, None)],
)
def test_gpus_are_requested_per_node_or_not_at_all(changed: dict, gres: str | None) -> None:
    assert snakemake_resources(NEEDS | changed).get("gres") == gres


def test_a_warning_joins_the_site_s_own_flags() -> None:
    needs = NEEDS | {"warning": 60, "extra": "--exclusive", "account": "us", "nodes": 2}
    resources = snakemake_resources(needs)
    assert resources["slurm_extra"] == "--signal=USR1@60 --exclusive"
    assert resources["slurm_account"] == "us" and "slurm_partition" not in resources
    assert (resources["nodes"], resources["tasks"], resources["mpi"]) == (2, 2, "srun")
    assert describe(needs) == (
        "; asks for 2 nodes, each 2 GPU, 4 cores, 100 MiB, 30 min, account us, extra --exclusive"
    )
    assert describe(NEEDS | {"local": True}) == "; runs beside snakemake"


def test_the_site_s_file_overrides_family_by_family(tmp_path: Path) -> None:
    common, site = tmp_path / "resources.yaml", tmp_path / "site.yaml"
    common.write_text(DEFAULT + "train: {gpus: 4, cpus: 8}\nscore: {cpus: 2}\n")
    site.write_text(
        "default: {partition: cpu, cpus: 3}\ngpu_stages: {partition: gpu, gpu_type: a100}\ntrain: {gpus: 1}\nmake:\n"
    )
    needs = load_resources(["make", "train", "score"], common, site)
    assert [needs[name]["cpus"] for name in needs] == [3, 8, 2], "a family's own entry beats every default"
    assert [needs[name]["partition"] for name in needs] == ["cpu", "gpu", "cpu"]
    assert needs["train"]["gpus"] == 1 and needs["train"]["gpu_type"] == "a100"
    site.write_text("train: {queue: long}\n")
    with pytest.raises(
        InputError, match=r"site.yaml: train.queue: 'long' is refused; allowed: .*partition \(str\)"
    ):
        load_resources(["make", "train", "score"], common, site)
    site.write_text("train: {gpus: [}\n")
    with pytest.raises(InputError, match=r"site.yaml: not valid YAML"):
        load_resources(["make", "train", "score"], common, site)


def test_the_example_of_a_site_s_file_is_valid_and_the_real_one_is_ignored_by_git() -> None:
    families = set(YAML(typ="safe").load(REPO / "dvc.yaml")["stages"])
    needs = load_resources(families, site_path=REPO / "workflow/site.example.yaml")
    assert needs["prepare"]["partition"] == "cpu" and needs["retrieve"]["partition"] == "gpu"
    assert f"/{SITE_FILE.relative_to(REPO)}" in (REPO / ".gitignore").read_text().splitlines()
