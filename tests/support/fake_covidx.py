"""A tiny copy of COVIDx in its official layout."""

from dataclasses import dataclass, field
from pathlib import Path

from tests.support.fake_files import image_file, pixels, put, settings


@dataclass
class FakeCovidx:
    """Lines of the two lists; images are written at once, the lists by `write`."""

    root: Path
    lines: dict[str, list[str]] = field(default_factory=lambda: {"train": [], "test": []})

    def add(self, line: str, file: str, split: str = "train", content: bytes | None = None) -> Path:
        self.lines[split].append(line)
        return put(self.root / split / file, content or image_file(pixels(split + file), "PNG"))

    def write(self) -> None:
        for split, lines in self.lines.items():
            put(self.root / f"labels/{split}_COVIDx9A.txt", "\n".join(lines) + "\n")

    def add_cxr4(self, line: str, file: str, split: str) -> Path:
        """Add an image of COVIDx CXR-4, whose lists are train.txt, val.txt and test.txt."""
        self.lines.setdefault(split, []).append(line)
        return put(self.root / split / file, image_file(pixels(split + file), "PNG"))

    def write_cxr4(self) -> None:
        for split, lines in self.lines.items():
            put(self.root / f"{split}.txt", "\n".join(lines) + "\n")

    def settings(self, **changes):
        files = {"images": "labels/train_COVIDx9A.txt", "split_file": "labels/test_COVIDx9A.txt"}
        return settings("covidx", self.root, **files, **{"split_fractions": (0.8, 0.2, 0.0), **changes})
