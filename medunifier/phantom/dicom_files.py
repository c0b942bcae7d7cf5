"""DICOM files like those of the Kaggle challenges: secondary captures, JPEG baseline, 8 bits."""

import io

import numpy as np
from PIL import Image

from medunifier.phantom.image_files import jpeg

UID_ROOT = "1.2.276.0.7230010.3.1"


def uid(kind: int, digest: str) -> str:
    """Return a UID of the data sets' form (kind 2: study, 3: series, 4: image), from a digest."""
    return f"{UID_ROOT}.{kind}.8323329.{int(digest[:8], 16)}.{int(digest[8:20], 16)}"


def dicom(image: np.ndarray, digest: str, patient: str, view: str, inverted: bool) -> bytes:
    """Return a DICOM file.

    Args:
        image: uint8 [H, W].
        digest: hexadecimal digits that the UIDs follow from.
        patient: id and name of the patient.
        view: View Position.
        inverted: store as MONOCHROME1, in which black is the largest value.
    """
    # Imported here: the stage may generate no DICOM file, and pydicom takes a quarter of a second to import.
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import UID, JPEGBaseline8Bit, SecondaryCaptureImageStorage

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = UID(uid(4, digest))
    meta.TransferSyntaxUID = JPEGBaseline8Bit
    file = FileDataset("", Dataset(), file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = SecondaryCaptureImageStorage, uid(4, digest)
    file.StudyInstanceUID, file.SeriesInstanceUID = uid(2, digest), uid(3, digest)
    file.Modality, file.BodyPartExamined, file.ViewPosition = "CR", "CHEST", view
    file.PatientID = file.PatientName = patient
    file.Rows, file.Columns = image.shape
    file.SamplesPerPixel, file.PixelRepresentation = 1, 0
    file.BitsAllocated = file.BitsStored = 8
    file.HighBit = 7
    file.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    file.LossyImageCompression, file.LossyImageCompressionMethod = "01", "ISO_10918_1"
    file.PixelData = encapsulate([jpeg(255 - image if inverted else image)])
    file["PixelData"].is_undefined_length = True
    buffer = io.BytesIO()
    file.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def pixels(content: bytes) -> np.ndarray:
    """Return the stored values of such a file, [H, W], as decoded by Pillow."""
    # Imported here: see `dicom`.
    import pydicom
    from pydicom.encaps import get_frame

    frame = get_frame(pydicom.dcmread(io.BytesIO(content)).PixelData, 0, number_of_frames=1)
    return np.asarray(Image.open(io.BytesIO(frame)))
