"""Rankings of a retrieval evaluation: results/retrieval/VARIANT-DATASET/rankings.parquet."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from medunifier.storage.tables import Schema

RANKED = 10  # candidates kept for each query
RANKINGS = Schema(
    "rankings",
    {
        # i2t: images are queries, reports are candidates | t2i: the other way | itm_i2t, itm_t2i: re-ranked by ITM
        "direction": pl.String,
        "query_id": pl.String,  # a report goes by the id of its image
        "ranked_ids": pl.List(pl.String),
        "relevant": pl.List(pl.Boolean),
        "scores": pl.List(pl.Float32),  # similarity; of the re-ranked candidates, similarity plus log odds
    },
)


def ranking_rows(
    direction: str, ids: Sequence[str], classes: np.ndarray, ranked: np.ndarray, scores: np.ndarray
) -> pl.DataFrame:
    """Build the rows of one direction: the first `RANKED` candidates of each query.

    Args:
        direction: See `RANKINGS`.
        ids: The n items.
        classes: Their classes, int64 [n].
        ranked: Candidates of each query, best first, int64 [n, depth].
        scores: Their scores, float32 [n, depth].
    """
    ranked, scores = ranked[:, :RANKED], scores[:, :RANKED]
    return pl.DataFrame(
        {
            "direction": [direction] * len(ids),
            "query_id": ids,
            "ranked_ids": np.array(ids, dtype=object)[ranked].tolist(),
            "relevant": (classes[ranked] == classes[:, None]).tolist(),
            "scores": scores.tolist(),
        },
        schema=dict(RANKINGS.columns),
    )
