"""The image encoder of the demo and of the presets without a hub: where the set-up puts it, and what makes it."""

from pathlib import Path

FOLDER = "encoders/tf_efficientnet_lite0"
ADVICE = f"`make setup` makes {FOLDER}; without make: python -m medunifier.vision.convert efficientnet-lite0"


def is_own(path: str | Path) -> bool:
    """Return whether `path` is FOLDER, as params.yaml or a project elsewhere names it."""
    return Path(path).parts[-2:] == Path(FOLDER).parts
