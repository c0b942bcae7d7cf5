"""NIH ChestX-ray14 (Wang et al., CVPR 2017): Data_Entry_2017*.csv, images_001/images/ to images_012/images/ or images/.

index.images: Data_Entry_2017.csv or Data_Entry_2017_v2020.csv; any part of the set may lie under the root
index.split:  test_list.txt, the official test images, or the file of index.images where the list is not there
index.labels: BBox_List_2017.csv, whose boxes are checked and counted, or the file of index.images

The other official list, train_val_list.txt, holds all other images; to divide it by patient is left to `split: two_step`.
Facts on the files: a real part of the set (v2020) and public code that reads the
first version and BBox_List_2017.csv. In both versions the last two names of the header hold a comma, so that the header has as many fields as a row. The
column of the sex is called Patient Gender or Patient Sex; ages are `58` or, in the first version, `058Y`.
"""

from pathlib import Path

import polars as pl

from medunifier.data.dataset_files import find_files
from medunifier.data.index_files import check_values, index_columns, read_index, read_lines
from medunifier.data.layouts import Raw, no_reports, raw_images
from medunifier.data.patient_columns import as_age, as_sex
from medunifier.data.preparation.splits import read_id_list
from medunifier.runtime.errors import InputError
from medunifier.runtime.params import Dataset

SOURCE = "https://nihcc.app.box.com/v/ChestXray-NIHCC (free, no account), or nih-chest-xrays/data on Kaggle"
# Finding -> label. Effusion is CheXpert's Pleural Effusion: under one name, prompts and benchmarks serve both.
FINDINGS = {
    "Atelectasis": "label_atelectasis",
    "Cardiomegaly": "label_cardiomegaly",
    "Effusion": "label_pleural_effusion",
    "Infiltration": "label_infiltration",
    "Mass": "label_mass",
    "Nodule": "label_nodule",
    "Pneumonia": "label_pneumonia",
    "Pneumothorax": "label_pneumothorax",
    "Consolidation": "label_consolidation",
    "Edema": "label_edema",
    "Emphysema": "label_emphysema",
    "Fibrosis": "label_fibrosis",
    "Pleural_Thickening": "label_pleural_thickening",
    "Hernia": "label_hernia",
}
NO_FINDING = "No Finding"
_BOXES_FINDINGS = {"Infiltrate": "Infiltration"}  # as BBox_List_2017.csv spells it

read_reports = no_reports


def read_images(settings: Dataset) -> Raw:
    """Return every row of the index, with 14 labels and `label_no_finding`; those of index.split as split `test`."""
    root = Path(settings.root)
    path = root / settings.index.images
    columns = ["Image Index", "Finding Labels", "Patient ID", "Patient Age", "View Position"]
    notes: dict[str, int] = {}
    sex = "Patient Sex" if "Patient Sex" in index_columns(path) else "Patient Gender"
    index = read_index(path, [*columns, sex], filled=columns[:2], ids=["Patient ID"], notes=notes)
    files = {file.name: str(file.relative_to(root)) for file in find_files(root, ".png", notes).values()}
    image = pl.col("Image Index")
    rows = index.select(
        image.alias("image_id"),
        pl.col("Patient ID").str.strip_chars_start("0").alias("patient_id"),
        image.alias("study_id"),  # one image each: Follow-up # counts a patient's images
        image.replace_strict(files, default=pl.format("images/{}", image)).alias("image_path"),
        pl.col("View Position").alias("view"),
        as_sex(pl.col(sex)).alias("sex"),
        as_age(pl.col("Patient Age")).alias("age"),
        *_labels(index["Finding Labels"], path),
    )
    _check_patients(rows, path)
    notes |= {
        "ages_unknown": rows["age"].null_count(),
        "files_without_row": len(files.keys() - set(rows["image_id"])),
    }
    rows, split_notes = _with_test_list(rows, settings)
    return Raw(raw_images(rows), notes | split_notes | _boxes(rows, settings))


