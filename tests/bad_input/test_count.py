"""How large the corpus is: cases by door, each with a name of its own; drawn ones (hypothesis) are not counted."""

from tests.bad_input import (
    test_images,
    test_index_files,
    test_parameters,
    test_reports,
    test_stored_files,
    test_texts,
)

CASES = {
    "parameters": [*test_parameters.VALUES, *(fault.__name__ for fault in test_parameters.FILES)],
    "index files": [*test_index_files.CASES],
    "reports": [fault.__name__ for fault in test_reports.FAULTS],
    "images": [*test_images.CASES],
    "stored files": [*test_stored_files.FILES, *test_stored_files.CONFIGURATIONS],
    "small files": [*test_texts.CASES],
}


def test_there_are_thousands_of_different_cases() -> None:
    for door, names in CASES.items():
        assert len(set(names)) == len(names) > 15, door
    assert sum(map(len, CASES.values())) >= 2000
