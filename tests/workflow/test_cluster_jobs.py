"""What an interrupted snakemake says of its Slurm jobs, with programs in the place of squeue and scancel."""

from pathlib import Path

import pytest

from workflow import cluster_jobs

# States change when scancel has been called: the queue lies in two files.
SQUEUE = '#!/bin/sh\ncat "$FAKE/$(test -e "$FAKE/cancelled" && echo after || echo before)"\n'
SCANCEL = '#!/bin/sh\necho "$@" > "$FAKE/cancelled"\n'


@pytest.fixture
def fake(tmp_path: Path, monkeypatch) -> Path:
    for name, text in (("squeue", SQUEUE), ("scancel", SCANCEL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("FAKE", str(tmp_path))
    return tmp_path


def test_a_job_that_snakemake_did_not_know_of_is_cancelled_and_all_are_named(fake: Path, capfd) -> None:
    done = "1|COMPLETED|rule_prepare_wildcards_a\n2|CANCELLED|rule_pretrain_wildcards_full\n"
    (fake / "before").write_text(
        done + "3|RUNNING|rule_simulate\n4|COMPLETING|rule_zero_shot_wildcards_a-b\n"
    )
    (fake / "after").write_text(
        done + "3|COMPLETING|rule_simulate\n4|COMPLETING|rule_zero_shot_wildcards_a-b\n"
    )
    cluster_jobs.end_jobs("run")
    assert (fake / "cancelled").read_text() == "3\n"
    assert capfd.readouterr().err == (
        "Jobs ended on the cluster: pretrain@full (job 2), simulate (job 3), zero_shot@a-b (job 4). Training saves "
        "before it ends; the same command continues the run.\n"
    )


def test_a_job_that_cannot_be_ended_is_named_with_the_command(fake: Path, capfd) -> None:
    for name in ("before", "after"):
        (fake / name).write_text("7|RUNNING|rule_pretrain_wildcards_full\n")
    cluster_jobs.end_jobs("run")
    message = "Jobs left on the cluster: pretrain@full (job 7); to end them: scancel 7\n"
    assert capfd.readouterr().err == message


def test_a_stage_that_was_submitted_again_counts_by_its_newest_job(fake: Path, capfd) -> None:
    jobs = "1|CANCELLED|rule_pretrain_wildcards_full\n2|COMPLETED|rule_pretrain_wildcards_full\n"
    (fake / "before").write_text(jobs)
    cluster_jobs.end_jobs("run")
    assert capfd.readouterr().err == "" and not (fake / "cancelled").exists()


def test_a_slurm_that_does_not_answer_is_told_with_the_commands(fake: Path, capfd) -> None:
    (fake / "squeue").write_text("#!/bin/sh\nexit 1\n")
    cluster_jobs.end_jobs("run")
    told = capfd.readouterr().err
    assert "squeue --me --name run" in told and "scancel --me --name run" in told
