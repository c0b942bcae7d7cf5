"""Stage write_reports: a report for each test picture, scored against the radiologist's (paper Table 4)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from stages.datasets.statements import NAMES, findings_told
from stages.entry import run_stage
from stages.inference import Trained, batches, load_trained, seeded_rows, usable_items
from stages.metrics.bootstrap import Interval, bootstrap, bootstrap_means
from stages.metrics.clinical import finding_counts, finding_f1, optional_scores
from stages.metrics.meteor import Meteor, meteor
from stages.metrics.retrieval import rank_texts
from stages.metrics.text import BLEU_COUNTS, PROTOCOLS, best_constant, bleu, bleu_statistics, cider, rouge_l
from stages.params import Params, WriteReports
from stages.picture_tokens import Features, open_features
from stages.storage.items import item_rows, write_items
from stages.storage.tables import LABEL_PREFIX, PREPARED, Schema, read_table, write_table
from stages.tracking import Run

CONSTANT_FROM = 10_000  # training reports among which the best constant one is sought, drawn by the seed
CHOICE = (
    "num_beams",
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
)  # of `write_reports`, as `generate` takes them
HEADLINE = ("bleu_4", "meteor", "rouge_l", "cider")  # these get intervals
PREDICTIONS = Schema(
    "predictions",
    {"image_id": pl.String, "study_id": pl.String, "reference": pl.String, "prediction": pl.String},
    frozenset({"image_id", "study_id", "reference", "prediction"}),
)


def write_reports(params: Params, run: Run, variant: str, dataset: str) -> None:
    """Write a report for each test picture of DATASET with the model VARIANT and score them.

    Figures are times 100: BLEU-1 to 4, METEOR, ROUGE-L and CIDEr under the field's protocol (`bleu_1` ...) and the
    release's (`release_bleu_1` ...); in front of them `constant_` for the best constant report, which is chosen
    on the training reports, and `nearest_` for the training report most similar to the picture. `bleu_4_gain` is what the model has over the constant report.

    `findings_f1_micro` and `_macro` hold what a report tells, read by a rule (stages/datasets/statements.py),
    against the labels of its picture, which are the truth in a phantom. CheXbert, RadGraph and RadEval are asked
    where they are installed; the log says how to get them where not.
    """
    with Meteor() as scorer:  # loads its dictionaries while the model writes
        store = open_features(dataset)
        folder = Path("data/prepared") / dataset
        test = usable_items(
            read_table(folder / "test.parquet", PREPARED), f"{folder}/test.parquet", [store], run
        )
        test = test[seeded_rows(len(test), params.write_reports.max_reports, params.seed)]
        training = usable_items(
            read_table(folder / "train.parquet", PREPARED),
            f"{folder}/train.parquet",
            [],
            run,
            prefix="train_",
        )
        trained = load_trained(variant, store)

        ids, references = test["image_id"].to_list(), test["report"].to_list()
        run.say(f"write {len(ids)} reports")
        written = generate(trained, store, ids, params.write_reports, params.seed)
        output = Path("results/reports") / f"{variant}-{dataset}" / "predictions.parquet"
        table = test.select("image_id", "study_id", reference="report").with_columns(
            prediction=pl.Series(written)
        )
        write_table(table, output, PREDICTIONS)
        run.artifact(output)

        known = training["report"][seeded_rows(len(training), CONSTANT_FROM, params.seed)].to_list()
        constant = best_constant(known)
        run.say(f"best constant report of {len(known)} training reports: {constant}")
        systems = {
            "": written,
            "constant_": [constant] * len(ids),
            "nearest_": nearest_reports(
                trained, store, ids, training["report"].unique(maintain_order=True).to_list()
            ),
        }
        how = {"resamples": params.write_reports.bootstrap, "seed": params.seed}
        how["clusters"] = test["patient_id"].to_list()
        run.say("score them")
        run.metrics({"n_written": len(ids)} | gain(references, written, constant, how))
        for system, predictions in systems.items():
            run.metrics(
                {
                    f"{system}{name}": value
                    for name, value in score(references, predictions, scorer, how).items()
                }
            )
    clinical(run, test, references, systems, how)
    cleaned = PROTOCOLS["report"](references, written)
    patients = test["patient_id"].to_list()
    write_items(
        run.name,
        [item_rows(f.__name__, ids, patients, f(*cleaned)) for f in (rouge_l, cider)],
    )


def clinical(
    run: Run, test: pl.DataFrame, references: Sequence[str], systems: Mapping[str, Sequence[str]], how: dict
) -> None:
    """Findings told by each system against the labels, and the optional scorers on the model's reports."""
    findings = tuple(name for name in NAMES if LABEL_PREFIX + name in test.columns)
    if findings:
        truth = test.select(LABEL_PREFIX + name for name in findings).fill_null(0).to_numpy().astype(float)
        truth[truth < 0] = np.nan  # uncertain
        for system, predictions in systems.items():
            told = [findings_told(text, findings) for text in predictions]
            matrix = np.array([[name in found for name in findings] for found in told])
            intervals = bootstrap(finding_counts(matrix, truth), finding_f1, **how)
            for name, interval in zip(("micro", "macro"), intervals, strict=True):
                run.metrics(interval.flat(f"{system}findings_f1_{name}", scale=100))
    scores, missing = optional_scores(references, systems[""])
    run.metrics({name: 100 * value for name, value in scores.items()})
    for line in missing:
        run.say(line)


