"""Where the frozen ViT's tokens of a data set come from: shards on disk, or the ViT, which looks as it is asked."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stages.storage.features import FeatureStore, read_manifests
from stages.storage.images import ImageStore
from stages.storage.rows import MappedRows

if TYPE_CHECKING:
    from stages.models.vision import FrozenViT

_BATCH = 32  # pictures that the ViT looks at together


class OnlineFeatures(MappedRows):
    """What a `FeatureStore` is to its users, without tokens on disk: `read(rows)` runs the ViT over the pictures.

    The tokens are rounded to half precision, so that they equal the stored ones.

    Raises InputError as `read_manifests` and `ImageStore` do; `read` also as `load_recorded_vision`.
    """

    def __init__(self, folder: str | Path, images: str | Path):
        self.manifests = read_manifests(folder)
        about = self._about = next(iter(self.manifests.values()))
        self.n_tokens, self.width = about["n_tokens"], about["width"]
        self._vit: FrozenViT | None = None  # loaded when first needed
        pictures = ImageStore(images)
        super().__init__(Path(folder), pictures.image_ids, pictures.pieces, stage="decode_images")

    def read(self, rows: Iterable[int] | np.ndarray) -> np.ndarray:
        """Tokens, float16 [k, n_tokens, width], of `rows`, in the order given."""
        import torch

        from stages.models.vision import load_recorded_vision

        if self._vit is None:
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            self._vit = load_recorded_vision(self._about).to(device)
        device = next(self._vit.parameters()).device
        rows = np.asarray(rows, np.int64)
        found = np.empty((len(rows), self.n_tokens, self.width), np.float16)
        for start in range(0, len(rows), _BATCH):
            pixels = torch.from_numpy(super().read(rows[start : start + _BATCH])).to(device)  # (B, H, W)
            tokens = self._vit(pixels[:, None].expand(-1, 3, -1, -1).float() / 255)
            found[start : start + _BATCH] = tokens.half().cpu().numpy()
        return found


Features = FeatureStore | OnlineFeatures


def open_features(dataset: str) -> Features:
    """The tokens of a data set, from wherever its extract_features stages say.

    Raises InputError as the two kinds do.
    """
    folder = Path("data/features") / dataset
    modes = {manifest.get("mode") for manifest in read_manifests(folder).values()}
    return (
        OnlineFeatures(folder, Path("data/images") / dataset) if modes == {"online"} else FeatureStore(folder)
    )
