"""Metrics of generated reports with bootstrap confidence intervals: text overlap, and findings against labels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medunifier.metrics.bootstrap import BootstrapOptions, Interval, bootstrap, bootstrap_means
from medunifier.metrics.clinical import finding_counts, finding_f1
from medunifier.metrics.mentions import findings_mentioned
from medunifier.metrics.meteor import Meteor, meteor
from medunifier.metrics.text import BLEU_COUNTS, bleu, bleu_statistics, cider, rouge_l


@dataclass(frozen=True)
class TextScores:
    """What the text metrics of N reports are computed from.

    Attributes:
        bleu: Statistics of BLEU (`bleu_statistics`), [N, 10].
        meteor: Statistics of METEOR (`Meteor.statistics`), [N, 23].
        rouge_l: ROUGE-L of each report, in [0, 1], [N].
        cider: CIDEr of each report, in [0, 10], [N].
    """

    bleu: np.ndarray
    meteor: np.ndarray
    rouge_l: np.ndarray
    cider: np.ndarray

    @classmethod
    def of(
        cls, references: Sequence[Sequence[str]], predictions: Sequence[str], scorer: Meteor
    ) -> "TextScores":
        """Score texts that a protocol has cleaned (see `PROTOCOLS`).

        Args:
            references: The references of each report.
            predictions: The N reports.
            scorer: METEOR's running Java program.
        """
        return cls(
            bleu_statistics(references, predictions),
            scorer.statistics(references, predictions),
            rouge_l(references, predictions),
            cider(references, predictions),
        )

    def intervals(self, options: BootstrapOptions) -> dict[str, Interval]:
        """Compute BLEU-1 to 4, METEOR and ROUGE-L in [0, 1], and CIDEr in [0, 10], by name."""
        *bleus, meteor_score = bootstrap(
            np.concatenate([self.bleu, self.meteor], axis=1),
            lambda sums: np.concatenate(
                [bleu(sums[..., :BLEU_COUNTS]), meteor(sums[..., BLEU_COUNTS:])[..., None]], axis=-1
            ),
            options,
        )
        rouge, consensus = bootstrap_means(np.stack([self.rouge_l, self.cider], axis=1), options)
        return {f"bleu_{n}": interval for n, interval in enumerate(bleus, 1)} | {
            "meteor": meteor_score,
            "rouge_l": rouge,
            "cider": consensus,
        }

    def bleu_4_gain(self, other: "TextScores", options: BootstrapOptions) -> Interval:
        """Compute BLEU-4 less that of another system on the same items, resampled together."""
        (difference,) = bootstrap(
            np.concatenate([self.bleu, other.bleu], axis=1),
            lambda sums: bleu(sums[..., :BLEU_COUNTS])[..., -1:] - bleu(sums[..., BLEU_COUNTS:])[..., -1:],
            options,
        )
        return difference


def finding_intervals(
    reports: Sequence[str], findings: tuple[str, ...], labels: np.ndarray, options: BootstrapOptions
) -> dict[str, Interval]:
    """Compute F1, in [0, 1], of the findings that reports mention against the labels of their images.

    Args:
        reports: N texts.
        findings: Names of F findings (see `findings_mentioned`).
        labels: [N, F], 1 present, 0 absent, NaN unknown.
        options: How to resample reports.

    Returns:
        `findings_f1_micro` and `findings_f1_macro`.
    """
    mentioned = [findings_mentioned(text, findings) for text in reports]
    matrix = np.array([[name in found for name in findings] for found in mentioned])
    intervals = bootstrap(finding_counts(matrix, labels), finding_f1, options)
    return dict(zip(("findings_f1_micro", "findings_f1_macro"), intervals, strict=True))
