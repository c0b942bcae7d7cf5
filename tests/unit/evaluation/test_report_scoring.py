"""Which images stand for their studies."""

import polars as pl
import pytest

from medunifier.evaluation.report_scoring import study_rows


@pytest.mark.parametrize(
    ("studies", "views", "rows"),
    [
        ("abc", ["PA", "AP", None], None),  # one image each
        ("aab", ["LATERAL", "PA", "AP"], [1, 2]),
        ("aab", ["PA", "AP", "AP"], [0, 2]),
        ("abab", ["LL", None, "XX", "LATERAL"], [0, 1]),  # no frontal one
        ("ba" * 3, [None] * 6, [0, 1]),
        ("bab", [None, "PA", "AP Supine"], [1, 2]),
    ],
)
def test_the_first_frontal_image_of_each_study(studies, views, rows):
    test = pl.DataFrame(
        {"study_id": list(studies), "view": views}, schema={"study_id": pl.String, "view": pl.String}
    )
    found = study_rows(test)
    assert (found is None and rows is None) or found.tolist() == rows
