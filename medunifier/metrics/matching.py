"""Whether image-text matching has learned anything, by the values of its last validation."""

import math
from collections.abc import Mapping

MARGIN = 0.01  # accuracy above a constant answer's that does not count as learned


def constant_accuracy(values: Mapping[str, float]) -> float:
    """Return the accuracy of always the same answer in image-text matching, of validation values."""
    return max(values["itm_negatives"], 1 - values["itm_negatives"])


def matching_warning(values: Mapping[str, float]) -> str | None:
    """Return a warning if matching has learned nothing, or had nothing to learn from; None otherwise.

    Args:
        values: of the last validation: `itm`, `itm_accuracy` and `itm_negatives`, the share of negatives.
    """
    share = values["itm_negatives"]
    if share == 0:
        return (
            "WARNING: image-text matching had no negatives: all reports of a batch are equal. Its loss falls to 0 for "
            "always the same answer and means nothing. Use more varied reports or a larger batch_size, set "
            "pretrain.equal_reports to negatives, or switch itm off."
        )
    accuracy, constant = values["itm_accuracy"], constant_accuracy(values)
    if accuracy > constant + MARGIN:
        return None
    entropy = -sum(p * math.log(p) for p in (share, 1 - share) if p > 0)
    return (
        f"WARNING: image-text matching ends at what always the same answer scores: accuracy {accuracy:.3f} (always the "
        f"same answer: {constant:.3f}), loss {values['itm']:.3f} (at best {entropy:.3f}). Do not use its scores; train "
        "longer, or try another learning rate or batch_size."
    )
