"""prepare: a data set as distributed -> tables of images with their reports, split and accounted for."""

from pathlib import Path

from medunifier.data.layouts import RAW_IMAGES, find_layout
from medunifier.data.preparation.check import check_dataset
from medunifier.data.preparation.prepared_tables import (
    final_tables,
    flat_counts,
    summarize_tables,
    text_source,
    write_subsets,
    write_tables,
)
from medunifier.data.preparation.rejects import Selection
from medunifier.data.preparation.rules import select_images
from medunifier.runtime.errors import InputError
from medunifier.runtime.params import Dataset, MultiLabel, Params
from medunifier.stage import run_stage
from medunifier.tracking import LocalRun


def prepare(params: Params, run: LocalRun, dataset: str) -> None:
    """Filter images, split their reports into sections, split by patient, set the benchmark aside.

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
    reports = select_images(selection, settings, layout, params.seed, params.label_sentences)
    warnings = (*raw.warnings, *reports.warnings, *selection.warnings)
    if settings.private and warnings:  # they name patients and images
        run.log(f"{len(warnings)} warnings, shown by hand only: python -m stages.prepare --check {dataset}")
    for warning in () if settings.private else warnings:
        run.log(f"warning: {warning}")
    tables = final_tables(selection, settings, dataset, params.seed)
    notes = raw.notes | reports.notes | selection.notes
    summary = {
        "dataset": dataset,
        "layout": settings.layout,
        "index": vars(settings.index),
        "texts": text_source(settings, params.label_sentences),
        **summarize_tables(tables, selection, len(raw.rows), notes, settings),
    }
    folder = Path("data/prepared") / dataset
    write_tables(folder, tables, selection, summary)
    write_subsets(Path("results/subsets") / f"{dataset}.csv", tables)
    run.metrics(flat_counts(summary))
    run.artifact(folder / "summary.json")
    run.log(f"kept {summary['kept']}, rejected {summary['rejected']}")


def settings_of(params: Params, dataset: str) -> Dataset:
    """Return the parameters of a data set; InputError for one that params.yaml does not have."""
    if dataset not in params.datasets:
        raise InputError(f"datasets: no {dataset!r} in params.yaml; it has {', '.join(params.datasets)}")
    return params.datasets[dataset]


def check(params: Params, dataset: str) -> None:
    """Print what `prepare` would find under the data set's root; InputError where it would stop."""
    settings = settings_of(params, dataset)
    labels: list[str] = []
    for chosen in (params.evaluate.finetune.get(dataset), params.zero_shot.multi_label.get(dataset)):
        labels += chosen.labels if isinstance(chosen, MultiLabel) else chosen or ()
    for line in check_dataset(dataset, settings, params.seed, params.label_sentences, labels):
        print(line, flush=True)


if __name__ == "__main__":
    run_stage(prepare, arguments=("dataset",), check=check)
