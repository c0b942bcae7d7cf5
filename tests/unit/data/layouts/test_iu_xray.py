import csv
import tarfile

import polars as pl
import pytest

from medunifier.data.layouts import iu_xray
from medunifier.runtime.errors import InputError
from tests.support.fake_files import put, read_both, settings
from tests.support.fake_iu_xray import FakeIuXray
from tests.support.fake_mimic import write_csv
from tests.support.paths import SHARED

REAL = SHARED / "data" / "iu-xray"


@pytest.fixture
def fake(tmp_path):
    fake = FakeIuXray(tmp_path)
    fake.add(
        2, ("IM-0652-1001", "IM-0652-2001"), mesh=("Cardiomegaly/borderline", "Pulmonary Artery/enlarged")
    )
    fake.add(10, findings="There is\n an XXXX.", impression="", mesh=("No Indexing",))
    fake.add(1, ("1_IM-0001-3001",), mesh=("Opacity/lung/base", "Pleural Effusion/left"))
    return fake


def read(given):
    raw, texts = read_both(iu_xray, given)
    return raw, texts.rows


def test_xml_and_tables_give_the_same_rows(fake):
    fake.write_xml(packed=True)
    folder, folder_texts = read(fake.settings())
    archive, archive_texts = read(fake.settings("NLMCXR_reports.tgz"))
    assert archive.rows.equals(folder.rows) and archive_texts.equals(folder_texts)
    fake.write_tables()
    table, table_texts = read(fake.table_settings())
    assert table_texts.equals(folder_texts)
    same = pl.exclude("view", "image_path")
    assert table.rows.select(same).equals(folder.rows.select(same))
    assert folder.rows["view"].null_count() == 4 and table.rows["view"].to_list()[1:3] == [
        "Frontal",
        "Lateral",
    ]


def test_ids_texts_and_labels(fake):
    fake.write_xml()
    raw, texts = read(fake.settings())
    assert raw.rows["image_id"].to_list() == [
        "1_IM-0001-3001", "2_IM-0652-1001", "2_IM-0652-2001", "10_IM-0001-1001",
    ]  # fmt: skip
    assert raw.rows["patient_id"].to_list() == raw.rows["study_id"].to_list() == ["1", "2", "2", "10"]
    assert all((fake.root / path).is_file() for path in raw.rows["image_path"])
    labels = raw.rows.select(
        "label_no_finding", "label_cardiomegaly", "label_lung_opacity", "label_pleural_effusion"
    )
    assert labels.rows() == [(0, 0, 1, 1), (0, 1, 0, 0), (0, 1, 0, 0), (None,) * 4]
    assert texts.rows()[2] == ("10", "There is an XXXX.", None, None, None, None)


def test_reports_without_images_and_images_without_reports_are_counted(fake):
    fake.add(4, ())
    fake.write_xml()
    (fake.root / "NLMCXR_png/CXR5_IM-1-1001.png").write_bytes(b"")
    raw, _ = read(fake.settings())
    assert raw.notes == {"reports": 4, "reports_without_image": 1, "pictures_without_report": 1}


def test_images_that_are_not_there_have_the_name_to_look_for(fake):
    fake.write_xml()
    (fake.root / "NLMCXR_png/CXR2_IM-0652-1001.png").unlink()
    raw, _ = read(fake.settings())
    assert raw.rows["image_path"][1] == "NLMCXR_png/CXR2_IM-0652-1001.png"


@pytest.mark.parametrize("content", [b"<eCitation>", b"<eCitation/>"])
def test_a_broken_report_is_named(fake, content):
    fake.write_xml()
    (fake.root / "ecgen-radiology/2.xml").write_bytes(content)
    with pytest.raises(InputError, match=r"ecgen-radiology/2\.xml: not an Open-i report"):
        read(fake.settings())


def test_archives_and_folders_that_cannot_be_used(fake):
    fake.write_xml(packed=True)
    archive = fake.root / "NLMCXR_reports.tgz"
    archive.write_bytes(archive.read_bytes()[:-200])
    with pytest.raises(InputError, match=r"not a whole .tgz archive .*download it again"):
        read(fake.settings("NLMCXR_reports.tgz"))
    with pytest.raises(InputError, match=r"nowhere: no such folder or archive .*openi\.nlm\.nih\.gov"):
        read(fake.settings("nowhere"))
    with pytest.raises(InputError, match="NLMCXR_png: holds no XML report"):
        read(fake.settings("NLMCXR_png"))


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the real reports are not at {REAL}")
def test_the_real_reports_in_xml_and_tables_give_the_same_rows():
    def of(images, labels):
        return read(settings("iu_xray", REAL, images, labels_file=labels, sections="either", split="patient"))

    xml, xml_texts = of("NLMCXR_reports.tgz", None)
    table, table_texts = of("indiana_projections.csv", "indiana_reports.csv")
    assert xml.notes["reports"] == 3955 and xml.notes["reports_without_image"] == 104
    assert xml_texts.equals(table_texts) and len(table_texts) == 3851
    # The tabular copy leaves four images out.
    lost = xml.rows.join(table.rows, on="image_id", how="anti")["image_id"].sort().to_list()
    assert lost == [
        "2084_IM-0715-1001-0002",
        "2084_IM-0715-2001-0001",
        "2560_IM-1064-4001",
        "3809_IM-1919-1003002",
    ]
    same = pl.exclude("view", "image_path")
    both = xml.rows.join(table.rows, on="image_id", how="semi").sort("image_id").select(same)
    assert both.equals(table.rows.sort("image_id").select(same)) and len(both) == 7466
    assert table.rows["view"].value_counts().sort("view").rows() == [("Frontal", 3818), ("Lateral", 3648)]


