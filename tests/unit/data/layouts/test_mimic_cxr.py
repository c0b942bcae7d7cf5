import gzip
import hashlib
import os
import zipfile

import polars as pl
import pytest

from medunifier.data import report_files
from medunifier.data.layouts import RAW_IMAGES, RAW_REPORTS, find_layout, mimic_cxr
from medunifier.runtime.errors import InputError
from tests.support.fake_mimic import BOTH, HEAD, FakeMimic


@pytest.fixture
def fake(tmp_path):
    fake = FakeMimic(tmp_path)
    fake.add("d1", "10000032", "50000001", pneumonia="1.0", edema="-1.0", no_finding="0.0")
    fake.add("d2", "10000032", "50000001", view="LATERAL")
    fake.add("d3", "19999999", "50000002", view="", split="test")
    return fake


def images(fake, **changes):
    fake.write()
    return mimic_cxr.read_images(fake.settings(**changes))


def test_every_row_of_the_index_comes_with_its_split_labels_and_checksum(fake):
    raw = images(fake)
    RAW_IMAGES.check(raw.rows, "test")
    assert raw.rows["image_id"].to_list() == ["d1", "d2", "d3"]
    assert raw.rows["image_path"][2] == "files/p19/p19999999/s50000002/d3.jpg"
    assert raw.rows["view"].to_list() == ["PA", "LATERAL", None]
    assert raw.rows["split"].to_list() == ["train", "train", "test"]
    labels = raw.rows.select("label_pneumonia", "label_edema", "label_no_finding", "label_pleural_effusion")
    assert labels.rows() == [(1, -1, 0, None)] * 2 + [(None,) * 4]
    content = (fake.root / raw.rows["image_path"][0]).read_bytes()
    assert raw.rows["sha256"][0] == hashlib.sha256(content).hexdigest()
    assert sum(raw.notes.values()) == 0


def test_rows_that_the_other_files_lack_or_have_in_excess_are_counted(fake):
    fake.split[0]["dicom_id"] = "unheard-of"
    fake.chexpert.pop(1)
    raw = images(fake)
    assert raw.rows["reason"].to_list() == ["missing_split", None, None]
    assert raw.rows["label_edema"].to_list() == [-1, -1, None]
    assert raw.notes == {
        "split_rows_without_image": 1,
        "label_rows_without_image": 0,
        "images_without_labels": 1,
    }
    assert images(fake, split="patient").rows["reason"].null_count() == 3, (
        "the official split is not asked for"
    )


@pytest.mark.parametrize(
    ("bend", "message"),
    [
        (lambda f: f.metadata[0].pop("ViewPosition"), "no column 'ViewPosition'; found dicom_id, subject_id"),
        (lambda f: f.metadata[1].update(dicom_id=""), "'dicom_id' is blank in 1 rows, first in line 3"),
        (
            lambda f: f.split.append({**f.split[0], "split": "test"}),
            "'dicom_id' have rows that contradict.*d1",
        ),
        (
            lambda f: f.split[0].update(split="val"),
            "split is 'val', first in line 2; 1 rows .*: one of train, validate, test",
        ),
        (
            lambda f: f.chexpert[0].update(Edema="yes"),
            "Edema is 'yes', first in line 2; 1 rows .*: 1, 0, -1 or blank",
        ),
        (lambda f: f.chexpert[0].update(Edema="2.0"), "Edema is '2.0'"),
        (lambda f: f.chexpert.append({**f.chexpert[0], "Edema": "1.0"}), "'study_id' have rows.*50000001"),
    ],
)
def test_index_files_that_cannot_be_used(fake, bend, message):
    bend(fake)
    for rows in (fake.metadata, fake.split, fake.chexpert):
        columns = list(rows[0])
        rows[:] = [{name: row[name] for name in columns} for row in rows]
    with pytest.raises(InputError, match=message):
        images(fake)


HEADER = b"dicom_id,subject_id,study_id,ViewPosition\n"


@pytest.mark.parametrize(
    ("text", "cut", "message"),
    [
        (b"", 0, "the file is empty"),
        (HEADER, 0, "a header but no rows"),
        (HEADER + b"a,b,c,d\n" * 99, 9, "not a readable file, it is cut off"),
        (HEADER + "\u00e9,1,2,PA\n".encode("latin-1"), 0, "UTF-8"),
        (HEADER + b"a,b,c,d,e,f\n", 0, "6 fields, but the header has 4"),
        (None, 0, "no such index file"),
    ],
    ids=["empty", "header only", "cut off", "latin-1", "too many fields", "missing"],
)
def test_broken_index_files(fake, text, cut, message):
    fake.write()
    path = fake.root / "mimic-cxr-2.0.0-metadata.csv.gz"
    if text is None:
        path.unlink()
    else:
        packed = gzip.compress(text)
        path.write_bytes(packed[: len(packed) - cut])
    with pytest.raises(InputError, match=f"metadata.csv.gz(: |, line 2: ).*{message}"):
        mimic_cxr.read_images(fake.settings())


