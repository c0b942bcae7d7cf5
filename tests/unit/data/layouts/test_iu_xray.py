import polars as pl
import pytest

from medunifier.data.layouts import RAW_IMAGES, RAW_REPORTS, iu_xray
from medunifier.runtime.errors import InputError
from tests.support.fake_files import settings
from tests.support.fake_iu_xray import FakeIuXray
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
    raw = iu_xray.read_images(given)
    RAW_IMAGES.check(raw.rows, "test")
    texts = iu_xray.read_reports(given, raw.rows).rows
    RAW_REPORTS.check(texts, "test")
    return raw, texts


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
