"""Checkpoints of a training run: written whole, found again, never taken from another run."""

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch

KEPT = 2  # the newest, and one before it should the newest turn out unreadable


class Checkpoints:
    """The checkpoints in one folder, which must belong to one set of inputs and parameters.

    A checkpoint is a file `step-00000100.pt`. It is written under another name, flushed to the disk and
    renamed, so that a file of that name is whole whenever the process or the machine dies.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def paths(self) -> list[Path]:
        """Checkpoints, oldest first."""
        return sorted(self.folder.glob("step-*.pt"))

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Writes `state` as the checkpoint after `step` steps and removes all but the last `KEPT`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step-{step:08d}.pt"
        temporary = path.with_suffix(f".{os.getpid()}.partial")
        try:
            with temporary.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        for old in self.paths()[:-KEPT]:
            old.unlink()
        return path

    def load(self) -> dict[str, Any] | None:
        """The newest readable state, or None. An unreadable file is set aside as `*.broken`, with a word."""
        for path in reversed(self.paths()):
            try:
                return torch.load(path, map_location="cpu", weights_only=True)
            except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
                print(
                    f"{path} cannot be read ({error}); set aside as {path.name}.broken, trying the one before"
                )
                shutil.move(path, path.with_name(path.name + ".broken"))
        return None
