"""Expected sections were read off what the data set's published parser gives for the same texts."""

import csv
import random

import pytest

from medunifier.data.preparation.sections import Report, clean_text, decode_text, parse_report
from tests.support.paths import SHARED
from tests.support.slow_sections import NAME_OF, NO_TEXT, TEXT_BETWEEN, TEXT_UNDER, TITLES, slow_report

IU_XRAY = SHARED / "data" / "iu-xray"
HEAD = "                                 FINAL REPORT\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            HEAD + " FINDINGS:  Heart\n is   normal.\n \n IMPRESSION:\n No ___ disease.\n",
            Report("Heart is normal.", "No ___ disease."),
            id="both",
        ),
        pytest.param(
            HEAD + " FINDINGS AND IMPRESSION: No change.\n", Report(None, "No change."), id="merged sections"
        ),
        pytest.param(HEAD + " FINDINGS/IMPRESSION: Clear.\n", Report(None, "Clear."), id="merged by a slash"),
        pytest.param(HEAD + " CONCLUSION: Clear.\n", Report(None, "Clear."), id="conclusion"),
        pytest.param(
            HEAD + " FINDINDGS: Big heart.\n IMPRESSON: Big heart.\n",
            Report("Big heart.", "Big heart."),
            id="misspelt",
        ),
        pytest.param(
            HEAD + " CHEST, TWO VIEWS:  Lungs are clear.\n",
            Report("Lungs are clear."),
            id="title for findings",
        ),
        pytest.param(
            HEAD + " PORTABLE UPRIGHT AP CHEST RADIOGRAPH:  Clear.\n", Report("Clear."), id="another title"
        ),
        pytest.param(
            HEAD + " CHEST, PA LATERAL:\n \n INDICATION:  Cough.\n \n FINDINGS:  Clear.\n",
            Report("Clear."),
            id="an empty title",
        ),
        pytest.param(
            HEAD + " CHEST, PA LATERAL:  \n \n \n INDICATION:  Cough.\n \n IMPRESSION:  Clear.\n",
            Report(None, "Clear."),
            id="an empty title before more blank lines",
        ),
        pytest.param(
            HEAD + " IMPRESSION: Old.\n FINDINGS: Seen.\n ADDENDUM: Read again.\n IMPRESSION: New.\n",
            Report("Seen.", "New."),
            id="the last of one name",
        ),
        pytest.param(
            HEAD + " IMPRESSION: Clear.\n FINDINGS: Seen.\n IMPRESSION:  \n \n",
            Report("Seen.", "Clear."),
            id="the last that is not empty",
        ),
        pytest.param(
            HEAD + " INDICATION: Cough.\n \n The lungs are clear.\n \n Heart is normal.\n",
            Report(body="The lungs are clear. Heart is normal."),
            id="paragraphs without a header",
        ),
        pytest.param(
            "The lungs are clear.\n \n No change.", Report(body="No change."), id="no header anywhere"
        ),
        pytest.param(
            HEAD + " COMPARISON: None. The lungs are clear.\n",
            Report(body="None. The lungs are clear."),
            id="text under comparison",
        ),
        pytest.param(HEAD + " INDICATION: Cough.\n", Report(), id="nothing of use"),
        pytest.param("", Report(), id="empty file"),
        pytest.param(
            HEAD + " FINDINGS: Line one,\n IMPRESSION: is on the line after.\n",
            Report("Line one,", "is on the line after."),
            id="header on the next line",
        ),
        pytest.param(
            HEAD + " FINDINGS:\n IMPRESSION: Clear.\n", Report("IMPRESSION: Clear."), id="header swallowed"
        ),
        pytest.param(
            HEAD + "FINDINGS: at the margin\n Findings: small\n IMPRESSION without a colon\n",
            Report(),
            id="none of them a header",
        ),
        pytest.param(
            HEAD + " NDICATION: Cough.\n \n Clear.\n",
            Report(None, "Cough. Clear."),
            id="as published: ndication",
        ),
    ],
)
def test_sections(text, expected):
    assert parse_report(text) == expected


def test_hand_made_rules_of_the_data_set():
    text = HEAD + " INDICATION: Clear lungs.\n FINDINGS: None.\n"
    assert parse_report(text, "57936451") == Report(body="Clear lungs."), "the text stands under INDICATION"
    assert parse_report(text, "1") == Report("None.")
    assert parse_report("x" * 59 + "Clear\n lungs." + "y" * 500, "56579911").body.startswith(
        "Clear lungs.yyy"
    )
    assert len(parse_report("z" * 1000, "56579911").body) == 218 - 59, (
        "the text stands between two characters"
    )
    assert parse_report(text, "58235663") == Report(), "nothing about the image"
    assert parse_report(HEAD + " FINDINGS: Odd.\n", "57936451") == Report("Odd."), "the rule does not apply"


