"""Clinical scorers of generated reports, by the package radeval (extra `clinical`; Xu et al. 2025): the only door to it.

They are models with weights of their own, the one exception to the rule that metrics/ knows no model: they are metrics
for the field and need no file of this project. Only scorers of chest radiographs that run on this machine are offered:
radeval's others are for CT or mammography, or can send the texts to a company (mammo_green, crimson, radfact_ct).

`python -m medunifier.metrics.clinical_scorers NAME ...` loads scorers, which fetches their weights where there is a network.
"""

import socket
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from medunifier.metrics.bootstrap import BootstrapOptions, Interval, bootstrap
from medunifier.metrics.clinical import finding_counts, finding_f1, label_f1
from medunifier.runtime.errors import InputError
from medunifier.runtime.sections.evaluation import ClinicalName

INSTALL = "`make clinical` (or `pip install -e '.[clinical]'`)"
HUB = "the Hugging Face cache ($HF_HOME, else ~/.cache/huggingface)"
CHEXBERT_FILES = f"chexbert.pth of StanfordAIMI/RRG_scorers in ~/.cache/chexbert, bert-base-uncased in {HUB}"
FIVE = ("Cardiomegaly", "Edema", "Consolidation", "Atelectasis", "Pleural Effusion")  # of CheXpert's 14
_SECONDS = 10.0  # that radeval's import may wait for the network


@dataclass(frozen=True)
class Scorer:
    """A scorer of radeval.

    Attributes:
        labels: Title of each of our metrics.
        needs: What must lie where on a machine without network.
        keys: radeval's key of each metric, which is the mean over reports. Empty: F1CheXbert, whose metrics are
            functions of sums (`CORPUS`).
        lower_is_better: Whether a better report has a lower score.
        percent: Whether scores in [0, 1] are reported times 100.
    """

    labels: dict[str, str]
    needs: str
    keys: dict[str, str]
    lower_is_better: bool = False
    percent: bool = True


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


SCORERS: dict[ClinicalName, Scorer] = {
    "rouge": Scorer(
        {f"radeval_rouge{n}": f"ROUGE-{n} by radeval" for n in ("1", "2", "L")},
        "no weights",
        {f"radeval_rouge{n}": f"rouge{n}" for n in ("1", "2", "L")},
    ),
    "bertscore": Scorer({"bertscore": "BERTScore"}, f"distilbert-base-uncased in {HUB}", _same("bertscore")),
    "radeval_bertscore": Scorer(
        {"radeval_bertscore": "RadEval-BERTScore"},
        f"IAMJB/RadEvalModernBERT in {HUB}",
        _same("radeval_bertscore"),
    ),
    "f1chexbert": Scorer(
        {
            "chexbert_f1_micro": "F1CheXbert, micro, 14 labels",
            "chexbert_f1_macro": "F1CheXbert, macro, 14 labels",
            "chexbert_f1_micro_5": "F1CheXbert, micro, 5 labels",
            "chexbert_f1_macro_5": "F1CheXbert, macro, 5 labels",
        },
        CHEXBERT_FILES,
        {},
    ),
    "radgraph": Scorer(
        {f"radgraph_{level}": f"F1RadGraph, {level}" for level in ("simple", "partial", "complete")},
        "radgraph-xl.tar.gz of StanfordAIMI/RRG_scorers unpacked in ~/.cache/radgraph/0.1.18/radgraph-xl, and the "
        f"BERT that its config.json names in {HUB}",
        _same("radgraph_simple", "radgraph_partial", "radgraph_complete"),
    ),
    "radgraph_radcliq": Scorer(
        {"radgraph_radcliq": "RadGraph F1 as in RadCliQ"},
        "radgraph.tar.gz of StanfordAIMI/RRG_scorers unpacked in ~/.cache/radgraph/0.1.18/radgraph, and the BERT that "
        f"its config.json names in {HUB}",
        _same("radgraph_radcliq"),
    ),
    # radeval's own mean is 1 / the mean of these, for which higher is better
    "radcliq": Scorer(
        {"radcliq_v1": "RadCliQ-v1"},
        "radgraph.tar.gz of StanfordAIMI/RRG_scorers unpacked in ~/.cache/radgraph/0.1.18/radgraph, distilroberta-base "
        f"in {HUB}, {CHEXBERT_FILES}",
        _same("radcliq_v1"),
        lower_is_better=True,
        percent=False,
    ),
    "ratescore": Scorer(
        {"ratescore": "RaTEScore"},
        f"Angelakeke/RaTE-NER-Deberta and FremyCompany/BioLORD-2023-C in {HUB}, and Python 3.12 or newer (for older "
        "ones medspacy takes a spaCy without NumPy 2)",
        _same("ratescore"),
    ),
    # means over reports of each report's own score; radeval's mean of the same name weighs labels
    "srrbert": Scorer(
        {f"srrbert_{part}": f"SRR-BERT, {part} of a report" for part in ("f1", "precision", "recall")},
        "StanfordAIMI/SRR-BERT-Leaves-with-Statuses and the tokenizer of microsoft/BiomedVLP-CXR-BERT-general in "
        f"{HUB}, NLTK's punkt_tab in ~/nltk_data",
        {f"srrbert_{part}": f"srrbert_weighted_{part}" for part in ("f1", "precision", "recall")},
    ),
    "temporal": Scorer(
        {"temporal_f1": "Temporal F1"},
        "a network at every start (stanza reads its list of models from there)",
        _same("temporal_f1"),
    ),
    "green": Scorer({"green": "GREEN"}, f"StanfordAIMI/GREEN-radllama2-7b in {HUB}", _same("green")),
}

