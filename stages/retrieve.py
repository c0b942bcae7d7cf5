"""Stage retrieve: which reports belong to an image, which images to a report (paper section 4.2, Table 2)."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from medunifier.evaluation.items import seeded_rows, usable_items
from medunifier.evaluation.loading import load_model
from medunifier.evaluation.trained_model import EvaluatedModel
from medunifier.metrics import retrieval
from medunifier.metrics.bootstrap import BootstrapOptions, bootstrap_means, numbered
from medunifier.results.examples import Example, write_examples
from medunifier.results.item_scores import item_rows, write_items
from medunifier.runtime.params import Params
from medunifier.stage import run_stage
from medunifier.storage.tables import BENCHMARK, LABEL_PREFIX, PREPARED, Schema, read_table, write_table
from medunifier.tracking import Run

RANKED = 10  # candidates kept for each query in rankings.parquet
EXAMPLES, FOUND = 6, 3  # queries of each direction in examples.md, candidates shown of each
ASKS = {"i2t": "Image {} asks for reports", "t2i": "The report of image {} asks for images"}
RANKINGS = Schema(
    "rankings",
    {
        # i2t: an image asks for reports | t2i: a report asks for images | itm_i2t, itm_t2i: ranked anew
        "direction": pl.String,
        "query_id": pl.String,  # a report goes by the id of its image
        "ranked_ids": pl.List(pl.String),
        "relevant": pl.List(pl.Boolean),
        "scores": pl.List(pl.Float32),  # similarity; of those ranked anew, the first `rerank`, plus log odds
    },
)


def retrieve(params: Params, run: Run, variant: str, dataset: str) -> None:
    """Rank the reports of DATASET for each of its images and the images for each report, by image-text
    similarity, with the model VARIANT.

    Items are the data set's benchmark where it has one, otherwise its test split. For mAP@K a candidate is
    relevant if it is of the query's class; for Recall@K if it has the query's very report, word for word.
    Figures are in percent. With `retrieve.rerank` the first candidates are ranked anew by similarity plus the
    matching head's log odds (as Li et al. 2022, BLIP): the same figures with `itm_` in front.

    rankings.parquet holds every query's first candidates, examples.md a few of them to be read.
    """
    trained = load_model(params, variant, dataset)
    items = usable_items(*read_items(dataset), [trained.images], run)

    ids = items["image_id"].to_list()
    images = trained.embed_images(ids)
    texts = trained.embed_texts(items["report"].to_list())
    classes, pairs = numbered(item_classes(items)), numbered(items["report"].to_list())
    run.metrics({"n_items": len(items), "n_classes": len(set(classes)), "n_reports": len(set(pairs))})

    ks, patients = params.retrieve.ks, items["patient_id"].to_list()
    options = BootstrapOptions(params.retrieve.bootstrap, params.seed, patients)
    rerank = params.retrieve.rerank or 0
    if rerank and not trained.can_match:
        run.log(f"no re-ranking: {variant} has no trained matching head")
        rerank = 0
    depth = max(RANKED, rerank, *ks)
    rankings, kept = [], []
    reports = items["report"].to_list()

    def keep(direction: str, ranked: np.ndarray, scores: np.ndarray) -> None:
        """Judges a ranking: its metrics, what each query scored, and its first candidates."""
        of_queries, chances = query_scores(ranked, classes, pairs, ks)
        metrics = flat(of_queries, chances, options)
        run.metrics({f"{direction}_{name}": value for name, value in metrics.items()})
        for name, each in of_queries.items():
            kept.append(item_rows(f"{direction}_{name}", ids, patients, each))
        rankings.append(first_candidates(direction, ids, classes, ranked[:, :RANKED], scores[:, :RANKED]))

    both = retrieval.rank_both(images, texts, depth)
    for direction, (ranked, scores) in zip(("i2t", "t2i"), both, strict=True):
        keep(direction, ranked, scores)
        if rerank:
            odds = matched(trained, ids, reports, ranked[:, :rerank], direction)
            keep(f"itm_{direction}", *retrieval.rerank(ranked, scores, odds))
    write_items(run.name, kept)
    folder = Path("results/retrieval") / f"{variant}-{dataset}"
    write_table(pl.concat(rankings), folder / "rankings.parquet", RANKINGS)
    chosen = seeded_rows(len(items), EXAMPLES, params.seed)
    shown = examples([ranking[chosen] for ranking in rankings], dict(zip(ids, reports, strict=True)))
    title = f"What {variant} finds in {dataset}, each image with its own report"
    write_examples(folder / "examples.md", title, shown)
    run.artifact(folder / "examples.md")


def first_candidates(
    direction: str, ids: Sequence[str], classes: np.ndarray, ranked: np.ndarray, scores: np.ndarray
) -> pl.DataFrame:
    """The rows of rankings.parquet of one direction."""
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


def examples(rankings: Sequence[pl.DataFrame], reports: Mapping[str, str]) -> list[Example]:
    """What some queries found, to be read.

    Args:
        rankings: rows of rankings.parquet, one direction after the other. reports: by the id of the image.
    """
    shown = []
    for query in pl.concat(rankings).iter_rows(named=True):
        own = reports[query["query_id"]]
        heading = ASKS[query["direction"].removeprefix("itm_")].format(query["query_id"])
        if query["direction"].startswith("itm_"):
            heading += ", re-ranked by ITM"
        lines = [("own report" if "i2t" in query["direction"] else "report", own)]
        found = zip(query["ranked_ids"][:FOUND], query["relevant"], strict=False)
        for place, (image_id, relevant) in enumerate(found, 1):
            label = f"{place}. {image_id}, {'same' if relevant else 'another'} class"
            if reports[image_id] == own:
                label += ", the very report"
            lines.append((label, reports[image_id]))
        shown.append((heading, lines))
    return shown


def matched(
    model: EvaluatedModel, ids: list[str], reports: list[str], ranked: np.ndarray, direction: str
) -> np.ndarray:
    """The matching head's log odds for each query and its candidates `ranked` [n, K], float32 [n, K]."""
    queries = np.repeat(np.arange(len(ids)), ranked.shape[1])
    candidates = ranked.ravel()
    images, texts = (queries, candidates) if direction == "i2t" else (candidates, queries)
    odds = model.match([ids[i] for i in images], [reports[i] for i in texts])
    return odds.reshape(ranked.shape)


