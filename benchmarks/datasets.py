"""Data sets at MIMIC-CXR's real size: `python -m benchmarks.datasets write FOLDER`, then `... measure FOLDER [--save]`.

`write` makes copies with synthetic content at 1/10, 1/3 and all of the 377 110 images and 227 835 studies (some
minutes, 4 GB, mostly small files), and radiographs of the real size. `measure` reports for each copy
* the whole of `prepare`: filtering, joining, splitting, sections of every report (asked: 30 s and 2 GB at most);
* sections alone, from a folder and from one zip file, beside the plain way: one process that reads file by file
  and parses line by line (asked: at least 3 x faster, identical results);
and for radiographs `decode_images`, beside bare decoding and resizing on the same cores (asked: at least 80 %).
Everything runs on two cores, each measurement in a process of its own, files in the system's cache. Of the tables
each value is the median of three rounds, since a machine's speed varies.
`--save` writes benchmarks/results/datasets-DATE.json. The exit code is 1 if something asked for is missed.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from benchmarks import mimic_size, records

REPO = Path(__file__).resolve().parents[1]
PARTS = {"tenth": 0.1, "third": 1 / 3, "full": 1.0}
RADIOGRAPHS = {"tenth": 80, "third": 267, "full": 800}  # of radiographs, all of MIMIC's would take hours
CORES = 2
ROUNDS = 3  # of each measurement of the tables


def write(folder: Path) -> None:
    """Write the copies and the radiographs; finished ones are not written again."""
    for name, part in PARTS.items():
        if not (folder / name / "written").exists():
            shutil.rmtree(folder / name, ignore_errors=True)
            mimic_size.write_copy(folder / name, part)
            (folder / name / "written").touch()
        print(f"{folder / name}: {part:.0%}", flush=True)
    if not (folder / "radiographs").exists():
        mimic_size.write_radiographs(folder / "radiographs.partial", max(RADIOGRAPHS.values()))
        (folder / "radiographs.partial").rename(folder / "radiographs")


def measured(name: str, *arguments: object) -> dict:
    """Run one measurement of benchmarks/dataset_measurements.py, in a fresh process in an empty folder."""
    environment = os.environ | {
        "PYTHONPATH": str(REPO),
        "POLARS_MAX_THREADS": str(CORES),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "benchmarks.dataset_measurements", name, *map(str, arguments)]
    with tempfile.TemporaryDirectory() as temporary:
        done = subprocess.run(
            command, cwd=temporary, env=environment, check=True, stdout=subprocess.PIPE, text=True
        )
    return json.loads(done.stdout.splitlines()[-1])


def table_values(folder: Path) -> dict[str, float]:
    """Measure prepare and sections of each copy: medians.

    Raises:
        SystemExit: the sections differ from those of the plain way.
    """
    values = {}
    for name in PARTS:
        rounds = [table_round((folder / name).resolve()) for _ in range(ROUNDS)]
        values |= {f"{key}_{name}": median(values[key] for values in rounds) for key in rounds[0]}
    return values


def table_round(copy: Path) -> dict[str, float]:
    """Measure one copy once. Ratios are of what ran within the same minute."""
    prepared = measured("prepare", copy)
    plain = measured("plain_sections", copy)
    files, packed = measured("sections", copy), measured("sections", copy / "mimic-cxr-reports.zip")
    if len({run["digest"] for run in (plain, files, packed)}) > 1:
        sys.exit(f"{copy}: the sections are not the same")
    return {
        "prepare_s": prepared["seconds"],
        "prepare_tables_s": prepared["seconds"] - prepared["sections"],
        "prepare_peak_gb": prepared["peak_gb"],
        "plain_sections_s": plain["seconds"],
        "sections_s": files["seconds"],
        "sections_zip_s": packed["seconds"],
        "sections_times_faster": plain["seconds"] / files["seconds"],
        "sections_zip_times_faster": plain["seconds"] / packed["seconds"],
    }


def image_values(folder: Path) -> dict[str, float]:
    """Compare decode_images with bare decoding of the same radiographs, at its own scale and at libjpeg's smallest."""
    values, radiographs = {}, (folder / "radiographs").resolve()
    for name, count in RADIOGRAPHS.items():
        before = measured("bare_decoding", radiographs, count, CORES, 2)["seconds"]
        stage = measured("decode_images", radiographs, count)["seconds"]
        bare = (before + measured("bare_decoding", radiographs, count, CORES, 2)["seconds"]) / 2
        smallest = measured("bare_decoding", radiographs, count, CORES, 1)["seconds"]
        values |= {
            f"bare_decoding_per_s_{name}": count / bare,
            f"bare_decoding_smallest_scale_per_s_{name}": count / smallest,
            f"decode_images_per_s_{name}": count / stage,
            f"decode_images_share_{name}": bare / stage,
            f"decode_images_share_of_smallest_scale_{name}": smallest / stage,
        }
    return values


def missed(values: dict[str, float]) -> list[str]:
    """List limits that are missed at full size, and times that grow faster than the data."""
    asked = {
        "prepare_s_full": ("<=", 30.0),
        "prepare_peak_gb_full": ("<=", 2.0),
        "sections_times_faster_full": (">=", 3.0),
        "sections_zip_times_faster_full": (">=", 3.0),
        "decode_images_share_full": (">=", 0.8),
    }
    found = []
    for name, (relation, limit) in asked.items():
        value = values.get(name, limit)
        if value > limit if relation == "<=" else value < limit:
            found.append(f"{name} is {value:.2f}, asked: {relation} {limit:g}")
    for name in ("prepare_s", "sections_s", "sections_zip_s"):
        if f"{name}_full" in values and values[f"{name}_full"] > 3.3 * values[f"{name}_third"]:
            found.append(f"{name} grows faster than the data")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("write", "tables", "images", "measure"))
    parser.add_argument("folder", type=Path, help="where the copies are, or are to be written")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/datasets-DATE.json")
    arguments = parser.parse_args()
    if arguments.action == "write":
        write(arguments.folder)
        return 0

    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    load, values = os.getloadavg()[0], {}
    if arguments.action != "images":
        values |= table_values(arguments.folder)
    if arguments.action != "tables":
        values |= image_values(arguments.folder)
    for name, value in values.items():
        print(f"{name:<44} {value:8.2f}")
    if arguments.save:
        save(values, load)
    print("\n".join(missed(values)) or "everything asked for is reached")
    return 1 if missed(values) else 0


def save(values: dict[str, float], load: float) -> None:
    """Add the values to today's record."""
    path = records.path("datasets")
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    about = earlier | {
        "cores": CORES,
        "rounds_of_tables": ROUNDS,
        "load_before": round(load, 1),
        "studies": {name: round(mimic_size.STUDIES * part) for name, part in PARTS.items()},
        "images": {name: round(mimic_size.IMAGES * part) for name, part in PARTS.items()},
        "radiographs": RADIOGRAPHS,
        **{name: round(value, 3) for name, value in values.items()},
    }
    command = "python -m benchmarks.datasets measure FOLDER --save"
    known = ("command", "date", "python", "polars", "pillow")
    about = {name: value for name, value in about.items() if name not in known}
    print(f"written: {records.save('datasets', command, about, ('polars', 'pillow')).relative_to(REPO)}")


if __name__ == "__main__":
    sys.exit(main())
