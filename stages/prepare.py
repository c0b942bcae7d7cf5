"""prepare: a data set as distributed -> tables of images with their reports, split and accounted for."""

import shutil
from pathlib import Path
from typing import Any

import polars as pl

from medunifier.data.index_files import some
from medunifier.data.layouts import RAW_IMAGES, find_layout
from medunifier.data.preparation.benchmarks import ids_digest
from medunifier.data.preparation.rejects import Selection
from medunifier.data.preparation.rules import select_images, set_benchmark_aside
from medunifier.data.preparation.splits import SPLITS, require_separate_patients
from medunifier.runtime.errors import InputError
from medunifier.runtime.files import atomic_path, write_json
from medunifier.runtime.params import Dataset, Params
from medunifier.stage import run_stage
from medunifier.storage.tables import BENCHMARK, LABEL_PREFIX, MANIFEST, PREPARED, REJECTED, write_table
from medunifier.tracking import LocalRun


def prepare(params: Params, run: LocalRun, dataset: str) -> None:
    """Filter images, cut their reports into sections, split by patient, set the benchmark aside.

    Writes data/prepared/DATASET: {train,validate,test,benchmark}.parquet, rejected.parquet with a reason for
    every other row of the index, manifest.parquet (the kept images' files), summary.json (the counts); and
    results/subsets/DATASET.csv: which image is in which split and class, in the form of `index.lists`.
    """
    settings = settings_of(params, dataset)
    if not Path(settings.root).is_dir():
        raise InputError(
            f"datasets.{dataset}.root: no folder {settings.root}; give the folder of the data set"
        )
    layout = find_layout(settings.layout)

    raw = layout.read_images(settings)
    RAW_IMAGES.check(raw.rows, f"read_images of {settings.layout}")
    run.log(f"{len(raw.rows)} images in the index")
    selection = Selection(raw.rows)
    reports = select_images(selection, settings, layout, params.seed)
    # A data set with nothing left is told so, not that its benchmark is too small.
    split_tables(selection, dataset)
    benchmark = set_benchmark_aside(selection, settings, params.seed)

    tables = split_tables(selection, dataset)
    if benchmark is not None:
        tables["benchmark"] = benchmark
    check_patients(tables, settings)
    separate = benchmark is None or settings.benchmark.remove != "none"
    summary = {
        "dataset": dataset,
        "layout": settings.layout,
        "index": vars(settings.index),
        **account(tables, selection, len(raw.rows), raw.notes | reports.notes, separate),
    }
    write_tables(Path("data/prepared") / dataset, tables, selection, summary)
    write_subsets(Path("results/subsets") / f"{dataset}.csv", tables)
    run.metrics(flat(summary))
    run.artifact(Path("data/prepared") / dataset / "summary.json")
    run.log(f"kept {summary['kept']}, rejected {summary['rejected']}")


def settings_of(params: Params, dataset: str) -> Dataset:
    """The parameters of a data set; InputError for one that params.yaml does not have."""
    if dataset not in params.datasets:
        raise InputError(f"datasets: no {dataset!r} in params.yaml; it has {', '.join(params.datasets)}")
    return params.datasets[dataset]


def check(params: Params, dataset: str) -> None:
    """Print what `prepare` would find under the data set's root; InputError where it would stop."""
    from medunifier.data.preparation.check import check_dataset

    for line in check_dataset(dataset, settings_of(params, dataset), params.seed):
        print(line, flush=True)


def split_tables(selection: Selection, dataset: str) -> dict[str, pl.DataFrame]:
    """The kept rows of each split. An empty split raises InputError that tells what was rejected."""
    tables = {split: selection.kept.filter(split=split) for split in SPLITS}
    if empty := [split for split, table in tables.items() if table.is_empty()]:
        raise InputError(
            f"datasets.{dataset}: no image is left for {', '.join(empty)}; kept: {len(selection.kept)}, "
            f"rejected: {selection.counts() or 'none'}. Check root, views, sections and split in params.yaml"
        )
    return tables


