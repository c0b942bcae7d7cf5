"""No file of code that lies beside weights is run: one door to transformers' from_pretrained, and it is shut."""

import io
import json
import re

import pytest
from transformers import AutoModel

from medunifier.runtime.pretrained import load_pretrained
from tests.support.paths import REPO

# Their own classes, which read no `auto_map`: the door itself, our model's own method, and what stands in for it.
OWN = {
    "medunifier/runtime/pretrained.py",
    "medunifier/huggingface/modeling_medunifier.py",
    "medunifier/huggingface/auto_model.py",
    "medunifier/synthesis/generator.py",  # Prior, read without transformers
}
CALL = re.compile(r"\.from_pretrained\(")


def sources():
    for folder in ("medunifier", "stages", "workflow", "benchmarks"):
        yield from sorted((REPO / folder).rglob("*.py"))


def calls(path):
    """The lines that call from_pretrained, docstrings aside."""
    text = re.sub(r'""".*?"""', "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [line.strip() for line in text.splitlines() if CALL.search(line)]


def test_there_is_one_door():
    found = {str(path.relative_to(REPO)): calls(path) for path in sources()}
    assert {name for name, lines in found.items() if lines} <= OWN, found
    (door,) = found["medunifier/runtime/pretrained.py"]
    assert "trust_remote_code=False" in door


def test_pickles_are_read_without_running_them():
    loads = [
        (path.name, line.strip())
        for path in sources()
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"torch\.load\(|pickle\.loads?\(", line)
    ]
    assert loads and all("weights_only=True" in line for _, line in loads), loads


def test_it_does_not_ask_and_a_yes_on_standard_input_changes_nothing(tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: pass\n")
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModel": "own.Model"}})
    )
    monkeypatch.setattr("sys.stdin", io.StringIO("y\ny\ny\n"))
    with pytest.raises(ValueError, match="custom code"):
        load_pretrained(AutoModel, tmp_path)
    assert not (tmp_path / "ran").exists()
