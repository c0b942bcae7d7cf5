"""Check a data set before anything runs: files that exist or are missing, images that would be rejected."""

import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import polars as pl

from medunifier.data.image_decoding import UnreadableImage, decode_image
from medunifier.data.index_files import what_is_there
from medunifier.data.layouts import RAW_IMAGES, find_layout
from medunifier.data.preparation.prepared_tables import explain_rejects, final_tables
from medunifier.data.preparation.rejects import Reason, Selection
from medunifier.data.preparation.rules import select_images
from medunifier.data.preparation.splits import SPLITS
from medunifier.runtime.errors import InputError
from medunifier.runtime.params import NO_FILE, Dataset
from medunifier.storage.tables import LABEL_PREFIX

_SIMULATED = Path("data/simulated")  # the output of the stage simulate
_FROM_SIMULATE = "The stage simulate generates the phantoms: run `dvc repro simulate`"
_TRIED = 12  # images to decode, evenly spaced: enough to detect a wrong format or a broken download


def check_dataset(
    name: str, settings: Dataset, seed: int, label_sentences: str = NO_FILE, labels: Collection[str] = ()
) -> Iterator[str]:
    """Yield lines that report what `prepare` would find under the data set's root, by the rules of `prepare`.

    Writes nothing. `labels` are those that later stages classify, which would stop for want of images.

    Raises:
        InputError: `prepare` would stop; the message names all that is missing.
    """
    layout = find_layout(settings.layout)
    root = Path(settings.root)
    source = _FROM_SIMULATE if root.is_relative_to(_SIMULATED) else f"Get the data set: {layout.SOURCE}"
    yield f"{name}: layout {settings.layout}, root {os.path.realpath(root)}"
    yield from _index_files(name, settings, root, source)
    raw = layout.read_images(settings)
    RAW_IMAGES.check(raw.rows, f"read_images of {settings.layout}")
    patients = raw.rows["patient_id"].n_unique()
    yield f"  index    {len(raw.rows)} images of {patients} patients"
    selection = Selection(raw.rows)
    reports = select_images(selection, settings, layout, seed, label_sentences)
    notes = raw.notes | reports.notes | selection.notes
    yield f"  notes    {_counts({note: count for note, count in notes.items() if count})}"
    yield from (f"  warning  {text}" for text in (*raw.warnings, *reports.warnings, *selection.warnings))
    yield f"  kept     {len(selection.kept)}: {_counts(_split_sizes(selection))}"
    yield from _rejects(selection)
    problems = []
    if 2 * _lost(selection) > len(raw.rows):
        problems.append(f"most images cannot be used: {explain_rejects(selection, settings)}. {source}")
    lines, broken = _decoding(selection.kept, root)
    yield from lines
    if broken:
        problems.append("more than half of the images tried cannot be decoded")
    try:
        tables = final_tables(selection, settings, name, seed)
    except InputError as error:
        raise InputError(f"{error}. {source}" if selection.kept.is_empty() else str(error)) from None
    if "benchmark" in tables:
        classes = dict(tables["benchmark"].group_by("benchmark_class", maintain_order=True).len().iter_rows())
        yield f"  benchmark {_counts(classes)}; without it, {_counts(_split_sizes(selection))}"
    problems += _label_problems(tables, labels)
    yield from (f"  problem  {problem}" for problem in problems)
    yield "  nothing was written" if problems else "  no problem found; nothing was written"


def _label_problems(tables: Mapping[str, pl.DataFrame], labels: Collection[str]) -> list[str]:
    """Return what is wrong with labels that are to be classified: unknown, or without a positive image in a split."""
    columns = [name for name in tables["train"].columns if name.startswith(LABEL_PREFIX)]
    known = ", ".join(name.removeprefix(LABEL_PREFIX) for name in columns) or "no label"
    problems = []
    for label in dict.fromkeys(labels):
        if (column := LABEL_PREFIX + label) not in columns:
            problems.append(f"`evaluate` or `zero_shot` names a label {label}; the data set has {known}")
        elif empty := [split for split in SPLITS if not (tables[split][column] == 1).any()]:
            problems.append(
                f"label {label} has no positive image in {', '.join(empty)}: its classification would stop there; "
                "take it out of `evaluate` and `zero_shot`"
            )
    return problems


def _index_files(name: str, settings: Dataset, root: Path, source: str) -> Iterator[str]:
    """Yield a line for each index file; InputError if the root or a file is missing."""
    if not root.is_dir():
        raise InputError(f"datasets.{name}.root: no such folder. {source}")
    missing = []
    for file, roles in _roles(settings).items():
        if (root / file).exists():
            yield f"  found    {file} ({', '.join(roles)})"
        else:
            missing.append(f"{file} ({', '.join(roles)}){what_is_there(root / file)}")
    if missing:
        raise InputError(
            f"{root} lacks {'; '.join(missing)}. Correct `root` or `index` of datasets.{name} in params.yaml, or "
            f"complete the data set. {source}"
        )


def _roles(settings: Dataset) -> dict[str, list[str]]:
    """Map index files to their roles."""
    roles: dict[str, list[str]] = {}
    for role, file in vars(settings.index).items():
        roles.setdefault(file, []).append(role)
    return roles


def _split_sizes(selection: Selection) -> dict[str, int]:
    """Map splits to numbers of kept images."""
    return {split: len(selection.kept.filter(split=split)) for split in SPLITS}


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"


def _rejects(selection: Selection) -> Iterator[str]:
    """Yield a line for each reason, the most frequent first, with its explanation and an example."""
    rejected = selection.rejected
    for reason, count in selection.counts().items():
        first = rejected.filter(reason=reason).row(0, named=True)
        detail = f" ({first['detail']})" if first["detail"] else ""
        yield f"  rejected {count} {reason}: {Reason(reason).explanation}; first {first['image_id']}{detail}"


def _lost(selection: Selection) -> int:
    """Return the number of images without a file that can be used."""
    counts = selection.counts()
    return sum(
        counts.get(reason, 0)
        for reason in (Reason.MISSING_IMAGE, Reason.UNREADABLE_IMAGE, Reason.OUTSIDE_ROOT)
    )


def _decoding(kept: pl.DataFrame, root: Path) -> tuple[list[str], bool]:
    """Decode a few images as `decode_images` will; return lines with the result, and whether most are broken."""
    paths = kept["image_path"].gather_every(max(1, len(kept) // _TRIED)).head(_TRIED).to_list()
    problems = []
    for path in paths:
        try:
            decode_image(root / path, 224, "squash")
        except (UnreadableImage, InputError) as problem:
            problems.append(f"{path}: {problem}")
    lines = [f"  decoded  {len(paths) - len(problems)} of {len(paths)} images tried"]
    return [*lines, *(f"  broken   {problem}" for problem in problems)], 2 * len(problems) > len(paths)
