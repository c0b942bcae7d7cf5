"""The selection rules for every data set, in order: images, reports, texts, splits, benchmark."""

from pathlib import Path

import polars as pl

from medunifier.data.dataset_files import locate_images
from medunifier.data.index_files import alike_ids, check_match, contradictions, some
from medunifier.data.layouts import RAW_REPORTS, Layout, Raw
from medunifier.data.preparation.benchmarks import choose_benchmark, listed_benchmark, read_benchmark
from medunifier.data.preparation.label_sentences import Template, write_texts
from medunifier.data.preparation.rejects import Reason, Selection
from medunifier.data.preparation.splits import (
    TRAIN_VALIDATE,
    read_split_lists,
    read_splits,
    split_by_patient,
    split_in_two_steps,
)
from medunifier.runtime.errors import InputError
from medunifier.runtime.params import NO_FILE, Dataset
from medunifier.storage.tables import FRONTAL, LABEL_PREFIX

_NO_DETAIL = pl.lit(None, pl.String)


def select_images(
    selection: Selection, settings: Dataset, layout: Layout, seed: int, label_sentences: str = NO_FILE
) -> Raw:
    """Apply all rules but the benchmark's, in order; return the reports that the layout read.

    `label_sentences` is the template file of text from labels, read where the data set asks for it.
    """
    keep_wanted_images(selection, settings)
    if settings.report_from == "labels":
        reports = add_texts_from_labels(selection, label_sentences)
    else:
        reports = add_reports(selection, settings, layout)
    keep_wanted_texts(selection, settings)
    assign_splits(selection, settings, seed)
    return reports


def keep_wanted_images(selection: Selection, settings: Dataset) -> None:
    """Reject repeated and contradictory rows, rows rejected by the layout, other views and missing files; add `bytes`."""
    reject_repeated(selection)
    blank = pl.col("patient_id").is_null()
    selection.reject(blank, Reason.MISSING_PATIENT, pl.format("study {}", "study_id"))
    selection.reject(pl.col("reason").is_not_null(), pl.col("reason"), pl.col("detail"))
    if settings.views is not None:
        view = pl.col("view").fill_null("blank")
        selection.reject(~view.is_in(settings.views), Reason.OTHER_VIEW, pl.format("view is {}", view))
    warn_of_alike_patients(selection)
    located = locate_images(selection.kept, Path(settings.root), settings.links)
    renamed = int((located["image_path"] != selection.kept["image_path"]).sum())
    if renamed:
        selection.notes["images_under_another_suffix"] = renamed
    selection.kept = located
    selection.reject(pl.col("reason").is_not_null(), pl.col("reason"), pl.col("detail"))
    selection.kept = selection.kept.drop("reason", "detail")


def reject_repeated(selection: Selection) -> None:
    """Reject all rows of an image whose labels, view or split contradict each other; of repeated rows keep the first.

    Rows with one id but different files are of different images. An image listed under several patients stays with
    the first; the user is warned, because these may be one person.
    """
    twice = selection.kept.filter(pl.col("image_id").is_duplicated())
    if twice.is_empty():
        return
    labels = [name for name in twice.columns if name.startswith(LABEL_PREFIX)]
    file = ["image_id", "image_path"]
    of_file = contradictions(twice.select(*file, "view", "split", *labels), file)
    of_id = contradictions(twice.select("image_id", *labels), "image_id").rename(
        {"contradiction": "differing"}
    )
    people = (
        contradictions(twice.select(*file, "patient_id"), file)["contradiction"].unique().sort().to_list()
    )
    if people:
        selection.warnings.append(
            f"images are listed under several patients, who may be one person: {some(people)}; the first counts"
        )
    kept = selection.kept.join(of_file, on=file, how="left", maintain_order="left")
    selection.kept = kept.join(of_id, on="image_id", how="left", maintain_order="left")
    differs = pl.col("contradiction")
    selection.reject(differs.is_not_null(), Reason.CONTRADICTORY, differs)
    patient = pl.col("patient_id").fill_null("blank")
    here = pl.format("listed before; here with patient {}, study {}", patient, "study_id")
    detail = pl.concat_str(here, "differing", separator="; ", ignore_nulls=True)
    selection.reject(~pl.col("image_id").is_first_distinct(), Reason.DUPLICATE_ID, detail)
    selection.kept = selection.kept.drop("contradiction", "differing")


