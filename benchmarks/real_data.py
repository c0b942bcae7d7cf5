"""Results on real radiographs beside what the frozen encoder alone gives: `python -m benchmarks.real_data FOLDER... [--save]`.

Each FOLDER is the project folder of a finished run of one preset; runs differ in `seed`, or in the `seed` of variants that
have the weights of `full` (preset PRESET-ablation). With `--save` the values are written to
benchmarks/results/PRESET-DATE.json, from which the tables of docs/results/ are made (`--tables RECORD` prints them), and
images to docs/results/PRESET.png: real test images, their reconstructions, images generated from their reports, and images
generated without text; the first eight of the first run, as `score_images` chose them. Where the texts are a data set's own
(not written from labels), neither texts nor images are saved: they have licences of their own.
"""

import argparse
import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image

from benchmarks import records
from benchmarks.real_baselines import (
    SPLITS,
    Values,
    area,
    mean_features,
    nearest_training,
    opening_facts,
    probe_scores,
)
from benchmarks.real_generated import generated_images
from benchmarks.real_tables import tables_of
from medunifier.evaluation.label_tasks import Task, class_numbers, label_values
from medunifier.evaluation.report_generation import finding_labels
from medunifier.evaluation.retrieval import item_classes
from medunifier.metrics.bootstrap import BootstrapOptions, Interval, bootstrap, bootstrap_means
from medunifier.metrics.report_scores import finding_scores
from medunifier.metrics.text import PROTOCOLS, bleu, bleu_statistics
from medunifier.results.item_scores import read_items
from medunifier.results.predictions import REPORTS
from medunifier.runtime.json_files import read_json_object
from medunifier.runtime.params import MultiLabel, Params, load_params
from medunifier.storage.tables import PREPARED, read_table

PAGES = Path(__file__).resolve().parents[1] / "docs/results"
FIGURE = Path("results/images/full/figure_3.png")
SHOWN = 4  # sample reports in a record
SIDE = 112  # pixels of an image in the grid


def trainings(folder: Path) -> list[str]:
    """Return the variants of a run that have the weights of `full`, itself first: they differ in the seed alone."""
    variants = load_params(folder / "params.yaml").variants
    return [name for name, variant in variants.items() if variant.weights == variants["full"].weights]


def of_run(folder: Path, variant: str) -> dict:
    """Return all values of a variant of a finished run, and what it is."""
    with contextlib.chdir(folder):
        params = load_params()
        dataset = params.pretrain.dataset
        tables = {s: read_table(Path("data/prepared") / dataset / f"{s}.parquet", PREPARED) for s in SPLITS}
        sizes = {s: [len(t), t["patient_id"].n_unique()] for s, t in tables.items()}
        vectors = {s: mean_features(dataset, t["image_id"].to_list()) for s, t in tables.items()}
        near = nearest_training(vectors["train"], vectors["test"])
        values = stage_metrics(params, variant) | nearest_class(params, variant, tables, near)
        values |= reports_of(params, variant, tables, near) | probes(params, tables, vectors)
        if Path(f"data/generated/{variant}").is_dir():  # not every run generates images
            values |= generated_images(params, variant, tables)
        return {
            "preset": params.preset,
            "seed": params.training_seed(variant),
            "images and patients": sizes,
            "values": values,
            "views": views_of(variant),
            "samples": samples(variant, dataset) if text_is_ours(params) else [],
        }


def stage_metrics(params: Params, variant: str) -> Values:
    """Return the metrics of the run's evaluations as `STAGE METRIC`, with what is beside them."""
    dataset, found = params.pretrain.dataset, {}
    stages = {"retrieve": f"retrieve@{variant}-{dataset}", "zero_shot": f"zero_shot@{variant}-{dataset}"}
    stages |= {
        f"finetune {p} %": f"finetune@{variant}-{dataset}-{p}" for p in params.evaluate.finetune_percents
    }
    stages |= {"reports": f"write_reports@{variant}-{dataset}", "images": f"score_images@{variant}"}
    stages |= {"pretrain": f"pretrain@{variant}", "codes": f"encode_codes@{variant}"}
    for name, stage in stages.items():
        path = Path("results/metrics") / f"{stage}.json"
        if not path.is_file():  # not every preset has every evaluation
            continue
        metrics = read_json_object(path)
        for metric, value in metrics.items():
            if not metric.endswith(("_ci_low", "_ci_high", "_n")) and isinstance(value, int | float):
                ends = [metrics.get(f"{metric}{end}", None) for end in ("_ci_low", "_ci_high", "_n")]
                found[f"{name} {metric}"] = [value, *ends]
    return found


