"""The entries of docs/data_entries.md as settings of a data set: what the page says is what the tests run."""

import re

from medunifier.runtime.params import Dataset
from medunifier.runtime.yaml import parse_yaml
from tests.support.paths import REPO

PAGE = REPO / "docs/data_entries.md"


def entries() -> dict[str, dict]:
    """Names of data sets -> their entries, as the page writes them."""
    blocks = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return {name: entry for block in blocks for name, entry in parse_yaml(block, PAGE.name).items()}


def entry(name: str, root, **changes) -> Dataset:
    """The entry of a data set, checked as in params.yaml, with another root and other changes."""
    return Dataset.model_validate({**entries()[name], "root": str(root)}).replace(**changes)
