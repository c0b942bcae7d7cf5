"""Delete or change something in a project that is at rest."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

from ruamel.yaml import YAML

from tests.faults.catalogue import STATE_FILES, STATE_PLACES
from tests.faults.injury import SNAKEMAKE, Injury, Missed, commands, end, unfinished_stage
from tests.faults.sandbox import Sandbox, files_below, output_kinds, remove
from tests.support.damage import flip

WARM = """\
from medunifier.runtime.dvc_pipeline import Pipeline
from medunifier.runtime.integrity import verify_inputs

pipeline = Pipeline()
for stage in pipeline.stages:
    verify_inputs(pipeline, stage)
"""


def delete(sandbox: Sandbox, target: str, chance: random.Random) -> Injury:
    """Delete an output, a file of the state or a place of the state."""
    if target in STATE_PLACES:
        # Something is left to do, or nobody would look at the state; an interrupted project has that anyway.
        injury = Injury(SNAKEMAKE, what=target)
        if target != ".state/checkpoints":
            stage = unfinished_stage(sandbox, chance)
            injury = Injury(commands(stage, chance)["snakemake"], {stage}, f"{target}; {stage} is to run")
        if not (sandbox.folder / target).exists():
            raise Missed(f"{target} is not there")
        remove(sandbox.folder / target)
        return injury
    if target in STATE_FILES:
        path = _choose_state_file(sandbox, target, chance)
        hit = _make_it_matter(sandbox, target, path)
        remove(path)
        return Injury(SNAKEMAKE, hit, path.relative_to(sandbox.folder).as_posix())
    if target == "output and its cached object":
        output = chance.choice(sandbox.outputs(chance.choice(output_kinds(sandbox.pipeline))))
        for name in cached(sandbox, output):
            remove(name)
    else:
        output = chance.choice(sandbox.outputs(target))
    remove(sandbox.folder / output)
    hit = sandbox.makers(output)
    return Injury(_command(hit, chance), hit, output)


def _command(makers: set[str], chance: random.Random) -> str:
    """Return a command that has the makers of an output looked at."""
    return commands(*makers, chance)["snakemake"] if len(makers) == 1 else SNAKEMAKE


def cached(sandbox: Sandbox, output: str) -> list[Path]:
    """Return the object of DVC's cache that holds an output, or for a folder its list."""
    found = [
        out["md5"] for entry in sandbox.locked().values() for out in entry["outs"] if out["path"] == output
    ]
    return [sandbox.folder / ".dvc/cache/files/md5" / md5[:2] / md5[2:] for md5 in found]


def flip_bit(sandbox: Sandbox, target: str, chance: random.Random, *, keep_time: bool) -> Injury:
    """Flip a bit in an output or a file of the state."""
    if keep_time:  # files that the project has seen, so that it trusts their times
        end(sandbox.start(f"{SNAKEMAKE} -n"))
        subprocess.run(["python", "-c", WARM], cwd=sandbox.folder, env=sandbox.toy.environment, check=True)
    what = ""
    if target in STATE_FILES:
        path = _choose_state_file(sandbox, target, chance)
        hit = _make_it_matter(sandbox, target, path)
        command = SNAKEMAKE
    else:
        files = [file for output in sandbox.outputs(target) for file in files_below(sandbox.folder / output)]
        path = chance.choice(files)
        name = path.relative_to(sandbox.folder).as_posix()
        hit = sandbox.makers(name)
        command = _command(hit, chance)
        readers = sandbox.readers(name)
        if keep_time and readers and chance.random() < 0.5:  # one that is still to read it, and to notice
            reader = chance.choice(readers)
            sandbox.forget(reader)
            hit |= {reader}
            command, what = commands(reader, chance)["snakemake"], f"; {reader} is to run"
    position, bit = chance.randrange(path.stat().st_size), chance.randrange(8)
    flip(path, position, bit, keep_time=keep_time)
    return Injury(command, hit, f"{path.relative_to(sandbox.folder)}, bit {bit} of byte {position}{what}")


def _choose_state_file(sandbox: Sandbox, target: str, chance: random.Random) -> Path:
    found = sorted(path for path in sandbox.folder.glob(STATE_FILES[target]) if path.stat().st_size)
    if not found:
        raise Missed(f"no {target}")
    return chance.choice(found)


def _make_it_matter(sandbox: Sandbox, target: str, path: Path) -> set[str]:
    """Remove the outputs that the damaged part of the cache is there to restore; return their stages."""
    hit = set()
    if target in ("cache object", "cached list of a folder"):
        md5 = path.parent.name + path.name
        for stage, entry in sandbox.locked().items():
            for out in entry["outs"]:
                inside = out["md5"].endswith(".dir") and md5 in "".join(
                    name.read_text(encoding="utf-8") for name in cached(sandbox, out["path"])
                )
                if out["md5"] == md5 or inside:
                    hit.add(stage)
                    remove(sandbox.folder / out["path"])
    elif target == "run cache":
        command = YAML(typ="safe").load(path.read_text(encoding="utf-8"))["cmd"]
        for stage, entry in sandbox.locked().items():
            if entry["cmd"] == command:
                hit.add(stage)
                for out in entry["outs"]:
                    remove(sandbox.folder / out["path"])
    return hit
