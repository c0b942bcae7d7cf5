"""The prepared tables of a data set: split, check, count and write the rows that passed all rules."""

import shutil
from pathlib import Path
from typing import Any

import polars as pl

from medunifier.data.dataset_files import count_images
from medunifier.data.index_files import some
from medunifier.data.preparation.benchmarks import ids_digest
from medunifier.data.preparation.label_sentences import Template
from medunifier.data.preparation.rejects import Reason, Selection
from medunifier.data.preparation.rules import set_benchmark_aside
from medunifier.data.preparation.splits import SPLITS, require_separate_patients
from medunifier.runtime.errors import InputError
from medunifier.runtime.files import atomic_path, write_json
from medunifier.runtime.params import Dataset
from medunifier.storage.tables import BENCHMARK, LABEL_PREFIX, MANIFEST, PREPARED, REJECTED, write_table

_ARCHIVES = (".tgz", ".tar", ".tar.gz", ".zip", ".7z", ".rar")


def final_tables(selection: Selection, settings: Dataset, dataset: str, seed: int) -> dict[str, pl.DataFrame]:
    """Return the kept rows of each split and, if there is one, of the benchmark, checked.

    Raises:
        InputError: A split is empty, the benchmark cannot be chosen, or the splits share a patient.
    """
    # Checked before the benchmark: an empty data set is reported as such, not as too small for its benchmark.
    split_tables(selection, settings, dataset)
    benchmark = set_benchmark_aside(selection, settings, seed)
    tables = split_tables(selection, settings, dataset)
    if benchmark is not None:
        tables["benchmark"] = benchmark
    check_patients(tables, settings)
    return tables


def split_tables(selection: Selection, settings: Dataset, dataset: str) -> dict[str, pl.DataFrame]:
    """Return the kept rows of each split.

    Raises:
        InputError: A split is empty; the message counts what was rejected, the most frequent reason first.
    """
    tables = {split: selection.kept.filter(split=split) for split in SPLITS}
    if empty := [split for split, table in tables.items() if table.is_empty()]:
        raise InputError(
            f"datasets.{dataset}: no image is left for {', '.join(empty)}; {explain_rejects(selection, settings)}. "
            "Check root, views, sections and split in params.yaml"
        )
    return tables


def explain_rejects(selection: Selection, settings: Dataset) -> str:
    """Return how many images were rejected, and why; where most files are missing, what lies below the root instead."""
    counts = selection.counts()
    rejected, total = sum(counts.values()), len(selection.kept) + sum(counts.values())
    reasons = ", ".join(f"{reason} {count}" for reason, count in counts.items()) or "none"
    text = f"{'all' if rejected == total else f'{rejected} of'} {total} images rejected: {reasons}"
    if 2 * counts.get(Reason.MISSING_IMAGE, 0) > total:
        text += f"; {what_lies_there(selection, settings)}"
    return text


def what_lies_there(selection: Selection, settings: Dataset) -> str:
    """Return how many image files there are below the root, of which kind, and which archives wait to be unpacked."""
    root = Path(settings.root)
    missing = selection.rejected.filter(reason=Reason.MISSING_IMAGE.value)["detail"].drop_nulls()
    suffixes = missing.str.extract(r"(\.[A-Za-z]{2,5})$").str.to_lowercase().drop_nulls()
    wanted = suffixes.mode().sort()[0] if len(suffixes) else ""
    found = count_images(root)
    others = ", ".join(f"{count} {suffix}" for suffix, count in found.items() if suffix != wanted)
    text = f"{found.get(wanted, 0)} {wanted} files below {root}{f' (and {others})' if others else ''}"
    index = set(vars(settings.index).values())
    packed = [
        entry.name
        for entry in sorted(root.iterdir())
        if entry.name.endswith(_ARCHIVES) and entry.name not in index and not entry.name.endswith(".csv.zip")
    ]
    unpack = f"unpack {some(packed)} there" if packed else "unpack the archive of the images there"
    if not packed and found.get(wanted, 0) >= len(missing):
        unpack = "are they in other folders, or under other names, than the index and the layout say?"
    first = "" if settings.private else f", the first one missing is {missing[0]}"
    return f"{text}{first}; {unpack}"


