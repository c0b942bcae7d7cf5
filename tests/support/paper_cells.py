"""Metrics and cells for tests of the paper's tables."""

PHANTOMS = {"phantom", "phantom-chexpert", "phantom-rsna", "phantom-siim", "phantom-covidx"}


def metrics_of(stage):
    """Metrics in which a figure tells its stage: the sum of the letters of its name."""
    base = sum(map(ord, stage)) % 97
    names = ["auroc", "accuracy", "probe_auroc", "probe_accuracy"]
    names += [
        f"{d}_{kind}_at_{k}" for d in ("i2t", "t2i") for kind in ("map", "map_release") for k in (1, 5, 10)
    ]
    names += [
        f"{s}{p}bleu_{n}"
        for s in ("", "nearest_", "constant_")
        for p in ("", "release_")
        for n in range(1, 5)
    ]
    return {
        key: value
        for name in names
        for key, value in {
            name: base,
            f"{name}_ci_low": base - 1,
            f"{name}_ci_high": base + 1,
            f"{name}_n": 7,
            f"{name}_chance": 20,
        }.items()
    }


def ours(cells):
    return [cell for cell in cells if cell.source == "ours"]
