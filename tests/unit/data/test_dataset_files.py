"""Files below a data set's root: paths that leave it, links, what is no file, suffixes."""

import os

import polars as pl
import pytest

from medunifier.data.dataset_files import (
    count_images,
    find_files,
    has_images,
    leaves_root,
    locate_images,
    read_file_inside,
    read_small_file,
)
from tests.support.fake_files import dicom_file, image_file, pixels, put

PNG = image_file(pixels("a"), "PNG")


@pytest.fixture
def root(tmp_path):
    put(tmp_path / "outside/secret.png", PNG)
    put(tmp_path / "root/a.png", PNG)
    return tmp_path / "root"


def locate(root, *paths, links="follow"):
    rows = locate_images(pl.DataFrame({"image_path": paths}, {"image_path": pl.String}), root, links)
    return rows.select("image_path", "bytes", "reason", "detail").rows()


@pytest.mark.parametrize(
    ("path", "leaves"),
    [
        ("a/b.png", False), ("..a/b..png", False), ("a/...", False), ("./a", False),
        ("../a", True), ("a/../../b", True), ("a/..", True), ("..", True), ("/a", True), ("", False),
    ],
)  # fmt: skip
def test_whether_a_path_as_spelled_may_leave_its_root(path, leaves):
    assert pl.DataFrame({"image_path": [path]}).select(leaves_root()).item() is leaves


def test_no_file_outside_the_root_is_read(root):
    outside = root.parent / "outside/secret.png"
    assert locate(root, "a.png", "../outside/secret.png", str(outside), "x/../../outside/secret.png") == [
        ("a.png", len(PNG), None, None),
        *(
            (path, None, "outside_root", path)
            for path in ("../outside/secret.png", str(outside), "x/../../outside/secret.png")
        ),
    ]


def test_where_links_lead_is_the_user_s_choice(root):
    (root / "file.png").symlink_to(root.parent / "outside/secret.png")
    (root / "folder").symlink_to(root.parent / "outside")
    (root / "inner.png").symlink_to(root / "a.png")
    paths = ("file.png", "folder/secret.png", "inner.png", "a.png")
    assert [row[2] for row in locate(root, *paths)] == [None] * 4
    inside = locate(root, *paths, links="inside")
    assert [row[2] for row in inside] == ["outside_root", "outside_root", None, None]
    assert inside[0][3] == "file.png is a link that leads out of the root"
    linked = root.parent / "linked root"
    linked.symlink_to(root)
    assert locate(linked, "a.png", links="inside")[0][2] is None, "the root itself may be a link"


def test_what_is_no_file_has_a_reason_and_nothing_hangs(root):
    (root / "folder.png").mkdir()
    os.mkfifo(root / "fifo.png")
    (root / "loop.png").symlink_to("loop.png")
    (root / "dangling.png").symlink_to("nowhere.png")
    paths = (
        "folder.png",
        "fifo.png",
        "loop.png",
        "dangling.png",
        "a.png/b.png",
        "x" * 300 + ".png",
        "gone.png",
        "a\0b.png",
    )
    found = {row[0]: row[2:] for row in locate(root, *paths)}
    assert found["folder.png"] == ("unreadable_image", "folder.png: a folder, not a file")
    assert found["fifo.png"] == ("unreadable_image", "fifo.png: a FIFO, not a file")
    assert found["loop.png"][0] == "unreadable_image" and "symbolic links" in found["loop.png"][1]
    assert {found[path][0] for path in paths[3:]} == {"missing_image"}


@pytest.mark.parametrize(
    ("listed", "there"),
    [
        ("d/x.jpg", "d/x.JPG"), ("d/x.jpg", "d/x.jpeg"), ("d/x.png", "d/x.PNG"), ("d/x.dcm", "d/x.DCM"),
        ("d/x.dcm", "d/x.dicom"), ("d/1.2.840.5.dcm", "d/1.2.840.5"),
    ],
)  # fmt: skip
def test_another_spelling_of_the_suffix_is_found(root, listed, there):
    put(root / there, PNG)
    assert locate(root, listed) == [(there, len(PNG), None, None)]


def test_another_image_is_never_taken(root):
    put(root / "x.JPG", PNG)
    assert locate(root, "x.png")[0][2] == "missing_image", (
        "a PNG and a JPEG file of one name may be two images"
    )
    assert [row[2] for row in locate(root, "x.jpg", "x.JPG")] == ["missing_image", None], (
        "the file is another row's"
    )
    put(root / "x.jpeg", PNG)
    assert locate(root, "x.jpg")[0][2] == "missing_image", "it is unclear which"


