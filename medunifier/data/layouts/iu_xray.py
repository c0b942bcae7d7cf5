"""IU X-ray (Open-i, Demner-Fushman et al. 2016), as XML reports or as the tabular copy; both give the same rows.

XML:     index.images is NLMCXR_reports.tgz as downloaded, or its folder ecgen-radiology
tabular: index.images is indiana_projections.csv, index.labels is indiana_reports.csv
Images are PNG files anywhere below root, named as in either copy. Each patient has one report.
"""

import os
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import polars as pl

from medunifier.data.dataset_files import find_files, read_file_inside, read_small_file, walk_files
from medunifier.data.index_files import MISSING_WORDS, check_match, one_row_each, read_index
from medunifier.data.layouts import RAW_REPORTS, Raw, raw_images
from medunifier.data.preparation.sections import clean_text
from medunifier.runtime.errors import InputError
from medunifier.runtime.params import Dataset

SOURCE = "https://openi.nlm.nih.gov/faq: NLMCXR_png.tgz and NLMCXR_reports.tgz (free, no account)"
IMAGES = "NLMCXR_png"
# Our labels -> the MeSH headings assigned by human indexers; a heading may have qualifiers (Opacity/lung/base/left).
TERMS = {
    "label_no_finding": {"normal"},
    "label_atelectasis": {"pulmonary atelectasis"},
    "label_cardiomegaly": {"cardiomegaly"},
    "label_consolidation": {"consolidation"},
    "label_edema": {"pulmonary edema"},
    "label_fracture": {"fractures, bone"},
    "label_lung_lesion": {"nodule", "mass"},
    "label_lung_opacity": {"opacity", "airspace disease", "infiltrate"},
    "label_pleural_effusion": {"pleural effusion"},
    "label_pneumonia": {"pneumonia"},
    "label_pneumothorax": {"pneumothorax"},
}
_NOT_INDEXED = {"", "no indexing"}
_TABLES = (".csv", ".gz", ".zip", ".parquet")


@dataclass(frozen=True)
class _Study:
    """One report and the images that it is about."""

    findings: str | None
    impression: str | None
    headings: tuple[str, ...]
    images: tuple[tuple[str, str | None], ...]  # image_id, view
    missing_words: tuple[str, ...] = ()  # sections that held nothing but a word for a missing value


def read_images(settings: Dataset) -> Raw:
    """Return every image of the index. The XML copy lists no view; the data set has no official split."""
    notes: dict[str, int] = {}
    studies, warnings = _read_studies(settings, notes)
    root = Path(settings.root)
    found = find_files(root, ".png", notes)
    files: dict[str, Path] = {}
    for name, path in found.items():
        files.setdefault(image_id_of(name), path.relative_to(root))
    if twice := len(found) - len(files):
        notes["files_of_equal_name"] = notes.get("files_of_equal_name", 0) + twice
    texts = dict.fromkeys(("image_id", "patient_id", "study_id", "image_path", "view"), pl.String)
    rows = [
        (
            image_id,
            study_id,
            study_id,
            str(files.get(image_id, f"{IMAGES}/CXR{image_id}.png")),
            view,
            *heading_labels(study.headings),
        )
        for study_id, study in studies.items()
        for image_id, view in study.images
    ]
    if not rows:
        raise InputError(f"{root}/{settings.index.images}: no report names an image")
    frame = pl.DataFrame(rows, {**texts, **dict.fromkeys(TERMS, pl.Int8)}, orient="row")
    notes |= {
        "reports": len(studies),
        "reports_without_image": sum(not study.images for study in studies.values()),
        "pictures_without_report": len(files.keys() - set(frame["image_id"])),
    }
    return Raw(raw_images(frame), notes, warnings)


def read_reports(settings: Dataset, images: pl.DataFrame) -> Raw:
    """Return findings and impression of each study; removed words stay as XXXX."""
    studies, _ = _read_studies(settings, {})
    wanted = images["study_id"].unique(maintain_order=True)
    rows = [(name, studies[name].findings, studies[name].impression, None, None, None) for name in wanted]
    return Raw(pl.DataFrame(rows, schema=dict(RAW_REPORTS.columns), orient="row"))


def image_id_of(name: str) -> str:
    """Return the image id (1_IM-0001-3001) for an image's name in either copy.

    Names are CXR1_1_IM-0001-3001 or CXR2_IM-0652-1001 in XML, where the study's number may occur twice, and
    1_IM-0001-3001.dcm in the tabular copy.
    """
    return re.sub(r"^CXR(\d+)_(?:\1_)?", r"\1_", name).removesuffix(".dcm")


def heading_labels(headings: tuple[str, ...]) -> tuple[int | None, ...]:
    """Return the values of TERMS for the headings of a study; all null if it was not indexed."""
    names = {heading.split("/")[0].strip().lower() for heading in headings}
    if names <= _NOT_INDEXED:
        return (None,) * len(TERMS)
    return tuple(int(bool(names & terms)) for terms in TERMS.values())


