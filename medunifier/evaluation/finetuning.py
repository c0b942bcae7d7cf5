"""Fine-tuning for image classification: linear probe and classifier on labelled images."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from medunifier.evaluation.classifier import (
    Classifier,
    QueryEncoder,
    cross_entropy,
    fit_probe,
    probabilities,
)
from medunifier.evaluation.items import BATCH, batches
from medunifier.evaluation.label_tasks import Task
from medunifier.evaluation.trained_model import EvaluatedModel
from medunifier.runtime.params import Finetune
from medunifier.tracking import LocalRun
from medunifier.training.checkpoints import Checkpoints, state_folder
from medunifier.training.loop import Batch, Trainer
from medunifier.training.recipe import Recipe


def encode(network: nn.Module, model: EvaluatedModel, ids: Sequence[str]) -> np.ndarray:
    """Return the output of `network`, an image encoder or a classifier, for images: float32 [n, outputs]."""
    with torch.inference_mode():
        return np.concatenate(
            [
                network(model.read_images(ids[part]).to(model.device)).float().cpu().numpy()
                for part in batches(len(ids), BATCH, "encode images")
            ]
        )


def fit_linear_probe(
    vectors: Mapping[str, np.ndarray], parts: Mapping[str, Task], outputs: int
) -> tuple[nn.Linear, dict[str, np.ndarray]]:
    """Fit a linear probe on frozen vectors; return it and its probabilities [n, classes or labels] by split.

    Args:
        vectors: Vectors [n, W] by split, `train` and `validate` among them.
        parts: The images of these splits.
        outputs: 1 for a binary task, the number of classes or labels otherwise.
    """
    many = parts["train"].many_labels
    probe = fit_probe(
        vectors["train"], parts["train"].target, vectors["validate"], parts["validate"].target, outputs
    )
    with torch.inference_mode():
        found = {
            name: probabilities(probe(torch.from_numpy(x)), many_labels=many).numpy()
            for name, x in vectors.items()
        }
    return probe, found


def fit_classifier(
    model: EvaluatedModel,
    parts: Mapping[str, Task],
    probe: nn.Linear,
    settings: Finetune,
    seed: int,
    run: LocalRun,
) -> tuple[dict[str, np.ndarray], int]:
    """Fine-tune a classifier from the pre-trained weights, which stay as they are.

    Args:
        model: Gives the image encoder and the images.
        parts: Images by split: `train`, `validate`, `test`.
        probe: Linear probe; the start of the classifier's head where `settings.head_start` says so.
        settings: Section `finetune` of params.yaml.
        seed: Of the order of images and of dropout.
        run: Receives the curves and the best step.

    Returns:
        The classifier's probabilities [n, classes or labels] on `validate` and `test`, and the step whose weights it has:
        that of the lowest validation loss, 0 if none was lower than at the start.
    """
    net = Classifier(copy.deepcopy(model.image_encoder()), probe.out_features, settings.head)
    net.start_head(settings.head_start, probe)
    history = _trainer(net, model, parts["train"], parts["validate"], settings, seed, run).run()
    lowest = history.lowest("validate", "loss")
    best = lowest["step"]
    run.metrics({f"best_step_seed_{seed}": best, f"val_loss_seed_{seed}": lowest["loss"]})
    if best == 0:
        run.log(
            f"seed {seed}: no step lowers the validation loss: what counts as fine-tuned is {settings.start_in_words}"
        )
    net.eval()
    many = parts["train"].many_labels
    scores = {
        name: probabilities(torch.from_numpy(encode(net, model, parts[name].ids)), many_labels=many).numpy()
        for name in ("validate", "test")
    }
    return scores, best


def _trainer(
    net: Classifier,
    model: EvaluatedModel,
    training: Task,
    held_out: Task,
    settings: Finetune,
    seed: int,
    run: LocalRun,
) -> Trainer:
    def load(rows: np.ndarray) -> Batch:
        return {
            "images": model.read_images([training.ids[row] for row in rows]),
            "target": torch.from_numpy(training.target[rows]),
        }

    def loss(net: nn.Module, batch: Batch, _: torch.Generator) -> tuple[torch.Tensor, Batch]:
        return cross_entropy(net(batch["images"]), batch["target"]), {}

    def validate(net: Any) -> dict[str, float]:
        logits = torch.from_numpy(encode(net, model, held_out.ids))
        return {"loss": cross_entropy(logits, torch.from_numpy(held_out.target)).item()}

    return Trainer(
        net,
        Recipe.from_params(
            settings,
            batch_size=min(settings.batch_size, len(training)),
            learning_rate=settings.head_learning_rate,
            seed=seed,
            **_length(settings, len(training)),
            strict=isinstance(net.encoder, QueryEncoder),
        ),
        items=len(training),
        load=load,
        loss=loss,
        validate=validate,
        tracker=run,
        checkpoints=Checkpoints(state_folder(run.name, run.signature) / f"seed-{seed}"),
        groups=net.parameter_groups(
            settings.learning_rate,
            settings.head_learning_rate,
            settings.weight_decay,
            settings.decay_all,
        ),
    )


def _length(settings: Finetune, items: int) -> dict[str, int]:
    """Return steps, validations and patience: of the settings, or of `settings.epochs` passes, all of them done."""
    every, more = settings.validate_every, {}
    if settings.epochs is not None:
        every = max(1, items // settings.batch_size)
        more = {"steps": settings.epochs * every, "patience": settings.epochs}
    return {"validate_every": every, "checkpoint_every": every} | more
