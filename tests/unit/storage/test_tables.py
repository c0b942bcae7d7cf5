import errno

import polars as pl
import pytest

from medunifier.runtime.errors import InputError
from medunifier.runtime.files import atomic_path, write_json
from medunifier.storage.tables import BENCHMARK, PREPARED, REJECTED, read_table, write_table


def prepared(**changes):
    row = {
        "image_id": "i", "patient_id": "p", "study_id": "s", "image_path": "files/i.jpg",
        "view": None, "findings": None, "impression": None, "report": None,
    }  # fmt: skip
    schema = dict.fromkeys(row, pl.String)
    return pl.DataFrame(
        [{**row, **changes}], schema={**schema, **{name: pl.Int8 for name in changes if "label" in name}}
    )


def test_round_trip_keeps_nulls_and_labels(tmp_path):
    frame = prepared(label_edema=-1, label_pneumonia=None)
    write_table(frame, tmp_path / "deep" / "train.parquet", PREPARED)
    assert read_table(tmp_path / "deep" / "train.parquet", PREPARED).equals(frame)


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (prepared().drop("report"), "'report' is missing"),
        (prepared().with_columns(extra=1), "'extra' is not known"),
        (prepared().with_columns(label_edema=pl.lit(1, pl.Int64)), "'label_edema' is Int64, expected Int8"),
        (prepared(patient_id=None), "'patient_id' has 1 nulls"),
    ],
)
def test_a_frame_that_departs_from_its_schema_is_refused(tmp_path, frame, words):
    with pytest.raises(ValueError, match=words):
        write_table(frame, tmp_path / "t.parquet", PREPARED)
    assert not list(tmp_path.iterdir())
    write_table(frame, tmp_path / "t.parquet", None)
    with pytest.raises(InputError, match=words):
        read_table(tmp_path / "t.parquet", PREPARED)


def test_benchmark_and_rejected_have_their_own_columns(tmp_path):
    write_table(
        prepared(label_edema=1).with_columns(benchmark_class=pl.lit("edema")), tmp_path / "b", BENCHMARK
    )
    rejected = pl.DataFrame({"image_id": [None], "study_id": ["s"], "reason": ["r"], "detail": [None]})
    write_table(rejected.cast(pl.String), tmp_path / "r", REJECTED)
    with pytest.raises(ValueError, match="benchmark_class"):
        write_table(prepared(), tmp_path / "b", BENCHMARK)


def test_missing_and_broken_tables_are_distinguished(tmp_path):
    with pytest.raises(InputError, match="no such table"):
        read_table(tmp_path / "absent.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and then nothing of use")
    with pytest.raises(InputError, match="not a readable Parquet"):
        read_table(tmp_path / "broken.parquet")


def test_a_full_disk_leaves_the_old_file_and_no_rubbish(tmp_path):
    path = tmp_path / "summary.json"
    write_json(path, {"kept": 1})

    def fill_the_disk():
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left") as caught:
        fill_the_disk()
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    assert path.read_text() == '{\n  "kept": 1\n}\n'
    assert list(tmp_path.iterdir()) == [path]
