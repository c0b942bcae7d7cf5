"""Zero-shot scores of labels that do not exclude each other: each label's prompts against their negation."""

from collections.abc import Mapping, Sequence

import numpy as np

from medunifier.evaluation.class_prompts import PromptFile
from medunifier.evaluation.trained_model import EvaluatedModel
from medunifier.evaluation.zero_shot import TEMPERATURE, class_scores
from medunifier.runtime.errors import InputError

Prompts = Mapping[str, tuple[list[str], list[str]]]  # label -> (its prompts, those of its absence)
NEGATION = "no_"  # before a label: the class of the prompt file that says that it is absent


def draw_prompts(file: PromptFile, labels: Sequence[str], number: int | None, seed: int) -> Prompts:
    """Draw the prompts of labels, and those of their absence.

    The latter are those of the file's class `no_LABEL`, or else each prompt with the word "no" (Tiu et al. 2022,
    CheXzero).

    Args:
        file: Prompt file.
        labels: Labels; each is a class of the file.
        number: Prompts of each; None: all.
        seed: Seed of the draw.

    Raises:
        InputError: If the file has no prompts for a label.
    """
    if missing := [label for label in labels if label not in file.classes]:
        raise InputError(
            f"{file.path}: no prompts for {', '.join(missing)}, labels of zero_shot.multi_label; add them under "
            f"`classes`, which has {', '.join(file.classes)}"
        )
    found = {}
    for label in labels:
        positive = file.classes[label].draw(number, seed)
        absence = file.classes.get(NEGATION + label)
        negative = absence.draw(number, seed) if absence else [negated(text) for text in positive]
        found[label] = (positive, negative)
    return found


def negated(text: str) -> str:
    """Return what a prompt says is there as absent: "no edema", "There is no edema."."""
    return text.replace("There is ", "There is no ", 1) if "There is " in text else f"no {text}"


def label_scores(
    model: EvaluatedModel, ids: Sequence[str], prompts: Prompts, aggregation: str, *, matching: bool
) -> dict[str, np.ndarray]:
    """Score each label for each image, in [0, 1].

    Args:
        model: Gives the embeddings.
        ids: n images.
        prompts: The prompts of the L labels.
        aggregation: See `class_scores`.
        matching: Whether the matching head also scores the most similar prompt of each label.

    Returns:
        [n, L] by the prefix of the metrics: `` from similarities, the share of the label's prompts against their
        negation; `itm_` from the matching head.
    """
    images = model.embed_images(ids)
    positive, best = class_scores(model, images, [texts for texts, _ in prompts.values()], aggregation)
    negative, _ = class_scores(model, images, [texts for _, texts in prompts.values()], aggregation)
    found = {"": logistic((positive - negative) / TEMPERATURE)}
    if matching:
        columns = [
            model.match(ids, [texts[int(number)] for number in best[:, i]])
            for i, (texts, _) in enumerate(prompts.values())
        ]
        found["itm_"] = logistic(np.stack(columns, axis=1))
    return found


def logistic(odds: np.ndarray) -> np.ndarray:
    """Turn log odds into probabilities, without overflow."""
    return np.exp(-np.logaddexp(0.0, -odds))
