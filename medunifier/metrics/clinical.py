"""Clinical correctness of generated reports: mentioned findings against labels, and published clinical scorers.

The published scorers are models with weights of their own, the one exception to the rule that metrics/ knows no model:
they are metrics for the field, come as optional packages (imported where they are used), and need no file of this project.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Scores = dict[str, float]


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


def _chexbert(references: Sequence[str], predictions: Sequence[str]) -> Scores:
    from f1chexbert import F1CheXbert  # pyright: ignore[reportMissingImports] optional

    _, _, every, five = F1CheXbert()(hyps=list(predictions), refs=list(references))
    return {
        "chexbert_f1_micro": every["micro avg"]["f1-score"],
        "chexbert_f1_macro": every["macro avg"]["f1-score"],
        "chexbert_f1_micro_5": five["micro avg"]["f1-score"],
        "chexbert_f1_macro_5": five["macro avg"]["f1-score"],
    }


def _radgraph(references: Sequence[str], predictions: Sequence[str]) -> Scores:
    from radgraph import F1RadGraph  # pyright: ignore[reportMissingImports] optional

    means, *_ = F1RadGraph(reward_level="all")(hyps=list(predictions), refs=list(references))
    return dict(
        zip(("radgraph_simple", "radgraph_partial", "radgraph_complete"), map(float, means), strict=True)
    )


def _radeval(references: Sequence[str], predictions: Sequence[str]) -> Scores:
    from RadEval import RadEval  # pyright: ignore[reportMissingImports] optional

    found: Mapping[str, Any] = RadEval(do_radgraph=True, do_chexbert=True)(
        refs=list(references), hyps=list(predictions)
    )
    return {
        f"radeval_{name}": float(value) for name, value in found.items() if isinstance(value, int | float)
    }


EXTRAS: dict[str, tuple[Callable[[Sequence[str], Sequence[str]], Scores], str]] = {
    "CheXbert F1": (_chexbert, "pip install f1chexbert; it fetches chexbert.pth at its first use"),
    "RadGraph F1": (_radgraph, "pip install radgraph; it fetches its model at its first use"),
    "RadEval": (_radeval, "pip install RadEval; it fetches its models at its first use"),
}


def optional_scores(references: Sequence[str], predictions: Sequence[str]) -> tuple[Scores, list[str]]:
    """Compute the scores, in [0, 1], of the published clinical scorers that are installed with their weights.

    Returns:
        The scores by name, and for each scorer that cannot run a line that says why and how to get it.
    """
    scores: Scores = {}
    missing = []
    for name, (score, hint) in EXTRAS.items():
        try:
            scores |= score(references, predictions)
        except ImportError:
            missing.append(f"{name} is left out: its package is not installed ({hint})")
        except Exception as error:
            words = str(error).splitlines() or [type(error).__name__]
            missing.append(f"{name} is left out: {words[0][:200]} ({hint})")
    return scores, missing
