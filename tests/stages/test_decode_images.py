import errno
import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from medunifier.data import image_parts
from medunifier.data.image_decoding import decode_file, decode_image
from medunifier.data.image_parts import NOTES
from medunifier.data.overlaps import CONTENTS
from medunifier.runtime.errors import InputError
from medunifier.runtime.params import load_params
from medunifier.storage.image_shards import ImageStore
from medunifier.storage.tables import MANIFEST, REJECTED, read_table, write_table
from medunifier.tracking import LocalRun
from stages import decode_images as stage
from tests.support.fake_mimic import jpeg
from tests.support.paths import REPO

OUT = Path("data/images/phantom")


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Seven images of which two are no good, with their manifest, in a working directory of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MEDUNIFIER_STATE", raising=False)
    monkeypatch.setattr(stage, "PART_ROWS", 3)
    root = tmp_path / "raw"
    root.mkdir()
    for number in range(7):
        (root / f"{number}.jpg").write_bytes(jpeg(f"image {number}"))
    (root / "2.jpg").write_bytes(jpeg("truncated")[:900])
    (root / "5.jpg").write_bytes(b"no image")
    rows = [
        {"image_id": f"i{n}", "study_id": f"s{n}", "image_path": f"{n}.jpg", "bytes": 9, "sha256": None}
        for n in range(7)
    ]
    write_table(
        pl.DataFrame(rows, schema=dict(MANIFEST.columns)), "data/prepared/phantom/manifest.parquet", MANIFEST
    )
    return root


def decode(root, **images):
    params = load_params(REPO / "workflow" / "presets" / "demo.yaml")
    dataset = params.datasets["phantom"].replace(root=str(root))
    images = params.images.replace(**{"size": 16, **images})
    params = params.replace(datasets={"phantom": dataset}, images=images)
    stage.decode_images(params, LocalRun("decode_images@phantom", "metrics"), "phantom")


def content(folder=OUT):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_images_are_decoded_and_broken_ones_rejected(root):
    decode(root)
    store = ImageStore(OUT)
    assert store.image_ids == ["i0", "i1", "i3", "i4", "i6"]
    for image_id, pixels in zip(store.image_ids, store.read(range(5)), strict=True):
        np.testing.assert_array_equal(pixels, decode_image(root / f"{image_id[1]}.jpg", 16, "squash"))
    rejected = read_table(OUT / "rejected.parquet", REJECTED)
    assert rejected.drop("detail").rows() == [
        ("i2", "s2", "unreadable_image"),
        ("i5", "s5", "unreadable_image"),
    ]
    assert "2.jpg: OSError: image file is truncated" in rejected["detail"][0]
    summary = json.loads((OUT / "summary.json").read_text())
    assert summary["pictures"] == 7 == summary["decoded"] + sum(summary["rejected"].values())
    assert json.loads(Path("metrics/decode_images@phantom.json").read_text())["rejected"] == 2
    assert not list(Path(".state").rglob("*.arrow"))


@pytest.mark.slow
def test_the_number_of_processes_changes_nothing(root, monkeypatch):
    decode(root)
    alone = content()
    monkeypatch.setattr(stage, "available_cores", lambda: 2)
    monkeypatch.setattr(stage, "_BYTES_A_WORKER", 1)
    decode(root)
    assert content() == alone


def interrupt_after(monkeypatch, images):
    """Let decoding stop for good after so many images; returns the list of those that were tried."""
    tried = []

    def decode_or_stop(path, *arguments, **options):
        if len(tried) == images:
            raise KeyboardInterrupt
        tried.append(Path(path).name)
        return decode_file(path, *arguments, **options)

    monkeypatch.setattr(image_parts, "decode_file", decode_or_stop)
    return tried


def test_finished_parts_survive_an_interruption(root, monkeypatch):
    decode(root)
    whole = content()
    interrupt_after(monkeypatch, 4)
    with pytest.raises(KeyboardInterrupt):
        decode(root)
    tried = interrupt_after(monkeypatch, 100)
    decode(root)
    assert tried == ["3.jpg", "4.jpg", "5.jpg", "6.jpg"], "the first part was there"
    assert content() == whole


@pytest.mark.parametrize("step", ["write_table", "write_json", "shutil.rmtree", "shutil.move"])
def test_all_parts_survive_an_interruption_after_the_last_one(root, monkeypatch, step):
    """Whatever comes when all is decoded, up to the very move, nothing is decoded again."""
    decode(root)
    whole = content()

    def stop(*_, **__):
        raise KeyboardInterrupt

    def stop_after_the_parts(frame, path, schema):
        stop() if Path(path).name == "contents.parquet" else write_table(frame, path, schema)

    target = f"medunifier.data.image_parts.{step}" if "." in step else f"stages.decode_images.{step}"
    with monkeypatch.context() as patch:
        patch.setattr(target, stop_after_the_parts if step == "write_table" else stop)
        with pytest.raises(KeyboardInterrupt):
            decode(root)
    tried = interrupt_after(monkeypatch, 100)
    decode(root)
    assert tried == [] and content() == whole


def test_publishing_on_another_disk_keeps_the_images_until_all_are_copied(root, monkeypatch):
    decode(root)
    whole = content()

    def other_disk(*_):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    def copy_one(source, target, **_):
        target.mkdir()
        shutil.copy(min(source.iterdir()), target)
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil.os, "rename", other_disk)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copytree", copy_one)
        with pytest.raises(KeyboardInterrupt):
            decode(root)
    assert len(content()) == 1
    tried = interrupt_after(monkeypatch, 100)
    decode(root)
    assert tried == [] and content() == whole


