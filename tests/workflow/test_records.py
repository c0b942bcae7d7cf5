"""The records of benchmarks, which are committed."""

import json
import re

import pytest

from benchmarks.records import RESULTS

PATH = re.compile(r"(?<![\w.:/-])/(?:tmp|root|home|usr|opt|var|mnt|data|work)/\S*|https?://\S+")


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_a_record_names_no_place_of_a_machine(path):
    assert PATH.findall(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_a_record_is_json_and_names_its_command(path):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    record = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    assert record["command"] and record["date"] == path.stem[-10:]
