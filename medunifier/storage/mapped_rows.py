"""Rows of several memory-mapped arrays, addressed by image id."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from medunifier.runtime.errors import InputError


class MappedRows:
    """A concatenation of memory-mapped arrays; nothing is read before `read`."""

    def __init__(self, folder: Path, image_ids: list[str], pieces: Sequence[np.ndarray], stage: str):
        """Concatenate arrays.

        Args:
            folder: the folder that error messages name.
            image_ids: the id of each row.
            pieces: arrays of one dtype and row shape, in the order of the ids.
            stage: the stage that error messages tell the user to run again.

        Raises:
            InputError: An id occurs twice.
        """
        self.folder = folder
        self.image_ids = image_ids
        self.pieces = pieces
        self._stage = stage
        self._starts = np.cumsum([0] + [len(piece) for piece in pieces])
        self._row_of = {image_id: row for row, image_id in enumerate(image_ids)}
        if len(self._row_of) < len(image_ids):
            raise InputError(f"{folder}: an image_id comes twice; delete the folder and run {stage} again")

    def __len__(self) -> int:
        return len(self.image_ids)

    def __contains__(self, image_id: str) -> bool:
        return image_id in self._row_of

    def rows(self, ids: Iterable[str]) -> np.ndarray:
        """Return the row numbers of `ids`, int64 [k].

        Raises:
            InputError: An id is unknown.
        """
        try:
            return np.array([self._row_of[image_id] for image_id in ids], np.int64)
        except KeyError as error:
            raise InputError(
                f"{self.folder}: nothing stored for image {error}; run {self._stage} again"
            ) from None

    def piece_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the number of the piece that holds each of `rows`, int64 [k]."""
        return np.searchsorted(self._starts, rows, side="right") - 1

    def read(self, rows: Iterable[int] | np.ndarray) -> np.ndarray:
        """Return a copy of `rows` in the given order, [k, ...].

        Raises:
            IndexError: A row is out of range.
        """
        rows = np.asarray(rows, np.int64)
        if rows.size and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"{self.folder}: rows {rows.min()}..{rows.max()} of {len(self)}")
        first = self.pieces[0]
        found = np.empty((len(rows), *first.shape[1:]), first.dtype)
        # Row by row: each is copied once, where indexing by a list would copy it twice.
        for position, (number, row) in enumerate(zip(self.piece_of(rows), rows, strict=True)):
            found[position] = self.pieces[number][row - self._starts[number]]
        return found
