"""Layout `table`: CSV and Parquet, several images a study, splits, labels, texts, and what it refuses."""

import json

import polars as pl
import pytest
from ruamel.yaml import YAML

from medunifier.data.layouts import RAW_IMAGES, RAW_REPORTS, table
from medunifier.data.preparation.check import check_dataset
from medunifier.runtime.errors import InputError
from medunifier.runtime.params import TableLayout, load_params
from medunifier.storage.image_shards import ImageStore
from tests.stages.test_prepare import SPLITS, run_settings
from tests.support.fake_files import dicom_file, image_file, pixels, put, settings
from tests.support.fake_mimic import write_csv
from tests.support.paths import REPO
from tests.unit.data.layouts.test_layouts_together import decode

COLUMNS = {
    "image": "file", "folder": "images", "patient": "mrn", "study": "accession", "view": "view", "sex": "sex",
    "age": "age", "findings": "findings", "impression": "impression",
    "labels": {"pneumonia": "Pneumonia?", "pleural_effusion": "effusion"},
}  # fmt: skip


def row(**changes):
    return {
        "file": "a.jpg", "mrn": "007", "accession": "s1", "view": "PA", "sex": "female", "age": "58.0",
        "Pneumonia?": "1", "effusion": "", "findings": "Hazy\n left lung.", "impression": "Pneumonia.",
        "comment": "n/a", **changes,
    }  # fmt: skip


def own(root, images="studies.csv", columns=None, **changes):
    return settings(
        "table", root, images, table=TableLayout(**(COLUMNS if columns is None else columns)), **changes
    )


def write(root, rows, suffix=".csv"):
    if suffix == ".csv":
        write_csv(root / "studies.csv", rows)
    else:
        pl.DataFrame(rows).write_parquet(root / f"studies{suffix}")
    return f"studies{suffix}"


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".Parquet"])
def test_columns_become_rows(tmp_path, suffix):
    rows = [row(), row(file="b.dcm", view="LATERAL", sex="X", age="058Y", effusion="-1")]
    rows[1]["Pneumonia?"] = "False"
    name = write(tmp_path, rows, suffix)
    raw = table.read_images(own(tmp_path, name))
    RAW_IMAGES.check(raw.rows, "test")
    assert raw.rows.select(
        "image_id", "image_path", "patient_id", "study_id", "view", "sex", "age"
    ).rows() == [
        ("a.jpg", "images/a.jpg", "007", "s1", "PA", "F", 58),
        ("b.dcm", "images/b.dcm", "007", "s1", "LATERAL", None, 58),
    ]
    assert raw.rows.select("label_pneumonia", "label_pleural_effusion").rows() == [(1, None), (0, -1)]
    reports = table.read_reports(own(tmp_path, name), raw.rows)
    RAW_REPORTS.check(reports.rows, "test")
    assert reports.rows.select("study_id", "findings", "impression").rows() == [
        ("s1", "Hazy left lung.", "Pneumonia.")
    ]


def test_numbers_and_truth_values_of_parquet(tmp_path):
    frame = pl.DataFrame({"file": ["a.png", "b.png"], "mrn": [7, 8], "x": [True, None], "y": [1.0, -1.0]})
    frame.write_parquet(tmp_path / "t.parquet")
    columns = {"image": "file", "patient": "mrn", "labels": {"x": "x", "y": "y"}}
    rows = table.read_images(own(tmp_path, "t.parquet", columns)).rows
    assert rows.select("patient_id", "study_id", "image_path", "label_x", "label_y").rows() == [
        ("7", "a.png", "a.png", 1, 1),
        ("8", "b.png", "b.png", None, -1),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("EXAM: Chest\n\nFINDINGS: Clear.\nIMPRESSION: Normal.\n", ("Clear.", "Normal.", None)),
        ("Both lungs\nare clear.\n\nNo effusion.", (None, None, "Both lungs are clear. No effusion.")),
        ("", (None, None, None)),
        ("FINDINGS: Clear. IMPRESSION: Normal.", ("Clear.", "Normal.", None)),
        (
            "Indication: Cough. Findings: Lungs: clear. Impression: Normal.",
            ("Lungs: clear.", "Normal.", None),
        ),
        ("findings:\nClear\nCONCLUSION:Normal.", ("Clear", "Normal.", None)),
        ("FINDINGS: Clear IMPRESSION :Normal.", ("Clear", "Normal.", None)),
        ("No change in comparison: stable.", (None, None, "No change in comparison: stable.")),
        ("Impression:\r\n1. Normal.\r\n2. No effusion.", (None, "1. Normal. 2. No effusion.", None)),
    ],
)
def test_one_column_of_text_is_split_into_its_sections(tmp_path, text, expected):
    name = write(tmp_path, [row(findings=text)])
    columns = {"image": "file", "patient": "mrn", "report": "findings"}
    raw = table.read_images(own(tmp_path, name, columns))
    reports = table.read_reports(own(tmp_path, name, columns), raw.rows)
    assert reports.rows.select("findings", "impression", "body").row(0) == expected
    assert reports.notes["reports_without_headings"] == (expected[2] is not None)


