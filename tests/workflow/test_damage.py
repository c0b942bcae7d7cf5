"""A flipped bit in DVC's cache or in an output is noticed: the bad piece is computed again, results are as before."""

import hashlib
import shutil
from pathlib import Path

import pytest

from tests.support.damage import flip
from tests.support.toy_pipeline import Toy
from workflow import verify

OUTPUT = Path("models/full/file.txt")


def object_of(toy: Toy, content: bytes) -> Path:
    (found,) = [
        path for path in (toy.folder / ".dvc/cache/files/md5").glob("*/*") if path.read_bytes() == content
    ]
    return found


def test_a_damaged_object_is_not_restored(done: Toy) -> None:
    content = (done.folder / OUTPUT).read_bytes()
    flip(object_of(done, content))
    (done.folder / OUTPUT).unlink()
    said = done.call("snakemake --cores 2")
    assert "models/full/file.txt: damaged in DVC's cache" in said
    assert done.ran() == ["train@full"]
    assert (done.folder / OUTPUT).read_bytes() == content == object_of(done, content).read_bytes()
    assert done.unclean() == [] and done.planned() == []


def test_what_is_whole_is_restored(done: Toy) -> None:
    (done.folder / OUTPUT).unlink()
    done.call("snakemake --cores 2")
    assert done.ran() == []


def test_a_cache_that_is_gone_is_filled_from_the_outputs(done: Toy) -> None:
    shutil.rmtree(done.folder / ".dvc/cache")
    content = (done.folder / OUTPUT).read_bytes()
    done.edit("params.yaml", "ks: [1, 5]", "ks: [1, 7]")
    done.call("snakemake --cores 2")
    assert {name.partition("@")[0] for name in done.ran()} == {"score", "summarize"}
    assert object_of(done, content).read_bytes() == content
    assert done.planned() == [] and done.unclean() == []


def test_damaged_outputs_do_not_fill_the_cache(done: Toy) -> None:
    shutil.rmtree(done.folder / ".dvc/cache")
    content = (done.folder / OUTPUT).read_bytes()
    flip(done.folder / OUTPUT)
    done.edit("params.yaml", "ks: [1, 5]", "ks: [1, 7]")
    done.call("snakemake --cores 2")
    assert "train@full" in done.ran()
    assert (done.folder / OUTPUT).read_bytes() == content == object_of(done, content).read_bytes()


@pytest.fixture
def here(done: Toy, monkeypatch) -> Toy:
    monkeypatch.chdir(done.folder)
    return done


def test_verification_finds_nothing_in_a_finished_pipeline(here: Toy) -> None:
    assert [*verify.damaged_outputs(), *verify.damaged_objects()] == []


def test_verification_names_file_and_object(here: Toy) -> None:
    cached = object_of(here, OUTPUT.read_bytes())
    flip(OUTPUT)
    ((what, fix),) = verify.damaged_outputs()
    assert what.startswith(f"{OUTPUT}: MD5 ") and fix.startswith(f"rm -r {OUTPUT};")
    flip(cached)
    ((what, fix),) = verify.damaged_objects()
    assert what.startswith(f"{cached}: its MD5 is") and fix.startswith(f"rm -f {cached};")


def test_verification_reads_a_remote_that_is_a_folder(here: Toy, tmp_path: Path) -> None:
    here.call(f"dvc remote add -d store {tmp_path / 'remote'}")
    here.call("dvc push")
    assert list(verify.damaged_objects()) == []
    flip(next((tmp_path / "remote/files/md5").glob("*/*")))
    ((what, _),) = verify.damaged_objects()
    assert what.startswith(str(tmp_path / "remote"))


def test_a_damaged_database_of_dvc_is_forgotten(done: Toy) -> None:
    done.call("dvc status")  # makes the databases of this folder
    databases = [*(done.folder / ".dvc/tmp/site-cache").glob("repo/*/**/cache.db")]
    for path in databases:
        flip(path, 100, 2)  # the kind of SQLite's first page
    assert "database disk image is malformed" in done.call("dvc status", code=255), "DVC alone fails"
    done.edit("params.yaml", "ks: [1, 5]", "ks: [1, 7]")
    said = done.call("snakemake --cores 2")
    assert databases and "links: damaged, and removed" in said
    assert {name.partition("@")[0] for name in done.ran()} == {"score", "summarize"}
    assert done.planned() == [] and done.unclean() == []


def test_a_damaged_list_of_a_folder_is_forgotten(done: Toy) -> None:
    """It is valid JSON, but lacks a key, which DVC takes for granted."""
    output = done.folder / "data/split/a"
    content = (output / "file.txt").read_bytes()
    (path,) = [
        path
        for path in (done.folder / ".dvc/cache/files/md5").glob("*/*.dir")
        if hashlib.md5(content).hexdigest().encode() in path.read_bytes()
    ]
    flip(path, path.read_bytes().index(b"relpath"))
    shutil.rmtree(output)
    said = done.call("snakemake --cores 2")
    assert f"{path.name}: damaged, and removed" in said
    assert done.ran() == ["split@a"] and (output / "file.txt").read_bytes() == content
    assert done.planned() == [] and done.unclean() == []
