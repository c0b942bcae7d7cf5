"""DICOM files as the Kaggle challenges distribute them: secondary captures, JPEG baseline, 8 bit."""

import io

import numpy as np

from medunifier.phantom.shots import jpeg

UID_ROOT = "1.2.276.0.7230010.3.1"


def uid(kind: int, digest: str) -> str:
    """A UID of the data sets' form (kind 2: study, 3: series, 4: image) that follows from a digest."""
    return f"{UID_ROOT}.{kind}.8323329.{int(digest[:8], 16)}.{int(digest[8:20], 16)}"


def dicom(film: np.ndarray, digest: str, patient: str, view: str, inverted: bool) -> bytes:
    """`film` (uint8 [H, W]) as a DICOM file; `inverted` stores it as MONOCHROME1, black being the largest value."""
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEGBaseline8Bit, SecondaryCaptureImageStorage

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = uid(4, digest)
    meta.TransferSyntaxUID = JPEGBaseline8Bit
    file = FileDataset("", Dataset(), file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = SecondaryCaptureImageStorage, uid(4, digest)
    file.StudyInstanceUID, file.SeriesInstanceUID = uid(2, digest), uid(3, digest)
    file.Modality, file.BodyPartExamined, file.ViewPosition = "CR", "CHEST", view
    file.PatientID = file.PatientName = patient
    file.Rows, file.Columns = film.shape
    file.SamplesPerPixel, file.PixelRepresentation = 1, 0
    file.BitsAllocated = file.BitsStored = 8
    file.HighBit = 7
    file.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    file.LossyImageCompression, file.LossyImageCompressionMethod = "01", "ISO_10918_1"
    file.PixelData = encapsulate([jpeg(255 - film if inverted else film)])
    file["PixelData"].is_undefined_length = True
    buffer = io.BytesIO()
    file.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def pixels(content: bytes) -> np.ndarray:
    """The stored values of such a file, [H, W], as Pillow decodes them: so they get into PNGs."""
    import pydicom
    from PIL import Image
    from pydicom.encaps import get_frame

    frame = get_frame(pydicom.dcmread(io.BytesIO(content)).PixelData, 0, number_of_frames=1)
    return np.asarray(Image.open(io.BytesIO(frame)))