def warn_of_alike_patients(selection: Selection) -> None:
    """Warn of patients whose ids differ in case, a leading `p` or leading zeros only: one of them could be in two splits."""
    if groups := alike_ids(selection.kept["patient_id"]):
        selection.notes["patient_ids_alike"] = sum(map(len, groups))
        selection.warnings.append(
            f"{sum(map(len, groups))} patient ids differ in case, a leading `p` or leading zeros only and count as "
            f"different patients: {some([' and '.join(group) for group in groups], 3)}"
        )


def add_reports(selection: Selection, settings: Dataset, layout: Layout) -> Raw:
    """Read the reports of the kept images and join them; reject images whose report is missing or unreadable.

    Raises:
        InputError: A study is listed under several patients, so the patient of its report is unknown.
    """
    patients = selection.kept.group_by("study_id").agg(pl.col("patient_id").n_unique())
    if shared := patients.filter(pl.col("patient_id") > 1)["study_id"].sort().to_list():
        path = Path(settings.root) / settings.index.images
        raise InputError(f"{path}: {len(shared)} studies are listed under several patients: {some(shared)}")
    reports = layout.read_reports(settings, selection.kept)
    RAW_REPORTS.check(reports.rows, "read_reports")
    selection.kept = selection.kept.join(reports.rows, on="study_id", how="left", maintain_order="left")
    selection.reject(pl.col("reason").is_not_null(), pl.col("reason"), pl.col("detail"))
    return reports


def add_texts_from_labels(selection: Selection, label_sentences: str) -> Raw:
    """Write the `findings` of each kept image from its labels; none comes from a radiologist, and none is mixed in.

    Raises:
        InputError: The template file cannot be used.
    """
    texts = write_texts(selection.kept, Template.read(label_sentences))
    empty = [pl.lit(None, pl.String).alias(name) for name in ("impression", "body")]
    selection.kept = selection.kept.with_columns(texts.alias("findings"), *empty)
    return Raw(RAW_REPORTS.empty(), {"texts_from_labels": len(texts) - texts.null_count()})


def keep_wanted_texts(selection: Selection, settings: Dataset) -> None:
    """Reject images whose report lacks the required `sections`; add `report` in `section_order`."""
    no_findings, no_impression, no_body = (
        pl.col(name).is_null() for name in ("findings", "impression", "body")
    )
    if settings.sections == "both":
        selection.reject(no_findings & no_impression, Reason.MISSING_TEXT, _NO_DETAIL)
        selection.reject(no_findings, Reason.MISSING_FINDINGS, _NO_DETAIL)
        selection.reject(no_impression, Reason.MISSING_IMPRESSION, _NO_DETAIL)
    elif settings.sections == "either":
        selection.reject(no_findings & no_impression & no_body, Reason.MISSING_TEXT, _NO_DETAIL)
    order = (
        ["findings", "impression"]
        if settings.section_order == "findings_first"
        else ["impression", "findings"]
    )
    report = pl.concat_str(*order, "body", separator=" ", ignore_nulls=True).replace("", None)
    selection.kept = selection.kept.with_columns(report.alias("report"))


def assign_splits(selection: Selection, settings: Dataset, seed: int) -> None:
    """Keep the official `split`, take it from the user's lists, or split by patient with `seed`.

    `two_step` splits only images without an official split; those of patients in the official test list are rejected.

    Raises:
        InputError: `split` is `official`, but the layout has no official split.
    """
    if settings.split == "patient":
        assigned = split_by_patient(selection.kept["patient_id"], settings.split_fractions, seed)
        _join_split(selection, assigned, "patient_id")
    elif settings.split == "list":
        _assign_listed_splits(selection, settings, seed)
    elif settings.split == "two_step":
        _split_the_rest(selection, settings, seed)
    elif without := selection.kept["split"].null_count():
        raise InputError(
            f"layout {settings.layout} has no official split for {without} images; set `split: patient` "
            "or `split: two_step` in params.yaml"
        )


