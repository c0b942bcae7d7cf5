"""Decoded images on disk: uncompressed, memory-mapped Arrow files, so that reading a row is one copy."""

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from medunifier.runtime.errors import InputError
from medunifier.runtime.files import atomic_path, regular_file
from medunifier.storage.mapped_rows import MappedRows

PART_ROWS = 4096  # 205 MB at 224 x 224: few files for DVC, and little work to repeat after a kill
_BATCH_ROWS = 256
TARGET_SIDE = 224  # pixels: height and width of the images that the model generates and is compared with


def part_path(folder: str | Path, number: int) -> Path:
    """Return the path of part `number` of an image store."""
    return Path(folder) / f"part-{number:05d}.arrow"


def write_part(path: str | Path, ids: Iterable[str], arrays: Iterable[np.ndarray], size: int) -> None:
    """Write one part atomically.

    Args:
        path: the Arrow file to write.
        ids: image ids.
        arrays: one uint8 [size, size] for each id, in the same order.
        size: height and width in pixels.

    Raises:
        ValueError: Numbers of ids and arrays differ, or an array has another type or shape.
    """
    pixel_type = pa.binary(size * size)
    schema = pa.schema(
        [pa.field("image_id", pa.string(), nullable=False), pa.field("pixels", pixel_type, nullable=False)],
        metadata={"height": str(size), "width": str(size)},
    )
    pairs = zip(ids, arrays, strict=True)
    with (
        atomic_path(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, schema) as out,
    ):
        while batch := list(islice(pairs, _BATCH_ROWS)):
            pixels = np.stack([image for _, image in batch])  # (k, size, size)
            if pixels.dtype != np.uint8 or pixels.shape[1:] != (size, size):
                raise ValueError(
                    f"{path}: image is {pixels.dtype} {pixels.shape[1:]}, expected uint8 {(size, size)}"
                )
            column = pa.FixedSizeBinaryArray.from_buffers(
                pixel_type, len(batch), [None, pa.py_buffer(pixels)]
            )
            names = pa.array([image_id for image_id, _ in batch], pa.string())
            out.write_batch(pa.record_batch([names, column], schema=schema))


def write_images(folder: str | Path, ids: Sequence[str], arrays: Iterable[np.ndarray], size: int) -> None:
    """Write a complete store in parts of PART_ROWS images; arguments as for `write_part`."""
    images = iter(arrays)
    for number, start in enumerate(range(0, max(len(ids), 1), PART_ROWS)):
        part_ids = ids[start : start + PART_ROWS]
        write_part(part_path(folder, number), part_ids, islice(images, len(part_ids)), size)


class ImageStore(MappedRows):
    """The images in a folder of parts: `read(rows)` returns uint8 [k, H, W].

    Attributes:
        height, width: of the images, in pixels.
    """

    def __init__(self, folder: str | Path, stage: str = "decode_images"):
        """Open a store.

        Args:
            folder: the folder of part-*.arrow files.
            stage: the stage that error messages tell the user to run.

        Raises:
            InputError: There is no image, a part is broken, sizes differ, or an id occurs twice.
        """
        folder = Path(folder)
        ids: list[str] = []
        batches: list[np.ndarray] = []
        for path in sorted(folder.glob("part-*.arrow")):
            for part_ids, pixels in _mapped_batches(path, stage):
                ids += part_ids
                batches.append(pixels)
        if not batches:
            raise InputError(f"{folder}: no images in part-*.arrow; run {stage} first")
        if len(shapes := {batch.shape[1:] for batch in batches}) > 1:
            raise InputError(f"{folder}: images of different sizes {sorted(shapes)}; run {stage} again")
        super().__init__(folder, ids, batches, stage)
        self.height, self.width = shapes.pop()


class TargetImages(ImageStore):
    """A store of images of any size (`images.size`) that are read at 224 x 224, as they would be decoded at that size."""

    def __init__(self, folder: str | Path, stage: str = "decode_images"):
        """Open a store; arguments and errors are those of `ImageStore`."""
        super().__init__(folder, stage)
        self.height = self.width = TARGET_SIDE

    def read(self, rows: Iterable[int] | np.ndarray) -> np.ndarray:
        """Return the images of `rows`, uint8 [k, 224, 224], in the order given."""
        images, side = super().read(rows), (TARGET_SIDE, TARGET_SIDE)
        if images.shape[1:] == side or not len(images):
            return images.reshape(-1, *side)
        resized = (Image.fromarray(image).resize(side, Image.Resampling.LANCZOS) for image in images)
        return np.stack([np.asarray(image) for image in resized])


def _mapped_batches(path: Path, stage: str) -> Iterable[tuple[list[str], np.ndarray]]:
    """Yield ids and memory-mapped pixels, uint8 [k, H, W], of each record batch of a part."""
    regular_file(path, f"run {stage} again")
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        height, width = (int((reader.schema.metadata or {})[key]) for key in (b"height", b"width"))
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            pixels = np.frombuffer(batch.column("pixels").buffers()[1], np.uint8, len(batch) * height * width)
            yield batch.column("image_id").to_pylist(), pixels.reshape(len(batch), height, width)
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"{path}: not a whole Arrow file ({error}); run {stage} again") from error
