"""Stage retrieve: rank reports for an image, and images for a report (paper section 4.2, Table 2)."""

from pathlib import Path

import numpy as np
import polars as pl

from medunifier.evaluation.items import seeded_rows, usable_items
from medunifier.evaluation.loading import load_model
from medunifier.evaluation.retrieval import candidate_odds, item_classes, read_retrieval_items
from medunifier.metrics.bootstrap import BootstrapOptions, numbered
from medunifier.metrics.retrieval import rank_both, rerank
from medunifier.metrics.retrieval_scores import query_scores, retrieval_metrics
from medunifier.results.examples import retrieval_examples, write_examples
from medunifier.results.item_scores import item_rows, write_items
from medunifier.results.rankings import RANKED, RANKINGS, ranking_rows
from medunifier.runtime.params import Params
from medunifier.stage import run_stage
from medunifier.storage.tables import write_table
from medunifier.tracking import LocalRun

EXAMPLES = 6  # queries of each direction in examples.md


def retrieve(params: Params, run: LocalRun, variant: str, dataset: str) -> None:
    """Rank the reports of DATASET for each of its images and the images for each report with the model VARIANT.

    The ranking is by image-text similarity. Items are the data set's benchmark where it has one, otherwise its test
    split. For mAP@K a candidate is relevant if it is of the query's class; for Recall@K if it has the query's very
    report, word for word. Metrics are in percent. With `retrieve.rerank` the first candidates are re-ranked by
    similarity plus the matching head's log odds (Li et al. 2022, BLIP): the same metrics with the prefix `itm_`.

    rankings.parquet holds the first candidates of every query, examples.md a few of them for readers.
    """
    model = load_model(params, variant, dataset)
    items = usable_items(*read_retrieval_items(dataset), [model.images], run)
    ids, reports, patients = (items[name].to_list() for name in ("image_id", "report", "patient_id"))
    images, texts = model.embed_images(ids), model.embed_texts(reports)
    classes, pairs = numbered(item_classes(items)), numbered(reports)
    run.metrics({"n_items": len(items), "n_classes": len(set(classes)), "n_reports": len(set(pairs))})

    p = params.retrieve
    options = BootstrapOptions(p.bootstrap, params.seed, patients)
    reranked = p.rerank or 0
    if reranked and not model.can_match:
        run.log(f"no re-ranking: {variant} has no trained matching head")
        reranked = 0
    rankings, scores_of_items = [], []

    def score(direction: str, ranked: np.ndarray, similarity: np.ndarray) -> None:
        """Score a ranking: its metrics, the score of each query, and its first candidates."""
        scores, chances = query_scores(ranked, classes, pairs, p.ks)
        metrics = retrieval_metrics(scores, chances, options)
        run.metrics({f"{direction}_{name}": value for name, value in metrics.items()})
        for name, each in scores.items():
            scores_of_items.append(item_rows(f"{direction}_{name}", ids, patients, each))
        rankings.append(ranking_rows(direction, ids, classes, ranked, similarity))

    both = rank_both(images, texts, max(RANKED, reranked, *p.ks))
    for direction, (ranked, similarity) in zip(("i2t", "t2i"), both, strict=True):
        score(direction, ranked, similarity)
        if reranked:
            odds = candidate_odds(model, ids, reports, ranked[:, :reranked], direction)
            score(f"itm_{direction}", *rerank(ranked, similarity, odds))
    write_items(run.name, scores_of_items)

    folder = Path("results/retrieval") / f"{variant}-{dataset}"
    write_table(pl.concat(rankings), folder / "rankings.parquet", RANKINGS)
    chosen = seeded_rows(len(items), EXAMPLES, params.seed)
    shown = pl.concat([ranking[chosen] for ranking in rankings])
    examples = retrieval_examples(shown, dict(zip(ids, reports, strict=True)))
    title = f"What {variant} finds in {dataset}, each image with its own report"
    write_examples(folder / "examples.md", title, examples)
    run.artifact(folder / "examples.md", private=params.datasets[dataset].private)


if __name__ == "__main__":
    run_stage(retrieve, arguments=("variant", "dataset"))
