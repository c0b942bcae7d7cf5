"""results/headline/VARIANT.json: few values a variant, which `dvc metrics show results/headline` prints as one table."""

from collections.abc import Iterator
from pathlib import Path

from medunifier.report.results_files import read_metrics
from medunifier.runtime.files import write_json
from medunifier.runtime.params import Params


def headline_metrics(params: Params, variant: str) -> dict[str, float]:
    """Return the values by which variants (or encoders) are compared at a glance, in % but for the PSNR (dB).

    All are of held-out items of the data set of the pre-training: image-to-text mAP@1, zero-shot accuracy, BLEU-4,
    micro F1 of findings and share of distinct ones of the generated reports, PSNR of the reconstructions, prompt
    fidelity. What was not measured is left out.

    Raises:
        InputError: the metrics of an evaluation that params.yaml enables are missing.
    """
    return {
        name: values[metric]
        for stage, metric, name in _sources(params, variant)
        if (values := read_metrics(stage)).get(metric) is not None
    }


def write_headline(params: Params, folder: Path) -> None:
    """Write NAME.json for every variant and every encoder that is compared with them into `folder`."""
    for variant in dict.fromkeys([*params.variants, *params.trained.itc]):
        write_json(folder / f"{variant}.json", headline_metrics(params, variant))


def _sources(params: Params, variant: str) -> Iterator[tuple[str, str, str]]:
    """Yield stage, its metric, and the metric's name in the headline."""
    trained, evaluate, dataset = params.trained, params.evaluate, params.pretrain.dataset
    if variant in trained.itc and dataset in evaluate.retrieve:
        yield f"retrieve@{variant}-{dataset}", "i2t_map_at_1", "i2t_map_at_1"
    if variant in trained.itc and dataset in evaluate.zero_shot:
        yield f"zero_shot@{variant}-{dataset}", "accuracy", "zero_shot_accuracy"
    if variant in trained.itg and dataset in evaluate.write_reports:
        yield f"write_reports@{variant}-{dataset}", "bleu_4", "bleu_4"
        yield f"write_reports@{variant}-{dataset}", "findings_f1_micro", "findings_f1_micro"
        yield f"write_reports@{variant}-{dataset}", "distinct_share", "distinct_share"
    if variant in trained.tig:
        yield f"score_images@{variant}", "psnr_reconstruction", "psnr_reconstruction"
        yield f"score_images@{variant}", "prompt_fidelity", "prompt_fidelity"
