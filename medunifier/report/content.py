"""What page.html shows, gathered from the results of the stages that params.yaml enables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from medunifier.evaluation.class_prompts import read_prompts
from medunifier.report import sections
from medunifier.report.costs import Cost, read_costs
from medunifier.report.generated_section import generated_section
from medunifier.report.label_sections import label_sections
from medunifier.report.notes import Reading, notes
from medunifier.report.paper_tables import paper_tables
from medunifier.report.pipeline_diagram import Family, pipeline_diagram
from medunifier.report.reports_section import reports_section
from medunifier.report.results_files import read_data, read_metrics, read_pairs, read_samples, read_training
from medunifier.report.seed_means import seed_groups
from medunifier.report.table_cell import Cell
from medunifier.report.tables import Metrics
from medunifier.runtime.dvc_pipeline import Pipeline
from medunifier.runtime.params import Params
from medunifier.storage.image_shards import TARGET_SIDE

Evaluated = Mapping[tuple[str, str], Metrics]  # (variant, data set) -> flat metrics


@dataclass(frozen=True)
class Results:
    """The metrics of the evaluations that are enabled."""

    retrieval: Evaluated
    reports: Evaluated
    images: Mapping[str, Metrics]  # by variant

    @classmethod
    def read(cls, params: Params) -> Results:
        """Read results/metrics of every enabled evaluation."""
        trained, evaluate = params.trained, params.evaluate
        return cls(
            retrieval={
                (variant, dataset): read_metrics(f"retrieve@{variant}-{dataset}")
                for variant in trained.itc
                for dataset in evaluate.retrieve
            },
            reports={
                (variant, dataset): read_metrics(f"write_reports@{variant}-{dataset}")
                for variant in trained.itg
                for dataset in evaluate.write_reports
            },
            images={variant: read_metrics(f"score_images@{variant}") for variant in trained.tig},
        )


def page_content(params: Params) -> dict[str, Any]:
    """Return the variables of page.html, but for the paper's tables, the paired differences and the overlaps."""
    results = Results.read(params)
    trained_on = params.pretrain.dataset
    data = {name: read_data(name, params) for name in params.datasets}
    private = {name for name, dataset in params.datasets.items() if dataset.private}
    generated = generated_sections(params, results, trained_on in private)
    pipeline = Pipeline()
    families, diagram = stage_families(pipeline)
    costs = read_costs(Path("results/runs"), pipeline.stages)
    labels = label_sections(params, read_metrics)
    return {
        "preset": params.preset,
        "seed": params.seed,
        "title": "Radiographs and their reports, learnt together",
        "lead": lead(params),
        "synthetic": synthetic_notice(params),
        "label_texts": label_texts_notice(params),
        "sections": section_links(results, labels, generated, costs),
        "facts": sections.facts(
            data[trained_on],
            next(iter(results.retrieval.values()), None),
            next(iter(results.reports.values()), None),
            next(iter(results.images.values()), None),
        ),
        "families": families,
        "pipeline_image": diagram,
        "datasets": list(data.values()),
        "models": [read_training(variant, params) for variant in params.variants],
        "retrieval": [
            sections.retrieval_section(
                variant,
                dataset,
                metrics,
                params.datasets[dataset].benchmark is not None,
                params.datasets[dataset].report_from == "labels",
            )
            for (variant, dataset), metrics in results.retrieval.items()
        ],
        "labels": labels,
        "reports": [
            reports_section(
                variant,
                dataset,
                metrics,
                None if dataset in private else read_samples(variant, dataset),
                params.write_reports,
                params.datasets[dataset].report_from == "labels",
            )
            for (variant, dataset), metrics in results.reports.items()
        ],
        "images": images_sections(params, results, trained_on in private),
        "generated": generated,
        "costs": costs,
        "notes": notes(reading(params, results)),
    }


def images_sections(params: Params, results: Results, private: bool) -> list[dict[str, Any]]:
    """Return the reconstructions of each variant; without images where the data set is private."""
    return [
        sections.images_section(
            variant,
            params.pretrain.dataset,
            params.score_images.reconstructed,
            metrics,
            read_metrics(f"encode_codes@{variant}"),
            params.model.codebook_size,
            None if private else read_pairs(variant, TARGET_SIDE),
        )
        for variant, metrics in results.images.items()
    ]