def check_patients(tables: dict[str, pl.DataFrame], settings: Dataset) -> None:
    """Check that the splits, and the benchmark if it is removed from them, share no patient.

    With `remove: images` the benchmark shares no image with training; with `remove: none` it may share all.

    Raises:
        InputError: A patient or image is in two tables that must be disjoint.
    """
    remove = settings.benchmark.remove if settings.benchmark else "none"
    disjoint = [name for name in tables if name != "benchmark" or remove == "patients"]
    assigned = [tables[name].select("patient_id", pl.lit(name).alias("split")) for name in disjoint]
    where = f"{settings.root}/{settings.index.lists if settings.split == 'list' else settings.index.split}"
    require_separate_patients(pl.concat(assigned), where)
    if "benchmark" in tables and remove != "none":
        left = tables["train"].join(tables["benchmark"], on="image_id", how="semi")["image_id"].to_list()
        if left:
            raise InputError(f"{where}: {len(left)} benchmark images are still in training: {some(left)}")


def summarize_tables(
    tables: dict[str, pl.DataFrame], selection: Selection, raw: int, notes: dict[str, int], settings: Dataset
) -> dict[str, Any]:
    """Return the counts of summary.json.

    Args:
        tables: the splits and, if there is one, the benchmark.
        selection: kept and rejected rows.
        raw: number of rows of the index.
        notes: further counts, of the layout.
        settings: the data set's parameters; with `benchmark.remove: none` the benchmark's images are in the splits,
            too, and do not count as kept a second time.

    Raises:
        RuntimeError: Kept and rejected rows do not add up to `raw` (a bug).
    """
    separate = settings.benchmark is None or settings.benchmark.remove != "none"
    disjoint = {name: table for name, table in tables.items() if name != "benchmark" or separate}
    kept = {name: len(table) for name, table in disjoint.items()}
    rejected = selection.counts()
    if raw != sum(kept.values()) + sum(rejected.values()):
        raise RuntimeError(
            f"{raw} rows were read, but {kept} kept and {rejected} rejected do not add up to them"
        )
    summary = {
        "raw": raw,
        "kept": kept,
        "rejected": rejected,
        "patients": {name: table["patient_id"].n_unique() for name, table in disjoint.items()},
        "studies": {name: table["study_id"].n_unique() for name, table in disjoint.items()},
        "image_ids_sha256": {name: ids_digest(table["image_id"]) for name, table in tables.items()},
        "bytes": sum(table["bytes"].sum() for table in disjoint.values()),
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


def text_source(settings: Dataset, label_sentences: str) -> dict[str, Any]:
    """Return where the texts of a data set are from: `reports`, or `labels` with the template that wrote them."""
    if settings.report_from == "reports":
        return {"from": "reports"}
    template = Template.read(label_sentences)
    return {
        "from": "labels",
        "template": label_sentences,
        "version": template.version,
        "sha256": template.sha256,
    }


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
    """Write the chosen ids as CSV: image_id, split, benchmark_class (blank: not in the benchmark)."""
    splits = pl.concat([tables[name].select("image_id", pl.lit(name).alias("split")) for name in SPLITS])
    benchmark = tables.get(
        "benchmark", pl.DataFrame(schema={"image_id": pl.String, "benchmark_class": pl.String})
    )
    chosen = splits.join(
        benchmark.select("image_id", "benchmark_class"), on="image_id", how="full", coalesce=True
    )
    with atomic_path(path) as temporary:
        chosen.sort("image_id").write_csv(temporary)


def flat_counts(summary: dict[str, Any]) -> dict[str, int]:
    """Return the counts of a summary as metrics: raw, kept, kept_train, ..., rejected, rejected_other_view, ..."""
    metrics = {"raw": summary["raw"], "bytes": summary["bytes"]}
    for group in ("kept", "rejected"):
        metrics[group] = sum(summary[group].values())
    for group in ("kept", "rejected", "patients", "studies"):
        metrics |= {f"{group}_{name}": count for name, count in summary[group].items()}
    return metrics | summary["notes"]
