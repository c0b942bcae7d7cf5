"""`import medunifier` is cheap, exports the model lazily, and registers it with transformers' Auto classes."""

import subprocess
import sys

import pytest

import medunifier
from medunifier.huggingface.modeling_medunifier import MedUnifierModel
from tests.support.paths import REPO
from tests.unit.huggingface.test_processing import make_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("project"))


def run(code, folder):
    """Run a program in `folder`; returns (stdout, stderr). Progress bars are off: what is left is for the user."""
    environment = {"PATH": "", "PYTHONPATH": str(REPO), "TQDM_DISABLE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_the_import_alone_loads_no_library(tmp_path):
    code = "import sys, medunifier, medunifier.stage\nprint({'torch', 'transformers', 'numpy'} & set(sys.modules))"
    assert run(code, tmp_path)[0].strip() == "set()"


def test_exports():
    assert set(medunifier.__all__) <= set(dir(medunifier))
    assert medunifier.MedUnifierModel is MedUnifierModel
    for name in medunifier.__all__:
        assert getattr(medunifier, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'MedUnifer'"):
        medunifier.MedUnifer  # noqa: B018


def test_a_type_checker_reads_the_same_names():
    stub = (REPO / "medunifier/__init__.pyi").read_text("utf-8")
    for name, module in medunifier._EXPORTS.items():
        assert f"from {module} import {name} as {name}\n" in stub
    assert f"__all__ = {medunifier.__all__}".replace("'", '"') in stub


LOADED = """
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor, AutoTokenizer
folder = {folder!r}
print(type(AutoTokenizer.from_pretrained(folder)).__name__)
config = AutoConfig.from_pretrained(folder)
for found in (
    config,
    AutoModel.from_pretrained(folder),
    AutoModel.from_config(config),
    AutoImageProcessor.from_pretrained(folder),
    AutoProcessor.from_pretrained(folder),
):
    print(type(found).__module__, type(found).__name__)
"""
EXPECTED = [
    "medunifier.huggingface.configuration_medunifier MedUnifierConfig",
    *2 * ["medunifier.huggingface.modeling_medunifier MedUnifierModel"],
    "medunifier.huggingface.image_processing_medunifier MedUnifierImageProcessor",
    "medunifier.huggingface.processing_medunifier MedUnifierProcessor",
]


@pytest.mark.slow
@pytest.mark.parametrize(
    "before", ["", "from transformers import AutoModel, AutoProcessor\n"], ids=["first", "last"]
)
def test_auto_classes_load_the_model_from_any_folder_without_a_warning(folder, tmp_path, before):
    """Whether `medunifier` is imported before transformers or after it."""
    code = f"{before}import medunifier\n{LOADED.format(folder=str(folder / 'models/full'))}"
    out, err = run(code, tmp_path)
    assert out.splitlines()[1:] == EXPECTED
    assert err == ""


@pytest.mark.slow
def test_a_tokenizer_is_loaded_without_the_model(folder, tmp_path):
    """A stage that reads texts alone must not pay for the model's and the processor's imports."""
    code = (
        "import sys\nfrom medunifier.data.tokenizer import load_tokenizer\n"
        f"load_tokenizer({str(folder / 'models/full')!r})\n"
        "print({'torchvision', 'medunifier.huggingface.modeling_medunifier'} & set(sys.modules))"
    )
    out, err = run(code, tmp_path)
    assert out.strip() == "set()"
    assert err == ""
