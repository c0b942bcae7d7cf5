"""A finding classifier: one linear classifier per finding, trained on real images, applied to generated ones.

Its input is a coarse thumbnail with mean 0 and variance 1. It is too coarse for a smooth generated image to differ
from a sharp real one, and fine enough for a phantom's findings. Its quality has to be measured on real images and
reported beside its results on generated ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression

MIN_IMAGES_PER_CLASS = 10  # training images that a finding needs with and without it
INVERSE_PENALTY = 0.03  # on squared weights; of 0.003 to 0.3 the best on the demo's validation images


@dataclass(frozen=True)
class FindingClassifier:
    """Linear classifiers of C findings on inputs of D values.

    Attributes:
        names: the findings, C.
        weights: float [D, C].
        offsets: float [C].
    """

    names: tuple[str, ...]
    weights: np.ndarray
    offsets: np.ndarray

    def evidence(self, inputs: np.ndarray) -> np.ndarray:
        """Return log p(image | finding) - log p(image | no finding), [n, C], for `standardize`d inputs [n, D].

        The prevalence of a finding in the training images does not enter.
        """
        return inputs @ self.weights + self.offsets

    def columns(self, names: Sequence[str]) -> list[int]:
        """Return the columns of `evidence` for these findings."""
        return [self.names.index(name) for name in names]


def standardize(thumbnails: np.ndarray) -> np.ndarray:
    """Scale each thumbnail [n, D] to mean 0 and variance 1, so that exposure has no influence."""
    centred = thumbnails - thumbnails.mean(1, keepdims=True)
    return centred / (centred.std(1, keepdims=True) + 1e-6)


def fit_finding_classifier(inputs: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> FindingClassifier:
    """Train a finding classifier on real images.

    Args:
        inputs: `standardize`d thumbnails, [n, D].
        labels: int [n, findings]: 1 present, 0 absent, -1 unknown (such an image does not train that finding).
        names: of the findings. Those with fewer than `MIN_IMAGES_PER_CLASS` images in a class are left out.
    """
    mean, scale = inputs.mean(0), inputs.std(0) + 1e-6
    scaled = (inputs - mean) / scale
    kept, weights, offsets = [], [], []
    for name, column in zip(names, np.asarray(labels).T, strict=True):
        known = column >= 0
        present = int((column == 1).sum())
        if min(present, int(known.sum()) - present) < MIN_IMAGES_PER_CLASS:
            continue
        model = LogisticRegression(C=INVERSE_PENALTY, max_iter=500).fit(scaled[known], column[known])
        prior = np.log(present / (known.sum() - present))
        kept.append(name)
        weights.append(model.coef_[0] / scale)
        offsets.append(model.intercept_[0] - mean @ weights[-1] - prior)
    if not kept:
        return FindingClassifier((), np.zeros((inputs.shape[1], 0)), np.zeros(0))
    return FindingClassifier(tuple(kept), np.stack(weights, axis=1), np.array(offsets))


def chance_level(expected: np.ndarray, answers: np.ndarray) -> float:
    """Return the accuracy of answers that are independent of the expected classes.

    It is the sum over classes of the product of their shares: 1 / classes where every class is expected equally
    often.

    Args:
        expected: classes, int [n].
        answers: classes, int [n].
    """
    size = int(max(expected.max(), answers.max())) + 1
    shares = [np.bincount(side, minlength=size) / len(side) for side in (expected, answers)]
    return float(shares[0] @ shares[1])