def test_repeated_rows_of_the_split_and_label_files_do_no_harm(fake):
    fake.split.append(fake.split[0])
    fake.chexpert.append(fake.chexpert[0])
    assert len(images(fake).rows) == 3


def test_checksums_may_be_written_by_sha256sum_or_be_another_file(fake):
    fake.write()
    path = fake.root / "files/p10/p10000032/s50000001/d1.jpg"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    (fake.root / "SHA256SUMS.txt").write_text(
        f"{digest}  ./{path.relative_to(fake.root)}\n{digest} LICENSE.txt\n"
    )
    assert mimic_cxr.read_images(fake.settings()).rows["sha256"].to_list() == [digest, None, None]
    (fake.root / "SHA256SUMS.txt").write_text("dicom_id\n1\n")
    assert mimic_cxr.read_images(fake.settings()).rows["sha256"].null_count() == 3
    (fake.root / "SHA256SUMS.txt").write_text(f"{'0' * 64} jpg/p10/a.jpg\n")
    with pytest.raises(
        InputError, match=r"SHA256SUMS\.txt: none of its 1 checksums is of an image, first '000"
    ):
        mimic_cxr.read_images(fake.settings())
    (fake.root / "SHA256SUMS.txt").unlink()
    with pytest.raises(InputError, match=r"index\.checksums"):
        mimic_cxr.read_images(fake.settings())


def reports(fake, reports=None):
    raw = images(fake)
    settings = fake.settings(reports=str(reports or fake.folder / "mimic-cxr"))
    found = mimic_cxr.read_reports(settings, raw.rows)
    RAW_REPORTS.check(found.rows, "test")
    return found


def test_one_report_for_each_study(fake):
    found = reports(fake)
    assert found.rows["study_id"].to_list() == ["50000001", "50000002"]
    assert set(found.rows["findings"]) == {"The heart is normal."}
    assert set(found.rows["impression"]) == {"No acute disease."}
    assert found.notes == {"reports_not_utf8": 0, "reports_with_ndication": 0}


def test_reports_in_latin1_are_kept_and_counted(fake):
    path = fake.report_path("10000032", "50000001")
    fake.reports[path] = BOTH.replace("normal", "39 °C").encode("latin-1")
    found = reports(fake)
    assert found.rows["findings"][0] == "The heart is 39 °C."
    assert found.notes["reports_not_utf8"] == 1


def test_missing_and_unreadable_reports_have_a_reason(fake):
    del fake.reports[fake.report_path("10000032", "50000001")]
    fake.reports[fake.report_path("19999999", "50000002")] = b"FINDINGS\0"
    rows = reports(fake).rows
    assert rows["reason"].to_list() == ["missing_report", "unreadable_report"]
    assert rows["detail"][0] == "files/p10/p10000032/s50000001.txt"
    assert "zero bytes" in rows["detail"][1]


@pytest.mark.parametrize("folder", ["", "mimic-cxr-reports/"])
def test_reports_may_stay_in_their_zip_file(fake, folder):
    archive = fake.folder / "mimic-cxr-reports.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(f"{folder}files/p10/p10000032/s50000001.txt", BOTH)
    rows = reports(fake, archive).rows
    assert rows["findings"].to_list() == ["The heart is normal.", None]
    assert rows["reason"].to_list() == [None, "missing_report"]


def test_a_damaged_file_in_the_zip_has_a_reason(fake):
    archive = fake.folder / "mimic-cxr-reports.zip"
    path = "files/p10/p10000032/s50000001.txt"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(path, BOTH)
    archive.write_bytes(archive.read_bytes().replace(b"normal", b"abnorm", 1))
    row = reports(fake, archive).rows.row(0, named=True)
    assert (row["reason"], row["detail"]) == ("unreadable_report", f"{path}: its checksum is wrong")


@pytest.mark.slow
@pytest.mark.parametrize("packed", [False, True])
def test_the_number_of_processes_changes_nothing(fake, monkeypatch, packed):
    for number in range(3, 40):
        text = BOTH.replace("normal", f"normal {number}" if number % 7 else "39 °C").encode("latin-1")
        fake.add(f"e{number}", "10000032", f"5{number:07}", report=text)
    del fake.reports[fake.report_path("10000032", "50000005")]
    archive = None
    if packed:
        archive = fake.folder / "mimic-cxr-reports.zip"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
            for path, text in fake.reports.items():
                file.writestr(str(path.relative_to(fake.folder / "mimic-cxr")), text)
    alone = reports(fake, archive)
    monkeypatch.setattr(report_files, "_BLOCK", 4)
    monkeypatch.setattr(report_files, "_STUDIES_A_WORKER", 1)
    monkeypatch.setattr(report_files, "available_cores", lambda: 2)
    several = reports(fake, archive)
    assert (
        several.rows.equals(alone.rows)
        and several.notes == alone.notes
        and alone.notes["reports_not_utf8"] == 5
    )
    assert alone.rows["reason"].null_count() == len(alone.rows) - 1 == 38


