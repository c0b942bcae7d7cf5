"""The model card of a trained model."""

from collections.abc import Mapping, Sequence
from pathlib import Path


def write_model_card(
    folder: Path, *, title: str, tags: Sequence[str], description: str, values: Mapping[str, float]
) -> None:
    """Write README.md of a model folder, with YAML front matter as the Hugging Face hub reads it.

    Args:
        folder: of the model.
        title: heading.
        tags: of the hub.
        description: one paragraph: data, recipe, what the model reads.
        values: metrics by name.
    """
    parts = [
        f"---\nlibrary_name: transformers\ntags: [{', '.join(tags)}]\n---",
        f"# {title}",
        description,
        "Research software: not a medical device, not for clinical use.",
        "| metric | value |\n|---|---|\n"
        + "\n".join(f"| {name} | {value:.6g} |" for name, value in values.items()),
    ]
    (folder / "README.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
