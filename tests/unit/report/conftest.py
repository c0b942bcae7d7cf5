import pytest

from medunifier.runtime.params import load_params
from tests.support.paths import REPO


@pytest.fixture(scope="module")
def params():
    """The demo with the paper's weights, so that its variant is one of the paper's."""
    demo = load_params(REPO / "workflow/presets/demo.yaml")
    return demo.replace(variants={"full": demo.variants["full"].replace(itg=1.0)})
