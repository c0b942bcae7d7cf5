import hashlib
import json

import numpy as np
import pytest

from medunifier.runtime.errors import InputError
from medunifier.vision.feature_shards import FeatureStore, write_feature_shard

MODEL = {"model": "local", "revision": None, "checksum": "abc"}


@pytest.fixture
def tokens():
    return np.random.default_rng(0).normal(size=(9, 5, 4)).astype(np.float16)


@pytest.fixture
def folder(tmp_path, tokens):
    ids = [f"id{n}" for n in range(9)]
    write_feature_shard(tmp_path / "0", ids[:5], [tokens[:3], tokens[3:5]], MODEL)
    write_feature_shard(tmp_path / "1", ids[5:], [tokens[5:]], MODEL)
    return tmp_path


def test_shards_read_as_one(folder, tokens):
    store = FeatureStore(folder)
    assert (len(store), store.n_tokens, store.width) == (9, 5, 4)
    assert set(store.manifests) == {"0", "1"}
    wanted = [8, 0, 4, 5, 4]
    read = store.read(store.rows([f"id{n}" for n in wanted]))
    assert read.dtype == np.float16
    np.testing.assert_array_equal(read, tokens[wanted])


def test_the_manifest_describes_the_file_beside_it(folder, tokens):
    manifest = json.loads((folder / "0" / "manifest.json").read_text())
    digest = hashlib.sha256((folder / "0" / "tokens.npy").read_bytes()).hexdigest()
    assert manifest == {**MODEL, "mode": "cached", "images": 5, "n_tokens": 5, "width": 4, "sha256": digest}
    np.testing.assert_array_equal(np.load(folder / "0" / "tokens.npy"), tokens[:5])


def test_a_shard_cut_short_is_never_taken_for_whole(folder, tokens):
    def broken():
        yield tokens[5:7]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_feature_shard(folder / "1", ["id5", "id6", "id7"], broken(), MODEL)
    with pytest.raises(InputError, match=r"1/manifest.json: not found; run extract_features again"):
        FeatureStore(folder)


def test_tokens_that_do_not_fit_their_manifest_are_refused(folder):
    path = folder / "1" / "tokens.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(InputError, match=r"tokens\.npy: cannot be read"):
        FeatureStore(folder)
    np.save(path, np.zeros((4, 5, 3), np.float16))
    with pytest.raises(InputError, match=r"manifest\.json says"):
        FeatureStore(folder)


def test_shards_of_different_models_or_with_common_images_are_refused(folder, tokens):
    write_feature_shard(folder / "2", ["id9"], [tokens[:1]], {**MODEL, "checksum": "other"})
    with pytest.raises(InputError, match="differ in checksum"):
        FeatureStore(folder)
    write_feature_shard(folder / "2", ["id0"], [tokens[:1]], MODEL)
    with pytest.raises(InputError, match="comes twice"):
        FeatureStore(folder)
    with pytest.raises(InputError, match="run extract_features first"):
        FeatureStore(folder / "nowhere")


@pytest.mark.parametrize(
    "batches",
    [
        [],
        [np.zeros((1, 5, 4), np.float16)],
        [np.zeros((2, 5, 4), np.float32)],
        [np.zeros((1, 5, 4), np.float16), np.zeros((1, 5, 3), np.float16)],
    ],
)
def test_batches_that_do_not_add_up_are_refused(tmp_path, batches):
    with pytest.raises(ValueError, match=r"batch is float|rows of tokens for 2 image ids"):
        write_feature_shard(tmp_path / "0", ["a", "b"], batches, MODEL)
    assert not (tmp_path / "0" / "manifest.json").exists()
