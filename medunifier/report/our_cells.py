"""Our cells of the paper's tables, read from the flat metrics of the stages (results/metrics/STAGE.json).

A cell that was not measured stays empty and gives the reason in its note. None is filled in from elsewhere.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from medunifier.report.cell_notes import benchmark_note, joined, list_note, reconstruction_note
from medunifier.report.seed_means import ReadMetrics
from medunifier.report.table_cell import Cell, Place
from medunifier.runtime.params import MultiLabel, Params, Variant

LAYOUTS = {  # the paper's name of a data set -> the layout of ours that is read as it
    "rsna": "rsna",
    "siim": "siim_acr",
    "covidx": "covidx",
    "mimic_5x200": "mimic_cxr",
    "chexpert_5x200": "chexpert",
    "mimic_cxr_test": "mimic_cxr",
    "mimic_cxr": "mimic_cxr",
}
AVERAGE_PRECISION = {"map": "AP@K textbook", "map_release": "AP@K release"}
NOT_RUN = "not enabled in params.yaml"


def objectives_of(variant: Variant, weight: bool) -> str:
    """Return a variant's name in the paper's ablations: `itc+itm`, followed by the weight of TIG in Table A1.

    A variant whose other weights are not 0 or 1 is none of the paper's: its weights are written in full.
    """
    weights = variant.weights
    name = "+".join(objective for objective, value in weights.items() if value > 0)
    plain = all(value in (0.0, 1.0) for objective, value in weights.items() if objective != "tig")
    if not plain or (not weight and variant.tig not in (0.0, 1.0)):
        return " ".join(f"{objective}={value:g}" for objective, value in weights.items())
    every = all(weights.values())
    return f"{name} ({variant.tig:.1f})" if weight and every else name


def headline_of(labels: Sequence[str] | MultiLabel) -> str:
    """Return the metric that stands for a task of `evaluate.finetune` in Table 1."""
    if isinstance(labels, MultiLabel):
        return "macro_auroc"
    return "auroc" if len(labels) == 1 else "accuracy"


class Ours:
    """Our cells, table by table.

    Args:
        params: parameters of the pipeline.
        read: stage -> its flat metrics.
        phantoms: names of the data sets that are synthetic.
        zero_shot_items: images that zero-shot classification runs on, `benchmark` or `test`.
    """

    def __init__(self, params: Params, read: ReadMetrics, phantoms: set[str], zero_shot_items: str):
        self.params, self.read, self.phantoms = params, read, phantoms
        self.label_texts = {name for name, d in params.datasets.items() if d.report_from == "labels"}
        self.benchmarks = {name for name, dataset in params.datasets.items() if dataset.benchmark is not None}
        on_benchmark = self.benchmarks if zero_shot_items == "benchmark" else set()
        self.zero_shot_benchmarks = on_benchmark - set(params.zero_shot.multi_label)

    def cells(self, table: str, published: list[Cell]) -> Iterator[Cell]:
        """Yield our rows of a table, in the order of the paper's columns."""
        columns = list(dict.fromkeys((c.dataset, c.metric, c.setting) for c in published))
        if table in ("6", "A1"):
            yield from self.ablation(table, columns)
        elif table == "5":
            yield from self.images()
        else:
            make = {"1": self.finetuned, "2": self.retrieved, "3": self.zero_shot, "4": self.reports}[table]
            yield from make(columns)

    def datasets(self, dataset: str) -> list[str]:
        """Return our data sets that stand for one of the paper's."""
        layout = LAYOUTS[dataset]
        return [name for name, d in self.params.datasets.items() if d.layout == layout]

    def places(
        self, columns: list[Place], measured: Iterable[Place], comparable: Collection[str]
    ) -> list[tuple[Place, str]]:
        """Return every column with each data set of ours that stands in it; "" where there is none.

        Args:
            columns: the paper's; they come first.
            measured: what is evaluated here, with the data set's own name.
            comparable: our data sets whose images are chosen as the paper's are; others keep their own name.
        """
        found = {}
        for place in columns:
            names = [name for name in self.datasets(place[0]) if name in comparable]
            found |= dict.fromkeys((place, name) for name in names or [""])
        for name, metric, setting in measured:
            layout = self.params.datasets[name].layout
            papers = [place[0] for place in columns if LAYOUTS[place[0]] == layout and name in comparable]
            own = f"{name}, ours" if name in LAYOUTS else name
            found[((papers or [own])[0], metric, setting), name] = None
        return list(found)

    def measured(self, stage: str, enabled: bool) -> Mapping[str, float]:
        """Return the metrics of a stage; none where it does not run."""
        return (self.read(stage) if enabled else None) or {}

    def cell(
        self,
        place: Place,
        method: str,
        ours: str,
        stage: str,
        metric: str,
        enabled: bool,
        *,
        note: str = "",
        chance: str | None = None,
        seeds: int | None = None,
    ) -> Cell:
        """Return metric `metric` of `stage` as a cell; empty, with the reason, if it was not measured."""
        dataset, name, setting = place
        marks = {"phantom": self.phantoms, "text from labels": self.label_texts}
        data = ours + "".join(f" ({mark})" for mark, names in marks.items() if ours in names)
        found = self.measured(stage, enabled)
        if metric not in found:
            reason = f"{stage} is {NOT_RUN}" if not enabled else f"{stage} does not measure {metric}"
            return Cell(dataset, setting, name, method, "ours", data, None, note=reason)
        n, mean_over = found.get(f"{metric}_n"), found.get(f"{metric}_seeds", seeds)
        return Cell(
            dataset,
            setting,
            name,
            method,
            "ours",
            data,
            found[metric],
            found.get(f"{metric}_ci_low"),
            found.get(f"{metric}_ci_high"),
            None if n is None else int(n),
            found.get(chance or f"{metric}_chance"),
            note,
            None if mean_over is None else int(mean_over),
            found.get(f"{metric}_seed_sd"),
        )

    def absent(self, place: Place, benchmark: bool = False) -> Cell:
        """Return the empty cell of a column without a data set of ours; `benchmark`: one with a benchmark is needed."""
        dataset, metric, setting = place
        lack = "is judged by a benchmark" if benchmark else "in params.yaml"
        note = f"no data set of layout {LAYOUTS[dataset]} {lack}"
        return Cell(dataset, setting, metric, "MedUnifier", "ours", "", None, note=note)

    def finetuned(self, columns: list[Place]) -> Iterator[Cell]:
        """Yield Table 1: fine-tuned models and their linear probes."""
        evaluate = self.params.evaluate
        measured = [
            (name, headline_of(labels), f"{percent}%")
            for name, labels in evaluate.finetune.items()
            for percent in evaluate.finetune_percents
        ]
        for place, name in self.places(columns, measured, self.params.datasets):
            if not name:
                yield self.absent(place)
                continue
            _, metric, setting = place
            percent, of_lists = int(setting.rstrip("%")), list_note(self.params.datasets[name])
            run = evaluate.finetune_models if name in evaluate.finetune else ()
            for model in evaluate.finetune_models or self.params.variants:
                enabled = model in run and percent in evaluate.finetune_percents
                stage = f"finetune@{model}-{name}-{percent}"
                for prefix, kind in (("", "fine-tuned"), ("probe_", "linear probe")):
                    yield self.cell(
                        place,
                        f"{model}, {kind}",
                        name,
                        stage,
                        prefix + metric,
                        enabled,
                        note=joined(of_lists, "" if prefix else self.untrained(stage, enabled)),
                        chance=f"{metric}_chance",
                        seeds=len(self.params.finetune.seeds),
                    )

    def untrained(self, stage: str, enabled: bool) -> str:
        """Return the note of a fine-tuning whose best validation loss came before its first step."""
        measured, seeds = self.measured(stage, enabled), self.params.finetune.seeds
        start = self.params.finetune.start_in_words
        kept = sum(measured.get(f"best_step_seed_{seed}") == 0 for seed in seeds)
        if not kept:
            return ""
        return f"early stopping kept step 0: {start}" + (
            f" ({kept} of {len(seeds)} seeds)" if kept < len(seeds) else ""
        )

    def retrieved(self, columns: list[Place]) -> Iterator[Cell]:
        """Yield Table 2: retrieval in both directions, by both definitions of average precision."""
        evaluate = self.params.evaluate
        metrics = dict.fromkeys(metric for _, metric, _ in columns)
        measured = [(name, metric, "") for name in evaluate.retrieve for metric in metrics]
        for place, name in self.places(columns, measured, self.benchmarks):
            if not name:
                yield self.absent(place, benchmark=True)
                continue
            direction = {"itr": "i2t", "tir": "t2i"}[place[1][:3]]
            k = place[1].split("@")[1]
            of_benchmark = benchmark_note(place[0], self.params.datasets[name])
            note = of_benchmark if name in self.benchmarks else "test split"
            for model in self.params.trained.itc:
                stage, enabled = f"retrieve@{model}-{name}", name in evaluate.retrieve
                for matched, again in (("", ""), ("itm_", ", re-ranked by ITM")):
                    for kind, definition in AVERAGE_PRECISION.items():
                        metric = f"{matched}{direction}_{kind}_at_{k}"
                        if not matched or metric in self.measured(stage, enabled):
                            method = f"{model}{again}, {definition}"
                            yield self.cell(place, method, name, stage, metric, enabled, note=note)

    def zero_shot(self, columns: list[Place]) -> Iterator[Cell]:
        """Yield Table 3: zero-shot accuracy."""
        evaluate = self.params.evaluate
        multi_label = self.params.zero_shot.multi_label
        measured = [
            (name, "macro_auroc" if name in multi_label else "accuracy", "") for name in evaluate.zero_shot
        ]
        for place, name in self.places(columns, measured, self.zero_shot_benchmarks):
            if not name:
                yield self.absent(place, benchmark=True)
                continue
            on_benchmark = name in self.zero_shot_benchmarks
            of_benchmark = benchmark_note(place[0], self.params.datasets[name])
            kind = "labels" if name in multi_label else "classes"
            other = f"test split, {kind} of {self.params.zero_shot.prompts}"
            note, metric = of_benchmark if on_benchmark else other, place[1]
            for model in self.params.trained.itc:
                stage, enabled = f"zero_shot@{model}-{name}", name in evaluate.zero_shot
                seeds = len(self.params.zero_shot.seeds)
                yield self.cell(place, model, name, stage, metric, enabled, note=note, seeds=seeds)
                again = f"itm_{metric}"
                if again in self.measured(stage, enabled):
                    method = f"{model}, re-scored by ITM"
                    yield self.cell(place, method, name, stage, again, enabled, note=note, seeds=seeds)

    def reports(self, columns: list[Place]) -> Iterator[Cell]:
        """Yield Table 4: model and baselines under both protocols; other data sets with reports follow MIMIC's."""
        evaluate = self.params.evaluate
        measured = [*dict.fromkeys([*self.datasets("mimic_cxr_test"), *evaluate.write_reports])]
        metrics = list(dict.fromkeys(metric for _, metric, _ in columns))
        if not measured:
            yield from (self.absent(place) for place in columns)
        systems = {"": "{}", "nearest_": "nearest training report ({})", "constant_": "best constant report"}
        models = self.params.trained.itg or ("MedUnifier",)
        for name in measured:
            dataset = "mimic_cxr_test" if name in self.datasets("mimic_cxr_test") else name
            for model in models:
                stage, enabled = f"write_reports@{model}-{name}", name in evaluate.write_reports
                protocols = ["", "release_"]
                if "r2gen_bleu_1" in self.measured(stage, enabled):
                    protocols.append("r2gen_")
                for protocol in protocols:
                    for system, label in systems.items():
                        if system == "constant_" and model != models[0]:
                            continue  # the same for every model
                        method = f"{label.format(model)}, protocol {protocol.rstrip('_') or 'report'}"
                        for metric in metrics:
                            yield self.cell(
                                (dataset, metric, ""),
                                method,
                                name,
                                stage,
                                f"{system}{protocol}{metric}",
                                enabled,
                            )

    def images(self) -> Iterator[Cell]:
        """Yield Table 5: FID where Inception weights are given, and the distance in the frozen encoder's features."""
        name = self.params.pretrain.dataset
        dataset = "mimic_cxr" if name in self.datasets("mimic_cxr") else name
        for model in self.params.trained.tig:
            stage = f"score_images@{model}"
            for metric, label in (("fid", "fid"), ("fd_vit", "fd_vit")):
                for setting in ("validation", "reconstruction", "synthetic"):
                    if setting == "validation" and model != self.params.trained.tig[0]:
                        continue  # validation images: the same for every model
                    method = "Validation set" if setting == "validation" else model
                    note = reconstruction_note(self.params) if setting == "reconstruction" else ""
                    place = (dataset, label, setting)
                    yield self.cell(place, method, name, stage, f"{metric}_{setting}", True, note=note)

    def ablation(self, table: str, columns: list[Place]) -> Iterator[Cell]:
        """Yield Tables 6 and A1: each variant of ours, and an empty row for each of the paper's not trained here."""
        own: dict[str, list[str]] = {}
        for name, weights in self.params.variants.items():
            own.setdefault(objectives_of(weights, table == "A1"), []).append(name)
        settings = list(dict.fromkeys([*(setting for _, _, setting in columns), *own]))
        for setting in settings:
            for dataset, metric in dict.fromkeys((d, m) for d, m, _ in columns):
                place = (dataset, metric, setting)
                if setting not in own:
                    reason = "no variant with these objectives in params.yaml (preset ablation has them)"
                    yield Cell(dataset, setting, metric, "MedUnifier", "ours", "", None, note=reason)
                for variant in own.get(setting, ()):
                    yield from self.ablated(place, variant)

    def ablated(self, place: Place, variant: str) -> Iterator[Cell]:
        """Yield what one variant reaches in a column of Tables 6 and A1."""
        params, evaluate = self.params, self.params.evaluate
        dataset, metric, _ = place
        names, embeds = self.datasets(dataset), variant in params.trained.itc
        if metric.startswith("itr_map@"):
            names = [name for name in names if name in self.benchmarks]
            for name in names:
                stage, enabled = f"retrieve@{variant}-{name}", embeds and name in evaluate.retrieve
                for kind, definition in AVERAGE_PRECISION.items():
                    found = f"i2t_{kind}_at_{metric.split('@')[1]}"
                    note = benchmark_note(dataset, params.datasets[name])
                    yield self.cell(place, f"{variant}, {definition}", name, stage, found, enabled, note=note)
        elif metric == "zero_shot_accuracy":
            names = [name for name in names if name in self.zero_shot_benchmarks]
            for name in names:
                stage, enabled = f"zero_shot@{variant}-{name}", embeds and name in evaluate.zero_shot
                note, seeds = benchmark_note(dataset, params.datasets[name]), len(params.zero_shot.seeds)
                yield self.cell(place, variant, name, stage, "accuracy", enabled, note=note, seeds=seeds)
        else:
            for name in names:
                stage, found = f"finetune@{variant}-{name}-100", metric.removeprefix("finetune_")
                enabled = (
                    variant in evaluate.finetune_models
                    and name in evaluate.finetune
                    and 100 in evaluate.finetune_percents
                )
                note = joined(list_note(params.datasets[name]), self.untrained(stage, enabled))
                seeds = len(params.finetune.seeds)
                yield self.cell(place, variant, name, stage, found, enabled, note=note, seeds=seeds)
        if not names:
            yield self.absent(place, benchmark=not metric.startswith("finetune_"))