def generated_sections(params: Params, results: Results, private: bool) -> list[dict[str, Any]]:
    """Return the generated images of each variant that has some; `private` as for `images_sections`."""
    trained_on, reconstructed = params.pretrain.dataset, params.score_images.reconstructed
    found = [
        generated_section(variant, trained_on, metrics, reconstructed, private=private)
        for variant, metrics in results.images.items()
    ]
    return [section for section in found if section is not None]


def section_links(
    results: Results, labels: Sequence[object], generated: Sequence[object], costs: Sequence[Cost]
) -> list[tuple[str, str]]:
    """Return (id, heading) of the page's sections, in order."""
    links = [
        ("pipeline", "Pipeline", True),
        ("data", "Data", True),
        ("training", "Training", True),
        ("retrieval", "Retrieval", results.retrieval),
        ("labels", "Classification by label", labels),
        ("reports", "Report generation", results.reports),
        ("images", "Images", True),
        ("generated", "Generated images", generated),
        ("paper", "The paper’s tables", True),
        ("costs", "Costs", costs),
        ("notes", "How to read this page", True),
    ]
    return [(name, heading) for name, heading, shown in links if shown]


def lead(params: Params) -> str:
    """Return the sentence under the page's title."""
    models = "models" if len(params.variants) > 1 else "a model"
    return (
        f"What {models} pre-trained on {params.pretrain.dataset} can do with held-out data: find reports for images "
        "and images for reports, generate reports, and generate images from codes."
    )


def synthetic_notice(params: Params) -> str:
    """Return the page's first line if data sets are synthetic, else an empty text."""
    phantoms = phantom_datasets(params)
    if not phantoms:
        return ""
    if len(phantoms) == len(params.datasets):
        return "Synthetic data: every image and report on this page is a computer-made phantom, none is of a patient."
    return f"Synthetic data: {', '.join(phantoms)} are computer-made phantoms, not of patients."


def label_texts_notice(params: Params) -> str:
    """Return the page's line on data sets whose texts are written from labels; an empty text if there is none."""
    names = [name for name, dataset in params.datasets.items() if dataset.report_from == "labels"]
    if not names:
        return ""
    return (
        f"Text from labels: the texts of {', '.join(names)} are sentences written from labels by "
        f"{params.label_sentences}, not radiologists’ reports."
    )


def reading(params: Params, results: Results) -> Reading:
    """Return what the notes of the page depend on."""
    return Reading(
        preset=params.preset,
        phantoms=phantom_datasets(params),
        training_seeds=sorted(set(map(params.training_seed, params.variants))),
        has_means=bool(seed_groups(params)),
        evaluation_seeds={
            "fine-tuning": len(params.finetune.seeds) if params.evaluate.finetune else 0,
            "zero-shot classification": len(params.zero_shot.seeds) if params.evaluate.zero_shot else 0,
        },
        has_fid=any("fid_reconstruction" in metrics for metrics in results.images.values()),
        has_retrieval=bool(results.retrieval),
        has_reports=bool(results.reports),
    )


def tables_of(params: Params) -> dict[str, list[Cell]]:
    """Return the paper's tables, our values beside the published ones."""
    items = read_prompts(params.zero_shot.prompts).items if params.evaluate.zero_shot else "benchmark"
    return paper_tables(params, read_metrics, set(phantom_datasets(params)), items)


def phantom_datasets(params: Params) -> list[str]:
    """Return the names of the data sets that are synthetic."""
    return [name for name, dataset in params.datasets.items() if is_simulated(dataset.root)]


def is_simulated(path: str) -> bool:
    """Return whether a path is an output of the stage `simulate`."""
    return Path(path).parts[:2] == ("data", "simulated")


def stage_families(pipeline: Pipeline) -> tuple[list[Family], Markup]:
    """Return the stage families in dvc.yaml's order with their matrix values, and their diagram as SVG."""
    values: dict[str, list[str]] = {}
    inputs: dict[str, set[str]] = {}
    for name, stage in pipeline.stages.items():
        values.setdefault(stage.family, []).extend(name.split("@")[1:])
        makers = {pipeline.stages[maker].family for maker in pipeline.makers(name)}
        inputs.setdefault(stage.family, set()).update(makers - {stage.family})
    descriptions = {stage.family: stage.description for stage in pipeline.stages.values()}
    families = [Family(name, descriptions[name], values[name]) for name in values]
    return families, Markup(pipeline_diagram(families, inputs))