# Metrics of a whole corpus, from sums [..., S] of the reports' counts (`finding_counts`), in [0, 1].
CORPUS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "findings_f1_micro": lambda sums: finding_f1(sums)[..., 0],
    "findings_f1_macro": lambda sums: finding_f1(sums)[..., 1],
    "chexbert_f1_micro": lambda sums: label_f1(sums)[..., 0],
    "chexbert_f1_macro": lambda sums: label_f1(sums)[..., 1],
    "chexbert_f1_micro_5": lambda sums: label_f1(sums)[..., 0],
    "chexbert_f1_macro_5": lambda sums: label_f1(sums)[..., 1],
}
SCORER_OF = {metric: scorer for scorer in SCORERS.values() for metric in scorer.labels}


def scale_of(metric: str) -> float:
    """Return by what a metric's scores are multiplied where they are reported: 100, or 1 for one without a percentage."""
    return 100.0 if metric not in SCORER_OF or SCORER_OF[metric].percent else 1.0


def titles() -> dict[str, str]:
    """Return the title of each metric with its unit and which direction is better."""
    return {
        metric: f"{label}{', %' if scorer.percent else ', no unit'}, {'lower' if scorer.lower_is_better else 'higher'} "
        "is better"
        for scorer in SCORERS.values()
        for metric, label in scorer.labels.items()
    }


@dataclass(frozen=True)
class ItemScores:
    """One metric of N reports.

    Attributes:
        metric: Its name.
        values: Score of each report, [N].
        counts: For metrics of a whole corpus (`CORPUS`), the counts of each report, [N, S].
    """

    metric: str
    values: np.ndarray
    counts: np.ndarray | None = None

    def interval(self, options: BootstrapOptions, minus: "ItemScores | None" = None) -> Interval:
        """Compute the metric, or its difference from that of another system on the same items, resampled together."""
        systems = [self] if minus is None else [self, minus]
        sums = [system._sums() for system in systems]
        width = sums[0].shape[1]

        def score(total: np.ndarray) -> np.ndarray:
            parts = [self._score(total[..., i * width : (i + 1) * width]) for i in range(len(systems))]
            return (parts[0] if minus is None else parts[0] - parts[1])[..., None]

        (found,) = bootstrap(np.concatenate(sums, axis=1), score, options)
        return found

    def _sums(self) -> np.ndarray:
        if self.counts is not None:
            return self.counts
        return np.stack([self.values, np.ones(len(self.values))], axis=1)

    def _score(self, sums: np.ndarray) -> np.ndarray:
        return CORPUS[self.metric](sums) if self.counts is not None else sums[..., 0] / sums[..., 1]


def load_scorers(
    names: Sequence[ClinicalName], device: Literal["auto", "cpu", "cuda"], batch_size: int
) -> tuple[dict[ClinicalName, Any], list[str]]:
    """Load scorers with their weights, which radeval fetches where they are absent and there is a network.

    Args:
        names: Scorers of `SCORERS`.
        device: `auto` takes a GPU where there is one.
        batch_size: Reports at a time, where a scorer has batches (RadGraph takes one by one).

    Returns:
        The loaded scorers, and for each that cannot run a line that says why and what to put where.

    Raises:
        InputError: If radeval is not installed, or there is no GPU where one is asked for.
    """
    if not names:
        return {}, []
    _import_radeval(names)
    import torch  # radeval loaded it

    if device == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "write_reports.clinical_device: cuda, but torch sees no GPU; allowed here: auto, cpu"
        )
    loaded, left_out = {}, []
    for name in names:
        try:
            with _device(device), warnings.catch_warnings():
                loaded[name] = _load(name, batch_size)
        except Exception as error:
            left_out.append(
                f"{name} is left out: {_first_line(error)}. It needs {SCORERS[name].needs}: where there is a network, "
                f"python -m medunifier.metrics.clinical_scorers {name} fetches it; copy it here, to the same place"
            )
    return loaded, left_out


