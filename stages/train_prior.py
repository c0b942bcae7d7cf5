"""Stage train_prior: PixelSNAIL over the codes of one level (paper section 4.2, TIG)."""

from pathlib import Path

import torch

from medunifier.evaluation.loading import load_trained
from medunifier.metrics.bootstrap import BootstrapOptions
from medunifier.model.distributed import rank
from medunifier.runtime.files import write_curves
from medunifier.runtime.params import Params
from medunifier.stage import run_stage
from medunifier.synthesis.prior_config import prior_folder
from medunifier.synthesis.prior_training import (
    CodesOfSplit,
    PriorTexts,
    bits_per_code,
    build_prior,
    code_loss,
    normalise_weights,
    plain_weights,
    prior_metrics,
    save_prior,
)
from medunifier.tracking import Run
from medunifier.training.batch_order import mix
from medunifier.training.checkpoints import Checkpoints, state_folder
from medunifier.training.loop import Trainer
from medunifier.training.recipe import Recipe


def train_prior(params: Params, run: Run, variant: str, level: str) -> None:
    """Learn the distribution of the codes that VARIANT gives the images of the pre-training data set.

    LEVEL is top or bottom. The bottom level is conditioned on the top codes, and both levels, with
    `prior.condition: text`, on the report. `bits_per_code` is the mean negative log2 probability of a validation
    code. `unigram_bits`, the entropy of single training codes, is its baseline.
    """
    p, sizes, dataset = params.prior, getattr(params.prior, level), params.pretrain.dataset
    trained = load_trained(variant)
    texts = PriorTexts(trained, p.condition_dropout) if p.condition == "text" else None
    training = CodesOfSplit(variant, dataset, "train", level, texts)
    validation = CodesOfSplit(variant, dataset, "validate", level, texts)
    run.log(f"{len(training)} images to train on, {len(validation)} to validate on")

    torch.manual_seed(mix(params.seed, 0))
    prior = build_prior(params, level, trained)
    if p.weight_norm:
        normalise_weights(prior)
    history = Trainer(
        prior,
        Recipe.from_params(p.training, sizes, seed=params.seed),
        items=len(training),
        load=training.load,
        loss=lambda model, batch, _: (code_loss(model, batch, texts), {}),
        validate=lambda model: {"bits_per_code": float(bits_per_code(model, validation, texts).mean())},
        tracker=run,
        checkpoints=Checkpoints(state_folder(run.name, run.signature)),
    ).run()
    if rank() > 0:
        return  # the first process writes the results

    plain_weights(prior)
    options = BootstrapOptions(p.bootstrap, params.seed, validation.patients)
    values = prior_metrics(prior.eval(), training, validation, texts, options)
    run.metrics(values)
    save_prior(prior, prior_folder(variant, level), params, variant, values)
    curves = Path("results/curves") / f"{run.name}.csv"
    write_curves(history.rows, curves)
    run.artifact(curves)


if __name__ == "__main__":
    run_stage(train_prior, arguments=("variant", "level"))
