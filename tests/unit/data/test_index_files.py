"""The shared reader of index files: every faulty row is told, whatever the adapter asks for."""

import csv
import gzip
import io
import zipfile

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medunifier.data.index_files import (
    alike_ids,
    check_match,
    contradictions,
    label_columns,
    one_row_each,
    read_index,
    read_lines,
    whole_id,
)
from medunifier.runtime.errors import InputError


@pytest.fixture
def read(tmp_path):
    """Write a file, then read it."""

    def of(content, columns=("a", "b"), name="x.csv", **options):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_index(path, columns, **options).rows()

    return of


@pytest.mark.parametrize("columns", [("a",), ("a", "b", "c")])
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("1,2,3\n4,5,6,7\n8,9,0\n", "line 3: 4 fields, but the header has 3 .'4,5,6,7'.; 1 rows"),
        ("1,2,3\n4,5\n6\n", "line 3: 2 fields, but the header has 3 .'4,5'.; 2 rows"),
        ('1,2,"x\ny"\n4,5\n', "line 4: 2 fields"),
        ('1,2,3\n4,"5,6\n7,8,9\n', "line 3: 2 fields.*is a quotation mark missing"),
    ],
    ids=["one too many", "too few", "after a text of two lines", "an open quotation mark"],
)
def test_a_row_with_another_number_of_fields_is_refused_with_its_line(read, columns, rows, message):
    with pytest.raises(InputError, match=rf"x\.csv, {message}"):
        read(f"a,b,c\n{rows}", columns)


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfa,b\n1,2\n3,4\n",
        b"a,b\r\n1,2\r\n3,4\r\n",
        b"a,b\r1,2\r3,4\r",
        b"\n  \n a , b\n1 , 2\n\n   \n3,4",
        gzip.compress(b"a,b\n1,2\n3,4\n", mtime=0),
        b'"a","b"\n"1","2"\n3,4\n',
    ],
    ids=["byte-order mark", "CRLF", "CR", "blank lines", "gzipped", "quoted"],
)
@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz"])
def test_forms_of_the_same_table(read, content, name):
    assert read(content, name=name) == [("1", "2"), ("3", "4")]


def zipped(**files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in files.items():
            archive.writestr(name.replace("__", "/._").replace("_csv", ".csv"), text)
    return buffer.getvalue()


def test_a_zip_archive_of_one_table_is_read_and_of_several_refused(read):
    assert read(zipped(x_csv="a,b\n1,2\n", MACOSX__x_csv="junk")) == [("1", "2")]
    with pytest.raises(InputError, match="a zip archive of 2 CSV files; unpack it"):
        read(zipped(x_csv="a,b\n1,2\n", y_csv="a,b\n"))


def test_bytes_that_are_not_utf8_matter_only_in_columns_that_are_read(read):
    content = b"a,b\n1,2\n3,caf\xe9\n"
    assert read(content, ("a",)) == [("1",), ("3",)]
    with pytest.raises(InputError, match=r"x\.csv, line 3: column 'b' is not UTF-8, in 1 rows"):
        read(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\n \n", "the file is empty"),
        (b"a,b\n", "a header but no rows"),
        (b"a,b", "a header but no rows"),
        ("a,b\n1,2\n".encode("utf-16"), "in UTF-16; save it as CSV in UTF-8"),
        (b"a;b\n1;2\n", "no column 'a', 'b'; found a;b. Fields must be separated by commas"),
        (b"a,a,b\n1,2,3\n", "column 'a' is there twice"),
        (gzip.compress(b"a,b\n1,2\n", mtime=0)[:-6], "cut off or damaged"),
        (bytes(range(256)), "no column 'a', 'b'"),
    ],
)
def test_files_that_cannot_be_read(read, content, message):
    with pytest.raises(InputError, match=rf"x\.csv: .*{message}") as caught:
        read(content)
    str(caught.value).encode()


def test_glob_characters_in_a_path_are_letters(tmp_path):
    for folder, value in (
        ("q[1]", "ours"),
        ("q1", "the neighbour's"),
        ("q?x", "ours"),
        ("qax", "the neighbour's"),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.csv").write_text(f"a\n{value}\n")
        pl.DataFrame({"a": [value]}).write_parquet(io.BytesIO())
        with (tmp_path / folder / "x.parquet").open("wb") as file:
            pl.DataFrame({"a": [value]}).write_parquet(file)
    for folder in ("q[1]", "q?x"):
        for name in ("x.csv", "x.parquet"):
            assert read_index(tmp_path / folder / name, ["a"]).rows() == [("ours",)]


def test_a_parquet_file_is_read_as_text(tmp_path):
    frame = pl.DataFrame({"a": [3.0, None], "b": [" x ", "NaN"], "c": [1, 2]})
    frame.write_parquet(tmp_path / "x.parquet")
    assert read_index(tmp_path / "x.parquet", ["a", "b"], ids=["a"]).rows() == [("3", "x"), (None, None)]
    with pytest.raises(InputError, match=r"x\.parquet: no column 'd'; found a, b, c"):
        read_index(tmp_path / "x.parquet", ["d"])
    with pytest.raises(InputError, match=r"x\.parquet: column 'b' is blank in 1 rows; every row needs"):
        read_index(tmp_path / "x.parquet", ["b"], filled=["b"])


def test_words_for_a_missing_value_are_null_and_counted(read):
    notes = {}
    words = ["nan", "NaN", "None", "N/A", "NA", "na", " n/a ", "null"]
    rows = read("a,b\n" + "".join(f"{word},nothing is NA\n" for word in words), notes=notes)
    assert rows == [(None, "nothing is NA")] * len(words)
    assert notes == {"missing_words_a": len(words)}


def test_a_blank_id_is_refused_with_the_line_of_an_editor(read):
    content = 'a,b\n"two\nlines",1\n\nNone,2\n,3\n'
    with pytest.raises(InputError, match=r"column 'a' is blank in 2 rows, first in line 5; every row"):
        read(content, filled=["a"])
    with pytest.raises(InputError, match=r"column 'a' is blank in 1 rows, first in line 4; every row"):
        read("a,b\n\n1,2\n,\n", filled=["a"])  # as table programs end a file


def test_a_wrong_value_is_told_with_its_line_and_the_count(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text('t,Edema\n"a\nb",1.0\nc,yes\nd,2\n,\n')
    with pytest.raises(
        InputError, match="Edema is 'yes', first in line 4; 2 rows are not as expected: 1, 0, -1 or"
    ):
        label_columns(read_index(path, ["Edema"]), ["Edema"], path)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("3.0", "3"),
        (" 3", "3"),
        ("50414267.00", "50414267"),
        ("003", "003"),
        ("1.2.840.0", "1.2.840.0"),
        ("p3", "p3"),
    ],
)
def test_an_id_without_what_a_table_program_added(written, meant):
    assert pl.DataFrame({"id": [written]}).select(whole_id("id")).item() == meant


