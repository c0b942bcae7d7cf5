"""Examples for readers: texts appear as they are, Markdown markup included."""

from medunifier.results.examples import write_examples


def test_texts_stand_below_their_headings_as_they_are(tmp_path):
    lines = [("reference", "Mr. ___ has\n *no* edema, size < 3."), ("written", " ")]
    write_examples(tmp_path / "new" / "examples.md", "Two texts", [("i_1", lines), ("i2", [])])
    assert (tmp_path / "new" / "examples.md").read_text() == (
        "# Two texts\n\n## i\\_1\n\n"
        "**reference:** Mr. \\_\\_\\_ has \\*no\\* edema, size &lt; 3.\n\n**written:** (empty)\n\n## i2\n"
    )
