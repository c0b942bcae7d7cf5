"""The pipeline on a real Slurm: `make cluster-test`. Not named test_*, so that `make test` passes it by.

Needs root (see tests/support/slurm.py). The tests run in the order in which they stand here: while the pipeline runs on
its two nodes, a toy is interrupted on the two others, for nearly all of either is waiting.
"""

import os
import signal
import time
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.support.cluster_project import Project, Started
from tests.support.slurm import NODES, Slurm, ask, missing, wait_for
from tests.support.toy_pipeline import PARAMS, Toy
from tests.workflow.test_together import TWENTY

SNAKEMAKE = "snakemake --profile slurm --slurm-init-seconds-before-status-checks 1"
PATIENCE = 1800  # seconds for a single event on a busy machine

# What the toy's train@full does: it notes each start, then waits until the test says go. SIGTERM and SIGUSR1 make
# it save and end, as training does; a later start finds what was saved.
TRAIN = """
import signal

if stage == "train@full":
    def save(number, _):
        with open("saved.txt", "a") as file:
            file.write(signal.Signals(number).name + "\\n")
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, save)
    signal.signal(signal.SIGUSR1, save)
    with open("node.txt", "w") as file:
        file.write(os.environ["SLURMD_NODENAME"])
    while not pathlib.Path("go.txt").exists():
        time.sleep(0.05)
"""
TOY_SITE = "default: {partition: spare}\n"


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    if reason := missing():
        pytest.fail(reason)
    cluster = Slurm(tmp_path_factory.mktemp("slurm") / "slurm")
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    return Project(tmp_path_factory.mktemp("project") / "project").build()


@pytest.fixture(scope="module", autouse=True)
def pipeline(slurm: Slurm, project: Project):
    """The demo's pipeline, started on the cluster."""
    started = project.start(SNAKEMAKE)
    yield started
    if started.process.poll() is None:
        started.kill()


@pytest.fixture(scope="module")
def toy(tmp_path_factory, slurm: Slurm) -> Toy:
    """The toy pipeline after a complete run."""
    toy = Toy(tmp_path_factory.mktemp("toy") / "toy").build()
    toy.call("dvc repro")
    toy.write("hook.py", TRAIN)
    toy.write("workflow/site.yaml", TOY_SITE)
    return toy


def change(toy: Toy) -> None:
    """Let train@full run again, and wait for go.txt."""
    for name in ("go.txt", "node.txt", "saved.txt", "ran.txt"):
        (toy.folder / name).unlink(missing_ok=True)
    toy.edit("params.yaml", "full: {weight: ", "full: {weight: 1")  # 1, 11, 111 ...


@pytest.fixture
def training(toy: Toy, slurm: Slurm):
    """Snakemake on the cluster, with train@full waiting in a job: (the toy, snakemake, the job, its node)."""
    change(toy)
    started = toy.start(SNAKEMAKE)
    wait_for(lambda: toy.read("node.txt"), PATIENCE, "train@full does not start")
    (job,) = slurm.alive("train", "RUNNING", "spare")
    yield toy, started, job["id"], toy.read("node.txt")
    toy.write("go.txt", "")


def finish(toy: Toy, *more: str) -> None:
    """Everything is done, each of the stages once, and `more`."""
    behind = ["score@full-b-b", "summarize"]
    assert sorted(toy.ran()) == sorted(["train@full", *behind, *more])
    assert toy.planned(f"{SNAKEMAKE} -n") == [] and toy.unclean() == []


def test_a_drained_node_finishes_its_job_and_gets_no_other(training, slurm: Slurm) -> None:
    toy, started, job, node = training
    slurm.update_node(node, "DRAIN")
    try:
        toy.write("go.txt", "")
        started.wait()
    finally:
        slurm.update_node(node, "RESUME")
    nodes = {one["what"]: one["nodes"] for one in slurm.jobs("spare") if int(one["id"]) >= int(job)}
    assert nodes.pop("rule_train_wildcards_full") == node
    assert nodes and node not in nodes.values()
    finish(toy)


