"""Compare recipes of training by the validation split alone: `python -m benchmarks.recipe FOLDER --trial NAME=VALUE ...`.

FOLDER is a project whose features are extracted (a finished `make demo`). Each `--trial` is its params.yaml with the
changes that it lists (none: as it is), trained from each of `--seeds`, on FOLDER's own splits, in a folder of its own below
.state. There the validation split stands in place of the test split, so that no value of a test image is computed: stage
`pretrain` gives the validation losses, stage `write_reports` the scores of reports for validation images. Printed for each
training are these and the processor time of `pretrain`; `--save` writes benchmarks/results/recipe-PRESET-DATE.json.

    python -m benchmarks.recipe . --trial --trial pretrain.optimizer=adamw pretrain.steps=850 --seeds 0 1 --jobs 2

With `--prior LEVEL` stage `train_prior` trains that level's prior instead, on the codes that FOLDER has of its own model.
Printed are the bits per code of validation images, and how well the findings of validation reports are detected in images that
are generated from them with FOLDER's prior of the other level. `--save` writes recipe-PRESET-prior-LEVEL-DATE.json.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from benchmarks import records
from medunifier.runtime.errors import InputError, refuse
from medunifier.runtime.json_files import read_json_object
from medunifier.runtime.params import load_params
from medunifier.runtime.yaml import parse_yaml, read_mapping

LINKED = (
    "dvc.yaml", "stages", "workflow", "medunifier", "encoders", "data/images", "data/features", "models/tokenizer"
)  # fmt: skip
OTHER_LEVEL = {"top": "bottom", "bottom": "top"}
BITS = ("bits_per_code", "bits_per_code_without_text")
REPORTS = ("findings_f1_micro", "nearest_findings_f1_micro", "bleu_4", "constant_bleu_4")


def changed(params: dict, changes: Sequence[str]) -> dict:
    """Return parameters with NAME=VALUE applied: NAME with dots between sections, VALUE as in params.yaml.

    Raises:
        InputError: A change is not of this form, or params.yaml has no such name.
    """
    params = json.loads(json.dumps(params))
    for change in changes:
        name, equals, value = change.partition("=")
        *sections, last = name.split(".")
        place = params
        for section in sections:
            place = place.get(section) if isinstance(place, dict) else None
        if not equals or not isinstance(place, dict) or last not in place:
            raise InputError(
                f"--trial {change}: expected NAME=VALUE with a NAME of params.yaml, as in pretrain.steps=850"
            )
        place[last] = parse_yaml(value, f"--trial {change}")
    return params


def write_folder(source: Path, folder: Path, params: dict, prior: str | None = None) -> None:
    """Make a project like `source` with other parameters, and its validation split in place of its test split.

    To train the prior of a level it has the model of `source`, its codes and its prior of the other level.
    """
    model = ("models/full", f"models/priors/full-{OTHER_LEVEL[prior]}") if prior else ()
    for name in LINKED + model:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to((source / name).resolve())
    (folder / "params.yaml").write_text(json.dumps(params), encoding="utf-8")  # JSON is YAML
    dataset = params["pretrain"]["dataset"]
    prepared = folder / "data/prepared" / dataset
    shutil.copytree(source / "data/prepared" / dataset, prepared)
    shutil.copy(prepared / "validate.parquet", prepared / "test.parquet")
    if prior:
        codes = folder / "data/codes/full"
        shutil.copytree(source / "data/codes/full", codes)
        shutil.copy(codes / "validate.parquet", codes / "test.parquet")


def run_stage(folder: Path, name: str, *command: str) -> dict[str, float]:
    """Run a stage on one core in a folder and return its metrics; `processor_s` is its processor time.

    Its lines of progress go to stderr, with `name` before each.

    Raises:
        InputError: The stage failed; with the end of what it printed.
    """
    own = {
        "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
        "MEDUNIFIER_UPLOADER": "off",
        "OMP_NUM_THREADS": "1",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=os.environ | own,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("["):
            print(f"{name}: {line}", end="", file=sys.stderr, flush=True)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise InputError(f"python -m {' '.join(command)} failed:\n{''.join(lines)[-2000:]}")
    (metrics,) = folder.glob(f"results/metrics/{command[0].rpartition('.')[2]}@*.json")
    return json.loads(metrics.read_text(encoding="utf-8")) | {"processor_s": usage.ru_utime + usage.ru_stime}


def intervals(metrics: dict[str, float], names: Sequence[str], digits: int) -> dict[str, list[float]]:
    """Return those of `names` that there are, each with the ends of its confidence interval."""
    return {
        name: [round(metrics[f"{name}{part}"], digits) for part in ("", "_ci_low", "_ci_high")]
        for name in names
        if name in metrics
    }


def train(source: Path, changes: Sequence[str], seed: int, prior: str | None = None) -> dict:
    """Return what one training gives on the validation split; of the prior of a level, if one is named.

    Raises:
        InputError: A change is not understood, or a stage failed.
    """
    params = changed(read_mapping(source / "params.yaml"), [*changes, f"seed={seed}"])
    (source / ".state").mkdir(exist_ok=True)  # where no snakemake has run
    with tempfile.TemporaryDirectory(prefix="recipe-", dir=source / ".state") as name:
        folder = Path(name)
        write_folder(source, folder, params, prior)
        who = f"{', '.join(changes) or 'as it is'}, seed {seed}"
        stage = ("stages.train_prior", "--level", prior) if prior else ("stages.pretrain",)
        training = run_stage(folder, who, *stage, "--variant", "full")
        found = {"changes": list(changes), "seed": seed, "processor_s": round(training["processor_s"])}
        if prior:
            found["validation_bits"] = intervals(training, BITS, 4)
            run_stage(folder, who, "stages.generate_images", "--variant", "full")
            images = run_stage(folder, who, "stages.score_images", "--variant", "full")
            found["validation_report_fidelity"] = intervals(images, ("report_fidelity_auroc",), 2)
        else:
            found["validation_losses"] = {
                name: round(training[f"val_{name}_last"], 5)
                for name in ("itc", "itm", "itg", "tig")
                if f"val_{name}_last" in training
            }
        if "itg" in found.get("validation_losses", {}):
            dataset = params["pretrain"]["dataset"]
            reports = run_stage(
                folder, who, "stages.write_reports", "--variant", "full", "--dataset", dataset
            )
            found["validation_reports"] = intervals(reports, REPORTS, 2)
    print(json.dumps(found), flush=True)
    return found


def about(source: Path) -> dict:
    """Return the processor, and what the training's data set kept and left out."""
    dataset = load_params(source / "params.yaml").pretrain.dataset
    summary = read_json_object(source / "data/prepared" / dataset / "summary.json")
    kept = {name: summary[name] for name in ("raw", "kept", "rejected", "patients")}
    return {"processor": torch.backends.cpu.get_cpu_capability(), "dataset": dataset} | kept


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="project folder whose features are extracted")
    parser.add_argument(
        "--trial",
        action="append",
        nargs="*",
        metavar="NAME=VALUE",
        required=True,
        help="changes to params.yaml, as in pretrain.steps=850; none: as it is; given once for each trial",
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0], help="seeds to train each trial from (default: 0)"
    )
    parser.add_argument("--prior", choices=("top", "bottom"), help="level whose prior is trained instead")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time, one core each (default: 1)")
    parser.add_argument(
        "--save", action="store_true", help="write benchmarks/results/recipe-PRESET[-prior-LEVEL]-DATE.json"
    )
    arguments = parser.parse_args()
    trainings = [(changes, seed) for changes in arguments.trial for seed in arguments.seeds]
    finished: list[dict] = []
    code = 0
    source, prior = arguments.folder, arguments.prior
    with ThreadPoolExecutor(arguments.jobs) as pool:
        try:
            load_params(source / "params.yaml")  # refused before anything is trained
            for found in pool.map(lambda one: train(source, *one, prior), trainings):
                finished.append(found)
        except InputError as error:
            pool.shutdown(cancel_futures=True)
            code = refuse("benchmarks.recipe", error)
    if arguments.save and finished:
        command = "python -m benchmarks.recipe FOLDER " + " ".join(sys.argv[2:])
        name = f"recipe-{load_params(source / 'params.yaml').preset}" + (f"-prior-{prior}" if prior else "")
        print(records.save(name, command, about(source) | {"trainings": finished}))
    sys.exit(code)


if __name__ == "__main__":
    main()
