"""What each objective adds, over several seeds: `python -m benchmarks.real_ablation FOLDER [--save]`.

FOLDER is the project folder of a finished run whose variants are sets of objectives, each trained from the same seeds (preset
`nih-small-ablation`). Reported are each set's metrics, mean and standard deviation over the seeds, and differences between
two sets: the mean over seeds of paired differences on the same items, with a 95 % bootstrap interval over patients, and the
standard deviation of the difference over the seeds. The interval holds for these trainings; the deviation says what other
seeds would change. With `--save` they are written to benchmarks/results/objectives-PRESET-DATE.json, from which the tables
of docs/results/ are made (`--tables RECORD` prints them).
"""

import argparse
import contextlib
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import polars as pl

from benchmarks import records
from benchmarks.real_tables import family, markdown, of_seeds
from medunifier.pretraining.objective import OBJECTIVES
from medunifier.report.differences import compare, evaluations
from medunifier.results.item_scores import read_items
from medunifier.runtime.json_files import read_json_object
from medunifier.runtime.params import Params, load_params

# What is added, to which set of objectives (weights of ITC, ITM, ITG, TIG), and what it is then.
ADDED = (
    ("ITM to ITC", (1, 0, 0, 0), (1, 1, 0, 0)),
    ("ITG to ITC and ITM", (1, 1, 0, 0), (1, 1, 1, 0)),
    ("TIG to ITC and ITM", (1, 1, 0, 0), (1, 1, 0, 1)),
    ("TIG to ITC, ITM and ITG", (1, 1, 1, 0), (1, 1, 1, 1)),
    ("ITG to ITC, ITM and TIG", (1, 1, 0, 1), (1, 1, 1, 1)),
    ("ITM, ITG and TIG to ITC", (1, 0, 0, 0), (1, 1, 1, 1)),
    ("TIG weight 0.8 in place of 1", (1, 1, 1, 1), (1, 1, 1, 0.8)),
    ("TIG weight 1.2 in place of 1", (1, 1, 1, 1), (1, 1, 1, 1.2)),
)
# Shown, where a data set has it: words, family of the evaluation, metric.
SHOWN = (
    ("report for an image, mAP@1", "retrieve", "i2t_map_at_1"),
    ("image for a report, mAP@1", "retrieve", "t2i_map_at_1"),
    ("zero-shot accuracy", "zero_shot", "accuracy"),
    ("fine-tuned on 1 %, AUROC", "finetune 1%", "auroc"),
    ("fine-tuned on 100 %, AUROC", "finetune 100%", "auroc"),
    ("fine-tuned on 1 %, accuracy", "finetune 1%", "accuracy"),
    ("fine-tuned on 100 %, accuracy", "finetune 100%", "accuracy"),
    ("findings in reports, micro F1", "write_reports", "findings_f1_micro"),
)
Weights = tuple[float, ...]


def of_run(folder: Path) -> dict:
    """Return sets of objectives with their metrics of every seed, and differences between sets."""
    with contextlib.chdir(folder):
        params = load_params()
        sets = trained_sets(params)
        found = {evaluation: stages for evaluation, stages in evaluations(params) if len(stages) > 1}
        return {
            "preset": params.preset,
            "sets": [
                {
                    "weights": list(weights),
                    "variants": list(seeds.values()),
                    "values": values_of(seeds, found),
                }
                for weights, seeds in sets.items()
            ],
            "added": list(differences(params, sets, found)),
        }


def trained_sets(params: Params) -> dict[Weights, dict[int, str]]:
    """Return for each set of weights its variants by seed; all sets have the same seeds."""
    sets: dict[Weights, dict[int, str]] = {}
    for name, variant in params.variants.items():
        weights = tuple(variant.weights[objective] for objective in OBJECTIVES)
        sets.setdefault(weights, {})[params.training_seed(name)] = name
    if len({frozenset(seeds) for seeds in sets.values()}) != 1:
        raise SystemExit(
            "the sets of objectives were not trained from the same seeds: nothing to compare in pairs"
        )
    return sets