def test_a_killed_slurmd_makes_nothing_twice(training, slurm: Slurm) -> None:
    """The controller believes the node dead and starts the job elsewhere, though the stage still runs.

    The second start waits for the first, and takes its results.
    """
    toy, started, _, node = training
    slurm.kill_node(node)
    log = ".state/logs/train@full.log"
    wait_for(lambda: "still runs from an earlier start" in toy.read(log), PATIENCE, "no second start")
    assert [one["nodes"] for one in slurm.alive("train", "RUNNING", "spare")] != [node]
    toy.write("go.txt", "")
    started.wait()
    slurm.start_node(node)
    wait_for(lambda: slurm.states()[node] == "idle", PATIENCE, "the node does not come back")
    finish(toy)


def test_a_killed_snakemake_on_the_login_node(training, slurm: Slurm) -> None:
    toy, started, job, _ = training
    started.kill(everything=False)
    assert [one["id"] for one in slurm.alive("train", "RUNNING", "spare")] == [job], "its job lives on"
    again = toy.start(SNAKEMAKE)
    wait_for(
        lambda: "still runs from an earlier start" in toy.read(".state/logs/train@full.log"),
        PATIENCE,
        "waiting",
    )
    toy.write("go.txt", "")
    again.wait()
    finish(toy)


def test_ctrl_c_on_the_login_node_ends_the_jobs_and_names_them(toy: Toy, slurm: Slurm) -> None:
    change(toy)
    started = Project(toy.folder).start(SNAKEMAKE)
    wait_for(lambda: toy.read("node.txt"), PATIENCE, "train@full does not start")
    (job,) = slurm.alive("train", "RUNNING", "spare")
    os.killpg(started.process.pid, signal.SIGINT)  # as a terminal does
    *_, last = started.wait(code=1).splitlines()
    assert last.startswith(f"Jobs ended on the cluster: train@full (job {job['id']}).")
    assert "Traceback" not in started.text
    wait_for(lambda: not slurm.alive(partition="spare"), 60, "the job does not end")
    assert toy.read("saved.txt") == "SIGTERM\n"
    toy.write("go.txt", "")
    toy.call(SNAKEMAKE)
    finish(toy, "train@full")


def test_the_warning_before_the_time_limit(toy: Toy, slurm: Slurm) -> None:
    """Two minutes of run time, a warning before their end: the stage saves, ends and is submitted again.

    Slurm looks every 30 s and then warns whatever would be due before it looks again: here 55 to 85 s after the
    start. An earlier warning would come before a stage on a busy machine listens, and be ignored.
    """
    toy.write("workflow/site.yaml", TOY_SITE + "train: {runtime: 2, warning: 35, retries: 3}\n")
    change(toy)
    started = toy.start(SNAKEMAKE)
    wait_for(lambda: toy.read("saved.txt"), PATIENCE, "no warning")
    toy.write("go.txt", "")
    started.wait()
    assert set(toy.read("saved.txt").split()) == {"SIGUSR1"}
    finish(toy, *["train@full"] * len(toy.read("saved.txt").split()))


def test_twenty_stages_that_end_at_once_on_two_nodes_lose_no_entry(slurm: Slurm, tmp_path: Path) -> None:
    one = "echo > out/here-${item.number}; while [ ! -f go.txt ]; do sleep 0.1; done; echo ${item.number} > out/${item.number}.txt"
    resources = "default: {cpus: 1, mem_mb: 1, runtime: 1, gpus: 0, nodes: 1, local: false}\n"
    toy = Toy(tmp_path / "toy").build(
        TWENTY.replace("echo ${item.number} > out/${item.number}.txt", one), resources
    )
    toy.write("params.yaml", PARAMS + f"numbers: {list(range(20))}\n")
    (toy.folder / "out").mkdir()
    assert len(toy.planned()) == 20
    job = (
        "srun --partition=spare --nodes=2 --ntasks=20 --distribution=cyclic --overcommit --mem=6000 sh -c "
        "'python -m workflow.run --log .state/logs/$SLURM_PROCID one@$SLURM_PROCID'"
    )
    started = Project(toy.folder).start_shell(job)
    wait_for(
        lambda: started.poll() is not None or len(list((toy.folder / "out").glob("here-*"))) == 20,
        PATIENCE,
        "twenty do not start",
    )
    assert started.poll() is None, "srun is refused"
    time.sleep(0.5)
    toy.write("go.txt", "")
    assert started.wait(PATIENCE) == 0
    assert sorted(toy.locked()) == sorted(f"one@{number}" for number in range(20))
    assert toy.unclean() == [] and toy.planned() == []


