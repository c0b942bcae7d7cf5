"""What every evaluation does with a trained model: load it, choose the items it can judge, run it in batches."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from medunifier.runtime.errors import InputError
from medunifier.runtime.params import Params
from medunifier.storage.mapped_rows import MappedRows
from medunifier.vision.image_features import Features, open_features

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from medunifier.evaluation.external_encoders import Encoder
    from medunifier.model.network import MedUnifierNetwork
    from medunifier.model.text import Text

BATCH = 64  # items; results do not depend on it


@dataclass(frozen=True)
class Trained:
    """A trained model in evaluation mode, its tokenizer, and the device it is on."""

    model: MedUnifierNetwork
    folder: Path  # where its tokenizer lies
    device: torch.device
    can_match: bool = True  # whether its matching head was trained

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Loaded when it is asked for: what looks at images alone does without, and without transformers."""
        from medunifier.data.tokenizer import load_tokenizer

        return load_tokenizer(self.folder)

    def read_images(self, store: MappedRows, rows: np.ndarray) -> torch.Tensor:
        """What `image_encoder` reads of these rows of the store, on the CPU: ViT tokens, float32 [n, T, width]."""
        import torch

        return torch.from_numpy(store.read(rows)).float()

    def image_encoder(self) -> nn.Module:
        """The trainable image side, a module with `width` that maps what `read_images` gives to [n, width]."""
        from medunifier.evaluation.classifier import QueryEncoder

        return QueryEncoder(self.model)

    def match(self, store: MappedRows, ids: Sequence[str], texts: Sequence[str]) -> np.ndarray:
        """Log odds that each text describes the image beside it, by the ITM head (paper Eq. 14), float32 [n].

        Pairs go by image, so that one that stands in many of them is read once for a batch, not once for a pair.
        """
        import torch

        images = np.asarray(ids, dtype=object)
        order = np.argsort(images, kind="stable")
        found = np.empty(len(order), np.float32)
        with torch.inference_mode():
            for part in batches(len(order), BATCH, "match"):
                pairs = order[part]
                distinct, which = np.unique(images[pairs], return_inverse=True)
                features = self.features(store, distinct)[torch.from_numpy(which)]
                logits = self.model.match(features, *self.tokens([texts[pair] for pair in pairs]))
                found[pairs] = (logits[:, 1] - logits[:, 0]).float().cpu().numpy()
        return found

    def features(self, store: Features, ids: Sequence[str]) -> torch.Tensor:
        """The ViT tokens of images, float32 [n, n_tokens, width], on the model's device."""
        import torch

        return torch.from_numpy(store.read(store.rows(ids))).to(self.device).float()

    def tokens(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask [n, L] of texts, cleaned and cut as in training, on the model's device."""
        from medunifier.data.tokenizer import tokenize

        ids, mask = tokenize(self.tokenizer, list(texts), self.model.config.max_text_tokens)
        return ids.to(self.device), mask.to(self.device)

    def embed_images(self, store: Features, ids: Sequence[str]) -> np.ndarray:
        """ITC embeddings of images, float32 [n, queries, projection], L2-normalised."""
        import torch

        with torch.inference_mode():
            parts = [
                self.model.encode_image(self.features(store, ids[part]))[1].float().cpu().numpy()
                for part in batches(len(ids), BATCH, "embed images")
            ]
        return np.concatenate(parts)

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """ITC embeddings of texts, float32 [n, projection], L2-normalised."""
        import torch

        with torch.inference_mode():
            parts = [
                self.model.encode_text(*self.tokens(texts[part]))[1].float().cpu().numpy()
                for part in batches(len(texts), BATCH, "embed reports")
            ]
        return np.concatenate(parts)

    def read_texts(self, texts: Sequence[str]) -> Text:
        """Reports as a prior takes them, tokens [n, max_text_tokens, width] and their mask.

        Each is padded to the full length and read by itself, so that not a bit of it depends on the others.
        """
        import torch
        import torch.nn.functional as F

        from medunifier.model.text import Text

        states, masks = [], []
        with torch.inference_mode():
            for text in texts:
                ids, mask = self.tokens([text])
                missing = self.model.config.max_text_tokens - ids.shape[1]
                ids = F.pad(ids, (0, missing), value=self.model.config.pad_token_id)
                masks.append(F.pad(mask, (0, missing)))
                states.append(self.model.read_text(ids, masks[-1]))
        return Text(torch.cat(states), torch.cat(masks))


def load_trained(variant: str, store: Features | None = None) -> Trained:
    """The model of `models/VARIANT`, for the features of `store` where given.

    Raises InputError when the folder is missing or broken, or when the features come from another ViT than
    the model was trained on.
    """
    folder = Path("models") / variant
    missing = [name for name in ("config.json", "model.safetensors") if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"{folder}: no trained model ({', '.join(missing)} missing); run pretrain@{variant} first"
        )
    import torch
    from safetensors import SafetensorError

    from medunifier.huggingface.network_loading import load_network

    try:
        model = load_network(folder)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{folder}: not a whole model ({error}); run pretrain@{variant} again") from error
    if store is not None and store.width != model.config.vision_width:
        raise InputError(
            f"{store.folder}: tokens are {store.width} wide, {folder} was trained on {model.config.vision_width}; "
            f"run extract_features and pretrain@{variant} with the same `vision`"
        )
    trained_on = (model.config.vision or {}).get("checksum")
    if store is not None and trained_on is not None:
        found = next(iter(store.manifests.values()))["checksum"]
        if found != trained_on:
            raise InputError(
                f"{store.folder}: the tokens are another ViT's than those that {folder} was trained on; "
                f"run extract_features and pretrain@{variant} with the same `vision`"
            )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Trained(model.to(device), folder, device)


@dataclass(frozen=True)
class Other:
    """Somebody else's encoder with the interface of `Trained`; it reads images instead of ViT tokens."""

    name: str
    encoder: Encoder
    device: torch.device
    can_match: bool = False

    def read_images(self, store: MappedRows, rows: np.ndarray) -> torch.Tensor:
        """Normalised pixels of these rows of an ImageStore, on the CPU: float32 [n, 3, size, size]."""
        import torch

        return self.encoder.prepare(torch.from_numpy(store.read(rows)))

    def image_encoder(self) -> nn.Module:
        """As `Trained.image_encoder`."""
        from medunifier.evaluation.external_encoders import Vectors

        return Vectors(self.encoder)

    def embed_images(self, store: MappedRows, ids: Sequence[str]) -> np.ndarray:
        """Embeddings of images, float32 [n, Q, P], L2-normalised."""
        import torch

        rows = store.rows(ids)
        with torch.inference_mode():
            parts = [
                self.encoder.embed_images(self.read_images(store, rows[part]).to(self.device)).cpu().numpy()
                for part in batches(len(rows), BATCH, "embed images")
            ]
        return np.concatenate(parts)

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings of texts, float32 [n, P], L2-normalised; InputError if the encoder reads no text."""
        import torch

        if self.encoder.embed_texts is None:
            raise InputError(
                f"models/{self.name}: a backbone reads no text; list it in evaluate.finetune_models, not in trained.itc"
            )
        with torch.inference_mode():
            parts = [
                self.encoder.embed_texts(texts[part]).cpu().numpy()
                for part in batches(len(texts), BATCH, "embed reports")
            ]
        return np.concatenate(parts)


def load_model(params: Params, name: str, dataset: str) -> tuple[Trained | Other, MappedRows]:
    """The model of `models/NAME`, a variant or one of `encoders`, and a data set's images in the form it reads."""
    if name in params.encoders:
        import torch

        from medunifier.evaluation.external_encoders import load_encoder
        from medunifier.storage.image_shards import ImageStore

        encoder = load_encoder(Path("models") / name)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        encoder.network.to(device)
        return Other(name, encoder, device), ImageStore(Path("data/images") / dataset)
    store = open_features(dataset)
    return replace(load_trained(name, store), can_match=params.variants[name].itm > 0), store


def usable_items(
    table: pl.DataFrame, source: str, stores: Sequence[MappedRows], run: Any, *, prefix: str = ""
) -> pl.DataFrame:
    """The rows of a prepared table that have a report and are in all `stores`, in the table's order.

    The others are counted: in the metrics `PREFIXn_without_report` and `PREFIXn_without_picture` of `run`,
    and in a line of its log. Raises InputError, naming `source`, when nothing is left.
    """
    with_report = table.filter(pl.col("report").str.strip_chars().str.len_chars() > 0)
    present = [all(image_id in store for store in stores) for image_id in with_report["image_id"]]
    items = with_report.filter(pl.Series(present, dtype=pl.Boolean))
    without_report = len(table) - len(with_report)
    without_image = len(with_report) - len(items)
    run.metrics({f"{prefix}n_without_report": without_report, f"{prefix}n_without_picture": without_image})
    left_out = f"{without_report} have no report, {without_image} are not in {_names(stores)}"
    if items.is_empty():
        raise InputError(
            f"{source}: none of its {len(table)} images can be used ({left_out}); look at "
            "data/prepared/*/summary.json and data/images/*/rejected.parquet, and loosen the filters in params.yaml"
        )
    if len(items) < len(table):
        run.log(f"{source}: {len(items)} of {len(table)} images are used; {left_out}")
    return items


def _names(stores: Sequence[MappedRows]) -> str:
    return " and ".join(str(store.folder) for store in stores) or "any store"


def seeded_rows(n: int, size: int | None, seed: int) -> np.ndarray:
    """`size` of the row numbers 0..n-1, drawn by `seed`, in order; all of them if `size` is None or larger."""
    if size is None or size >= n:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).permutation(n)[:size])


def batches(n: int, size: int, title: str) -> Iterator[slice]:
    """Slices of at most `size` that cover `n` items, with a progress bar (a line every 30 s in a log file)."""
    from tqdm import tqdm

    pause = 0.1 if sys.stderr.isatty() else 30
    for start in tqdm(range(0, n, size), desc=title, unit="batch", mininterval=pause, leave=False):
        yield slice(start, min(start + size, n))
