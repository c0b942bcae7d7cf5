"""Stage encode_codes: every image as codes of the two codebooks, which the priors learn (paper section 3.4)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from medunifier.evaluation.loading import BATCH, Trained, batches, load_trained, usable_items
from medunifier.runtime.params import Params
from medunifier.stage import run_stage
from medunifier.storage.tables import PREPARED, read_table
from medunifier.synthesis.codes import write_codes
from medunifier.tracking import Run
from medunifier.vision.image_features import Features, open_features

HELD_OUT = "test"  # the split whose codebook use goes by the plain names


def encode_codes(params: Params, run: Run, variant: str) -> None:
    """Write every image of the pre-training data set, all splits, as the top and bottom codes of VARIANT.

    Codebook use is measured on each split: `perplexity_top`, `used_fraction_top`, `entropy_bits_top` and the
    same for `bottom` are those of the test split; `train_` and `validate_` in front name the others.
    """
    dataset = params.pretrain.dataset
    store = open_features(dataset)
    trained = load_trained(variant, store)
    for split in ("train", "validate", "test"):
        source = Path("data/prepared") / dataset / f"{split}.parquet"
        items = usable_items(read_table(source, PREPARED), str(source), [store], run, prefix=f"{split}_")
        top, bottom = encode(trained, store, items)
        output = Path("data/codes") / variant / f"{split}.parquet"
        write_codes(output, items["image_id"].to_list(), top, bottom)
        prefix = "" if split == HELD_OUT else f"{split}_"
        for level, codes in (("top", top), ("bottom", bottom)):
            use = codebook_use(codes, trained.model.config.codebook_size)
            run.metrics({f"{prefix}{name}_{level}": value for name, value in use.items()})
        run.metrics({f"{prefix}n_images": len(items)})


def encode(trained: Trained, store: Features, items: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Codes of images given their reports: uint16 [n, 64] and [n, 256]."""
    import torch

    ids, reports = items["image_id"].to_list(), items["report"].to_list()
    levels: Sequence[list[np.ndarray]] = ([], [])
    with torch.inference_mode():
        for part in batches(len(ids), BATCH, "encode codes"):
            features, tokens = trained.features(store, ids[part]), trained.tokens(reports[part])
            for level, codes in zip(levels, trained.model.encode_codes(features, *tokens), strict=True):
                level.append(codes.cpu().numpy().astype(np.uint16))
    top, bottom = (np.concatenate(level) for level in levels)
    return top, bottom


def codebook_use(codes: np.ndarray, size: int) -> dict[str, float]:
    """How a codebook of `size` is used: entropy of single codes in bits, perplexity (2^entropy), used fraction."""
    counts = np.bincount(codes.ravel(), minlength=size)
    shares = counts[counts > 0] / counts.sum()
    entropy = float(-(shares * np.log2(shares)).sum())
    return {"perplexity": 2**entropy, "used_fraction": float((counts > 0).mean()), "entropy_bits": entropy}


if __name__ == "__main__":
    run_stage(encode_codes, arguments=("variant",))
