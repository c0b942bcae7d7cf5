"""Trained models as every evaluation loads them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from medunifier.evaluation.items import BATCH
from medunifier.evaluation.loading import load_trained
from medunifier.huggingface.modeling_medunifier import MedUnifierModel
from medunifier.runtime.errors import InputError
from medunifier.synthesis.generator import load_priors
from medunifier.vision.feature_shards import FeatureStore
from tests.support.paths import REPO
from tests.support.trained_project import DATASET, VARIANT, make_priors, make_project, report_of


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_project(tmp_path)
    return FeatureStore(f"data/features/{DATASET}")


def test_codes_and_reconstructions_are_made_in_evaluation_mode(store):
    trained = load_trained(VARIANT, DATASET)
    assert trained.model.config.dropout > 0
    assert not any(module.training for module in trained.model.modules())
    before = {name: value.clone() for name, value in trained.model.state_dict().items()}
    inputs = trained.features(store.image_ids[:2]), *trained.tokens([report_of(0), report_of(1)])
    with torch.no_grad():
        codes, again = (trained.model.encode_codes(*inputs) for _ in range(2))
        images = [trained.model.reconstruct(*inputs) for _ in range(2)]
        drawn = trained.model.decode_codes(*codes)
    assert all(torch.equal(a, b) for a, b in zip(codes, again, strict=True))
    assert torch.equal(*images)
    torch.testing.assert_close(drawn, images[0], rtol=0, atol=1e-5)
    assert all(torch.equal(before[name], value) for name, value in trained.model.state_dict().items())


def test_features_of_a_vit_with_other_weights_are_refused(store):
    path = Path("models") / VARIANT / "config.json"
    config = json.loads(path.read_text())
    vision = {"model": "none", "revision": None, "skip_last_blocks": 0}
    path.write_text(json.dumps(config | {"vision": vision | {"checksum": "of other weights"}}))
    with pytest.raises(InputError, match="another ViT's than those that models/full was trained on"):
        load_trained(VARIANT, DATASET)
    own = next(iter(store.manifests.values()))["checksum"]
    path.write_text(json.dumps(config | {"vision": vision | {"checksum": own}}))
    assert load_trained(VARIANT, DATASET).model.config.vision["checksum"] == own


def test_weights_that_lack_a_tensor_are_refused_and_not_made_up(store):
    make_priors()
    trained = load_trained(VARIANT)
    load_priors(VARIANT, trained)
    for folder, name in (
        (f"models/priors/{VARIANT}-bottom", "text_reader.whole.weight"),
        (f"models/{VARIANT}", "match_head.weight"),
    ):
        path = Path(folder) / "model.safetensors"
        weights = load_file(path)
        del weights[name]
        save_file(weights, path, metadata={"format": "pt"})
        with pytest.raises(
            InputError, match=f"{folder}: not a whole model .1 weights are missing, {name} first"
        ):
            load_priors(VARIANT, trained) if "priors" in folder else load_trained(VARIANT)


def test_the_network_of_a_folder_is_that_of_the_transformers_model(store):
    trained, model = load_trained(VARIANT, DATASET), MedUnifierModel.from_pretrained(f"models/{VARIANT}")
    weights, expected = trained.model.state_dict(), model.state_dict()
    assert list(weights) == list(expected)
    assert all(torch.equal(weights[name], expected[name]) for name in weights)
    assert all(p.requires_grad for p in trained.model.parameters()) and not trained.model.training
    inputs = trained.features(store.image_ids[:2]), *trained.tokens([report_of(0), report_of(1)])
    with torch.no_grad():
        assert torch.equal(trained.model.match(*inputs), model.match(*inputs))


@pytest.mark.parametrize("text", ["{", "[1]", '{"model_type": "bert"}'])
def test_a_broken_configuration_is_refused(store, text):
    (Path("models") / VARIANT / "config.json").write_text(text)
    with pytest.raises(InputError, match=f"models/{VARIANT}/config.json: "):
        load_trained(VARIANT, DATASET)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            lambda weights: weights | {"head.weight": torch.zeros(1)},
            "1 weights are not known, head.weight first",
        ),
        (lambda weights: weights | {"match_head.bias": torch.zeros(3)}, "size mismatch for match_head.bias"),
    ],
)
def test_weights_of_other_code_are_refused(store, change, complaint):
    path = Path("models") / VARIANT / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})
    with pytest.raises(InputError, match=f"models/{VARIANT}: not a whole model(.|\n)*{complaint}"):
        load_trained(VARIANT)


@pytest.mark.slow
def test_matching_many_texts_reads_each_image_once_for_a_batch(store):
    trained = load_trained(VARIANT, DATASET)
    rng = np.random.default_rng(0)
    ids = [store.image_ids[number] for number in rng.permutation(np.repeat([20, 3, 11, 7], 40))]
    texts = [report_of(number) for number in rng.integers(0, 24, len(ids))]
    one_by_one = [trained.match([image_id], [text])[0] for image_id, text in zip(ids, texts, strict=True)]
    read, rows_read = trained.images.read, []

    def counted(rows):
        rows_read.extend(rows)
        return read(rows)

    trained.images.read = counted
    assert trained.match(ids, texts) == pytest.approx(np.array(one_by_one), abs=1e-5)
    assert len(rows_read) <= 4 + len(ids) // BATCH, "once, and once more where a batch ends between its texts"


@pytest.mark.slow
def test_an_evaluation_that_reads_no_text_does_not_wait_for_transformers(store):
    """Importing it takes longer than many a fine-tuning."""
    code = (
        f"import sys; sys.path.insert(0, {str(REPO)!r}); from medunifier.evaluation.loading import load_trained; "
        f"load_trained({VARIANT!r}); sys.exit('transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_a_data_set_there_are_no_images(store):
    with pytest.raises(ValueError, match=r"models/full: loaded without a data set"):
        load_trained(VARIANT).embed_images(store.image_ids[:1])
