"""Stage summarize: everything that the pipeline found, on one page."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medunifier.data.overlaps import count_overlaps, find_overlaps
from medunifier.evaluation.class_prompts import read_prompts
from medunifier.report import sections
from medunifier.report.costs import read_costs
from medunifier.report.differences import differences, write_differences
from medunifier.report.generated_section import drawn_section
from medunifier.report.images import grid_pairs, jpeg_uri, mark_shared
from medunifier.report.overlaps import overlap_metrics, overlap_section
from medunifier.report.page import render_page
from medunifier.report.paper_section import paper_section
from medunifier.report.paper_tables import Cell, paper_tables, write_tables
from medunifier.report.pipeline_diagram import Family, draw_pipeline
from medunifier.report.seed_means import seed_groups
from medunifier.results.item_scores import read_items
from medunifier.runtime.dvc_pipeline import Pipeline
from medunifier.runtime.errors import InputError
from medunifier.runtime.files import atomic_path
from medunifier.runtime.params import Params
from medunifier.stage import run_stage
from medunifier.tracking import Run

SAMPLES = 6  # written reports shown for each data set
PAGE = Path("results/report/index.html")
TABLES = Path("results/tables")
OVERLAPS = Path("results/report/overlaps.csv")  # each evaluation image that is somewhere in training


def summarize(params: Params, run: Run) -> None:
    """Write the paper's tables to results/tables, and results/report/index.html: pipeline, data counts, curves,
    tables, images and sample reports; and results/report/overlaps.csv: evaluation images that are in training
    somewhere, by content.

    The page holds its style, figures and images in itself and opens without a network. It shows the data
    sets, variants and evaluations that params.yaml enables, and is the same for the same results.

    The pipeline is drawn from dvc.yaml, which DVC refuses as a dependency; a new stage brings new metrics, and
    with them a new page.
    """
    tables = gather_tables(params)
    write_tables(tables, TABLES)
    compared = differences(params, read_items)
    write_differences(compared, TABLES / "differences.csv")
    found = find_overlaps(params.datasets, Path("data/prepared"), Path("data/images"))
    overlaps = overlap_section(count_overlaps(found), len(params.datasets))
    content = gather(params) | {"paper": paper_section(tables), "compared": compared, "overlaps": overlaps}
    content["sections"].insert(-1, ("paper", "The paper’s tables"))
    page = render_page(content)
    with atomic_path(OVERLAPS) as temporary:
        found.write_csv(temporary)
    with atomic_path(PAGE) as temporary:
        temporary.write_text(page, encoding="utf-8")
    run.artifact(PAGE)
    run.artifact(OVERLAPS)
    run.metrics({"page_bytes": len(page.encode()), "sections": len(content["sections"])})
    run.metrics(overlap_metrics(found))
    run.log(f"wrote {PAGE}, {len(page.encode()) / 1e6:.1f} MB")


def gather(params: Params) -> dict[str, Any]:
    """What page.html shows, read from the results of the enabled stages."""
    trained_on = params.pretrain.dataset
    variants = list(params.variants)
    data = {name: read_data(name, params) for name in params.datasets}
    retrieval = {
        (variant, dataset): read_metrics(f"retrieve@{variant}-{dataset}")
        for variant in params.trained.itc
        for dataset in params.evaluate.retrieve
    }
    writing = {
        (variant, dataset): read_metrics(f"write_reports@{variant}-{dataset}")
        for variant in params.trained.itg
        for dataset in params.evaluate.write_reports
    }
    scores = {variant: read_metrics(f"score_images@{variant}") for variant in params.trained.tig}
    drawn = [drawn_section(variant, trained_on, metrics) for variant, metrics in scores.items()]
    drawn = [section for section in drawn if section is not None]
    phantoms = [name for name, dataset in params.datasets.items() if is_simulated(dataset.root)]
    pipeline = Pipeline()
    families, image = draw_families(pipeline)
    costs = read_costs(Path("results/runs"), pipeline.stages)
    return {
        "preset": params.preset,
        "seed": params.seed,
        "title": "Radiographs and their reports, learnt together",
        "lead": f"What {'models' if len(variants) > 1 else 'a model'} pre-trained on {trained_on} can do with data "
        "kept aside: find reports for images and images for reports, write reports, and draw images from codes.",
        "sections": [
            ("pipeline", "Pipeline"),
            ("data", "Data"),
            ("training", "Training"),
            *([("retrieval", "Retrieval")] if retrieval else []),
            *([("reports", "Report writing")] if writing else []),
            ("images", "Images"),
            *([("drawn", "Drawn images")] if drawn else []),
            *([("costs", "Costs")] if costs else []),
            ("notes", "How to read this page"),
        ],
        "facts": sections.facts(
            data[trained_on],
            next(iter(retrieval.values()), None),
            next(iter(writing.values()), None),
            next(iter(scores.values())),
        ),
        "families": families,
        "pipeline_image": image,
        "datasets": list(data.values()),
        "models": [read_training(variant, params) for variant in variants],
        "retrieval": [
            sections.retrieval_section(
                variant, dataset, metrics, params.datasets[dataset].benchmark is not None
            )
            for (variant, dataset), metrics in retrieval.items()
        ],
        "writing": [
            sections.writing_section(
                variant, dataset, metrics, read_samples(variant, dataset), params.write_reports
            )
            for (variant, dataset), metrics in writing.items()
        ],
        "images": [
            sections.images_section(
                variant,
                trained_on,
                scores[variant],
                read_metrics(f"encode_codes@{variant}"),
                params.model.codebook_size,
                read_pairs(variant, params.images.size),
            )
            for variant in scores
        ],
        "drawn": drawn,
        "costs": costs,
        "notes": sections.notes(
            params.preset,
            phantoms,
            is_simulated(params.vision.model),
            sorted(set(map(params.training_seed, params.variants))),
            bool(seed_groups(params)),
            {
                "fine-tuning": len(params.finetune.seeds) if params.evaluate.finetune else 0,
                "zero-shot classification": len(params.zero_shot.seeds) if params.evaluate.zero_shot else 0,
            },
            any("fid_reconstruction" in metrics for metrics in scores.values()),
            bool(retrieval),
            bool(writing),
        ),
    }


def gather_tables(params: Params) -> dict[str, list[Cell]]:
    """The paper's tables with our figures beside the published ones."""
    phantoms = {name for name, dataset in params.datasets.items() if is_simulated(dataset.root)}
    items = read_prompts(params.zero_shot.prompts).items if params.evaluate.zero_shot else "benchmark"
    return paper_tables(params, read_metrics, phantoms, items)


