"""Stage train_tokenizer: the tokenizer that every later stage reads."""

import shutil
from pathlib import Path

from medunifier.data.tokenizer import encode, load_tokenizer, train_wordpiece
from medunifier.runtime.errors import InputError
from medunifier.runtime.params import Params
from medunifier.stage import run_stage
from medunifier.storage.tables import read_table
from medunifier.tracking import Run

OUT = Path("models/tokenizer")
MEASURED = 2000  # reports whose lengths in tokens are recorded


def train_tokenizer(params: Params, run: Run) -> None:
    """Train a WordPiece tokenizer on the training reports of the pre-training data set.

    With `tokenizer.pretrained` or `tokenizer.folder` that tokenizer is loaded instead. Writes models/tokenizer.
    """
    table = Path("data/prepared") / params.pretrain.dataset / "train.parquet"
    reports = [text for text in read_table(table)["report"].to_list() if text]
    if not reports:
        raise InputError(
            f"{table} holds no reports; the tokenizer and the pre-training need a data set with texts."
        )
    if params.tokenizer.source:
        tokenizer = load_tokenizer(params.tokenizer.source)
    else:
        tokenizer = train_wordpiece(reports, params.tokenizer.vocab_size)
    shutil.rmtree(OUT, ignore_errors=True)
    tokenizer.save_pretrained(OUT)

    lengths = sorted(len(encode(tokenizer, text, 10_000)) for text in reports[:MEASURED])
    run.metrics(
        {
            "reports": len(reports),
            "vocabulary": len(tokenizer),
            "tokens_median": lengths[len(lengths) // 2],
            "tokens_95th_percentile": lengths[int(0.95 * (len(lengths) - 1))],
        }
    )


if __name__ == "__main__":
    run_stage(train_tokenizer)
