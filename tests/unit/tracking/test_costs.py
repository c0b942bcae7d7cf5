"""What a stage's record says of its costs, with Slurm and without."""

import ast
import json
import subprocess
import sys
import time

import pytest

from medunifier.data.parallel import parallel_map
from medunifier.report.costs import read_costs
from medunifier.runtime import processes
from medunifier.tracking import Run, costs

# Slurm 22.05, `scontrol --details --oneliner show job`, shortened
JOB = (
    "JobId=7 JobName=x UserId=root(0) JobState=RUNNING Requeue=1 Restarts=0 RunTime=00:00:05 TimeLimit=01:00:00 "
    "SubmitTime=2026-11-24T15:33:24 EligibleTime=2026-11-24T15:33:24 StartTime=2026-11-24T15:34:54 "
    "EndTime=2026-11-24T16:34:54 NodeList=gpu[1-2] NumNodes=2 NumCPUs=8 NumTasks=2 CPUs/Task=4 "
    "TRES=cpu=8,mem=24000M,node=2,billing=8 JOB_GRES=gpu:fake:2 Nodes=gpu[1-2] CPU_IDs=0 TresPerNode=gres:gpu:1"
)


@pytest.fixture(autouse=True)
def no_memory():
    processes.slurm_job.cache_clear()
    yield
    processes.slurm_job.cache_clear()


def test_a_job_s_line_is_read_per_node():
    assert processes.parse_job(JOB) == {
        "nodes": 2,
        "cores": 4,
        "memory_mib": 12000,
        "gpus": 2,
        "gpu_type": "fake",
        "queue_seconds": 90,
    }
    plain = processes.parse_job(
        JOB.replace("JOB_GRES=gpu:fake:2", "JOB_GRES=(null)").replace("24000M", "24G")
    )
    assert (plain["gpus"], plain["gpu_type"], plain["memory_mib"]) == (0, "", 12288)


def test_efficiencies_against_what_was_given(monkeypatch):
    monkeypatch.setattr(costs, "slurm_job", lambda: processes.parse_job(JOB))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    spent = costs.measure()
    assert spent["cores"] == 2 and spent["gpus"] == 2 and spent["nodes"] == 2 and spent["queue_seconds"] == 90
    assert spent["cpu_efficiency"] == pytest.approx(spent["cpu_seconds"] / (2 * spent["wall_seconds"]))
    assert spent["memory_efficiency"] == pytest.approx(2 * spent["peak_memory_mib"] / 12000)
    assert costs.tags() == {"device": "cpu", "gpu_type": "fake"}


def test_processor_and_elapsed_time_are_those_of_the_whole_process():
    """A process of one thread has no more of the one than of the other, and start-up counts in both."""
    code = "import time; sum(range(10**7)); from medunifier.tracking import costs; time.sleep(1); print(costs.measure())"
    begun = time.monotonic()
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    spent = ast.literal_eval(told)
    assert spent["cpu_seconds"] <= spent["wall_seconds"] - 0.9
    assert 1 < spent["wall_seconds"] <= time.monotonic() - begun + 0.1


def test_a_slurm_that_does_not_answer_costs_nothing(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("PATH", "")
    assert processes.slurm_job() == {}


def test_the_record_goes_to_the_results_and_to_the_history(project):
    with Run.open("first") as run:
        run.finish()
    record = json.loads((project / "results/runs/first.json").read_text())
    assert record == json.loads((project / ".state/costs/first.json").read_text())
    assert record["costs"]["wall_seconds"] > 0 and record["slurm_job_id"] == "none"
    (line,) = read_costs(project / "results/runs", ["first", "second@full"])
    assert (line.stage, line.node, line.device) == ("first", record["node"], "cpu")
    assert line.queue_seconds is None and line.gpu_hours == 0


def test_a_stage_that_reads_all_records_leaves_its_own_beside_them():
    assert str(costs.record_path("summarize", ["results/report", "results/summarize_run.json"])) == (
        "results/summarize_run.json"
    )
    assert str(costs.record_path("third", ["results/runs/third.json"])) == "results/runs/third.json"


def burn(seconds: float) -> float:
    """Compute for some seconds of processor time."""
    while time.process_time() < seconds:
        pass
    return time.process_time()


@pytest.mark.slow
def test_processor_time_of_a_pool_s_processes_counts_as_soon_as_their_work_is_done():
    before = costs.cpu_seconds()
    with parallel_map(2, chunk=1) as mapped:
        list(mapped(burn, [1.0]))  # of which the processes may still be there
    assert costs.cpu_seconds() - before > 0.9  # the system counts in hundredths