def nearest_class(params: Params, variant: str, tables: dict[str, pl.DataFrame], near: np.ndarray) -> Values:
    """Return how often the nearest training image is of the test image's class, as mAP@1 counts it, and the difference."""
    both = pl.concat([tables["train"], tables["test"]], how="diagonal_relaxed")
    classes = np.array(item_classes(both), object)
    train, test = classes[: len(tables["train"])], classes[len(tables["train"]) :]
    hits = (train[near] == test).astype(float)
    items = read_items(f"retrieve@{variant}-{params.pretrain.dataset}").filter(metric="i2t_map_at_1")
    ranked = (
        tables["test"]
        .select("image_id")
        .join(items, left_on="image_id", right_on="item_id", how="left", maintain_order="left")
    )
    options = BootstrapOptions(1000, params.seed, tables["test"]["patient_id"].to_list())
    pairs = np.stack([hits, ranked["value"].to_numpy() - hits], 1)
    names = ("retrieve encoder_i2t_map_at_1", "retrieve i2t_map_at_1 less encoder's")
    return {n: in_percent(i) for n, i in zip(names, bootstrap_means(pairs, options), strict=True)}


def reports_of(params: Params, variant: str, tables: dict[str, pl.DataFrame], near: np.ndarray) -> Values:
    """Return what generated reports and the baselines say: finding F1 and BLEU-4, view, sex and age, and differences."""
    dataset = params.pretrain.dataset
    test, train = tables["test"].with_row_index("row"), tables["train"]
    found = read_table(Path("results/reports") / f"{variant}-{dataset}/predictions.parquet", REPORTS)
    found = found.join(
        test.select("image_id", "row", "view"), on="image_id", how="left", maintain_order="left"
    )
    systems = {"": found["prediction"], "constant_": found["constant"], "nearest_": found["nearest"]}
    systems["encoder_"] = train["report"].gather(near[found["row"].to_numpy()])
    findings, labels = finding_labels(tables["test"][found["row"].to_list()])
    references = found["reference"].to_list()
    options = BootstrapOptions(1000, params.seed, found["patient_id"].to_list())
    values: Values = {}
    scored = (
        {name: finding_scores(texts.to_list(), findings, labels) for name, texts in systems.items()}
        if findings
        else {}
    )
    for name, both in scored.items():
        for each in both:
            values[f"reports {name}{each.metric}"] = in_percent(each.interval(options))
            if name:
                values[f"reports {each.metric} less {name}"] = in_percent(
                    scored[""][both.index(each)].interval(options, minus=each)
                )
    for view in found["view"].drop_nulls().unique().sort():
        rows = np.flatnonzero((found["view"] == view).fill_null(False).to_numpy())
        for name, texts in systems.items() if findings else ():
            micro, _ = finding_scores([texts[int(r)] for r in rows], findings, labels[rows])
            values[f"reports {name}findings_f1_micro in {view}"] = in_percent(
                micro.interval(options.take(rows))
            )
    for name, texts in systems.items():
        statistics = bleu_statistics(*PROTOCOLS["report"](references, texts.to_list()))
        (four,) = bootstrap(statistics, lambda sums: bleu(sums)[..., 3:], options)
        values[f"reports {name}bleu_4"] = in_percent(four)
        values |= read_right(name, references, texts.to_list(), options)
    return values


def read_right(
    name: str, references: Sequence[str], texts: Sequence[str], options: BootstrapOptions
) -> Values:
    """Return how often the opening of a report has the view, the sex and the decade of age of its image, in percent."""
    values: Values = {}
    truth, said = ([opening_facts(text) for text in part] for part in (references, texts))
    for fact in ("view", "sex", "age"):
        rows = np.array([i for i, each in enumerate(truth) if each[fact]], int)
        if len(rows):
            hits = np.array([[float(said[i][fact] == truth[i][fact])] for i in rows])
            (interval,) = bootstrap_means(hits, options.take(rows))
            values[f"reports {name}{fact} read right"] = in_percent(interval)
    return values