def test_images_without_suffix_in_a_folder_of_their_own_are_decoded(tmp_path, monkeypatch):
    """Through prepare and decode_images: JPEG, PNG and DICOM, several a study, splits by the table's own column."""
    monkeypatch.chdir(tmp_path)
    root, rows = tmp_path / "hospital", []
    for patient in range(12):
        for image in range(1 + patient % 2):
            name, split = f"{patient}-{image}", ("train", "Val", "TEST")[patient % 3]
            put(root / f"x/rays/{name}.png", image_file(pixels(name), "PNG"))
            rows.append(
                {
                    "id": name,
                    "who": patient,
                    "visit": f"v{patient}",
                    "set": split,
                    "text": f"Patient {patient}.",
                }
            )
    put(root / "x/rays/d.png", dicom_file(pixels("d")))  # found by its content
    rows.append({"id": "d", "who": 99, "visit": "v99", "set": "train", "text": "None"})
    write_csv(root / "t.csv", rows)
    columns = {
        "image": "id", "folder": "x/rays", "suffix": ".png", "patient": "who", "study": "visit", "split": "set",
        "findings": "text",
    }  # fmt: skip
    listed = own(root, "t.csv", columns, split="official", sections="either")
    tables, summary = run_settings(listed, name="hospital")
    assert summary["kept"] == {"train": 6, "validate": 6, "test": 6}
    assert summary["rejected"] == {"missing_text": 1} and tables["rejected"]["image_id"].to_list() == ["d"]
    assert summary["notes"]["missing_words_text"] >= 1
    shared = pl.concat([tables[split] for split in SPLITS]).group_by("study_id").agg("report")
    assert all(len(set(reports)) == 1 for reports in shared["report"])
    decode("hospital", listed)
    assert len(ImageStore("data/images/hospital")) == 18
    assert "decoded  12 of 12" in "\n".join(check_dataset("hospital", listed, 0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"file": "N/A"}, "column 'file' is blank in 1 rows"),
        (
            {"effusion": "2"},
            r"effusion is '2', first in line 4.*1, 0, -1 \(uncertain\), true, false or blank",
        ),
        ({"view": "dev"}, r"view is 'dev', first in line 4.*train, validate \(val\) or test"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(tmp_path, changes, message):
    name = write(tmp_path, [row(view="train"), row(file="b.jpg", view="test") | changes])
    with pytest.raises(InputError, match=message):
        table.read_images(own(tmp_path, name, COLUMNS | {"split": "view", "view": None}))


def test_a_study_with_different_texts_is_rejected_and_no_other(tmp_path):
    """Of s2 one row alone holds the text, and of s3 none."""
    rows = [row(), row(file="b.jpg", impression="No pneumonia.")]
    rows += [row(file="c.jpg", accession="s2", findings="", impression=""), row(file="d.jpg", accession="s2")]
    rows += [row(file=name, accession="s3", findings="", impression="n/a") for name in ("e.jpg", "f.jpg")]
    name = write(tmp_path, rows)
    raw = table.read_images(own(tmp_path, name))
    reports = table.read_reports(own(tmp_path, name), raw.rows).rows
    RAW_REPORTS.check(reports, "test")
    assert reports.select("study_id", "findings", "impression", "reason", "detail").rows() == [
        ("s1", "Hazy left lung.", "Pneumonia.", "contradictory_report", "2 different reports"),
        ("s2", "Hazy left lung.", "Pneumonia.", None, None),
        ("s3", None, None, None, None),
    ]


def test_a_path_out_of_the_root_is_no_image(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root, rows = tmp_path / "hospital", []
    put(tmp_path / "secret.jpg", image_file(pixels("secret"), "JPEG"))
    for number in range(9):
        put(root / f"images/{number}.jpg", image_file(pixels(str(number)), "JPEG"))
        rows.append(row(file=f"{number}.jpg", mrn=str(number), accession=f"s{number}"))
    for bad in ("../../secret.jpg", str(tmp_path / "secret.jpg")):
        rows.append(row(file=bad, mrn=bad, accession=bad))
    write(root, rows)
    _, summary = run_settings(own(root), name="hospital")
    # An absolute path in the column stays below `folder`, where nothing is.
    assert sum(summary["kept"].values()) == 9 and summary["rejected"] == {
        "outside_root": 1,
        "missing_image": 1,
    }


def test_params_say_which_columns_and_refuse_what_belongs_to_no_layout(tmp_path):
    yaml = YAML()
    whole = yaml.load((REPO / "params.yaml").read_text(encoding="utf-8"))
    phantom = json.loads(json.dumps(whole["datasets"]["phantom"]))

    def load(**changes):
        whole["datasets"]["phantom"] = phantom | changes
        with (tmp_path / "params.yaml").open("w", encoding="utf-8") as file:
            yaml.dump(whole, file)
        return load_params(tmp_path / "params.yaml").datasets["phantom"]

    assert load(layout="table", table=dict(COLUMNS)).table == TableLayout(**COLUMNS)
    for changes, message in (
        ({"layout": "table"}, r"phantom\.table: null is refused; allowed: a section that names the columns"),
        ({"table": dict(COLUMNS)}, "phantom.table: .* allowed: null: layout mimic_cxr does not read it"),
        ({"layout": "table", "table": {"image": "a"}}, r"phantom\.table\.patient: missing"),
        ({"layout": "table", "table": COLUMNS | {"labels": {"A b": "x"}}}, "small letters, digits and `_`"),
        ({"report_from": "labels", "sections": "both"}, "allowed: either or none, as report_from is labels"),
    ):
        with pytest.raises(InputError, match=message):
            load(**changes)
