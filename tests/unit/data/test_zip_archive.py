"""The standard library's zipfile writes the archives."""

import random
import zipfile
from pathlib import Path

import pytest

from medunifier.data.zip_archive import BrokenEntry, read_directory, read_entry
from medunifier.runtime.errors import InputError


def write(path, contents, comment=b"", **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
        archive.comment = comment
    return path


@pytest.mark.parametrize("comment", [b"", b"from PhysioNet " * 50])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_every_file_comes_back(tmp_path, method, comment):
    generator = random.Random(0)
    contents = {f"files/p1{n}/s{n}é.txt": generator.randbytes(n * 50) + b"x" * 300 for n in range(40)}
    contents |= {"files/": b"", "empty.txt": b""}
    path = str(write(tmp_path / "a.zip", contents, comment, compression=method))
    directory = read_directory(path)
    assert {name: read_entry(path, place) for name, place in directory.items()} == contents


def test_the_end_of_an_archive_with_more_files_than_the_old_format_can_count(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 10)  # as if this were 65 535
    path = str(write(tmp_path / "a.zip", {f"s{n}.txt": str(n) for n in range(20)}))
    assert b"PK\6\6" in Path(path).read_bytes()
    directory = read_directory(path)
    assert [read_entry(path, place) for place in directory.values()] == [b"%d" % n for n in range(20)]


@pytest.mark.parametrize("kept", [0, 10, 200, -1])
def test_what_is_no_whole_archive_is_an_error(tmp_path, kept):
    path = write(tmp_path / "a.zip", {f"{n}.txt": b"some text" for n in range(9)})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(
        InputError, match=r"a\.zip: (not a whole zip file.*download it again|the zip file is empty)"
    ):
        read_directory(path)


def test_damage_within_is_an_error_of_the_file_that_it_hits(tmp_path):
    contents = {"good.txt": b"good text", "bad.txt": b"bad text " * 9, "worse.txt": b"worse text " * 9}
    path = write(tmp_path / "a.zip", contents, compression=zipfile.ZIP_DEFLATED)
    damaged = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        bad, worse = (archive.getinfo(name).header_offset for name in ("bad.txt", "worse.txt"))
    damaged[bad + 30 + len("bad.txt") + 2] ^= 0xFF
    damaged[worse] ^= 0xFF
    path.write_bytes(damaged)
    directory, path = read_directory(path), str(path)
    assert read_entry(path, directory["good.txt"]) == b"good text"
    with pytest.raises(BrokenEntry, match=r"cannot be unpacked|checksum is wrong"):
        read_entry(path, directory["bad.txt"])
    with pytest.raises(BrokenEntry, match="damaged there"):
        read_entry(path, directory["worse.txt"])


def test_other_packing_is_an_error(tmp_path):
    path = str(write(tmp_path / "a.zip", {"a.txt": b"text"}, compression=zipfile.ZIP_LZMA))
    with pytest.raises(BrokenEntry, match="other than deflate"):
        read_entry(path, read_directory(path)["a.txt"])


def test_a_file_too_large_for_the_old_format_is_an_error(tmp_path):
    """As a directory entry says it whose sizes stand elsewhere."""
    path = write(tmp_path / "a.zip", {"a.txt": b"text", "b.txt": b"more text"})
    directory, content = read_directory(path), bytearray(path.read_bytes())
    content[directory["a.txt"] + 20 : directory["a.txt"] + 24] = b"\xff" * 4
    path.write_bytes(content)
    assert read_entry(str(path), directory["b.txt"]) == b"more text"
    with pytest.raises(BrokenEntry, match="4 GiB"):
        read_entry(str(path), directory["a.txt"])
