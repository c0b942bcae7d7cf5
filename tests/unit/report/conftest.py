import pytest

from medunifier.runtime.params import load_params
from tests.support.paths import REPO


@pytest.fixture(scope="module")
def params():
    return load_params(REPO / "workflow/presets/demo.yaml")