def test_white_space_is_cleaned_and_de_identified_words_stay():
    assert clean_text(" a\t___ \n\n b\u00a0") == "a ___ b"
    assert clean_text(" \n ") is None
    assert clean_text(None) is None


def test_encodings():
    assert decode_text("39 °C\r\nfine\r".encode()) == ("39 °C\nfine\n", True)
    assert decode_text("39 °C — fine".encode("cp1252")) == ("39 °C — fine", False)
    for unreadable in (b"\x00\x01", "Heart".encode("utf-16"), b"\x81\x8d\xff"):
        with pytest.raises(UnicodeError):
            decode_text(unreadable)


def test_every_known_header_and_title_has_its_name():
    """Under `both`, a report of that header alone has findings, an impression or a body, as the name says."""
    for header, name in NAME_OF.items():
        report = parse_report(HEAD + f" {header.upper()}:  Seen.\n \n Text.\n")
        other = Report(body="Text.")
        expected = {"findings": Report("Seen. Text."), "impression": Report(None, "Seen. Text.")}
        assert report == expected.get(name, other), header
    for title in TITLES:
        assert parse_report(HEAD + f" THE {title.upper()} TODAY:  Seen.\n") == Report("Seen."), title


def test_every_study_with_a_hand_made_rule_keeps_its_text():
    for name, studies in TEXT_UNDER.items():
        text = HEAD + f" FINDINGS:  Not here.\n \n {name.upper()}:  Old.\n {name.upper()}:  The\n lungs.\n"
        for study in studies.split():
            assert parse_report(text, study) == Report(body="The lungs."), study
    text = "".join(chr(ord("a") + number % 26) for number in range(2000))
    for rule in TEXT_BETWEEN.split():
        study, start, end = map(int, rule.replace("-", ":").split(":"))
        assert parse_report(text, str(study)) == Report(body=text[start:end]), study
    for study in NO_TEXT.split():
        assert parse_report(text, study) == Report(), study


def odd_report(generator):
    """Headers, near-headers, blank lines and sentences in any order."""
    headers = [
        *(header.upper() for header in NAME_OF),
        "TECHNIQUE",
        "NOTE",
        "ADDENDUM",
        "Findings",
        "X1",
        " ",
        "",
    ]
    headers += [title.upper() for title in TITLES] + [
        "PRELIMINARY IMPRESSION",
        "FINDINGS, HISTORY",
        " FINDINGS ",
    ]
    white = ["\n ", "\n \n ", "\n", "\n\n", " ", "  ", "\n \n", "\t", "\u00a0", "\x0b", "\n \n \n"]
    words = [
        "Heart is normal.",
        "Lungs: clear.",
        "A: B",
        "No ___ change.",
        "Clear\n lungs.",
        "1. Old\n 2. New",
    ]
    ends = [":", ": ", ":  ", ":\n", ":\n ", ":\n \n", "", ":\t", ": \n \n"]
    text = generator.choice(["", HEAD.rstrip()])
    for _ in range(generator.randrange(13)):
        if generator.random() < 0.4:
            text += generator.choice(white) + generator.choice(headers) + generator.choice(ends)
        else:
            text += generator.choice(white + words)
    return text


def test_odd_reports_give_what_the_plain_rules_give():
    generator = random.Random(0)
    studies = [None, "50000000", *" ".join(TEXT_UNDER.values()).split()]
    for _ in range(5000):
        text, study = odd_report(generator), generator.choice(studies)
        assert parse_report(text, study) == slow_report(text, study), (text, study)


@pytest.mark.skipif(not IU_XRAY.is_dir(), reason=f"the Open-i reports are not at {IU_XRAY}")
def test_real_reports_in_the_layout_of_mimic_come_back_whole():
    with open(IU_XRAY / "indiana_reports.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 3800
    for row in rows:
        text = HEAD + f" INDICATION:  {row['indication']}\n \n COMPARISON:  {row['comparison']}\n \n"
        for name in ("findings", "impression"):
            text += f" {name.upper()}:  {row[name]}\n \n"
        report = parse_report(text)
        assert report == slow_report(text)
        if row["findings"] or row["impression"]:
            assert report == Report(clean_text(row["findings"]), clean_text(row["impression"])), row["uid"]
        else:
            assert (report.findings, report.impression) == (None, None), row["uid"]