def _read_studies(settings: Dataset, notes: dict[str, int]) -> tuple[dict[str, _Study], list[str]]:
    """Map study numbers to studies, in the order of the numbers; also return warnings.

    Raises:
        InputError: There is no report, or two reports of one study differ.
    """
    root = Path(settings.root)
    path = root / settings.index.images
    studies: dict[str, _Study] = {}
    warnings: list[str] = []
    if path.suffix.lower() in _TABLES:
        studies, warnings = _read_tables(path, root / settings.index.labels, notes)
    else:
        names: dict[str, str] = {}
        for name, content in _xml_files(path, os.path.realpath(root) if settings.links == "inside" else None):
            study_id, study = _read_report(content, name)
            if study_id in studies and studies[study_id] != study:
                raise InputError(
                    f"{name}: describes study {study_id} as {names[study_id]} does, but not alike; keep one of them"
                )
            studies[study_id], names[study_id] = study, name
    if not studies:
        raise InputError(f"{path}: holds no XML report; expected the content of NLMCXR_reports.tgz")
    counted = Counter(word for study in studies.values() for word in study.missing_words)
    for section, count in counted.items():
        notes[f"missing_words_{section}"] = notes.get(f"missing_words_{section}", 0) + count
    return dict(sorted(studies.items(), key=lambda item: (len(item[0]), item[0]))), warnings


def _xml_files(path: Path, inside: str | None) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each report in a folder or in a .tgz archive.

    Raises:
        InputError: There is none, it cannot be read, or a link leads out of `inside`, a real path.
    """
    read = read_small_file if inside is None else partial(read_file_inside, inside)
    if path.is_dir():
        for file in sorted(file for file in walk_files(path) if file.suffix.lower() == ".xml"):
            try:
                yield str(file), read(str(file)) or b""
            except UnicodeError as error:
                raise InputError(f"{file}: {error}; unpack the archive again") from None
        return
    if not path.is_file():
        raise InputError(f"{path}: no such folder or archive of reports; get it from {SOURCE}")
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = Path(member.name).name
                wanted = name.endswith(".xml") and not name.startswith("._")  # of macOS
                file = archive.extractfile(member) if wanted and member.isfile() else None
                if file is not None:
                    yield f"{path}/{member.name}", file.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise InputError(f"{path}: not a whole .tgz archive ({error}); download it again") from error


def _read_report(content: bytes, name: str) -> tuple[str, _Study]:
    """Return study number and study of one XML report."""
    try:
        report = ElementTree.fromstring(content)
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the latter: an unknown encoding
        raise InputError(f"{name}: not an Open-i report ({error}); unpack the archive again") from error
    uid = report.find("uId")
    if uid is None or not (study_id := uid.get("id", "").strip().removeprefix("CXR")):
        raise InputError(f"{name}: not an Open-i report (no uId with an id); unpack the archive again")
    image_ids = [image_id_of(image.get("id", "").strip()) for image in report.iter("parentImage")]
    sections = {text.get("Label"): text.text for text in report.iter("AbstractText")}
    texts = {section: clean_text(sections.get(section.upper())) for section in ("findings", "impression")}
    missing = tuple(section for section, text in texts.items() if text and text.lower() in MISSING_WORDS)
    texts |= dict.fromkeys(missing)
    study = _Study(
        texts["findings"],
        texts["impression"],
        tuple(major.text or "" for major in report.findall("MeSH/major")),
        tuple((image_id, None) for image_id in image_ids),
        missing,
    )
    return study_id, study


def _read_tables(
    projections: Path, reports: Path, notes: dict[str, int]
) -> tuple[dict[str, _Study], list[str]]:
    """Map study numbers to studies of the tabular copy; also return warnings."""
    filled = ["uid", "filename"]
    images = read_index(projections, [*filled, "projection"], filled=filled, ids=["uid"], notes=notes)
    texts = read_index(
        reports, ["uid", "MeSH", "findings", "impression"], filled=["uid"], ids=["uid"], notes=notes
    )
    texts = one_row_each(texts, "uid", reports)
    warnings = check_match(images, texts, "uid", (projections, reports))
    if lost := images.join(texts, on="uid", how="anti")["uid"].unique().sort().to_list():
        raise InputError(
            f"{projections}: {len(lost)} studies without a row in {reports.name}, first {lost[0]}"
        )
    of_study: dict[str, list[tuple[str, str | None]]] = {uid: [] for uid in texts["uid"]}
    for uid, filename, projection in images.iter_rows():
        of_study[uid].append((image_id_of(filename.removesuffix(".png")), projection))
    studies = {
        uid: _Study(
            clean_text(findings), clean_text(impression), tuple((mesh or "").split(";")), tuple(of_study[uid])
        )
        for uid, mesh, findings, impression in texts.iter_rows()
    }
    return studies, warnings
