"""Stage encode_codes: every image as codes of the two codebooks, which the priors learn (paper section 3.4)."""

from pathlib import Path

import numpy as np

from medunifier.evaluation.items import usable_items
from medunifier.evaluation.loading import load_trained
from medunifier.runtime.params import Params
from medunifier.stage import run_stage
from medunifier.storage.tables import PREPARED, read_table
from medunifier.synthesis.codes import write_codes
from medunifier.tracking import Run

HELD_OUT = "test"  # the split whose codebook use goes by the plain names


def encode_codes(params: Params, run: Run, variant: str) -> None:
    """Write every image of the pre-training data set, all splits, as the top and bottom codes of VARIANT.

    Codebook use is measured on each split: `perplexity_top`, `used_fraction_top`, `entropy_bits_top` and the
    same for `bottom` are those of the test split; `train_` and `validate_` in front name the others.
    """
    dataset = params.pretrain.dataset
    trained = load_trained(variant, dataset)
    for split in ("train", "validate", "test"):
        source = Path("data/prepared") / dataset / f"{split}.parquet"
        items = usable_items(
            read_table(source, PREPARED), str(source), [trained.images], run, prefix=f"{split}_"
        )
        top, bottom = trained.encode_codes(items["image_id"].to_list(), items["report"].to_list())
        output = Path("data/codes") / variant / f"{split}.parquet"
        write_codes(output, items["image_id"].to_list(), top, bottom)
        prefix = "" if split == HELD_OUT else f"{split}_"
        for level, codes in (("top", top), ("bottom", bottom)):
            use = codebook_use(codes, trained.model.config.codebook_size)
            run.metrics({f"{prefix}{name}_{level}": value for name, value in use.items()})
        run.metrics({f"{prefix}n_images": len(items)})


def codebook_use(codes: np.ndarray, size: int) -> dict[str, float]:
    """How a codebook of `size` is used: entropy of single codes in bits, perplexity (2^entropy), used fraction."""
    counts = np.bincount(codes.ravel(), minlength=size)
    shares = counts[counts > 0] / counts.sum()
    entropy = float(-(shares * np.log2(shares)).sum())
    return {"perplexity": 2**entropy, "used_fraction": float((counts > 0).mean()), "entropy_bits": entropy}


if __name__ == "__main__":
    run_stage(encode_codes, arguments=("variant",))
