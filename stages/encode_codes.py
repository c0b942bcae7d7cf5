"""Stage encode_codes: every image as codes of the two codebooks, which the priors learn (paper section 3.4)."""

from pathlib import Path

from medunifier.evaluation.items import usable_items
from medunifier.evaluation.loading import load_trained
from medunifier.metrics.codebooks import codebook_use
from medunifier.runtime.params import Params
from medunifier.stage import run_stage
from medunifier.storage.tables import PREPARED, read_table
from medunifier.synthesis.codes import write_codes
from medunifier.tracking import LocalRun

HELD_OUT = "test"  # the split whose metrics have no prefix


def encode_codes(params: Params, run: LocalRun, variant: str) -> None:
    """Write every image of the pre-training data set, all splits, as the top and bottom codes of VARIANT.

    Codebook use is measured on each split: `perplexity_top`, `used_fraction_top`, `entropy_bits_top` and the same
    for `bottom` are those of the test split; the prefixes `train_` and `validate_` mark the others.
    """
    dataset = params.pretrain.dataset
    model = load_trained(variant, dataset)
    for split in ("train", "validate", "test"):
        source = Path("data/prepared") / dataset / f"{split}.parquet"
        items = usable_items(
            read_table(source, PREPARED), str(source), [model.images], run, prefix=f"{split}_"
        )
        ids = items["image_id"].to_list()
        top, bottom = model.encode_codes(ids, items["report"].to_list())
        write_codes(Path("data/codes") / variant / f"{split}.parquet", ids, top, bottom)
        prefix = "" if split == HELD_OUT else f"{split}_"
        for level, codes in (("top", top), ("bottom", bottom)):
            use = codebook_use(codes, model.model.config.codebook_size)
            run.metrics({f"{prefix}{name}_{level}": value for name, value in use.items()})
        run.metrics({f"{prefix}n_images": len(items)})


if __name__ == "__main__":
    run_stage(encode_codes, arguments=("variant",))
