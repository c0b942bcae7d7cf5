"""Stage pretrain: the four-loss pre-training of one variant (paper section 3, recipe of section 4.1)."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from medunifier.data.tokenizer import load_tokenizer
from medunifier.huggingface.model_folder import save_model
from medunifier.huggingface.modeling_medunifier import MedUnifierModel
from medunifier.huggingface.new_model import build_model
from medunifier.metrics.matching import constant_accuracy, matching_warning
from medunifier.model.distributed import rank
from medunifier.pretraining.gradient_cache import join_micro_batches
from medunifier.pretraining.pairs import Batch, Pairs
from medunifier.pretraining.validation import validation_losses
from medunifier.runtime.files import write_curves
from medunifier.runtime.params import Params
from medunifier.stage import run_stage
from medunifier.tracking import LocalRun
from medunifier.training.batch_order import mix
from medunifier.training.checkpoints import Checkpoints, state_folder
from medunifier.training.history import History
from medunifier.training.loop import Trainer
from medunifier.training.recipe import Recipe

NORM_START_PAIRS = 64  # pairs whose features standardise the norm after the frozen encoder


def pretrain(params: Params, run: LocalRun, variant: str) -> None:
    """Train the Q-Former and the image generator with the objectives and weights of VARIANT."""
    p, weights, seed = params.pretrain, params.variants[variant].weights, params.training_seed(variant)
    tokenizer = load_tokenizer(Path("models/tokenizer"))
    with_images = weights["tig"] > 0
    training = Pairs(params, tokenizer, "train", with_images)
    validation = Pairs(params, tokenizer, "validate", with_images)
    run.log(f"{len(training)} pairs to train on, {len(validation)} to validate on")

    torch.manual_seed(mix(seed, 0))
    model = build_model(params, tokenizer, training.features, run.log)
    if params.model.vision_norm_start == "data":
        first = training.load(np.arange(min(NORM_START_PAIRS, len(training))))
        model.standardise_vision(training.model_inputs(model, first)["features"])

    def loss(
        wrapped: nn.Module, batch: Batch, generator: torch.Generator
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        batch = training.model_inputs(model, batch, generator)
        losses = wrapped(**batch, weights=weights, generator=generator)
        return losses.total, losses.parts | watched_values(model, weights)

    def validate(model: MedUnifierModel) -> dict[str, float]:
        losses = validation_losses(model, validation, p.batch_size, weights, seed, p.accumulate)
        total = sum(weight * losses[name] for name, weight in weights.items() if weight > 0)
        return losses | ({"loss": total} if p.keep == "best" else {})

    def join(batches: list[Batch], seed: Callable[[int], torch.Generator]) -> list[Batch]:
        inputs = [training.model_inputs(model, batch, seed(i)) for i, batch in enumerate(batches)]
        return join_micro_batches(model, inputs, weights, seed)

    history = Trainer(
        model,
        Recipe.from_params(p, seed=seed),
        items=len(training),
        load=training.load,
        loss=loss,
        join=join,
        validate=validate,
        tracker=run,
        checkpoints=Checkpoints(state_folder(run.name, run.signature)),
        blocks=training.shards() if p.order == "by_shard" else None,
    ).run()
    if rank() > 0:
        return  # the first process writes the results

    if weights["itm"] > 0 and (warning := matching_warning(history.first_and_last("validate")[1])):
        run.log(warning)
    values = {"train_pairs": len(training), "validate_pairs": len(validation)}
    values |= final_values(model, history, weights)
    if p.keep == "best":
        values["best_step"] = history.lowest("validate", "loss")["step"]
    curves = Path("results/curves") / f"{run.name}.csv"
    write_curves(history.rows, curves)
    save_model(Path("models") / variant, model, tokenizer, params, variant, seed, values)
    run.metrics(values)
    run.artifact(curves)


def watched_values(model: MedUnifierModel, weights: dict[str, float]) -> dict[str, torch.Tensor]:
    """Return what the training curves show beside the losses: temperature, and the use of both codebooks."""
    values = {"temperature": model.temperature.detach()}
    if weights["tig"] > 0:
        top, bottom = model.image_generator.top_quantizer, model.image_generator.bottom_quantizer
        values["perplexity_top"] = top.perplexity()
        values["perplexity_bottom"] = bottom.perplexity()
        values["revived_top"] = top.revived.float()  # dead codes moved since the start
        values["revived_bottom"] = bottom.revived.float()
    return values


def final_values(model: MedUnifierModel, history: History, weights: dict[str, float]) -> dict[str, float]:
    """Return the stage's metrics: first and last validation losses, use of the codebooks, size."""
    first, last = history.first_and_last("validate")
    values: dict[str, float] = {}
    for name in (n for n in weights if n in last):
        values |= {f"val_{name}_first": first[name], f"val_{name}_last": last[name]}
    if weights["itm"] > 0:
        values |= {
            "val_itm_accuracy_last": last["itm_accuracy"],
            "itm_constant_accuracy": constant_accuracy(last),
        }
    values |= {name: last[name] for name in last if name.startswith("perplexity")}
    if weights["tig"] > 0:
        values["revived_top"] = int(model.image_generator.top_quantizer.revived)
        values["revived_bottom"] = int(model.image_generator.bottom_quantizer.revived)
    return values | {
        "temperature": float(model.temperature.detach()),
        "parameters": sum(x.numel() for x in model.parameters()),
    }


if __name__ == "__main__":
    run_stage(pretrain, arguments=("variant",))
