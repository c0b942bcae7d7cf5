"""The stage write_reports in a project of `trained_project`, with a model that writes what a test wants."""

import json

from medunifier.evaluation.loading import load_trained
from medunifier.tracking import LocalRun
from stages.write_reports import write_reports
from tests.support.trained_project import DATASET, VARIANT, with_answers

PREDICTIONS = f"results/reports/{VARIANT}-{DATASET}/predictions.parquet"


def run_write_reports(params) -> dict[str, float]:
    run = LocalRun(f"write_reports@{VARIANT}-{DATASET}", "results/metrics")
    write_reports(params, run, VARIANT, DATASET)
    return json.loads(run.metrics_path.read_text())


def writes(text_of):
    """A stand-in for `load_trained`: a model that writes `text_of(number)` about an image."""

    def load(variant, dataset):
        trained = load_trained(variant, dataset)
        embed = {"encode_image": trained.model.encode_image, "encode_text": trained.model.encode_text}
        answer = with_answers(
            trained,
            generate=lambda numbers: trained.tokens([text_of(n) for n in numbers])[0][:, 1:],
        )
        for name, function in embed.items():
            setattr(answer.model, name, function)
        return answer

    return load
