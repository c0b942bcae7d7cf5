"""Clinical correctness of generated reports: mentioned findings against labels."""

import numpy as np


def finding_counts(mentioned: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Count true positives, false positives and false negatives of each item and finding, float64 [n, 3 F].

    Args:
        mentioned: Findings that each report mentions, bool [n, F].
        truth: [n, F], 1 present, 0 absent, NaN unknown; unknown ones do not count.
    """
    present, absent = truth == 1, truth == 0
    return np.concatenate([mentioned & present, mentioned & absent, ~mentioned & present], axis=1).astype(
        np.float64
    )


def finding_f1(sums: np.ndarray) -> np.ndarray:
    """Compute micro and macro F1, in [0, 1], from sums [..., 3 F] of `finding_counts`: [..., 2].

    The macro mean is over the findings that are present or mentioned somewhere; another one has no F1.
    """
    right, wrong, missed = np.split(sums, 3, axis=-1)
    below = 2 * right + wrong + missed
    each = np.divide(2 * right, below, out=np.full_like(below, np.nan), where=below > 0)
    seen = np.maximum((below > 0).sum(-1), 1)
    total = below.sum(-1)
    micro = np.divide(2 * right.sum(-1), total, out=np.zeros_like(total), where=total > 0)
    return np.stack([micro, np.nansum(each, axis=-1) / seen], axis=-1)


def label_f1(sums: np.ndarray) -> np.ndarray:
    """Compute micro and macro F1 from sums as `finding_f1` does, but with a macro mean over all findings: [..., 2].

    A finding that is neither present nor mentioned counts as 0, as in scikit-learn's classification report, by which
    F1CheXbert is defined.
    """
    right, wrong, missed = np.split(sums, 3, axis=-1)
    below = 2 * right + wrong + missed
    each = np.divide(2 * right, below, out=np.zeros_like(below), where=below > 0)
    total = below.sum(-1)
    micro = np.divide(2 * right.sum(-1), total, out=np.zeros_like(total), where=total > 0)
    return np.stack([micro, each.mean(-1)], axis=-1)