def test_contents_are_digests_of_the_grey_values(root):
    decode(root)
    found = read_table(OUT / "contents.parquet", CONTENTS)
    store = ImageStore(OUT)
    expected = [hashlib.sha256(pixels.tobytes()).hexdigest() for pixels in store.read(range(5))]
    assert found.rows() == list(zip(store.image_ids, expected, strict=True))


@pytest.mark.parametrize("change", ["settings", "images"])
def test_parts_of_other_settings_or_images_are_not_taken(root, monkeypatch, change):
    interrupt_after(monkeypatch, 4)
    with pytest.raises(KeyboardInterrupt):
        decode(root, verify="none")
    tried = interrupt_after(monkeypatch, 100)
    if change == "images":
        path = "data/prepared/phantom/manifest.parquet"
        write_table(read_table(path).with_columns(pl.lit("0" * 64).alias("sha256")), path, MANIFEST)
    decode(root, aspect="pad" if change == "settings" else "squash", verify="none")
    assert len(tried) == 7


def test_no_readable_image_at_all_is_an_error(root):
    for path in root.iterdir():
        path.write_bytes(b"")
    with pytest.raises(InputError, match=r"none of 7 images can be decoded: 0\.jpg: UnidentifiedImageError"):
        decode(root)


def test_a_missing_image_is_an_error(root):
    (root / "3.jpg").unlink()
    with pytest.raises(InputError, match=r"3\.jpg: No such file"):
        decode(root)


def test_a_full_disk_is_passed_on(root, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("medunifier.runtime.files.os.replace", full)
    with pytest.raises(OSError, match="No space left") as caught:
        decode(root)
    assert caught.value.errno == errno.ENOSPC
    assert not OUT.exists()


def test_without_prepared_tables_the_error_names_the_stage_to_run(root):
    Path("data/prepared/phantom/manifest.parquet").unlink()
    with pytest.raises(InputError, match=r"manifest\.parquet: no such table; run the stage that makes it"):
        decode(root)


def list_checksums(root, **wrong):
    """Put the SHA-256 of every file into the manifest, but for those in `wrong`, by image id."""
    path = "data/prepared/phantom/manifest.parquet"
    table = read_table(path, MANIFEST)
    sums = [hashlib.sha256((root / name).read_bytes()).hexdigest() for name in table["image_path"]]
    sums = [wrong.get(image_id, digest) for image_id, digest in zip(table["image_id"], sums, strict=True)]
    write_table(table.with_columns(sha256=pl.Series(sums, dtype=pl.String)), path, MANIFEST)


def summary():
    return json.loads((OUT / "summary.json").read_text())


def test_files_that_are_not_those_listed_are_rejected(root):
    list_checksums(root, i3="0" * 64, i4=None, i5="0" * 64)
    decode(root)
    rejected = read_table(OUT / "rejected.parquet", REJECTED)
    assert dict(rejected.select("image_id", "reason").iter_rows()) == {
        "i2": "unreadable_image",
        "i3": "wrong_checksum",
        "i5": "unreadable_image",
    }
    (detail,) = rejected.filter(reason="wrong_checksum")["detail"]
    assert detail.startswith("3.jpg: SHA-256 is ") and detail.endswith("fetch the file again")
    assert summary()["verified"] == 6 and summary()["rejected"] == {
        "unreadable_image": 2,
        "wrong_checksum": 1,
    }
    decode(root, verify="none")
    assert summary()["verified"] == 0 and summary()["rejected"] == {"unreadable_image": 2}


def test_bits_in_use_and_warnings_are_counted(root, capsys):
    wide = Image.fromarray(np.linspace(0, 4095, 256).astype(np.uint16).reshape(16, 16))
    for number in (0, 1, 6):
        wide.save(root / f"{number}.jpg", "PNG")
    decode(root)
    note = "12 of 16 declared bits used"
    assert summary()["bits"] == "used" and summary()["notes"] == {note: 3}
    notes = read_table(OUT / "notes.parquet", NOTES)
    assert notes.rows() == [("i0", note), ("i1", note), ("i6", note)]
    assert f"3 images: {note}" in capsys.readouterr().out
    store = ImageStore(OUT)
    assert store.read([0]).max() == 255
    decode(root, bits="declared")
    assert summary()["notes"] == {} and ImageStore(OUT).read([0]).max() == 16


def test_images_with_too_many_pixels_are_rejected(root):
    Image.new("L", (1001, 1000)).save(root / "4.jpg")
    decode(root, max_megapixels=1)
    rejected = read_table(OUT / "rejected.parquet", REJECTED).filter(image_id="i4")
    assert rejected.rows() == [
        ("i4", "s4", "too_large_image", "4.jpg: 1001 x 1000 pixels, more than 1 megapixels")
    ]
    decode(root)
    assert "too_large_image" not in summary()["rejected"]


@pytest.mark.parametrize("kind", ["folder", "pipe", "loop"])
def test_what_took_a_files_place_since_it_was_prepared_is_rejected(root, kind):
    path = root / "3.jpg"
    path.unlink()
    {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path), "loop": lambda: path.symlink_to(path)}[kind]()
    decode(root)
    assert read_table(OUT / "rejected.parquet", REJECTED).filter(image_id="i3")["reason"].to_list() == [
        "unreadable_image"
    ]
