"""Checkpoints of a training run: written atomically, checked by a digest, the newest good one is resumed from."""

import hashlib
import os
import pickle
import shutil
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch

KEPT = 2  # the newest, and the one before in case the newest is damaged
DIGITS = 16  # of the SHA-256 in a checkpoint's name


def state_folder(stage: str, signature: str) -> Path:
    """Return the folder of a stage's checkpoints; each signature (parameters, inputs, code) has its own."""
    return Path(os.environ.get("MEDUNIFIER_STATE", ".state")) / "checkpoints" / stage / signature[:16]


class Checkpoints:
    """The checkpoints in one folder, which belongs to one set of inputs and parameters.

    A checkpoint is a file `step-00000100-DIGEST.pt`; DIGEST is the beginning of its SHA-256. It is written under a
    temporary name, flushed to disk and renamed: a file of that name is complete even if the process or the machine
    dies, and damage to it afterwards is noticed when it is read.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def paths(self) -> list[Path]:
        """Return the checkpoints, oldest first."""
        return sorted(self.folder.glob(f"step-{'[0-9]' * 8}-{'[0-9a-f]' * DIGITS}.pt"))

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Write `state` as the checkpoint after `step` steps, and remove all but the last `KEPT`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f"step-{step:08d}.{os.getpid()}.partial"
        try:
            with temporary.open("wb") as file:
                writer = _DigestWriter(file)
                torch.save(state, cast(IO[bytes], writer))
                file.flush()
                os.fsync(file.fileno())
            path = self.folder / f"step-{step:08d}-{writer.digest.hexdigest()[:DIGITS]}.pt"
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        for again in self.folder.glob(f"step-{step:08d}-*.pt"):  # the same step, from before a resume
            if again != path:
                again.unlink()
        for old in self.paths()[:-KEPT]:
            old.unlink()
        return path

    def load(self) -> dict[str, Any] | None:
        """Return the newest good state, or None.

        A file whose content has not the digest in its name, or that cannot be read, is renamed to `*.broken`, with a
        message.
        """
        for path in reversed(self.paths()):
            try:
                with path.open("rb") as file:
                    found = hashlib.file_digest(file, "sha256").hexdigest()[:DIGITS]
                    if found == path.stem.rpartition("-")[2]:
                        file.seek(0)
                        return torch.load(file, map_location="cpu", weights_only=True)
                reason = f"is damaged: SHA-256 {found}... instead of the one in its name"
            except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
                reason = f"cannot be read ({error})"
            print(f"{path} {reason}; set aside as {path.name}.broken, trying the one before")
            shutil.move(path, path.with_name(path.name + ".broken"))
        return None


class _DigestWriter:
    """A file for torch.save that computes the SHA-256 of what passes through, before a disk can damage it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()