def check_patients(tables: dict[str, pl.DataFrame], settings: Dataset) -> None:
    """InputError if a patient is in two splits, or in one and in the benchmark that was to take it out.

    With `remove: images` the same of the benchmark's images; with `remove: none` it stays where it was.
    """
    apart = [name for name in tables if name != "benchmark" or settings.benchmark.remove == "patients"]
    assigned = [tables[name].select("patient_id", pl.lit(name).alias("split")) for name in apart]
    where = f"{settings.root}/{settings.index.lists if settings.split == 'list' else settings.index.split}"
    require_separate_patients(pl.concat(assigned), where)
    if "benchmark" in tables and settings.benchmark.remove != "none":
        left = tables["train"].join(tables["benchmark"], on="image_id", how="semi")["image_id"].to_list()
        if left:
            raise InputError(f"{where}: {len(left)} benchmark images are still in training: {some(left)}")


def account(
    tables: dict[str, pl.DataFrame], selection: Selection, raw: int, notes: dict[str, int], separate: bool
) -> dict[str, Any]:
    """The counts of summary.json. Raw rows are kept or rejected; RuntimeError (a bug) if the sums differ.

    `separate`: the benchmark's images are in no other table, so they count as a part of what is kept.
    """
    apart = {name: table for name, table in tables.items() if name != "benchmark" or separate}
    kept = {name: len(table) for name, table in apart.items()}
    rejected = selection.counts()
    if raw != sum(kept.values()) + sum(rejected.values()):
        raise RuntimeError(
            f"{raw} rows were read, but {kept} kept and {rejected} rejected do not add up to them"
        )
    summary = {
        "raw": raw,
        "kept": kept,
        "rejected": rejected,
        "patients": {name: table["patient_id"].n_unique() for name, table in apart.items()},
        "studies": {name: table["study_id"].n_unique() for name, table in apart.items()},
        "image_ids_sha256": {name: ids_digest(table["image_id"]) for name, table in tables.items()},
        "bytes": sum(table["bytes"].sum() for table in apart.values()),
        "notes": notes,
    }
    if "benchmark" in tables:
        chosen = tables["benchmark"]
        classes = dict(chosen.group_by("benchmark_class", maintain_order=True).len().iter_rows())
        summary["benchmark"] = {"classes": classes, "image_ids_sha256": ids_digest(chosen["image_id"])}
        if not separate:
            in_training = chosen.join(tables["train"], on="image_id", how="semi")
            summary["notes"]["benchmark_images_in_training"] = len(in_training)
    return summary


def write_tables(
    folder: Path, tables: dict[str, pl.DataFrame], selection: Selection, summary: dict[str, Any]
) -> None:
    """Replace `folder` by the prepared tables, their manifest, the rejects and the summary."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, table in tables.items():
        schema = BENCHMARK if name == "benchmark" else PREPARED
        labels = [column for column in table.columns if column.startswith(LABEL_PREFIX)]
        table = table.select(*schema.columns, *labels).sort("image_id")
        write_table(table, folder / f"{name}.parquet", schema)
    manifest = (
        pl.concat([table.select(*MANIFEST.columns) for table in tables.values()]).unique().sort("image_id")
    )
    write_table(manifest, folder / "manifest.parquet", MANIFEST)
    write_table(selection.rejected, folder / "rejected.parquet", REJECTED)
    write_json(folder / "summary.json", summary)


def write_subsets(path: Path, tables: dict[str, pl.DataFrame]) -> None:
    """The chosen ids: image_id, split, benchmark_class (blank where there is none), by image_id."""
    splits = pl.concat([tables[name].select("image_id", pl.lit(name).alias("split")) for name in SPLITS])
    benchmark = tables.get(
        "benchmark", pl.DataFrame(schema={"image_id": pl.String, "benchmark_class": pl.String})
    )
    chosen = splits.join(
        benchmark.select("image_id", "benchmark_class"), on="image_id", how="full", coalesce=True
    )
    with atomic_path(path) as temporary:
        chosen.sort("image_id").write_csv(temporary)


def flat(summary: dict[str, Any]) -> dict[str, int]:
    """The counts of a summary as metrics: raw, kept, kept_train, ..., rejected, rejected_other_view, ..."""
    metrics = {"raw": summary["raw"], "bytes": summary["bytes"]}
    for group in ("kept", "rejected"):
        metrics[group] = sum(summary[group].values())
    for group in ("kept", "rejected", "patients", "studies"):
        metrics |= {f"{group}_{name}": count for name, count in summary[group].items()}
    return metrics | summary["notes"]


if __name__ == "__main__":
    run_stage(prepare, arguments=("dataset",), check=check)
