"""Checkpoints of a training run: written atomically, the newest readable one is resumed from."""

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch

KEPT = 2  # the newest, and the one before in case the newest is unreadable


def state_folder(stage: str, signature: str) -> Path:
    """Return the folder of a stage's checkpoints; each signature (parameters, inputs, code) has its own."""
    return Path(os.environ.get("MEDUNIFIER_STATE", ".state")) / "checkpoints" / stage / signature[:16]


class Checkpoints:
    """The checkpoints in one folder, which belongs to one set of inputs and parameters.

    A checkpoint is a file `step-00000100.pt`. It is written under a temporary name, flushed to disk and renamed:
    a file of that name is complete even if the process or the machine dies.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def paths(self) -> list[Path]:
        """Return the checkpoints, oldest first."""
        return sorted(self.folder.glob("step-*.pt"))

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Write `state` as the checkpoint after `step` steps, and remove all but the last `KEPT`."""
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
        """Return the newest readable state, or None. An unreadable file is renamed to `*.broken`, with a message."""
        for path in reversed(self.paths()):
            try:
                return torch.load(path, map_location="cpu", weights_only=True)
            except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
                print(
                    f"{path} cannot be read ({error}); set aside as {path.name}.broken, trying the one before"
                )
                shutil.move(path, path.with_name(path.name + ".broken"))
        return None
