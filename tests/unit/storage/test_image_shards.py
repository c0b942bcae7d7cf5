import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from medunifier.runtime.errors import InputError
from medunifier.storage import image_shards
from medunifier.storage.image_shards import ImageStore, TargetImages, part_path, write_images, write_part


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (11, 6, 6), dtype=np.uint8)


@pytest.fixture
def store(tmp_path, images, monkeypatch):
    monkeypatch.setattr(image_shards, "PART_ROWS", 5)
    monkeypatch.setattr(image_shards, "_BATCH_ROWS", 2)
    write_images(tmp_path, [f"id{n}" for n in range(11)], iter(images), 6)
    return ImageStore(tmp_path)


def test_rows_come_back_in_the_order_asked_for(store, images):
    assert len(list(store.folder.glob("part-*.arrow"))) == 3
    assert (len(store), store.height, store.width) == (11, 6, 6)
    wanted = [10, 0, 5, 5, 1, 7]
    rows = store.rows([f"id{n}" for n in wanted])
    assert rows.dtype == np.int64
    np.testing.assert_array_equal(store.read(rows), images[wanted])
    np.testing.assert_array_equal(store.read(range(11)), images)
    assert store.read([]).shape == (0, 6, 6)


def test_images_stay_on_disk(store):
    before = pa.total_allocated_bytes()
    store.read([0])
    assert all(not piece.flags.owndata and not piece.flags.writeable for piece in store.pieces)
    assert pa.total_allocated_bytes() == before


def test_unknown_ids_and_rows_are_refused(store):
    assert "id3" in store and "id11" not in store
    with pytest.raises(InputError, match="id11"):
        store.rows(["id0", "id11"])
    for row in (-1, 11):
        with pytest.raises(IndexError):
            store.read([row])


def test_parts_that_do_not_belong_together_are_refused(tmp_path, images):
    with pytest.raises(InputError, match="run decode_images first"):
        ImageStore(tmp_path)
    write_part(part_path(tmp_path, 0), ["a"], images[:1], 6)
    write_part(part_path(tmp_path, 1), ["a"], images[:1], 6)
    with pytest.raises(InputError, match="comes twice"):
        ImageStore(tmp_path)
    write_part(part_path(tmp_path, 1), ["b"], images[:1, :4, :4], 4)
    with pytest.raises(InputError, match="different sizes"):
        ImageStore(tmp_path)


def test_a_truncated_part_is_refused(tmp_path, images):
    path = part_path(tmp_path, 0)
    write_part(path, ["a", "b"], images[:2], 6)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"part-00000\.arrow: not a whole Arrow file"):
        ImageStore(tmp_path)


@pytest.mark.parametrize(
    "arrays", [np.zeros((1, 6, 6), np.uint8), np.zeros((2, 5, 6), np.uint8), np.zeros((2, 6, 6))]
)
def test_wrong_images_are_refused_and_leave_nothing(tmp_path, arrays):
    with pytest.raises(ValueError, match=r"zip\(\)|expected uint8"):
        write_part(part_path(tmp_path, 0), ["a", "b"], arrays, 6)
    assert not list(tmp_path.iterdir())


def test_the_same_images_give_the_same_bytes(tmp_path, images):
    for name in "ab":
        write_images(tmp_path / name, [f"id{n}" for n in range(11)], images, 6)
    assert part_path(tmp_path / "a", 0).read_bytes() == part_path(tmp_path / "b", 0).read_bytes()


def test_larger_images_are_read_at_the_size_of_the_image_objective(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 518, 518)).astype(np.uint8)
    write_images(tmp_path / "large", ["a", "b", "c"], images, 518)
    store = TargetImages(tmp_path / "large")
    found = store.read([2, 0])
    assert (store.height, store.width) == (224, 224) and found.dtype == np.uint8
    for image, row in zip(found, (2, 0), strict=True):
        expected = Image.fromarray(images[row]).resize((224, 224), Image.Resampling.LANCZOS)
        np.testing.assert_array_equal(image, expected)
    assert store.read([]).shape == (0, 224, 224)
    small = images[:, :224, :224]
    write_images(tmp_path / "small", ["a", "b", "c"], small, 224)
    np.testing.assert_array_equal(TargetImages(tmp_path / "small").read([0, 1, 2]), small)