def read_items(dataset: str) -> tuple[pl.DataFrame, str]:
    """The benchmark of a data set, or its test split if it has none; and the name of the file."""
    folder = Path("data/prepared") / dataset
    if (folder / "benchmark.parquet").is_file():
        return read_table(folder / "benchmark.parquet", BENCHMARK), str(folder / "benchmark.parquet")
    return read_table(folder / "test.parquet", PREPARED), str(folder / "test.parquet")


def item_classes(items: pl.DataFrame) -> list[str]:
    """The class of each item: `benchmark_class` where there is one, otherwise its single positive label.

    An item with no positive label or with several belongs with those that have its very report, word for word.
    """
    if "benchmark_class" in items.columns:
        return items["benchmark_class"].to_list()
    labels = [name for name in items.columns if name.startswith(LABEL_PREFIX)]
    positive = items.select(pl.col(name) == 1 for name in labels).rows() if labels else [()] * len(items)
    classes = []
    for report, flags in zip(items["report"], positive, strict=True):
        found = [name for name, flag in zip(labels, flags, strict=True) if flag]
        classes.append(found[0] if len(found) == 1 else f"report: {report}")
    return classes


def flat(
    scores: Mapping[str, np.ndarray],
    chances: Mapping[str, float],
    options: BootstrapOptions,
) -> dict[str, float | int]:
    """Flat metrics of one direction, in percent: mAP@K in both definitions and Recall@K, with interval and chance.

    Args:
        scores, chances: by `query_scores`.
    """
    matrix = np.stack(list(scores.values()), axis=1)
    intervals = bootstrap_means(matrix, options)
    metrics: dict[str, float | int] = {}
    for name, interval in zip(scores, intervals, strict=True):
        metrics |= interval.flat(name, scale=100)
        metrics[f"{name}_chance"] = 100 * chances[name]
    return metrics


def query_scores(
    ranked: np.ndarray, classes: np.ndarray, pairs: np.ndarray, ks: Sequence[int]
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Each metric's score of every query, [n] in [0, 1], and its chance level.

    Args:
        ranked: int64 [n, depth], candidates of each query, best first. Queries and candidates are the same items.
        classes, pairs: int64 [n], equal where two items are of one class, or have the same report.
    """
    n = len(ranked)
    in_class, in_pair = np.bincount(classes)[classes], np.bincount(pairs)[pairs]  # relevant candidates, [n]
    same_class, same_pair = classes[ranked] == classes[:, None], pairs[ranked] == pairs[:, None]

    scores: dict[str, np.ndarray] = {}
    chances: dict[str, float] = {}
    for k in ks:
        scores[f"map_at_{k}"] = retrieval.average_precision(same_class, in_class, k)
        scores[f"map_release_at_{k}"] = retrieval.average_precision_release(same_class, k)
        scores[f"recall_at_{k}"] = retrieval.recall(same_pair, k)
        for name, chance, relevant in (
            ("map", retrieval.chance_average_precision, in_class),
            ("map_release", retrieval.chance_average_precision_release, in_class),
            ("recall", retrieval.chance_recall, in_pair),
        ):
            chances[f"{name}_at_{k}"] = mean_chance(chance, relevant, n, k)
    return scores, chances


def mean_chance(
    chance: Callable[[int, int, int], float], n_relevant: np.ndarray, n_candidates: int, k: int
) -> float:
    """The mean over queries of `chance(relevant, candidates, k)`."""
    sizes, counts = np.unique(n_relevant, return_counts=True)
    return float(np.average([chance(int(size), n_candidates, k) for size in sizes], weights=counts))


if __name__ == "__main__":
    run_stage(retrieve, arguments=("variant", "dataset"))
