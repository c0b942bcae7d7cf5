"""Shared by the fake copies of data sets: settings, what a layout reads, bytes of real images and of DICOM files."""

import io
from pathlib import Path
from types import ModuleType

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, SecondaryCaptureImageStorage

from medunifier.data.layouts import RAW_IMAGES, RAW_REPORTS, Raw
from medunifier.runtime.params import Dataset, Index


def settings(layout: str, root: Path, images: str, *, labels_file=None, split_file=None, **changes):
    """A data set whose index files default to `images`; text-free, all views, split in two steps."""
    values = {
        "layout": layout,
        "root": str(root),
        "reports": None,
        "index": Index(
            images=images,
            labels=labels_file or images,
            split=split_file or images,
            checksums=images,
            lists=images,
        ),
        "views": None,
        "sections": "none",
        "section_order": "findings_first",
        "split": "two_step",
        "split_fractions": (0.7, 0.15, 0.15),
        "benchmark": None,
    }
    return Dataset(**{**values, **changes})


def read_both(layout: ModuleType, given: Dataset) -> tuple[Raw, Raw]:
    """What a layout reads of a data set: its images and their reports, both checked for their columns."""
    raw = layout.read_images(given)
    RAW_IMAGES.check(raw.rows, "test")
    texts = layout.read_reports(given, raw.rows)
    RAW_REPORTS.check(texts.rows, "test")
    return raw, texts


def pixels(seed: str, size: int = 32) -> np.ndarray:
    """A smooth image that differs from seed to seed: uint8 [size, size]."""
    random = np.random.default_rng(list(seed.encode()))
    coarse = Image.fromarray(random.integers(0, 256, (4, 4), dtype=np.uint8))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))


def image_file(values: np.ndarray, kind: str, **options) -> bytes:
    """A JPEG or PNG file of `values`; `options` of Pillow's encoder."""
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind, **options)
    return buffer.getvalue()


def dicom_file(values: np.ndarray, jpeg: bytes | None = None, **tags) -> bytes:
    """A DICOM file of 8-bit `values`, uncompressed or with the JPEG file `jpeg` as its frame, and with `tags`."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[values.tobytes().hex()])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    file.Rows, file.Columns = values.shape
    file.SamplesPerPixel, file.PixelRepresentation, file.PhotometricInterpretation = 1, 0, "MONOCHROME2"
    file.BitsAllocated, file.BitsStored, file.HighBit = 8, 8, 7
    file.PixelData = values.tobytes()
    if jpeg:
        meta.TransferSyntaxUID = JPEGBaseline8Bit
        file.PixelData = encapsulate([jpeg])
        file["PixelData"].VR = "OB"
    for name, value in tags.items():
        setattr(file, name, value)
    buffer = io.BytesIO()
    file.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def put(path: Path, content: bytes | str) -> Path:
    """Write a file with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path
