"""A stand-in for the package radeval 2.2, for tests in an environment without it.

What it returns has the form of what the package returns; `tests/unit/metrics/test_clinical_scorers.py` compares the
two where the package is installed (`make clinical`).
"""

import types
import zlib
from typing import ClassVar

# per_sample=True: the keys of each scorer's result, each with one number a report
PER_SAMPLE_KEYS = {
    "rouge": ["rouge1", "rouge2", "rougeL"],
    "bertscore": ["bertscore"],
    "radeval_bertscore": ["radeval_bertscore"],
    "radgraph": ["radgraph_simple", "radgraph_partial", "radgraph_complete"],
    "radgraph_radcliq": ["radgraph_radcliq"],
    "radcliq": ["radcliq_v1"],
    "ratescore": ["ratescore"],
    "srrbert": ["srrbert_weighted_f1", "srrbert_weighted_precision", "srrbert_weighted_recall"],
    "temporal": ["temporal_f1"],
    "green": ["green"],
}
CHEXBERT_NAMES = [
    *("Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation"),
    *("Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture"),
    *("Support Devices", "No Finding"),
]


def score_of(key: str, reference: str, prediction: str) -> float:
    """A number in [0, 1] that depends on all three; 1 for a copy."""
    if reference.lower() == prediction.lower():
        return 1.0
    return zlib.crc32(f"{key}|{reference}|{prediction}".encode()) / 2**32


def chexbert_label(text: str, name: str) -> int:
    """1 for about a third of texts and labels; the last label is that of a text without any."""
    if name == CHEXBERT_NAMES[-1]:
        return int(not any(chexbert_label(text, other) for other in CHEXBERT_NAMES[:-1]))
    return int(zlib.crc32(f"{name}|{text.lower()}".encode()) % 3 == 0)


class RadEval:
    """As radeval.RadEval; `ABSENT` names scorers whose weights are not there."""

    ABSENT: tuple[str, ...] = ()
    made: ClassVar[list["RadEval"]] = []

    def __init__(self, metrics, per_sample, show_progress):
        (self.name,) = metrics
        assert per_sample and not show_progress
        if self.name in self.ABSENT:
            raise OSError("We couldn't connect to the hub to load the files.\nMore of it.")
        setattr(self, f"{self.name}_scorer", types.SimpleNamespace(batch_size=64))
        self.made.append(self)

    def __call__(self, refs, hyps):
        if not (isinstance(refs, list) and isinstance(hyps, list)):
            raise TypeError("hyps and refs must be of type list")
        return {
            key: [score_of(key, ref, hyp) for ref, hyp in zip(refs, hyps, strict=True)]
            for key in PER_SAMPLE_KEYS[self.name]
        }


class F1CheXbert:
    """As radeval.metrics.f1chexbert.F1CheXbert."""

    TARGET_NAMES = CHEXBERT_NAMES

    def __init__(self, *, device, batch_size):
        self.device, self.batch_size = device, batch_size

    def get_labels(self, reports):
        return [[chexbert_label(text, name) for name in CHEXBERT_NAMES] for text in reports]


def modules(absent: tuple[str, ...] = ()) -> dict[str, types.ModuleType]:
    """The stand-in's modules, for sys.modules."""
    package, metrics = types.ModuleType("radeval"), types.ModuleType("radeval.metrics")
    chexbert = types.ModuleType("radeval.metrics.f1chexbert")
    package.RadEval = type("RadEval", (RadEval,), {"ABSENT": absent, "made": []})
    package.metrics, metrics.f1chexbert, chexbert.F1CheXbert = metrics, chexbert, F1CheXbert
    return {
        "radeval": package,
        "radeval.metrics": metrics,
        "radeval.metrics.f1chexbert": chexbert,
        "RadEval": package,
    }