@pytest.mark.parametrize(
    ("text", "refused"), [("2.16E+37", True), ("1E+05", True), ("1.5e16", True), ("12e5", False)]
)
def test_an_id_whose_digits_a_table_program_cut_off_is_refused(read, text, refused):
    if refused:
        with pytest.raises(InputError, match=r"a is '.*', first in line 3; 1 rows .*save the column as text"):
            read(f"a,b\n1,2\n{text},3\n", ids=["a"])
    else:
        assert read(f"a,b\n{text},3\n", ids=["a"]) == [(text, "3")]


def test_ids_that_may_be_one_are_told():
    ids = pl.Series(["3", "p3", "P3", "003", "4", "COVID-1", "covid-1", "patient5", "5", None, "p"])
    assert alike_ids(ids) == [["003", "3", "P3", "p3"], ["5", "patient5"], ["COVID-1", "covid-1"]]
    assert alike_ids(pl.Series(["a", "b"])) == []


def test_contradictions_say_what_differs(tmp_path):
    frame = pl.DataFrame(
        {"k": ["1", "1", "2", "2", "3"], "v": ["a", "b", "c", "c", "d"], "w": [1, None, 3, 3, 4]}
    )
    assert contradictions(frame, "k").rows() == [("1", "v is a, b; w is 1, blank")]
    with pytest.raises(
        InputError, match=r"1 values of 'k' have rows that contradict.*1: v is a, b; w is 1, blank"
    ):
        one_row_each(frame, "k", tmp_path)
    assert len(one_row_each(frame.filter(pl.col("k") != "1"), "k", tmp_path)) == 2


def test_a_join_that_matches_nothing_is_refused_and_one_in_part_is_told(tmp_path):
    files = (tmp_path / "images.csv", tmp_path / "labels.csv")
    images = pl.DataFrame({"study": ["50414267", "2", "3"]})
    with pytest.raises(
        InputError, match=r"labels\.csv: none of its 1 values of 'study' \(s50414267\) is among the 3"
    ):
        check_match(images, pl.DataFrame({"study": ["s50414267"]}), "study", files)
    told = check_match(images, pl.DataFrame({"study": ["2", "9", "9"]}), "study", files)
    assert told == [
        f"{files[1]}: 2 of 3 values of 'study' have no row: 3, 50414267",
        f"{files[1]}: 1 of 2 values of 'study' are not in images.csv: 9",
    ]
    assert check_match(images, images, "study", files) == []


def test_a_list_of_lines(tmp_path):
    path = tmp_path / "x.txt"
    path.write_bytes(b"\xef\xbb\xbffirst\r\n\r\n second \rthird")
    assert read_lines(path) == [(1, "first"), (3, "second"), (4, "third")]
    path.write_bytes(b"first\n\xff\n")
    with pytest.raises(InputError, match=r"x\.txt, line 2: not text in UTF-8"):
        read_lines(path)
    path.write_bytes(b"\xef\xbb\xbf\n")
    with pytest.raises(InputError, match="the list is empty"):
        read_lines(path)


def test_a_missing_file_is_told_with_what_lies_there(tmp_path):
    (tmp_path / "train.csv.gz").write_bytes(b"")
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside/train.csv").write_text("a\n")
    with pytest.raises(
        InputError, match=r"train\.csv\.gz is there: name it under `index`; it lies in .*inside"
    ):
        read_index(tmp_path / "train.csv", ["a"])
    with pytest.raises(InputError, match="inside: not a file"):
        read_index(tmp_path / "inside", ["a"])


cells = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12)


@pytest.mark.slow
@given(st.lists(st.tuples(cells, cells, cells), min_size=1, max_size=20))
def test_any_table_is_read_as_the_csv_module_reads_it(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("table") / "x.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("a", "b", "c"), *rows])
    with path.open(newline="", encoding="utf-8") as file:
        expected = list(csv.reader(file))[1:]
    found = read_index(path, ["a", "c"])
    words = {"", "nan", "none", "n/a", "na", "null", "<na>", "#n/a"}

    def plain(cell):
        text = pl.Series([cell]).str.strip_chars().item()
        return None if text.lower() in words else text

    assert found.rows() == [(plain(row[0]), plain(row[2])) for row in expected]
