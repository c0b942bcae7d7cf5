"""Zero-shot classification: similarity of images to the prompts of each class."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from medunifier.evaluation.class_prompts import PromptFile
from medunifier.evaluation.trained_model import EvaluatedModel
from medunifier.runtime.errors import InputError

TEMPERATURE = 0.07  # turns similarities into shares; the most similar class is the same at any temperature


@dataclass(frozen=True)
class ClassShares:
    """Shares of the classes for n images, one array [n, C] under each seed.

    Attributes:
        similarity: From image-text similarity.
        matching: From the matching head; empty without it.
    """

    similarity: list[np.ndarray]
    matching: list[np.ndarray]

    def by_prefix(self) -> dict[str, list[np.ndarray]]:
        """Return what there is, by the prefix of its metrics: `` and `itm_`."""
        return {prefix: found for prefix, found in (("", self.similarity), ("itm_", self.matching)) if found}


def check_prompts(model: EvaluatedModel, file: PromptFile, log: Callable[[str], None]) -> None:
    """Log each prompt of which the model knows no word, so that it says nothing of its class.

    Raises:
        InputError: It knows no word of any prompt.
    """
    problems = []
    prompts = [(name, text) for name, one in file.classes.items() for text in one.prompts]
    for name, text in prompts:
        try:
            model.check_prompt(text, f"{file.path}: classes.{name}.prompts")
        except InputError as error:
            log(str(error))
            problems.append(error)
    if len(problems) == len(prompts):
        raise problems[0]


def class_shares(
    model: EvaluatedModel,
    ids: Sequence[str],
    prompts_by_seed: Sequence[Sequence[Sequence[str]]],
    aggregation: str,
    *,
    matching: bool,
) -> ClassShares:
    """Compute the shares of the classes for images, under each seed.

    Args:
        model: Gives the embeddings.
        ids: n images.
        prompts_by_seed: Under each seed, the prompts of each class.
        aggregation: See `class_scores`.
        matching: Whether the matching head also scores the most similar prompt of each class.
    """
    images = model.embed_images(ids)
    found = ClassShares([], [])
    for prompts in prompts_by_seed:
        scores, best = class_scores(model, images, prompts, aggregation)
        found.similarity.append(shares(scores))
        if matching:
            found.matching.append(matching_shares(model, ids, prompts, best))
    return found


def class_scores(
    model: EvaluatedModel, images: np.ndarray, prompts: Sequence[Sequence[str]], aggregation: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the similarity of images to classes, float32 [n, C], and each class's most similar prompt, [n, C].

    Args:
        model: Embeds the prompts.
        images: Embeddings [n, Q, P]; the similarity to a text is the largest over the Q queries.
        prompts: The prompts of each class.
        aggregation: Over the prompts of a class, `max` or `mean` of similarities, or `ensemble`: similarity to the
            mean of their embeddings (Radford et al. 2021, section 3.1.4).
    """
    scores, best = [], []
    for texts in prompts:
        embedded = model.embed_texts(texts)  # (prompts, P)
        each = similarity(images, embedded)
        best.append(each.argmax(1))
        if aggregation == "ensemble":
            mean = embedded.mean(0, keepdims=True)
            scores.append(similarity(images, mean / np.linalg.norm(mean))[:, 0])
        else:
            scores.append(each.max(1) if aggregation == "max" else each.mean(1))
    return np.stack(scores, axis=1), np.stack(best, axis=1)


def similarity(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """Return the similarity [n, m] of images [n, Q, P] to texts [m, P]: the largest over the queries."""
    return (images @ texts.T).max(1)


def shares(scores: np.ndarray) -> np.ndarray:
    """Turn similarities [n, C] into shares that sum to 1 in each row."""
    raised = np.exp((scores - scores.max(1, keepdims=True)) / TEMPERATURE)
    return raised / raised.sum(1, keepdims=True)


def matching_shares(
    model: EvaluatedModel, ids: Sequence[str], prompts: Sequence[Sequence[str]], best: np.ndarray
) -> np.ndarray:
    """Score each class's most similar prompt with the matching head, as shares [n, C].

    Args:
        model: Has a trained matching head.
        ids: n images.
        prompts: The prompts of each class.
        best: Number of each class's most similar prompt, [n, C].
    """
    columns = [
        model.match(ids, [texts[int(number)] for number in best[:, i]]) for i, texts in enumerate(prompts)
    ]
    odds = np.stack(columns, axis=1)
    return shares(odds * TEMPERATURE)