def test_a_study_described_twice_is_refused_unless_alike(fake):
    fake.write_xml(packed=True)
    first = fake.root / "ecgen-radiology/2.xml"
    copy = fake.root / "ecgen-radiology/copy/2.xml"
    put(copy, first.read_bytes())
    assert len(read(fake.settings())[0].rows) == 4
    copy.write_text(first.read_text().replace("Normal.", "Not normal."))
    with pytest.raises(InputError, match=r"copy/2\.xml: describes study 2 as .*2\.xml does, but not alike"):
        read(fake.settings())
    with tarfile.open(fake.root / "NLMCXR_reports.tgz", "w:gz") as archive:
        archive.add(fake.root / "ecgen-radiology", "ecgen-radiology")
    with pytest.raises(InputError, match=r"describes study 2 as .* does, but not alike; keep one of them"):
        read(fake.settings("NLMCXR_reports.tgz"))


@pytest.mark.parametrize("form", ["xml", "packed", "tables"])
def test_links_in_place_of_folders_and_what_macos_adds(fake, form):
    if form == "tables":
        fake.write_tables()
        folders, settings = ["images"], fake.table_settings()
    else:
        fake.write_xml(packed=form == "packed")
        folders = ["NLMCXR_png", "ecgen-radiology"]
        settings = fake.settings("NLMCXR_reports.tgz" if form == "packed" else "ecgen-radiology")
        put(fake.root / "ecgen-radiology/._2.xml", b"\0\5\26\7")
    for name in folders:
        moved = fake.root.parent / f"{fake.root.name} moved {name}"
        (fake.root / name).rename(moved)
        (fake.root / name).symlink_to(moved)
    (fake.root / "loop").symlink_to(fake.root)
    raw, texts = read(settings)
    assert all((fake.root / path).is_file() for path in raw.rows["image_path"]) and len(raw.rows) == 4
    assert raw.notes["pictures_without_report"] == 0 and len(texts) == 3


def test_a_report_behind_a_link_out_of_the_root_is_read_only_where_links_may_lead_out(fake):
    fake.write_xml()
    path = fake.root / "ecgen-radiology/2.xml"
    outside = put(fake.root.parent / f"{fake.root.name} outside/2.xml", path.read_bytes())
    path.unlink()
    path.symlink_to(outside)
    assert len(read(fake.settings())[1]) == 3
    with pytest.raises(InputError, match=r"2\.xml: a link leads out of the folder of reports"):
        read(fake.settings(links="inside"))


def test_images_in_capital_suffixes_are_found(fake):
    fake.write_xml()
    for file in list((fake.root / "NLMCXR_png").iterdir()):
        file.rename(file.with_suffix(".PNG"))
    raw, _ = read(fake.settings())
    assert all((fake.root / path).is_file() for path in raw.rows["image_path"])


@pytest.mark.parametrize("word", ["nan", "None", "N/A", "NA"])
def test_a_word_for_a_missing_text_is_no_text_and_is_counted(fake, word):
    fake.add(30, findings=word, impression="Not available: NA.")
    fake.write_xml()
    raw, texts = read(fake.settings())
    assert (
        texts.rows()[-1][:3] == ("30", None, "Not available: NA.")
        and raw.notes["missing_words_findings"] == 1
    )
    fake.write_tables()
    raw, texts = read(fake.table_settings())
    assert (
        texts.rows()[-1][:3] == ("30", None, "Not available: NA.")
        and raw.notes["missing_words_findings"] == 1
    )


def test_a_row_of_texts_with_a_field_too_many_is_refused(fake):
    fake.write_tables()
    path = fake.root / "indiana_reports.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1] + ", and more", *lines[2:]]))
    with pytest.raises(InputError, match=r"indiana_reports\.csv, line 2: 7 fields, but the header has 6"):
        read(fake.table_settings())


def test_ids_as_a_table_program_writes_them(fake):
    fake.write_tables()
    path = fake.root / "indiana_reports.csv"
    with path.open(newline="") as file:
        rows = [{**row, "uid": f"{row['uid']}.0"} for row in csv.DictReader(file)]
    write_csv(path, rows)
    raw, texts = read(fake.table_settings())
    assert raw.rows["study_id"].to_list() == ["1", "2", "2", "10"] and len(texts) == 3
    write_csv(path, [{**row, "uid": f"CXR{row['uid']}"} for row in rows])
    with pytest.raises(
        InputError, match=r"none of its 3 values of 'uid' \(CXR1\.0, CXR10\.0, \.\.\.\) is among the 3"
    ):
        read(fake.table_settings())