def score_reports(
    name: ClinicalName, scorer: Any, references: Sequence[str], predictions: Sequence[str]
) -> list[ItemScores]:
    """Score N reports by a scorer of `load_scorers`.

    Raises:
        ValueError: If radeval does not give a number for each report.
    """
    if name == "f1chexbert":
        return _chexbert_scores(scorer, references, predictions)
    found = scorer(refs=list(references), hyps=list(predictions))
    scores = [ItemScores(own, np.asarray(found[key], np.float64)) for own, key in SCORERS[name].keys.items()]
    for score in scores:
        if score.values.shape != (len(predictions),) or not np.isfinite(score.values).all():
            raise ValueError(f"radeval gave no number for some of the {len(predictions)} reports")
    return scores


def _chexbert_scores(scorer: Any, references: Sequence[str], predictions: Sequence[str]) -> list[ItemScores]:
    """Return F1 of CheXbert's labels, from counts: radeval gives accuracies of single reports, which nobody publishes."""
    truth, found = (np.array(scorer.get_labels(list(texts))) for texts in (references, predictions))
    every = range(truth.shape[1])
    five = [list(scorer.TARGET_NAMES).index(name) for name in FIVE]
    scores = []
    for suffix, columns in (("", every), ("_5", five)):
        chosen = list(columns)
        counts = finding_counts(found[:, chosen] == 1, truth[:, chosen].astype(np.float64))
        for kind in ("micro", "macro"):
            metric = f"chexbert_f1_{kind}{suffix}"
            scores.append(ItemScores(metric, CORPUS[metric](counts), counts))
    return scores


def _import_radeval(names: Sequence[str]) -> None:
    """Import radeval, which asks the network for a file of NLTK while it is imported: not longer than `_SECONDS`."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_SECONDS)
    try:
        import radeval  # pyright: ignore[reportMissingImports] optional
    except ImportError as error:
        raise InputError(
            f"write_reports.clinical names {', '.join(names)}, but the package radeval cannot be imported ({error}): "
            f"install it by {INSTALL}, or name none: []"
        ) from error
    finally:
        socket.setdefaulttimeout(before)
    # radeval 2.2.1 was renamed from RadEval, and its copy of RadGraph still imports itself by the old name
    sys.modules.setdefault("RadEval", radeval)


def _load(name: ClinicalName, batch_size: int) -> Any:
    """Return a callable of radeval for one scorer; for f1chexbert, the labeller itself."""
    # radeval 2.2.1's own door to it wants a GPU and scikit-learn 1.8, and gives no labels
    if name == "f1chexbert":
        import torch
        from radeval.metrics.f1chexbert import F1CheXbert  # pyright: ignore[reportMissingImports] optional

        where = "cuda" if torch.cuda.is_available() else "cpu"
        return F1CheXbert(device=where, batch_size=batch_size)
    from radeval import RadEval  # pyright: ignore[reportMissingImports] optional

    scorer = RadEval(metrics=[name], per_sample=True, show_progress=False)
    inner = getattr(scorer, f"{name}_scorer")
    if hasattr(inner, "batch_size"):
        inner.batch_size = batch_size
    return scorer


@contextmanager
def _device(device: str) -> Iterator[None]:
    """Hide GPUs from scorers if `device` is cpu: they take one wherever torch sees one, and no argument forbids it."""
    import torch

    seen = torch.cuda.is_available
    if device == "cpu":
        torch.cuda.is_available = lambda: False
    try:
        yield
    finally:
        torch.cuda.is_available = seen


def _first_line(error: Exception) -> str:
    """Return the first line of a message, without the last full stop."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300].rstrip(". ")


def main(names: Sequence[str]) -> None:
    """Load the named scorers on the CPU, and print which can run here."""
    unknown = [name for name in names if name not in SCORERS]
    if unknown or not names:
        sys.exit(
            f"usage: python -m medunifier.metrics.clinical_scorers NAME ...; names: {', '.join(SCORERS)}"
        )
    try:
        loaded, left_out = load_scorers(list(names), "cpu", 1)  # pyright: ignore[reportArgumentType] checked above
    except InputError as error:
        sys.exit(str(error))
    for name in loaded:
        print(f"{name} is ready")
    if left_out:
        sys.exit("\n".join(left_out))


if __name__ == "__main__":
    main(sys.argv[1:])