def _assign_listed_splits(selection: Selection, settings: Dataset, seed: int) -> None:
    """Take the splits from index.lists: a CSV file, or a folder of text files; reject images that are not listed.

    Images of a list of training and validation together are split by patient, in two steps.
    """
    path = Path(settings.root) / settings.index.lists
    known = pl.concat([selection.kept["image_id"], selection.rejected["image_id"]])
    if path.is_dir():
        listed, notes = read_split_lists(path, known)
        selection.notes |= notes
    else:
        listed = read_splits(path, "image_id")
        index = Path(settings.root) / settings.index.images
        selection.warnings += check_match(known.to_frame(), listed, "image_id", (index, path))
        nowhere = listed.join(known.to_frame(), on="image_id", how="anti")
        selection.notes["listed_ids_without_image"] = len(nowhere)
        if settings.benchmark and settings.benchmark.rule == "list" and settings.benchmark.remove != "none":
            # Images listed only for the benchmark count as training images until the benchmark is set aside.
            unsplit = read_benchmark(path).join(listed, on="image_id", how="anti")
            listed = pl.concat([listed, unsplit.select("image_id", pl.lit("train").alias("split"))])
    _join_split(selection, listed, "image_id")
    selection.reject(
        pl.col("split").is_null(), Reason.MISSING_SPLIT, pl.lit(f"not in {settings.index.lists}")
    )
    decided = pl.col("split") != TRAIN_VALIDATE
    selection.kept = selection.kept.with_columns(pl.when(decided).then("split").alias("split"))
    _split_the_rest(selection, settings, seed)


def _split_the_rest(selection: Selection, settings: Dataset, seed: int) -> None:
    """Split the images without a split by patient, in two steps; reject those of patients that have one already."""
    open_ = pl.col("split").is_null()
    if selection.kept.filter(open_).is_empty():
        return
    official = selection.kept.filter(~open_).select("patient_id", "split").unique()
    known = pl.col("patient_id").is_in(official["patient_id"].unique().to_list())
    selection.reject(open_ & known, Reason.TEST_PATIENT, pl.format("patient {}", "patient_id"))
    free = selection.kept.filter(open_)["patient_id"]
    assigned = split_in_two_steps(free, settings.split_fractions, seed)
    _join_split(selection, pl.concat([assigned, official]), "patient_id")


def _join_split(selection: Selection, split: pl.DataFrame, key: str) -> None:
    """Replace the column `split` of the kept rows by that of a table with the column `key`."""
    kept = selection.kept.drop("split")
    selection.kept = kept.join(split, on=key, how="left", maintain_order="left")


def set_benchmark_aside(selection: Selection, settings: Dataset, seed: int) -> pl.DataFrame | None:
    """Choose the benchmark's images and remove them from the splits; return them, or None without a benchmark.

    They are chosen among frontal images unless the user lists them. With `remove: patients` all images of their
    patients are removed; with `remove: none` they stay in their splits, too.
    """
    benchmark = settings.benchmark
    if benchmark is None:
        return None
    pool = selection.kept if benchmark.pool == "all" else selection.kept.filter(split="train")
    if benchmark.rule == "list":
        chosen = listed_benchmark(pool, benchmark, Path(settings.root) / settings.index.lists)
    else:
        chosen = choose_benchmark(_frontal(pool), benchmark, seed)
    if benchmark.remove == "none":
        return chosen
    selection.kept = selection.kept.filter(~pl.col("image_id").is_in(chosen["image_id"].to_list()))
    if benchmark.remove == "patients":
        same = pl.col("patient_id").is_in(chosen["patient_id"].unique().to_list())
        selection.reject(same, Reason.BENCHMARK_PATIENT, pl.format("patient {}", "patient_id"))
    return chosen


def _frontal(images: pl.DataFrame) -> pl.DataFrame:
    """Return the frontal images; all images of a data set without views."""
    if images["view"].null_count() == len(images):
        return images
    return images.filter(pl.col("view").is_in(FRONTAL))
