"""Notes of our cells that say where a cell measures something else than the paper's column beside it."""

from __future__ import annotations

from medunifier.runtime.params import Dataset, Params

FIVE = ("atelectasis", "cardiomegaly", "pneumonia", "edema", "pleural_effusion")
# The paper's name of a benchmark -> its classes and its rule (appendix 3). MIMIC 5x200 follows PRIOR (Cheng et al. 2023).
PAPERS_BENCHMARKS = {
    "mimic_5x200": (FIVE, "five_only"),
    "chexpert_5x200": (FIVE, "strict"),
    "rsna": (("pneumonia", "no_pneumonia"), None),
}


def benchmark_note(column: str, dataset: Dataset) -> str:
    """Return how a benchmark differs from the paper's of that name in classes and rule; "" if it does not.

    Args:
        column: the paper's name of the data set.
        dataset: ours, which stands in the column.
    """
    own = dataset.benchmark
    if own is None or column not in PAPERS_BENCHMARKS:
        return ""
    classes, rule = PAPERS_BENCHMARKS[column]
    found = []
    if added := [name for name in own.classes if name not in classes]:
        left_out = [name for name in classes if name not in own.classes]
        found.append(f"classes: {', '.join(added)} instead of the paper's {', '.join(left_out) or 'fewer'}")
    elif set(own.classes) != set(classes):
        found.append(f"classes: {', '.join(own.classes)} alone")
    if rule is not None and own.rule not in (rule, "list"):
        found.append(f"chosen by rule {own.rule}, in the paper {rule}")
    return "; ".join(found)


def list_note(dataset: Dataset) -> str:
    """Return the lists that a data set in COVIDx's layout is of, by their file names; "" for other layouts."""
    if dataset.layout != "covidx":
        return ""
    names = dict.fromkeys(path.rpartition("/")[2] for path in (dataset.index.images, dataset.index.split))
    return f"lists {', '.join(names)}"


def reconstruction_note(params: Params) -> str:
    """Return which images Table 5's reconstructions are of, where the paper's are of others."""
    if params.score_images.reconstructed == "train":
        return ""
    return "of held-out test images; the paper reconstructs training images"


def joined(*notes: str) -> str:
    """Return several notes as one, the empty ones left out."""
    return "; ".join(note for note in notes if note)
