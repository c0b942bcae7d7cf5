"""Metrics of generated reports with bootstrap confidence intervals: text overlap, findings, and how they vary."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medunifier.metrics.bootstrap import BootstrapOptions, Interval, bootstrap, bootstrap_means
from medunifier.metrics.clinical import finding_counts, finding_f1
from medunifier.metrics.clinical_scorers import ItemScores
from medunifier.metrics.mentions import findings_mentioned
from medunifier.metrics.meteor import Meteor, meteor
from medunifier.metrics.text import (
    BLEU_COUNTS,
    bleu,
    bleu_statistics,
    cider,
    clean_report,
    rouge_l,
    why_no_cider,
)

SHARES = ("distinct_share", "commonest_share")  # metrics, in percent
# Generated reports have collapsed if there are fewer distinct ones than this part of the references', or if one makes
# up more than MOSTLY of them, and more than twice what one does of the references.
FEW_DISTINCT = 0.1
MOSTLY = 0.5


@dataclass(frozen=True)
class TextScores:
    """What the text metrics of N reports are computed from.

    Attributes:
        bleu: Statistics of BLEU (`bleu_statistics`), [N, 10].
        meteor: Statistics of METEOR (`Meteor.statistics`), [N, 23].
        rouge_l: ROUGE-L of each report, in [0, 1], [N].
        cider: CIDEr of each report, in [0, 10], [N]; None where it means nothing (see `why_no_cider`).
    """

    bleu: np.ndarray
    meteor: np.ndarray
    rouge_l: np.ndarray
    cider: np.ndarray | None

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
            None if why_no_cider(references) else cider(references, predictions),
        )

    def take(
        self, rows: np.ndarray, references: Sequence[Sequence[str]], predictions: Sequence[str]
    ) -> "TextScores":
        """Return the scores of some of the items. CIDEr is computed again: its word weights come from all references.

        Args:
            rows: The items, int64 [n].
            references: Cleaned references of these items.
            predictions: Cleaned prediction of these items.
        """
        consensus = None if why_no_cider(references) else cider(references, predictions)
        return TextScores(self.bleu[rows], self.meteor[rows], self.rouge_l[rows], consensus)

    def intervals(self, options: BootstrapOptions) -> dict[str, Interval]:
        """Compute BLEU-1 to 4, METEOR and ROUGE-L in [0, 1], and CIDEr in [0, 10] where it means something, by name."""
        *bleus, meteor_score = bootstrap(
            np.concatenate([self.bleu, self.meteor], axis=1),
            lambda sums: np.concatenate(
                [bleu(sums[..., :BLEU_COUNTS]), meteor(sums[..., BLEU_COUNTS:])[..., None]], axis=-1
            ),
            options,
        )
        means = {"rouge_l": self.rouge_l} | ({} if self.cider is None else {"cider": self.cider})
        found = bootstrap_means(np.stack(list(means.values()), axis=1), options)
        return (
            {f"bleu_{n}": interval for n, interval in enumerate(bleus, 1)}
            | {"meteor": meteor_score}
            | dict(zip(means, found, strict=True))
        )

    def bleu_4_gain(self, other: "TextScores", options: BootstrapOptions) -> Interval:
        """Compute BLEU-4 less that of another system on the same items, resampled together."""
        (difference,) = bootstrap(
            np.concatenate([self.bleu, other.bleu], axis=1),
            lambda sums: bleu(sums[..., :BLEU_COUNTS])[..., -1:] - bleu(sums[..., BLEU_COUNTS:])[..., -1:],
            options,
        )
        return difference


def finding_scores(
    reports: Sequence[str], findings: tuple[str, ...], labels: np.ndarray
) -> tuple[ItemScores, ItemScores]:
    """Score the findings that reports mention against the labels of their images, by F1.

    Args:
        reports: N texts.
        findings: Names of F findings (see `findings_mentioned`).
        labels: [N, F], 1 present, 0 absent, NaN unknown.

    Returns:
        `findings_f1_micro` and `findings_f1_macro`, in [0, 1].
    """
    mentioned = [findings_mentioned(text, findings) for text in reports]
    counts = finding_counts(np.array([[name in found for name in findings] for found in mentioned]), labels)
    micro, macro = finding_f1(counts).T
    return ItemScores("findings_f1_micro", micro, counts), ItemScores("findings_f1_macro", macro, counts)


@dataclass(frozen=True)
class Variety:
    """How much reports differ from each other; case and punctuation do not count.

    Attributes:
        reports: Number of reports.
        distinct: Number of different ones.
        commonest: How often the commonest one stands.
    """

    reports: int
    distinct: int
    commonest: int

    @classmethod
    def of(cls, reports: Sequence[str]) -> "Variety":
        """Count reports."""
        copies = Counter(map(clean_report, reports))
        return cls(len(reports), len(copies), max(copies.values()))

    @classmethod
    def read(cls, metrics: Mapping[str, float], prefix: str) -> "Variety":
        """Return the counts behind metrics of `flat`."""
        distinct, share, common = (metrics[prefix + name] for name in ("n_distinct", *SHARES))
        n = round(100 * distinct / share)
        return cls(n, int(distinct), round(n * common / 100))

    def flat(self, prefix: str) -> dict[str, float | int]:
        """Return `n_distinct`, and in percent `distinct_share` and `commonest_share`."""
        return {
            f"{prefix}n_distinct": self.distinct,
            **{
                prefix + name: 100 * count / self.reports
                for name, count in zip(SHARES, (self.distinct, self.commonest), strict=True)
            },
        }

    def collapse(self, references: "Variety") -> str:
        """Return a warning if reports have collapsed to a few, measured by the references; else an empty text."""
        few = self.distinct < FEW_DISTINCT * references.distinct
        common = self.commonest > MOSTLY * self.reports and self.commonest > 2 * references.commonest
        if not (few or common):
            return ""
        return (
            f"the generated reports have collapsed: {self.distinct} of {self.reports} are distinct (references: "
            f"{references.distinct}), the commonest stands {self.commonest} times (references: "
            f"{references.commonest}); scores of text overlap hide this"
        )
