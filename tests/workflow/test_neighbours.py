"""A `dvc repro` and a snakemake in one folder: one waits or refuses, neither makes the other fail."""

import subprocess

from tests.support.toy_pipeline import TOOLS, Toy, wait_for

WAIT = """
import time

if stage == "train@full":
    pathlib.Path("train.here").touch()
    end = time.monotonic() + 120
    while not pathlib.Path("go").exists():
        assert time.monotonic() < end, "nobody said go"
        time.sleep(0.05)
"""


def test_snakemake_waits_for_a_dvc_repro_of_the_same_stage(done: Toy) -> None:
    done.write("hook.py", WAIT)
    done.edit("params.yaml", "steps: 2", "steps: 3")
    # A process of its own: a stage whose DVC is none by its command line would count as left over from a kill.
    dvc = subprocess.Popen([TOOLS / "dvc", "repro", "train@full"], cwd=done.folder, env=done.environment)
    wait_for(lambda: (done.folder / "train.here").exists())
    snakemake = done.start("snakemake --cores 2")
    wait_for(lambda: "[train@full] waiting for another DVC" in snakemake.text)
    done.write("go", "")
    assert dvc.wait(120) == 0
    snakemake.wait()
    assert done.ran().count("train@full") == 1
    assert done.unclean() == [] and done.planned() == []


def test_a_dvc_repro_is_refused_while_snakemake_runs_the_stage(done: Toy) -> None:
    done.write("hook.py", WAIT)
    done.edit("params.yaml", "steps: 2", "steps: 3")
    snakemake = done.start("snakemake --cores 2")
    wait_for(lambda: (done.folder / "train.here").exists())
    said = done.call("dvc repro train@full", code=255)
    assert "is busy" in said and "Traceback" not in said
    done.write("go", "")
    snakemake.wait()
    assert done.ran().count("train@full") == 1
    assert done.unclean() == [] and done.planned() == []