def values_of(
    seeds: Mapping[int, str], found: Mapping[str, Mapping[str, str]]
) -> dict[str, dict[str, list[float]]]:
    """Return evaluation -> metric -> its value with every seed, as the stages measured it."""
    values: dict[str, dict[str, list[float]]] = {}
    for evaluation, stages in found.items():
        if not set(seeds.values()) <= set(stages):
            continue
        files = [read_json_object(Path(f"results/metrics/{stages[name]}.json")) for name in seeds.values()]
        names = [name for name in files[0] if f"{name}_ci_low" in files[0]]
        values[family(evaluation)] = {
            name: [file[name] for file in files] for name in names if all(name in f for f in files)
        }
    return values


def differences(
    params: Params, sets: Mapping[Weights, Mapping[int, str]], found: Mapping[str, Mapping[str, str]]
) -> Iterator[dict]:
    """Yield what an objective adds to a metric: the mean over seeds of paired differences, and that of each seed."""
    for words, without, with_it in ADDED:
        if without not in sets or with_it not in sets:
            continue
        for evaluation, stages in found.items():
            pairs = [(sets[with_it][seed], sets[without][seed]) for seed in sets[without]]
            if not {name for pair in pairs for name in pair} <= set(stages):
                continue
            more, less = (items_of([stages[pair[i]] for pair in pairs]) for i in (0, 1))
            own = [
                dict(compare(read_items(stages[a]), read_items(stages[b]), stages[a], params.seed))
                for a, b in pairs
            ]
            for metric, (value, low, high, n) in compare(more, less, stages[pairs[0][0]], params.seed):
                yield {
                    "added": words,
                    "evaluation": family(evaluation),
                    "metric": metric,
                    "difference": [value, low, high, n],
                    "of seeds": [each[metric][0] for each in own],
                }


def items_of(stages: Sequence[str]) -> pl.DataFrame:
    """Return the item scores of trainings from several seeds as those of one model: their metrics are then means."""
    tables = [
        read_items(stage).with_columns(pl.col("seed") + 1_000_000 * number)
        for number, stage in enumerate(stages)
    ]
    return pl.concat(tables)


def tables_of(record: Mapping) -> str:
    """Return the tables of a record: each set's metrics, and what each objective adds."""
    shown = [
        (words, evaluation, metric)
        for words, evaluation, metric in SHOWN
        if any(metric in each["values"].get(evaluation, {}) for each in record["sets"])
    ]
    head = [words for words, _, _ in shown]
    sets = [
        [
            in_words(each["weights"]),
            *(value_of(each, evaluation, metric) for _, evaluation, metric in shown),
        ]
        for each in record["sets"]
    ]
    found = {(d["added"], d["evaluation"], d["metric"]): d for d in record["added"]}
    added = [
        [words, *(difference(found.get((words, evaluation, metric))) for _, evaluation, metric in shown)]
        for words, _, _ in ADDED
        if any(key[0] == words for key in found)
    ]
    return f"{markdown([['objectives', *head], *sets])}\n\n{markdown([['added', *head], *added])}"


def in_words(weights: Sequence[float]) -> str:
    """Return a set of objectives in words; weights of 1 are not told."""
    return ", ".join(
        name.upper() + (f" (weight {weight:g})" if weight != 1 else "")
        for name, weight in zip(OBJECTIVES, weights, strict=True)
        if weight
    )


def value_of(one: Mapping, evaluation: str, metric: str) -> str:
    """Return the mean of a set's metric over seeds and its standard deviation; nothing of what was not measured."""
    values = one["values"].get(evaluation, {}).get(metric)
    return of_seeds(values) if values else ""


def difference(found: Mapping | None) -> str:
    """Return a difference with its interval and, in parentheses, its standard deviation over the seeds."""
    if found is None:
        return ""
    value, low, high, _ = found["difference"]
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}] ({statistics.stdev(found['of seeds']):.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", help="project folder of a finished run")
    parser.add_argument(
        "--save", action="store_true", help="write benchmarks/results/objectives-PRESET-DATE.json"
    )
    parser.add_argument("--tables", type=Path, metavar="RECORD", help="print the tables of a record")
    arguments = parser.parse_args()
    if arguments.tables:
        print(tables_of(json.loads(arguments.tables.read_text(encoding="utf-8"))))
    if arguments.folder:
        record = of_run(arguments.folder)
        print(tables_of(record))
        if arguments.save:
            records.save(
                f"objectives-{record['preset']}", "python -m benchmarks.real_ablation FOLDER --save", record
            )


if __name__ == "__main__":
    main()
