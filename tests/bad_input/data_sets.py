"""A small whole copy of a data set in each layout, with the names of the files that describe it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from medunifier.runtime.params import Dataset, FoldersLayout, TableLayout
from tests.stages.test_prepare import covid_settings
from tests.support.fake_chexpert import FakeChexpert
from tests.support.fake_chexpert_plus import FakeChexpertPlus
from tests.support.fake_covid import FakeCovid
from tests.support.fake_covidx import FakeCovidx
from tests.support.fake_files import image_file, pixels, put, settings
from tests.support.fake_iu_xray import FakeIuXray
from tests.support.fake_mimic import FakeMimic, write_csv
from tests.support.fake_nih import FakeNih
from tests.support.fake_padchest import FakePadchest, FakePadchestGr
from tests.support.fake_rexgradient import FakeRexgradient
from tests.support.fake_rsna import FakeRsna
from tests.support.fake_siim import FakeSiim
from tests.support.fake_vindr import FakeVindr

PATIENTS = range(1, 9)


@dataclass(frozen=True)
class Copy:
    """A data set in a layout.

    Attributes:
        build: writes it into a folder and returns its settings.
        files: index files, relative to that folder.
    """

    build: Callable[[Path], Dataset]
    files: tuple[str, ...]


def mimic(folder: Path) -> Dataset:
    fake = FakeMimic(folder)
    for n in PATIENTS:
        fake.add(
            f"d{n}", f"1000000{n}", f"5000000{n}", split=("train", "validate", "test")[n % 3], edema="1.0"
        )
    fake.write()
    return fake.settings()


def chexpert(folder: Path) -> Dataset:
    fake = FakeChexpert(folder)
    for n in PATIENTS:
        fake.add(n, split="valid" if n == 8 else "train", edema="1.0")
    fake.write()
    return fake.settings()


def chexpert_plus(folder: Path) -> Dataset:
    fake = FakeChexpertPlus(folder)
    for n in PATIENTS:
        fake.add(
            n,
            split="valid" if n == 8 else "train",
            findings="Clear lungs.",
            impression=f"Normal {n}.",
            edema=0,
        )
    fake.write()
    return fake.settings()


def covid(folder: Path) -> Dataset:
    fake = FakeCovid(folder)
    for n in PATIENTS:
        fake.add(f"p{n}", f"i{n}.jpg")
    fake.write()
    return covid_settings(folder).replace(split_fractions=(0.5, 0.25, 0.25))


def covidx(folder: Path) -> Dataset:
    fake = FakeCovidx(folder)
    for n in PATIENTS:
        split = "test" if n > 6 else "train"
        fake.add(f"{n} image{n}.png positive cohen", f"image{n}.png", split)
    fake.write()
    return fake.settings()


def folders(folder: Path) -> Dataset:
    paths = [f"{'TB' if n % 2 else 'No TB'}/{n}.png" for n in PATIENTS]
    for path in paths:
        put(folder / path, image_file(pixels(path), "PNG"))
    put(folder / "images.txt", "\n".join(paths) + "\n")
    return settings("folders", folder, "images.txt", folders=FoldersLayout())


def iu_tables(folder: Path) -> Dataset:
    fake = FakeIuXray(folder)
    for n in PATIENTS:
        fake.add(n)
    fake.write_tables()
    return fake.table_settings()


def iu_xml(folder: Path) -> Dataset:
    fake = FakeIuXray(folder)
    for n in PATIENTS:
        fake.add(n)
    fake.write_xml()
    return fake.settings()


def iu_packed(folder: Path) -> Dataset:
    fake = FakeIuXray(folder)
    for n in PATIENTS:
        fake.add(n)
    fake.write_xml(packed=True)
    return fake.settings("NLMCXR_reports.tgz")


def nih(folder: Path) -> Dataset:
    fake = FakeNih(folder)
    for n in PATIENTS:
        fake.add(n, findings="Effusion|Mass", test=n > 6)
    fake.write()
    return fake.settings()


def padchest(folder: Path) -> Dataset:
    fake = FakePadchest(folder)
    for n in PATIENTS:
        fake.add(n, report="cardiomegali .")
    fake.write()
    return fake.settings()


def padchest_gr(folder: Path) -> Dataset:
    fake = FakePadchestGr(folder)
    for n in PATIENTS:
        fake.add(n, ("train", "validation", "test")[n % 3])
    fake.write()
    return fake.settings()


def rexgradient(folder: Path) -> Dataset:
    fake = FakeRexgradient(folder)
    for n in PATIENTS:
        fake.add(n, ("train", "valid", "test")[n % 3], views=("PA",))
    fake.write()
    return fake.settings()


def rsna(folder: Path) -> Dataset:
    fake = FakeRsna(folder)
    for n in PATIENTS:
        fake.add(f"p{n}", boxes=n % 2)
    fake.write()
    return fake.settings()


def siim(folder: Path) -> Dataset:
    fake = FakeSiim(folder)
    for n in PATIENTS:
        fake.add(f"1.2.{n}", *([" 10 20"] * (n % 2)))
    fake.write()
    return fake.settings()


def table(folder: Path) -> Dataset:
    return _table(folder, "studies.csv")


def parquet(folder: Path) -> Dataset:
    return _table(folder, "studies.parquet")


def _table(folder: Path, name: str) -> Dataset:
    rows = [
        {
            "file": f"{n}.jpg",
            "mrn": f"m{n}",
            "study": f"s{n}",
            "text": f"Clear lungs, patient {n}.",
            "edema": n % 2,
        }
        for n in PATIENTS
    ]
    for row in rows:
        put(folder / row["file"], image_file(pixels(row["file"]), "JPEG"))
    if name.endswith(".csv"):
        write_csv(folder / name, rows)
    else:
        import polars as pl

        pl.DataFrame(rows).write_parquet(folder / name)
    columns = {
        "image": "file",
        "patient": "mrn",
        "study": "study",
        "findings": "text",
        "labels": {"edema": "edema"},
    }
    return settings("table", folder, name, table=TableLayout.model_validate(columns), sections="either")


def vindr(folder: Path) -> Dataset:
    fake = FakeVindr(folder)
    for n in PATIENTS:
        fake.add(n, "test" if n == 8 else "train")
    fake.write()
    return fake.settings()


COPIES = {
    "mimic_cxr": Copy(
        mimic,
        (
            "mimic-cxr-jpg/mimic-cxr-2.0.0-metadata.csv.gz", "mimic-cxr-jpg/mimic-cxr-2.0.0-split.csv.gz",
            "mimic-cxr-jpg/mimic-cxr-2.0.0-chexpert.csv.gz", "mimic-cxr-jpg/SHA256SUMS.txt",
        ),
    ),
    "chexpert": Copy(chexpert, ("train.csv", "valid.csv")),
    "chexpert_plus": Copy(chexpert_plus, ("df_chexpert_plus_240401.csv", "impression_fixed.json")),
    "covid_chestxray": Copy(covid, ("metadata.csv",)),
    "covidx": Copy(covidx, ("labels/train_COVIDx9A.txt", "labels/test_COVIDx9A.txt")),
    "folders": Copy(folders, ("images.txt",)),
    "iu_tables": Copy(iu_tables, ("indiana_projections.csv", "indiana_reports.csv")),
    "iu_xml": Copy(iu_xml, ("ecgen-radiology/3.xml",)),
    "iu_packed": Copy(iu_packed, ("NLMCXR_reports.tgz",)),
    "nih": Copy(nih, ("Data_Entry_2017_v2020.csv", "test_list.txt")),
    "padchest": Copy(padchest, ("PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz",)),
    "padchest_gr": Copy(padchest_gr, ("grounded_reports_20240819.json", "master_table.csv")),
    "rexgradient": Copy(
        rexgradient,
        ("metadata/train_metadata_view_position.json", "metadata/test_metadata_view_position.json"),
    ),
    "rsna": Copy(rsna, ("stage_2_train_labels.csv",)),
    "siim": Copy(siim, ("train-rle.csv",)),
    "table": Copy(table, ("studies.csv",)),
    "parquet": Copy(parquet, ("studies.parquet",)),
    "vindr": Copy(vindr, ("annotations/image_labels_train.csv", "annotations/image_labels_test.csv")),
}  # fmt: skip
