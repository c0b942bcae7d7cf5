"""The atomic writer: a file is whole or as it was, whatever happens in between."""

import json
from pathlib import Path

import pytest

from medunifier.runtime.files import atomic_path, write_json, write_text


@pytest.mark.parametrize("shared", [False, True])
def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, shared: bool) -> None:
    path = tmp_path / "new/file.txt"
    write_text(path, "old ä", shared=shared)

    def fail_half_way() -> None:
        with atomic_path(path, shared=shared) as temporary:
            temporary.write_text("half")
            assert temporary.parent == path.parent and temporary != path
            raise KeyError

    with pytest.raises(KeyError):
        fail_half_way()
    assert path.read_text(encoding="utf-8") == "old ä"
    assert list(path.parent.iterdir()) == [path], "the temporary file is gone"


def test_writers_that_share_a_path_do_not_share_a_temporary_name(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    names = []
    for process in (1, 2):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("os.getpid", lambda process=process: process)
            with atomic_path(path, shared=True) as temporary:
                names.append(temporary.name)
                temporary.touch()
    assert len(set(names)) == 2


def test_an_error_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder") as caught, atomic_path(tmp_path / "folder") as temporary:
        temporary.touch()
    assert caught.value.filename


def test_json_is_indented_and_ends_with_a_line(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"é": [1]})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert text.endswith("}\n") and "é" in text and json.loads(text) == {"é": [1]}