def generate(
    trained: Trained, store: Features, ids: Sequence[str], settings: WriteReports, seed: int
) -> list[str]:
    """The model's report for each picture, in the order of `ids`, its words chosen as `settings` say."""
    import torch

    from stages.models.text import decode

    choice = {name: getattr(settings, name) for name in CHOICE}
    generator = torch.Generator(trained.device).manual_seed(seed)
    written = []
    with torch.inference_mode():
        for part in batches(len(ids), settings.batch_size, "write reports"):
            tokens = trained.model.generate(trained.features(store, ids[part]), generator=generator, **choice)
            written += decode(trained.tokenizer, tokens.cpu())
    return written


def nearest_reports(
    trained: Trained, store: Features, ids: Sequence[str], reports: Sequence[str]
) -> list[str]:
    """For each picture the one of `reports` that is most similar to it by image-text similarity."""
    best, _ = rank_texts(trained.embed_images(store, ids), trained.embed_texts(reports), 1)
    return [reports[number] for number in best[:, 0]]


def score(
    references: Sequence[str], predictions: Sequence[str], scorer: Meteor, how: dict
) -> dict[str, float | int]:
    """Flat metrics, in percent, of one system under both protocols; `how` as for `bootstrap`."""
    metrics = {}
    for protocol, clean in PROTOCOLS.items():
        intervals = intervals_of(*clean(references, predictions), scorer, how)
        prefix = "" if protocol == "report" else f"{protocol}_"
        for name, interval in intervals.items():
            if name in HEADLINE:
                metrics |= interval.flat(prefix + name, scale=100)
            else:
                metrics[prefix + name] = 100 * interval.value
    return metrics


def gain(
    references: Sequence[str], predictions: Sequence[str], constant: str, how: dict
) -> dict[str, float | int]:
    """`bleu_4_gain`, in percent: BLEU-4 of the predictions less that of the constant report, drawn together."""
    clean = PROTOCOLS["report"]
    both = [
        bleu_statistics(*clean(references, texts)) for texts in (predictions, [constant] * len(references))
    ]
    (difference,) = bootstrap(
        np.concatenate(both, axis=1),
        lambda sums: bleu(sums[..., :BLEU_COUNTS])[..., -1:] - bleu(sums[..., BLEU_COUNTS:])[..., -1:],
        **how,
    )
    return difference.flat("bleu_4_gain", scale=100)


def intervals_of(
    references: Sequence[Sequence[str]], predictions: Sequence[str], scorer: Meteor, how: dict
) -> dict[str, Interval]:
    """BLEU-1 to 4, METEOR, ROUGE-L in [0, 1] and CIDEr in [0, 10] of cleaned texts, by name."""
    *bleus, meteor_score = bootstrap(
        np.concatenate(
            [bleu_statistics(references, predictions), scorer.statistics(references, predictions)], axis=1
        ),
        lambda sums: np.concatenate(
            [bleu(sums[..., :BLEU_COUNTS]), meteor(sums[..., BLEU_COUNTS:])[..., None]], axis=-1
        ),
        **how,
    )
    each = np.stack([rouge_l(references, predictions), cider(references, predictions)], axis=1)
    rouge, consensus = bootstrap_means(each, **how)
    return {f"bleu_{n}": interval for n, interval in enumerate(bleus, 1)} | {
        "meteor": meteor_score,
        "rouge_l": rouge,
        "cider": consensus,
    }


if __name__ == "__main__":
    run_stage(write_reports, arguments=("variant", "dataset"))
