"""`medunifier.runtime.dvc_pipeline` reads dvc.yaml as DVC itself does."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from medunifier.runtime.dvc_pipeline import Pipeline
from medunifier.runtime.errors import InputError
from tests.support.paths import REPO

PRESETS = sorted((REPO / "workflow/presets").glob("*.yaml"))


@pytest.fixture(scope="module")
def dvc_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dvc")
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "-q"], cwd=folder, check=True)
    shutil.copy(REPO / "dvc.yaml", folder)
    return folder


@pytest.mark.workflow
@pytest.mark.parametrize("stage", ["pretrain@full", "train_prior@full-top"])
def test_dvc_plots_show_the_loss_of_a_training(stage, dvc_folder):
    shutil.copy(PRESETS[0].with_name("demo.yaml"), dvc_folder / "params.yaml")
    curve = dvc_folder / f"results/curves/{stage}.csv"
    curve.parent.mkdir(parents=True, exist_ok=True)
    curve.write_text("step,split,loss,learning_rate\n10,train,3.5,0.1\n20,train,2.5,0.05\n")
    shown = subprocess.run(
        [sys.executable, "-m", "dvc", "plots", "show", "--json", "-o", "plots", str(curve.relative_to(dvc_folder))],
        cwd=dvc_folder,
        check=True,
        capture_output=True,
        text=True,
    ).stdout  # fmt: skip
    ((plot,),) = json.loads(shown)["data"].values()
    assert '"y": {"field": "loss"' in json.dumps(plot["content"])
    assert [row["loss"] for row in plot["content"]["data"]["values"]] == ["3.5", "2.5"]


@pytest.mark.workflow
def test_dvc_metrics_show_prints_one_row_a_variant(dvc_folder):
    shutil.copy(PRESETS[0].with_name("demo.yaml"), dvc_folder / "params.yaml")
    folder = dvc_folder / "results/headline"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("full", "itc"):
        (folder / f"{name}.json").write_text('{"i2t_map_at_1": 88.0}')
    shown = subprocess.run(
        [sys.executable, "-m", "dvc", "metrics", "show", "results/headline"],
        cwd=dvc_folder,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert [line.split() for line in shown.splitlines()] == [
        ["Path", "i2t_map_at_1"],
        ["results/headline/full.json", "88.0"],
        ["results/headline/itc.json", "88.0"],
    ]


@pytest.mark.slow
def test_names_run_no_command(dvc_folder, tmp_path, monkeypatch):
    """Every command of dvc.yaml, run by a shell with `python` replaced, hands a hostile name on as it is."""
    from dvc.repo import Repo

    name = "a$(touch there)`touch there`'\"; touch there #"
    params = YAML(typ="safe").load(PRESETS[0].with_name("demo.yaml"))
    params["datasets"] = {name: params["datasets"]["phantom"]}
    params["variants"] = {name: params["variants"]["full"]}
    params["trained"] = {objective: [name] for objective in params["trained"]}
    params["evaluate"] = {key: [name] for key in params["evaluate"]} | {"finetune": {name: [1]}}
    monkeypatch.chdir(dvc_folder)
    with open("params.yaml", "w") as file:
        YAML(typ="safe").dump(params, file)
    python = tmp_path / "python"
    python.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    python.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    with Repo() as repo:
        commands = {stage.addressing: stage.cmd for stage in repo.index.stages}
    assert {stage: Pipeline().stages[stage].command for stage in commands} == commands
    handed_on = 0
    for stage, command in commands.items():
        done = subprocess.run(
            command, shell=True, check=True, capture_output=True, env=environment | {"DVC_STAGE": stage}
        )
        handed_on += name in json.loads(done.stdout)
    assert handed_on >= 12
    assert not list(dvc_folder.rglob("there*"))


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_reads_every_stage_as_dvc_does(preset, dvc_folder, monkeypatch):
    monkeypatch.chdir(dvc_folder)
    shutil.copy(preset, dvc_folder / "params.yaml")
    check_against_dvc(dvc_folder)


def test_reads_labels_in_a_section_as_dvc_does(dvc_folder, monkeypatch):
    monkeypatch.chdir(dvc_folder)
    text = (REPO / "workflow/presets/demo.yaml").read_text()
    changed = text.replace(
        "phantom-siim: [pneumothorax]", "phantom-siim: {labels: [pneumothorax], blank: ignore}"
    )
    (dvc_folder / "params.yaml").write_text(changed)
    mine = check_against_dvc(dvc_folder)
    key = "evaluate.finetune.phantom-siim"
    found = mine.stage_parameters("finetune@full-phantom-siim-10")
    assert {name: value for name, value in found.items() if name.startswith("evaluate")} == {
        f"{key}.labels": ["pneumothorax"],
        f"{key}.blank": "ignore",
    }


def check_against_dvc(dvc_folder):
    from dvc.repo import Repo

    mine = Pipeline(dvc_folder)
    with Repo() as repo:
        theirs = {stage.addressing: stage for stage in repo.index.stages}
        assert list(mine.stages) == list(theirs)
        for name, stage in theirs.items():
            params = {key: value for dep in stage.params for key, value in dep.read_params().items()}
            assert mine.stages[name].command == stage.cmd
            assert set(mine.stages[name].inputs) == {
                dep.def_path for dep in stage.deps if dep not in stage.params
            }
            assert set(mine.stages[name].outputs) == {out.def_path for out in stage.outs}
            assert {key: mine_value(mine, key) for key in mine.stages[name].parameters} == params
        edges = {(upper.name, lower.name) for lower, upper in repo.index.graph.edges}
        assert {(upper, lower) for lower in mine.stages for upper in mine.makers(lower)} == edges
    return mine


def test_a_changed_model_file_asks_for_new_features(dvc_folder, tmp_path, monkeypatch):
    from dvc.repo import Repo

    folder = shutil.copytree(dvc_folder, tmp_path / "project")
    monkeypatch.chdir(folder)
    shutil.copy(REPO / "workflow/presets/demo.yaml", "params.yaml")
    name = "extract_features@phantom-0"
    stage, vit = Pipeline(folder).stages[name], Path("encoders/tf_efficientnet_lite0")
    assert str(vit) in stage.inputs
    for path in (*stage.inputs, *stage.outputs):
        is_file = "." in Path(path).name
        place = Path(path) if is_file else Path(path) / "model.safetensors"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("{}")
    with Repo() as repo:
        repo.commit(name, force=True)  # as if it had just run
        assert repo.status([name]) == {}
        (vit / "model.safetensors").write_text("other weights")
        assert repo.status([name]) == {name: [{"changed deps": {str(vit): "modified"}}]}


def mine_value(pipeline, key):
    value = pipeline.parameters
    for part in key.split("."):
        value = value[part]
    return value


def test_upstream_is_transitive_and_in_order():
    pipeline = Pipeline(REPO)
    names = pipeline.upstream("summarize")
    assert names == [name for name in pipeline.stages if name != "summarize"]
    assert pipeline.upstream("simulate") == []


@pytest.mark.parametrize(
    ("params", "dvc", "message"),
    [
        (None, "stages: {}", r"params.yaml: not found; run from the repository root"),
        ("a: [", "stages: {}", r"params.yaml: not valid YAML"),
        ("- a", "stages: {}", r"params.yaml: expected a mapping"),
        ("a: 1", "stages: {s: {cmd: 'x ${b.c}'}}", r"dvc.yaml, stage s: params.yaml has no key `b.c`"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, params, dvc, message):
    (tmp_path / "dvc.yaml").write_text(dvc)
    if params is not None:
        (tmp_path / "params.yaml").write_text(params)
    with pytest.raises(InputError, match=message):
        Pipeline(tmp_path)


def test_lists_in_foreach_and_values_of_their_own_type(tmp_path):
    (tmp_path / "params.yaml").write_text("numbers: [3, 4]\nrate: 1e-3\n")
    (tmp_path / "dvc.yaml").write_text(
        "stages: {s: {foreach: '${numbers}', do: {cmd: 'run ${item}', params: [rate], outs: ['o/${item}': {cache: false}]}}}"
    )
    pipeline = Pipeline(tmp_path)
    assert {name: (s.command, s.outputs) for name, s in pipeline.stages.items()} == {
        "s@3": ("run 3", ("o/3",)),
        "s@4": ("run 4", ("o/4",)),
    }
    assert pipeline.stage_parameters("s@3") == {"rate": 0.001}
