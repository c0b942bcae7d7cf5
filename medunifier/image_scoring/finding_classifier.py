"""A judge of findings: one linear classifier for each, trained on real images, asked about drawn ones.

It looks at `thumbnails`, each brought to mean 0 and variance 1: coarse enough not to tell a smooth drawn image from a
sharp real one, fine enough for a phantom's findings. How good it is must be measured on real images and told
beside whatever it says of drawn ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FEWEST = 10  # training images that a finding needs on either side, present and absent
STRENGTH = 0.03  # inverse of the penalty on squared weights; of 0.003 to 0.3 the best on the demo's validation images


@dataclass(frozen=True)
class Judge:
    """Linear classifiers of the findings `names`, C of them, on views of D values."""

    names: tuple[str, ...]
    weights: np.ndarray  # [D, C]
    offsets: np.ndarray  # [C]

    def evidence(self, views: np.ndarray) -> np.ndarray:
        """Log p(view | finding) - log p(view | no finding), [n, C]: how much more likely the image makes the
        finding. How common a finding is in the training images does not enter.
        """
        return views @ self.weights + self.offsets

    def columns(self, names: Sequence[str]) -> list[int]:
        """The columns of `evidence` for these findings."""
        return [self.names.index(name) for name in names]


def judge_views(thumbnails: np.ndarray) -> np.ndarray:
    """Thumbnails [n, D] with mean 0 and variance 1 each, so that exposure does not count."""
    centred = thumbnails - thumbnails.mean(1, keepdims=True)
    return centred / (centred.std(1, keepdims=True) + 1e-6)


def train_judge(views: np.ndarray, truth: np.ndarray, names: Sequence[str]) -> Judge:
    """A judge trained on real images.

    Args:
        views: `judge_views` of them, [n, D].
        truth: int [n, findings]: 1 present, 0 absent, -1 unknown (such an image does not train that finding).
        names: of the findings; those with fewer than `FEWEST` images on either side are left out.
    """
    from sklearn.linear_model import LogisticRegression

    mean, scale = views.mean(0), views.std(0) + 1e-6
    standard = (views - mean) / scale
    kept, weights, offsets = [], [], []
    for name, column in zip(names, np.asarray(truth).T, strict=True):
        known = column >= 0
        present = int((column == 1).sum())
        if min(present, int(known.sum()) - present) < FEWEST:
            continue
        model = LogisticRegression(C=STRENGTH, max_iter=500).fit(standard[known], column[known])
        prior = np.log(present / (known.sum() - present))
        kept.append(name)
        weights.append(model.coef_[0] / scale)
        offsets.append(model.intercept_[0] - mean @ weights[-1] - prior)
    if not kept:
        return Judge((), np.zeros((views.shape[1], 0)), np.zeros(0))
    return Judge(tuple(kept), np.stack(weights, axis=1), np.array(offsets))


def chance(asked: np.ndarray, answered: np.ndarray) -> float:
    """How often `answered` would be right if it had nothing to do with `asked`: the sum over classes of the product
    of their shares. 1 / classes where each class is asked for equally often.

    Args:
        asked, answered: int [n], classes.
    """
    size = int(max(asked.max(), answered.max())) + 1
    shares = [np.bincount(side, minlength=size) / len(side) for side in (asked, answered)]
    return float(shares[0] @ shares[1])
