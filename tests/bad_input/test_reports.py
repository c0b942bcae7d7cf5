"""Report files: any bytes are a report in sections, or a row with a reason; folders, pipes and loops among them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medunifier.data.preparation.rejects import Reason
from medunifier.data.preparation.sections import parse_report
from tests.bad_input.faults import WHOLE_FILE, Fault, written
from tests.bad_input.outcome import time_limit
from tests.stages.test_prepare import SPLITS, run_settings
from tests.support.fake_mimic import BOTH, FakeMimic

pytestmark = pytest.mark.slow
FAULTS: tuple[Fault, ...] = (
    *WHOLE_FILE,
    written(b"\x00" * 10 + BOTH.encode(), "zeros before the text"),
    written(BOTH.encode("utf-16"), "utf-16"),
    written(BOTH.encode() + b"\xff\xfe caf\xe9", "bytes of Latin-1"),
    written(b"\xef\xbb\xbf" + BOTH.encode(), "a byte order mark"),
    written(BOTH.replace("\n", "\r\n").encode(), "line ends of Windows"),
    written(BOTH.replace("\n", "\r").encode(), "line ends of old Macs"),
    written(b"FINDINGS: \n IMPRESSION: \n", "headings alone"),
    written(b"FINDINGS" * 50_000, "a heading fifty thousand times"),
    written(b"FINDINGS: " + b"a " * 2_000_000, "four million characters"),
    written(b":" * 100_000, "colons alone"),
    written(BOTH.encode() * 200, "a report two hundred times"),
    written("\u202efindings: \u200b\ufeff".encode(), "invisible characters"),
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_spoiled_report_is_a_text_or_a_rejected_row(tmp_path, monkeypatch, fault: Fault) -> None:
    """Its neighbours are kept as they are."""
    monkeypatch.chdir(tmp_path)
    fake = FakeMimic(tmp_path)
    for number in range(9):
        fake.add(f"d{number}", f"1000000{number}", f"5000000{number}", split=SPLITS[number % 3])
    fake.write()
    fault(fake.report_path("10000000", "50000000"))
    with time_limit():
        tables, _ = run_settings(fake.settings())
    kept = {row["image_id"]: row for split in SPLITS for row in tables[split].to_dicts()}
    rejected = {row["image_id"]: row for row in tables["rejected"].to_dicts()}
    assert set(kept) | set(rejected) == {f"d{number}" for number in range(9)}
    assert {row["report"] for image, row in kept.items() if image != "d0"} == {
        "The heart is normal. No acute disease."
    }
    if "d0" in rejected:
        assert rejected["d0"]["reason"] in {reason.value for reason in Reason}
    else:
        assert kept["d0"]["report"].strip() and not set("\0\r\n") & set(kept["d0"]["report"])


texts = st.text(max_size=300) | st.lists(
    st.sampled_from(
        ["FINDINGS:", "IMPRESSION:", "\n", " ", "\r", "___", "1.", "Clear.", "\x0c", "FINAL REPORT", ":", "é"]
    ),
    max_size=40,
).map("".join)


@settings(max_examples=300, derandomize=True, deadline=None, database=None)
@given(text=texts)
def test_any_text_has_sections_or_none(text: str) -> None:
    with time_limit():
        found = parse_report(text)
    for section in (found.findings, found.impression):
        assert section is None or section == " ".join(section.split()) != ""
