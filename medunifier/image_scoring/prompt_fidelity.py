"""Do drawn images show what was asked for? A judge that learnt from real images says."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from medunifier.image_scoring.finding_classifier import Judge, chance, judge_views, train_judge
from medunifier.image_scoring.labels import SIDES, on_side, single, truth_of
from medunifier.metrics.bootstrap import BootstrapOptions, bootstrap_counts, bootstrap_means
from medunifier.metrics.classification import auroc
from medunifier.metrics.mentions import findings_mentioned

Metrics = dict[str, float | int]


@dataclass(frozen=True)
class Asked:
    """What prompts ask for. Images whose prompt does not name exactly one finding that the judge knows are out.

    Attributes:
        rows: numbers of the images that can be judged, [n].
        findings: the findings asked for. finding: which of them, int64 [n].
        sides: 0 left, 1 right, -1 no single side asked or not known to the judge, int64 [n].
    """

    rows: np.ndarray
    findings: tuple[str, ...]
    finding: np.ndarray
    sides: np.ndarray


def read_prompts_asked(prompts: Sequence[str], judge: Judge) -> Asked:
    """Findings and sides that the prompts name, by the rule of `findings_mentioned`."""
    known = tuple(findings_in(judge))
    told = {prompt: findings_mentioned(prompt, known) for prompt in dict.fromkeys(prompts)}
    findings = tuple(f for f in known if any(list(t) == [f] for t in told.values()))
    rows, finding, sides = [], [], []
    for row, prompt in enumerate(prompts):
        if len(told[prompt]) != 1:
            continue
        ((name, side),) = told[prompt].items()
        sided = side in SIDES and all(on_side(name, s) in judge.names for s in SIDES)
        rows.append(row)
        finding.append(findings.index(name))
        sides.append(SIDES.index(side) if sided else -1)
    return Asked(*(np.array(rows, int), findings, np.array(finding, int), np.array(sides, int)))


def judge_of(train: pl.DataFrame, thumbnails: np.ndarray) -> Judge:
    """A judge trained on real training images: findings, and findings by side.

    Args:
        train: their rows of the prepared table. thumbnails: [n, D].
    """
    names, truth = truth_of(train)
    return train_judge(judge_views(thumbnails), truth, names)


def judge_itself(
    judge: Judge, test: pl.DataFrame, thumbnails: np.ndarray, asked: Asked | None, options: BootstrapOptions
) -> Metrics:
    """How good the judge is on real test images, in percent: the scale for what it says of drawn ones.

    `judge_auroc`: mean over findings, and of each finding. `judge_accuracy`: the very task of the prompts, on images
    that show exactly one of the findings asked for. `judge_side_accuracy`: left or right of a finding that is there.
    """
    names, truth = truth_of(test)
    evidence = judge.evidence(judge_views(thumbnails))
    metrics = aurocs("judge_auroc", judge, evidence, names, truth, options)
    if asked is None:
        return metrics
    shown = single(truth, names, asked.findings)
    seen = np.flatnonzero(shown >= 0)
    if len(seen):
        hits = evidence[seen][:, judge.columns(asked.findings)].argmax(1) == shown[seen]
        (interval,) = bootstrap_means(hits[:, None], options.take(seen))
        metrics |= interval.flat("judge_accuracy", scale=100)
    hits, rows = [], []
    for finding in asked.findings:
        if not all(on_side(finding, side) in judge.names for side in SIDES):
            continue
        there = truth[:, [names.index(on_side(finding, side)) for side in SIDES]]
        one = np.flatnonzero((there.min(1) == 0) & (there.max(1) == 1))
        said = evidence[:, judge.columns([on_side(finding, side) for side in SIDES])]
        hits += (said[one].argmax(1) == there[one].argmax(1)).tolist()
        rows += one.tolist()
    if hits:
        (interval,) = bootstrap_means(np.array(hits)[:, None], options.take(np.array(rows)))
        metrics |= interval.flat("judge_side_accuracy", scale=100)
    return metrics


def prompt_fidelity(
    judge: Judge, asked: Asked, drawn: np.ndarray, without: np.ndarray, options: BootstrapOptions
) -> Metrics:
    """How often the judge says of an image what its prompt asked for, in percent.

    prompt_fidelity           the finding, among those that any prompt asks for; also of each finding
    prompt_fidelity_side      left or right, of the finding that was asked for
    prompt_fidelity_both      finding and side together, among those asked for

    Each with `_chance` (what answers that know nothing of the prompts would get), `_unconditional` (the same prompts,
    judged on images drawn without a text) and `_gain` over that, paired image by image.

    Args:
        drawn: thumbnails of the images of `asked.rows`, [n, D]. without: of unconditional images, [m, D].
        options: of the bootstrap, without clusters: it draws images.
    """
    partner = np.arange(len(drawn)) % len(without)
    evidence = judge.evidence(judge_views(drawn)), judge.evidence(judge_views(without))[partner]
    metrics: Metrics = {"prompt_fidelity_findings": len(asked.findings)}
    sided = np.flatnonzero(asked.sides >= 0)
    columns = judge.columns(asked.findings)

    answers = [side[:, columns].argmax(1) for side in evidence]
    metrics |= _compared("prompt_fidelity", asked.finding, *answers, partner, options)
    for number, finding in enumerate(asked.findings):
        own = asked.finding == number
        (interval,) = bootstrap_means((answers[0] == number)[own][:, None], options)
        metrics |= interval.flat(f"prompt_fidelity_{finding}", scale=100)
    if len(sided):
        pairs = [
            judge.columns([on_side(asked.findings[number], side) for side in SIDES])
            for number in asked.finding[sided]
        ]
        answers = [np.take_along_axis(side[sided], np.array(pairs), 1).argmax(1) for side in evidence]
        metrics |= _compared("prompt_fidelity_side", asked.sides[sided], *answers, partner[sided], options)
    names = [
        on_side(asked.findings[number], SIDES[side]) if side >= 0 else asked.findings[number]
        for number, side in zip(asked.finding, asked.sides, strict=True)
    ]
    classes = sorted(set(names))
    answers = [side[:, judge.columns(classes)].argmax(1) for side in evidence]
    wanted = np.array([classes.index(name) for name in names])
    return metrics | _compared("prompt_fidelity_both", wanted, *answers, partner, options)


def _compared(
    name: str,
    asked: np.ndarray,
    drawn: np.ndarray,
    without: np.ndarray,
    partner: np.ndarray,
    options: BootstrapOptions,
) -> Metrics:
    """Flat metrics of answers on images drawn from the prompts and on those drawn without."""
    hits = np.stack([drawn == asked, without == asked], axis=1).astype(float)
    # an unconditional image that stands beside several prompts is one piece of evidence
    intervals = bootstrap_means(np.c_[hits, hits[:, 0] - hits[:, 1]], options.with_clusters(partner.tolist()))
    metrics: Metrics = {f"{name}_chance": 100 * chance(asked, drawn)}
    for suffix, interval in zip(("", "_unconditional", "_gain"), intervals, strict=True):
        metrics |= interval.flat(name + suffix, scale=100)
    return metrics


def report_fidelity(
    judge: Judge, sources: pl.DataFrame, drawn: np.ndarray, options: BootstrapOptions
) -> Metrics:
    """`report_fidelity_auroc`, in percent: do images drawn from test reports show the findings of these reports?

    The mean over findings of the judge's AUROC, its evidence in the drawn images against the labels of the reports.

    Args:
        sources: rows of the prepared table whose reports the images were drawn from. drawn: thumbnails, [n, D].
    """
    names, truth = truth_of(sources)
    evidence = judge.evidence(judge_views(drawn))
    return aurocs("report_fidelity_auroc", judge, evidence, names, truth, options)


def aurocs(
    name: str,
    judge: Judge,
    evidence: np.ndarray,
    names: Sequence[str],
    truth: np.ndarray,
    options: BootstrapOptions,
) -> Metrics:
    """`NAME`, the mean AUROC over findings (sides aside) with its interval, and `NAME_FINDING`, in percent.

    Findings of which the images show less than two cases, or less than two without, are left out.
    """
    findings = [
        f for f in findings_in(judge) if min((truth[:, names.index(f)] == v).sum() for v in (0, 1)) >= 2
    ]
    if not findings:
        return {}
    columns, labels = judge.columns(findings), truth[:, [names.index(f) for f in findings]]

    def score(counts: np.ndarray) -> np.ndarray:
        each = [
            auroc(evidence[:, column], labels[:, i] == 1, counts * (labels[:, i] >= 0))
            for i, column in enumerate(columns)
        ]
        return np.stack([np.mean(each, axis=0), *each], axis=-1)

    mean, *each = bootstrap_counts(score, len(evidence), options)
    return mean.flat(name, scale=100) | {
        f"{name}_{finding}": 100 * interval.value for finding, interval in zip(findings, each, strict=True)
    }


def findings_in(judge: Judge) -> list[str]:
    """The findings that a judge knows, sides aside."""
    return [name for name in judge.names if not name.endswith(tuple(f"_{side}" for side in SIDES))]