def test_a_missing_folder_of_reports_is_an_error(fake):
    with pytest.raises(InputError, match="nowhere: no folder and no zip file of reports"):
        reports(fake, fake.folder / "nowhere")


NDICATION = HEAD + " NDICATION:  Cough.\n"


@pytest.mark.parametrize(("ndication", "impression"), [("impression", "Cough."), ("indication", None)])
def test_the_heading_ndication_is_what_the_parameter_says_and_is_counted(fake, ndication, impression):
    fake.add("d4", "19999999", "50000004", report=NDICATION)
    fake.add("d5", "19999999", "50000005", report=BOTH.replace("FINDINGS", "NDICATION:  Cough.\n FINDINGS"))
    raw = images(fake)
    found = mimic_cxr.read_reports(fake.settings(ndication=ndication), raw.rows)
    texts = dict(found.rows.select("study_id", "impression").iter_rows())
    assert texts["50000004"] == impression and texts["50000005"] == "No acute disease."
    assert found.notes["reports_with_ndication"] == 1, "of the other one the impression does not depend on it"


def test_ids_as_a_table_program_writes_them_are_joined(fake):
    for row in fake.chexpert:
        row["study_id"] += ".0"
    fake.split[0]["dicom_id"] = " d1 "
    raw = images(fake)
    assert raw.notes["images_without_labels"] == 0 and raw.rows["label_pneumonia"].to_list() == [1, 1, None]
    assert raw.rows["split"][0] == "train" and raw.warnings == []


def test_labels_that_match_no_study_are_refused_and_those_that_match_some_told(fake):
    fake.chexpert[0]["study_id"] = "s50000001"
    told = images(fake).warnings
    assert len(told) == 2 and "1 of 2 values of 'study_id' have no row: 50000001" in told[0]
    fake.chexpert[1]["study_id"] = "s50000002"
    with pytest.raises(
        InputError, match=r"chexpert\.csv\.gz: none of its 2 values of 'study_id' \(s50000001, s5"
    ):
        images(fake)


def test_other_columns_of_the_label_file_are_left_out_and_told(fake):
    for row in fake.chexpert:
        row["annotator"] = "somebody"
    raw = images(fake)
    assert raw.rows["label_pneumonia"].to_list() == [1, 1, None] and "label_annotator" not in raw.rows.columns
    assert len(raw.warnings) == 1 and "no labels in the columns annotator" in raw.warnings[0]


def test_a_report_that_is_no_file_has_a_reason_and_nothing_hangs(fake):
    fake.write()
    raw = mimic_cxr.read_images(fake.settings())
    path = fake.report_path("10000032", "50000001")
    path.unlink()
    os.mkfifo(path)
    other = fake.report_path("19999999", "50000002")
    other.unlink()
    other.mkdir()
    rows = mimic_cxr.read_reports(fake.settings(), raw.rows).rows
    assert rows["reason"].to_list() == ["unreadable_report"] * 2
    assert "a FIFO" in rows["detail"][0] and "a folder" in rows["detail"][1]


def test_a_report_behind_a_link_out_of_its_folder_is_read_only_where_links_may_lead_out(fake):
    fake.write()
    raw = mimic_cxr.read_images(fake.settings())
    path = fake.report_path("10000032", "50000001")
    path.rename(fake.folder / "moved.txt")
    path.symlink_to(fake.folder / "moved.txt")
    rows = mimic_cxr.read_reports(fake.settings(), raw.rows).rows
    assert rows["findings"][0] == "The heart is normal."
    rows = mimic_cxr.read_reports(fake.settings(links="inside"), raw.rows).rows
    assert rows["reason"].to_list() == ["unreadable_report", None] and "leads out" in rows["detail"][0]


def test_unknown_layouts_are_refused():
    assert find_layout("mimic_cxr") is mimic_cxr
    with pytest.raises(InputError, match="no layout 'vindr'; known: chexpert, "):
        find_layout("vindr")


def test_labels_are_int8(fake):
    rows = images(fake).rows
    assert {dtype for name, dtype in rows.schema.items() if name.startswith("label_")} == {pl.Int8}
    assert sum(name.startswith("label_") for name in rows.columns) == 14