def is_simulated(path: str) -> bool:
    """True for what the stage `simulate` makes."""
    return Path(path).parts[:2] == ("data", "simulated")


def draw_families(pipeline: Pipeline) -> tuple[list[Family], Any]:
    """The stage families in dvc.yaml's order, with their matrix values, and the image of what flows."""
    from markupsafe import Markup

    values: dict[str, list[str]] = {}
    inputs: dict[str, set[str]] = {}
    for name, stage in pipeline.stages.items():
        values.setdefault(stage.family, []).extend(name.split("@")[1:])
        makers = {pipeline.stages[maker].family for maker in pipeline.makers(name)}
        inputs.setdefault(stage.family, set()).update(makers - {stage.family})
    descriptions = {stage.family: stage.description for stage in pipeline.stages.values()}
    families = [Family(name, descriptions[name], values[name]) for name in values]
    return families, Markup(draw_pipeline(families, inputs))


def read_data(name: str, params: Params) -> dict[str, Any]:
    """The counts of one data set; InputError if they do not add up."""
    from medunifier.data.preparation.rejects import Reason

    prepared = read_json(Path("data/prepared") / name / "summary.json", f"prepare@{name}")
    decoded = read_json(Path("data/images") / name / "summary.json", f"decode_images@{name}")
    kept = sum(prepared["kept"].values())
    for stage, whole, parts in (
        ("prepare", prepared["raw"], kept + sum(prepared["rejected"].values())),
        ("decode_images", kept, decoded["decoded"] + sum(decoded["rejected"].values())),
    ):
        if whole != parts:
            raise InputError(
                f"{stage}@{name}: {whole} images came in, {parts} are kept or rejected; run the stage again"
            )
    benchmark = params.datasets[name].benchmark
    separate = benchmark is None or benchmark.remove == "patients"
    meanings = {reason.value: reason.explanation for reason in Reason}
    undecoded = count_undecoded(name, "benchmark") if benchmark is not None else 0
    return sections.data_section(name, prepared, decoded, meanings, separate, undecoded)