def test_the_pipeline_runs_on_both_nodes_with_what_it_declares(
    slurm: Slurm, project: Project, pipeline: Started
) -> None:
    pipeline.wait(seconds=1800)
    assert "Nothing to be done" in project.shell("snakemake --profile slurm -n")
    assert project.shell("dvc status -q") == ""

    jobs = [job for job in slurm.jobs("gpu") if job["state"] == "COMPLETED"]
    by_family = {job["what"].removeprefix("rule_").partition("_wildcards")[0]: job for job in jobs}
    needs = YAML(typ="safe").load(project.folder / "workflow/resources.yaml")
    for family, job in by_family.items():
        if family in needs:
            gpus = needs[family].get("gpus", 0)
            assert job["gres"] == (f"gres:gpu:{gpus}" if gpus else "N/A"), family
    assert {"simulate", "prepare", "decode_images", "extract_features", "pretrain"} <= set(by_family)
    assert not {"train_tokenizer", "summarize"} & set(by_family), "short stages ask for no node"
    assert not {"generate_images", "score_images"} & set(by_family), "a chain of short stages is one job"
    for family in ("decode_images", "pretrain", "train_prior"):
        assert by_family[family]["nodes"] == "gpu[1-2]"
    singles = [job for job in jobs if job["nodes"] in NODES]
    assert {job["nodes"] for job in singles} == set(NODES)
    assert any(
        one["nodes"] != other["nodes"] and one["start"] < other["end"] and other["start"] < one["end"]
        for one in singles
        for other in singles
    ), "two stages at the same time"


def test_stages_on_two_nodes_shared_the_work(slurm: Slurm, project: Project) -> None:
    record = project.json("results/runs/pretrain@full.json")
    assert record["costs"]["nodes"] == 2 and record["costs"]["gpus"] == 2 and record["gpu_type"] == "fake"
    assert record["slurm_job_id"].isdigit() and record["costs"]["queue_seconds"] >= 0
    assert 0 < record["costs"]["memory_efficiency"] < 1
    summary = project.json("data/images/phantom/summary.json")
    parts = list((project.folder / "data/images/phantom").glob("part-*.arrow"))
    assert len(parts) == -(-summary["pictures"] // 20) > 1
    curve = project.read("results/curves/pretrain@full.csv").splitlines()
    assert len(curve) == len(set(curve)), "one process wrote it"
    assert f"<td>{record['slurm_job_id']}</td>" in project.read("results/report/index.html")


def test_training_goes_on_after_scancel_and_preemption(slurm: Slurm, project: Project) -> None:
    (project.folder / "workflow/site.yaml").write_text("default: {cpus: 1, mem_mb: 2000, partition: gpu}\n")
    project.set({"pretrain": {"steps": 700, "checkpoint_every": 50, "validate_every": 350}})
    started = project.start(f"{SNAKEMAKE} --until pretrain")
    first = interrupt(slurm, project, after=50, command=("scancel",))
    second = interrupt(slurm, project, after=checkpoint(project) + 50, command=("scontrol", "requeue"))
    started.wait(seconds=PATIENCE)
    assert first != second, "Snakemake submitted the stage again"
    states = {job["id"]: job["state"] for job in slurm.jobs("gpu")}
    assert states[first] == "CANCELLED" and states[second] == "COMPLETED", (
        "Slurm itself started the second again"
    )
    log = project.read(".state/logs/pretrain@full.log")
    assert "resumes from the checkpoint after step" in log
    steps = [
        line.split(",")[0]
        for line in project.read("results/curves/pretrain@full.csv").splitlines()
        if ",train," in line
    ]
    assert steps[-1] == "700" and len(steps) == len(set(steps)) >= 70, "no step twice, none left out"


def checkpoint(project: Project) -> int:
    """The step of the newest checkpoint of the training that runs."""
    paths = project.folder.glob(".state/checkpoints/pretrain@full/*/step-*.pt")
    newest = max(paths, key=lambda path: path.stat().st_mtime, default=None)
    return int(newest.name.split("-")[1]) if newest else 0


def interrupt(slurm: Slurm, project: Project, after: int, command: tuple[str, ...]) -> str:
    """Give `command` the job of pretrain@full once it runs and has a checkpoint at step `after`; returns its number."""
    wait_for(
        lambda: slurm.alive("pretrain", "RUNNING") and after <= checkpoint(project) < 900,
        PATIENCE,
        "training",
    )
    (job,) = slurm.alive("pretrain", "RUNNING")
    ask(*command, job["id"])
    return job["id"]