def _labels(findings: pl.Series, path: Path) -> list[pl.Series]:
    """Return the columns `label_*`: 1 for each finding that a row lists, 0 for all others.

    Raises:
        InputError: A finding is unknown, or stands beside "No Finding".
    """
    listed = findings.str.split("|").list.eval(pl.element().str.strip_chars())
    known = listed.list.eval(pl.element().is_in([NO_FINDING, *FINDINGS])).list.all()
    alone = ~listed.list.contains(NO_FINDING) | (listed.list.len() == 1)
    expected = f"{NO_FINDING} alone, or {', '.join(FINDINGS)}, joined by |"
    check_values(findings.to_frame(), "Finding Labels", known & alone, expected, path)
    names = {NO_FINDING: "label_no_finding"} | FINDINGS
    return [listed.list.contains(finding).cast(pl.Int8).alias(label) for finding, label in names.items()]


def _check_patients(rows: pl.DataFrame, path: Path) -> None:
    """Refuse an index whose file names (PATIENT_NUMBER.png) name other patients than its column Patient ID."""
    named = rows["image_id"].str.extract(r"^0*(\d+)_\d+\.png$")
    wrong = rows.filter(named.is_not_null() & (named != rows["patient_id"]))
    if len(wrong):
        image, patient = wrong.select("image_id", "patient_id").row(0)
        raise InputError(
            f"{path}: {len(wrong)} rows contradict their file names, first {image} with Patient ID {patient}; are "
            "columns shifted? Fetch the file again"
        )


def _with_test_list(rows: pl.DataFrame, settings: Dataset) -> tuple[pl.DataFrame, dict[str, int]]:
    """Add `split`: test for the images of index.split, else null. Return counts, too."""
    if settings.index.split == settings.index.images:
        return rows, {}
    path = Path(settings.root) / settings.index.split
    tested = read_id_list(path)
    here = rows["image_id"].is_in(tested)
    if not here.any():
        raise InputError(
            f"{path}: none of its {len(tested)} ids is in {settings.index.images}, first {tested[0]!r}; expected "
            "lines such as 00000003_000.png"
        )
    split = pl.when(here).then(pl.lit("test")).alias("split")
    return rows.with_columns(split), {"test_list_without_row": len(set(tested)) - int(here.sum())}


def _boxes(rows: pl.DataFrame, settings: Dataset) -> dict[str, int]:
    """Count the boxes of BBox_List_2017.csv, if index.labels names it."""
    if settings.index.labels == settings.index.images:
        return {}
    boxes = pl.DataFrame(
        _read_boxes(Path(settings.root) / settings.index.labels), ["image_id", "label"], orient="row"
    )
    listed = rows.select("image_id", *FINDINGS.values()).unpivot(index="image_id", variable_name="label")
    found = boxes.join(listed, on=["image_id", "label"], how="left")
    return {
        "boxes": len(found),
        "boxes_without_row": found["value"].null_count(),
        "boxes_of_findings_not_listed": len(found.filter(value=0)),
    }


def _read_boxes(path: Path) -> list[tuple[str, str]]:
    """Return image and label of each box. The header, `Image Index,Finding Label,Bbox [x,y,w,h],,,`, is longer than rows.

    Raises:
        InputError: A row is not an image, a finding and four numbers.
    """
    boxes = []
    for number, line in read_lines(path)[1:]:
        fields = line.split(",")
        finding = _BOXES_FINDINGS.get(fields[1], fields[1]) if len(fields) > 1 else ""
        if finding not in FINDINGS or not all(map(_is_number, fields[2:6])) or len(fields) < 6:
            raise InputError(
                f"{path}, line {number}: {line!r}; expected an image, one of {', '.join(FINDINGS)}, and "
                "four numbers x, y, w, h"
            )
        boxes.append((fields[0], FINDINGS[finding]))
    return boxes


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
