"""Image features of a data set: read from cached shards, or computed on the fly by the frozen encoder."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from medunifier.runtime.errors import InputError
from medunifier.storage.image_shards import ImageStore
from medunifier.storage.mapped_rows import MappedRows
from medunifier.vision.feature_shards import FeatureStore, read_manifests
from medunifier.vision.frozen_encoder import FrozenEncoder, load_recorded_vision

_BATCH = 32  # images encoded together in online mode
_HALF_MAX = float(np.finfo(np.float16).max)


class OnlineFeatures(MappedRows):
    """The interface of a `FeatureStore` without features on disk: `read(rows)` encodes the images.

    Features are rounded to half precision, so that they equal the stored ones.

    Args:
        folder: data/features/DATASET. images: data/images/DATASET.

    Raises:
        InputError: as `read_manifests` and `ImageStore` do; `read` also as `load_recorded_vision` and
            `encode_images` do.
    """

    def __init__(self, folder: str | Path, images: str | Path):
        self.manifests = read_manifests(folder)
        record = self._record = next(iter(self.manifests.values()))
        self.n_tokens, self.width = record["n_tokens"], record["width"]
        self._encoder: torch.nn.Module | None = None  # loaded when first needed
        store = ImageStore(images)
        super().__init__(Path(folder), store.image_ids, store.pieces, stage="decode_images")

    def read(self, rows: Iterable[int] | np.ndarray) -> np.ndarray:
        """Return the features, float16 [k, n_tokens, width], of `rows`, in the order given."""
        if self._encoder is None:
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            self._encoder = load_recorded_vision(self._record).to(device)
        rows = np.asarray(rows, np.int64)
        found = np.empty((len(rows), self.n_tokens, self.width), np.float16)
        for start in range(0, len(rows), _BATCH):
            part = rows[start : start + _BATCH]
            found[start : start + _BATCH] = encode_images(
                self._encoder, super().read(part), [self.image_ids[row] for row in part]
            )
        return found


Features = FeatureStore | OnlineFeatures


def open_features(dataset: str) -> Features:
    """Open the features of a data set, cached or online as its extract_features stages recorded.

    Raises:
        InputError: as `FeatureStore` and `OnlineFeatures` do.
    """
    folder = Path("data/features") / dataset
    modes = {manifest.get("mode") for manifest in read_manifests(folder).values()}
    return (
        OnlineFeatures(folder, Path("data/images") / dataset) if modes == {"online"} else FeatureStore(folder)
    )


def encode_store(
    store: ImageStore, rows: range, encoder: FrozenEncoder, batch_size: int, log: Callable[[str], None]
) -> Iterator[np.ndarray]:
    """Yield the features, float16 [k, n_tokens, width], of the images `rows` of a store, batch by batch.

    Progress is logged at each tenth.

    Raises:
        InputError: as `encode_images` does.
    """
    for start in range(rows.start, rows.stop, batch_size):
        batch = range(start, min(start + batch_size, rows.stop))
        yield encode_images(encoder, store.read(batch), store.image_ids[batch.start : batch.stop])
        done, before = batch.stop - rows.start, start - rows.start
        if 10 * done // len(rows) > 10 * before // len(rows):
            log(f"{done} of {len(rows)} images")


def encode_images(encoder: torch.nn.Module, images: np.ndarray, image_ids: Sequence[str]) -> np.ndarray:
    """Return the features, float16 [k, n_tokens, width], of grey images, uint8 [k, H, W].

    Raises:
        InputError: as `check_representable` does; the frozen encoder's own.
    """
    grey = torch.from_numpy(images).to(next(encoder.parameters()).device)
    with torch.inference_mode():
        tokens = encoder((grey[:, None].float() / 255).expand(-1, 3, -1, -1))
        check_representable(tokens, image_ids)
    return tokens.half().cpu().numpy()


def check_representable(tokens: torch.Tensor, image_ids: Sequence[str]) -> None:
    """Check that half precision can hold the features (k, ...) of these images.

    Raises:
        InputError: names the first image with NaN or a value beyond half precision's range.
    """
    representable = (tokens.abs() <= _HALF_MAX).flatten(1).all(1)  # (k,); False for NaN as well
    if not representable.all():
        raise InputError(
            f"image {image_ids[int(representable.int().argmin())]}: the frozen model gives tokens that are NaN or beyond "
            f"+-{_HALF_MAX:.0f}, which half precision cannot hold; check vision.model, or leave out its last blocks"
        )