def test_the_reason_that_a_layout_gave_stays(root):
    rows = pl.DataFrame(
        {"image_path": ["gone.png", "a.png"], "reason": ["other_modality", None], "detail": ["CT", None]}
    )
    assert locate_images(rows, root).select("reason", "detail").rows() == [
        ("other_modality", "CT"),
        (None, None),
    ]


def test_files_are_found_in_any_case_and_below_links(root):
    put(root / "x/b.PNG", PNG)
    put(root / "x/._b.png", b"of macOS")
    put(root / "__MACOSX/c.png", PNG)
    put(root.parent / "elsewhere/deep/d.png", PNG)
    (root / "linked").symlink_to(root.parent / "elsewhere")
    (root / "again").symlink_to(root.parent / "elsewhere")
    (root / "x/up").symlink_to(root)
    (root / "x/top").symlink_to("/")
    (root / "loop").symlink_to("loop")
    os.mkfifo(root / "e.png")
    (root / "f.png").mkdir()
    found = find_files(root, ".png")
    assert sorted(found) == ["a", "b", "d"] and all(path.is_file() for path in found.values())
    assert find_files(root / "nowhere", ".png") == {}


def test_files_of_equal_name_are_counted_and_the_first_path_counts(root):
    put(root / "x/a.png", b"another")
    notes = {}
    assert find_files(root, ".png", notes)["a"] == root / "a.png" and notes == {"files_of_equal_name": 1}


def test_dicom_files_are_told_by_content_where_they_have_no_suffix(root):
    content = dicom_file(pixels("a"))
    for name in ("1.2.840.1", "1.2.840.2.dcm", "1.2.840.3.DICOM", "d"):
        put(root / name, content)
    put(root / "DICOMDIR", content)
    put(root / "README", "text")
    assert sorted(find_files(root, ".dcm")) == ["1.2.840.1", "1.2.840.2", "1.2.840.3", "d"]
    assert count_images(root) == {".dcm": 3, ".png": 1, ".dicom": 1}


def test_whether_there_is_an_image_at_all(tmp_path):
    put(tmp_path / "list.csv", "a.png")
    put(tmp_path / "images.tgz", b"")
    assert not has_images(tmp_path) and not has_images(tmp_path / "nowhere")
    put(tmp_path / "deep/er/x.JPG", PNG)
    assert has_images(tmp_path)


def test_names_that_are_not_utf8_do_no_harm(root):
    with open(os.fsencode(root) + b"/caf\xe9.png", "wb"):
        pass
    assert sorted(find_files(root, ".png")) == ["a"]


def test_reports_are_read_unless_they_are_no_files(root):
    put(root / "r.txt", "text")
    put(root / "empty.txt", "")
    os.mkfifo(root / "fifo.txt")
    (root / "folder.txt").mkdir()
    (root / "loop.txt").symlink_to("loop.txt")
    (root / "out.txt").symlink_to(put(root.parent / "outside/o.txt", "secret"))
    read = {
        name: str(root / f"{name}.txt") for name in ("r", "empty", "fifo", "folder", "loop", "out", "x" * 300)
    }
    assert read_small_file(read["r"]) == b"text" and read_small_file(read["empty"]) == b""
    assert read_small_file(read["x" * 300]) is None and read_small_file(str(root / "a\0b")) is None
    for size in (2**14 - 1, 2**14, 2**14 + 1, 2**16 + 5):
        text = (b"0123456789abcdef" * 5000)[:size]
        (root / "long.txt").write_bytes(text)
        assert read_small_file(str(root / "long.txt")) == text
    with open(read["fifo"], "r+b", buffering=0) as pipe:
        pipe.write(b"what no report is")
        with pytest.raises(UnicodeError, match="a FIFO"):
            read_small_file(read["fifo"])
    for name, message in (("fifo", "a FIFO"), ("folder", "a folder"), ("loop", "symbolic links")):
        with pytest.raises(UnicodeError, match=message):
            read_small_file(read[name])
    assert read_small_file(read["out"]) == b"secret"
    real = os.path.realpath(root)
    assert read_file_inside(real, "r.txt") == b"text" and read_file_inside(real, "gone.txt") is None
    with pytest.raises(UnicodeError, match="a link leads out of the folder of reports"):
        read_file_inside(real, "out.txt")