def probes(params: Params, tables: dict[str, pl.DataFrame], vectors: dict[str, np.ndarray]) -> Values:
    """Return linear probes on the encoder's own features, beside those on the pre-trained model's (`probe_`)."""
    dataset = params.pretrain.dataset
    chosen = params.evaluate.finetune.get(dataset)
    if chosen is None or isinstance(chosen, MultiLabel):
        return {}
    tasks, rows = {}, {}
    for split, table in tables.items():
        target = class_numbers(label_values(table, chosen, Path(split), dataset))
        rows[split] = np.flatnonzero(target >= 0)
        of_task = table[rows[split].tolist()]
        tasks[split] = Task(
            of_task["image_id"].to_list(), of_task["patient_id"].to_list(), target[rows[split]]
        )
    options = BootstrapOptions(1000, params.seed, tasks["test"].patients)
    values: Values = {}
    for percent in params.evaluate.finetune_percents:
        scores = np.mean(
            [probe_scores(vectors, tasks, rows, percent, seed) for seed in params.finetune.seeds], axis=0
        )
        right = tasks["test"].target
        if scores.shape[1] == 2:
            values[f"finetune {percent} % encoder_auroc"] = area(scores[:, 1], right == 1, options)
        else:
            (interval,) = bootstrap_means((scores.argmax(1) == right)[:, None], options)
            values[f"finetune {percent} % encoder_accuracy"] = in_percent(interval)
    return values


def in_percent(interval: Interval) -> list[float | int]:
    """Return an interval as value, ends and n, in percent."""
    return [100 * interval.value, 100 * interval.low, 100 * interval.high, interval.n]


def views_of(variant: str) -> list[dict]:
    """Return the metrics of a variant within each view, as `summarize` wrote them; none before it ran."""
    path = Path("results/tables/views.csv")
    return pl.read_csv(path).filter(pl.col("model") == variant).to_dicts() if path.is_file() else []


def text_is_ours(params: Params) -> bool:
    """Return whether the texts are sentences written from labels; people's notes and their images have licences of their own."""
    return params.datasets[params.pretrain.dataset].report_from == "labels"


def samples(variant: str, dataset: str) -> list[dict[str, str]]:
    """Return `SHOWN` generated reports, evenly spaced through the table, whose order is that of the test split."""
    table = read_table(Path("results/reports") / f"{variant}-{dataset}/predictions.parquet", REPORTS)
    rows = [(2 * i + 1) * len(table) // (2 * SHOWN) for i in range(SHOWN)]
    return table[rows].select("image_id", "reference", "prediction", "nearest").to_dicts()


def write_grid(source: Path, path: Path) -> None:
    """Write figure 3 of a run with images of `SIDE` x `SIDE`."""
    with Image.open(source) as figure:
        columns, lines = figure.width // 224, figure.height // 224
        figure.convert("L").resize((columns * SIDE, lines * SIDE), Image.Resampling.LANCZOS).save(
            path, optimize=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folders", type=Path, nargs="*", help="project folders of finished runs of one preset"
    )
    parser.add_argument(
        "--save",
        action="store_true",
        help="write benchmarks/results/PRESET-DATE.json and docs/results/PRESET.png",
    )
    parser.add_argument("--tables", type=Path, metavar="RECORD", help="print the tables of a record")
    arguments = parser.parse_args()
    if arguments.tables:
        print(tables_of(json.loads(arguments.tables.read_text(encoding="utf-8"))))
    if not arguments.folders:
        return
    runs = [of_run(folder, variant) for folder in arguments.folders for variant in trainings(folder)]
    (preset,) = {run["preset"] for run in runs}
    print(tables_of({"runs": runs}))
    if arguments.save:
        preset = preset.removesuffix("-ablation")  # where `full` is trained as in the preset without it
        records.save(preset, "python -m benchmarks.real_data FOLDER... --save", {"runs": runs})
        ours = text_is_ours(load_params(arguments.folders[0] / "params.yaml"))
        if ours and (arguments.folders[0] / FIGURE).is_file():
            write_grid(arguments.folders[0] / FIGURE, PAGES / f"{preset}.png")


if __name__ == "__main__":
    main()
