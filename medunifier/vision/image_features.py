"""Where the frozen ViT's tokens of a data set come from: shards on disk, or the ViT, which looks as it is asked."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medunifier.runtime.errors import InputError
from medunifier.storage.image_shards import ImageStore
from medunifier.storage.mapped_rows import MappedRows
from medunifier.vision.feature_shards import FeatureStore, read_manifests

if TYPE_CHECKING:
    import torch

    from medunifier.vision.frozen_encoder import FrozenViT

_BATCH = 32  # images that the ViT looks at together
_HALF_MAX = float(np.finfo(np.float16).max)


class OnlineFeatures(MappedRows):
    """What a `FeatureStore` is to its users, without tokens on disk: `read(rows)` runs the ViT over the images.

    The tokens are rounded to half precision, so that they equal the stored ones.

    Raises InputError as `read_manifests` and `ImageStore` do; `read` also as `load_recorded_vision` and `look` do.
    """

    def __init__(self, folder: str | Path, images: str | Path):
        self.manifests = read_manifests(folder)
        about = self._about = next(iter(self.manifests.values()))
        self.n_tokens, self.width = about["n_tokens"], about["width"]
        self._vit: FrozenViT | None = None  # loaded when first needed
        store = ImageStore(images)
        super().__init__(Path(folder), store.image_ids, store.pieces, stage="decode_images")

    def read(self, rows: Iterable[int] | np.ndarray) -> np.ndarray:
        """Tokens, float16 [k, n_tokens, width], of `rows`, in the order given."""
        import torch

        from medunifier.vision.frozen_encoder import load_recorded_vision

        if self._vit is None:
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            self._vit = load_recorded_vision(self._about).to(device)
        rows = np.asarray(rows, np.int64)
        found = np.empty((len(rows), self.n_tokens, self.width), np.float16)
        for start in range(0, len(rows), _BATCH):
            part = rows[start : start + _BATCH]
            found[start : start + _BATCH] = look(
                self._vit, super().read(part), [self.image_ids[row] for row in part]
            )
        return found


def look(vit: "FrozenViT", images: np.ndarray, image_ids: Sequence[str]) -> np.ndarray:
    """The ViT's tokens, float16 [k, n_tokens, width], of grey images, uint8 [k, H, W].

    InputError as `check_representable`'s.
    """
    import torch

    grey = torch.from_numpy(images).to(next(vit.parameters()).device)
    with torch.inference_mode():
        tokens = vit(grey[:, None].expand(-1, 3, -1, -1).float() / 255)
        check_representable(tokens, image_ids)
    return tokens.half().cpu().numpy()


def check_representable(tokens: "torch.Tensor", image_ids: Sequence[str]) -> None:
    """InputError naming the image, by `image_ids`, whose tokens (k, ...) are no half-precision numbers."""
    representable = (tokens.abs() <= _HALF_MAX).flatten(1).all(1)  # False for NaN as well
    if not representable.all():
        raise InputError(
            f"image {image_ids[int(representable.int().argmin())]}: the frozen model gives tokens that are NaN or beyond "
            f"+-{_HALF_MAX:.0f}, which half precision cannot hold; check vision.model, or leave out its last blocks"
        )


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
