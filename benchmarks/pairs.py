"""Time and memory until pre-training can read its first batch: `python -m benchmarks.pairs`.

Opens `Pairs`, on one core, on a made data set of N images with reports (images of 2 x 2 pixels and features of one
number: neither is read while opening). Counts processor seconds and resident bytes for each report, then scales them to
ten million. Beside it the time that tokenizing one report after the other takes. `--save` writes
benchmarks/results/pairs-DATE.json.
"""

import argparse
import contextlib
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks import records
from medunifier.data.tokenizer import encode, train_wordpiece
from medunifier.pretraining.pairs import Pairs
from medunifier.runtime.params import load_params
from medunifier.storage.image_shards import write_images
from medunifier.storage.tables import PREPARED, write_table
from medunifier.vision.feature_shards import write_feature_shard

SENTENCES = (
    "There is a {size} {side} pleural effusion with adjacent atelectasis of the {zone} zone.",
    "The heart is {size} in size and the mediastinal contours are unchanged since the prior study.",
    "No pneumothorax is seen on the {side} side.",
    "Patchy opacity in the {side} {zone} lung is concerning for pneumonia in the appropriate clinical setting.",
    "The {side} sided central venous catheter ends in the {zone} superior vena cava.",
    "Pulmonary vascularity is {size} without overt edema.",
    "No acute osseous abnormality.",
)
WORDS = {
    "size": ("small", "moderate", "large"),
    "side": ("left", "right"),
    "zone": ("upper", "middle", "lower"),
}
SENTENCES_IN_REPORT = 4


def report(rng: np.random.Generator) -> str:
    """Return a report of about as many tokens as the findings and impressions of MIMIC-CXR have."""
    chosen = rng.choice(len(SENTENCES), SENTENCES_IN_REPORT, replace=False)
    words = {name: rng.choice(values) for name, values in WORDS.items()}
    return " ".join(SENTENCES[number].format(**words) for number in chosen)


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def make_data_set(name: str, reports: list[str]) -> None:
    """Write prepared rows, images and features of a data set below the working directory."""
    # ids of the length that MIMIC-CXR's have
    ids = [f"{number:08d}-02aa804e-bde0afdd-112c0b34-7bc16630" for number in range(len(reports))]
    empty = pl.Series([None] * len(ids), dtype=pl.String)
    columns = dict.fromkeys(PREPARED.columns, empty) | {"image_id": ids, "report": reports}
    columns |= dict.fromkeys(("patient_id", "study_id", "image_path"), ids) | {"view": ["PA"] * len(ids)}
    write_table(
        pl.DataFrame(columns, schema=PREPARED.columns), f"data/prepared/{name}/train.parquet", PREPARED
    )
    write_images(f"data/images/{name}", ids, (np.zeros((2, 2), np.uint8) for _ in ids), 2)
    manifest = {"model": "none", "revision": None, "skip_last_blocks": 0, "checksum": ""}
    features = np.zeros((len(ids), 1, 1), np.float16)
    write_feature_shard(f"data/features/{name}/0", ids, [features], manifest)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=200_000, help="images")
    parser.add_argument("--save", action="store_true", help="write the record")
    settings = parser.parse_args()
    params, rng = load_params(), np.random.default_rng(0)
    reports = [report(rng) for _ in range(settings.n)]
    tokenizer = train_wordpiece(reports[:2000], params.tokenizer.vocab_size)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        make_data_set(params.pretrain.dataset, reports)
        Pairs(
            params, tokenizer, "train"
        )  # once before: libraries are loaded, the files are in the page cache
        before, start = resident(), time.process_time()
        pairs = Pairs(params, tokenizer, "train")
        seconds, grown = time.process_time() - start, resident() - before
    part = reports[: settings.n // 10]
    start = time.process_time()
    _ = [encode(tokenizer, text, params.model.max_text_tokens) for text in part]
    one_by_one = (time.process_time() - start) / len(part)
    result = {
        "n": settings.n,
        "tokens_per_report": round(len(pairs.tokens.ids) / settings.n, 1),
        "microseconds_per_report": round(seconds / settings.n * 1e6, 1),
        "bytes_per_report": round(grown / settings.n),
        "of_which_token_ids": round(len(pairs.tokens.ids) * pairs.tokens.ids.itemsize / settings.n),
        "ten_million": {
            "minutes": round(seconds / settings.n * 1e7 / 60, 1),
            "gb": round(grown / settings.n / 100, 1),
        },
        "tokenized_one_by_one_microseconds": round(one_by_one * 1e6, 1),
        "threads": int(os.environ.get("OMP_NUM_THREADS", 0)),
    }
    print(result)
    if settings.save:
        print(records.save("pairs", "python -m benchmarks.pairs --save", result, ("torch", "tokenizers")))


if __name__ == "__main__":
    main()
