"""Save a trained model as a folder in transformers' layout."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from medunifier.huggingface.model_card import write_model_card
from medunifier.huggingface.modeling_medunifier import MedUnifierModel
from medunifier.huggingface.processing_medunifier import MedUnifierImageProcessor, MedUnifierProcessor
from medunifier.runtime.params import Params


def save_model(
    folder: Path,
    model: MedUnifierModel,
    tokenizer: PreTrainedTokenizerBase,
    params: Params,
    variant: str,
    seed: int,
    values: Mapping[str, float],
) -> None:
    """Replace a folder by model, tokenizer, image processor and model card.

    Args:
        folder: models/VARIANT.
        model: trained.
        tokenizer: of its reports.
        params: of the training.
        variant: its name in params.yaml.
        seed: of the training.
        values: metrics for the model card.
    """
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    images = MedUnifierImageProcessor(params.images.size, params.images.aspect, params.images.bits)
    MedUnifierProcessor(images, tokenizer, params.model.max_text_tokens).save_pretrained(folder)
    p = params.pretrain
    write_model_card(
        folder,
        title=f"MedUnifier, variant `{variant}`",
        tags=("chest-x-ray", "vision-language", "medunifier"),
        description=f"Pre-trained on `{p.dataset}` (seed {seed}): {p.steps} steps of {p.batch_size} pairs, "
        f"{p.precision}. Objectives and weights: {params.variants[variant].weights}. "
        f"Reads the features of the frozen encoder `{params.vision.source}`.",
        values=values,
    )