def count_undecoded(name: str, split: str) -> int:
    """How many images of a split could not be decoded."""
    from medunifier.storage.tables import read_table

    ids = read_table(Path("data/prepared") / name / f"{split}.parquet")["image_id"]
    decoded = read_table(Path("data/images") / name / "contents.parquet")["image_id"]
    return len(set(ids) - set(decoded))


def read_training(variant: str, params: Params) -> dict[str, Any]:
    """The training section of one variant."""
    path = Path("results/curves") / f"pretrain@{variant}.csv"
    with open_result(path, f"pretrain@{variant}") as file:
        curve = [
            {"step": int(row["step"]), "split": row["split"]}
            | {key: float(text) for key, text in row.items() if key not in ("step", "split") and text}
            for row in csv.DictReader(file)
        ]
    return sections.training_section(
        variant,
        params.variants[variant].weights,
        read_metrics(f"pretrain@{variant}"),
        curve,
        vars(params.pretrain),
    )


def read_samples(variant: str, dataset: str) -> list[dict[str, Any]]:
    """Written reports beside their references and images, evenly spaced through the predictions."""
    from medunifier.storage.image_shards import ImageStore
    from medunifier.storage.tables import read_table

    table = read_table(Path("results/reports") / f"{variant}-{dataset}" / "predictions.parquet")
    number = min(SAMPLES, len(table))
    chosen = table[[(2 * i + 1) * len(table) // (2 * number) for i in range(number)]]
    store = ImageStore(Path("data/images") / dataset)
    images = store.read(store.rows(chosen["image_id"].to_list()))
    samples = []
    for sample, image in zip(chosen.iter_rows(named=True), images, strict=True):
        reference, prediction = mark_shared(sample["reference"], sample["prediction"])
        samples.append(
            {
                "image_id": sample["image_id"],
                "image": jpeg_uri(image),
                "reference": reference,
                "prediction": prediction,
            }
        )
    return samples


def read_pairs(variant: str, size: int) -> list[tuple[str, str, str]]:
    """(real image, its reconstruction, PSNR) of the grid that score_images drew, images as data URIs."""
    from medunifier.storage.tables import read_table

    folder = Path("results/images") / variant
    pairs = grid_pairs(folder / "reconstructions.png", size)
    psnr = read_table(folder / "scores.parquet")["psnr"].to_list()
    return [
        (jpeg_uri(real), jpeg_uri(drawn), f"{value:.1f} dB")
        for (real, drawn), value in zip(pairs, psnr, strict=False)  # the grid shows the first of the table
    ]


def read_metrics(stage: str) -> Mapping[str, float]:
    """What a stage measured."""
    return read_json(Path("results/metrics") / f"{stage}.json", stage)


def read_json(path: Path, stage: str) -> dict[str, Any]:
    with open_result(path, stage) as file:
        return json.load(file)


def open_result(path: Path, stage: str) -> Any:
    """A text file that a stage has left; InputError if it is missing."""
    try:
        return path.open(encoding="utf-8", newline="")
    except FileNotFoundError:
        raise InputError(f"{path}: missing; it is made by the stage {stage}: dvc repro {stage}") from None


if __name__ == "__main__":
    run_stage(summarize)
