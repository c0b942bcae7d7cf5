"""Files of weights: read without running code, and checked to be finite."""

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from medunifier.runtime.errors import InputError
from medunifier.runtime.files import regular_file

_BROKEN = (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError, SafetensorError)


def read_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a .safetensors file, or of a file that `torch.save` wrote, by name.

    A pickle that holds anything but tensors in plain containers is refused: nothing in it is run.

    Raises:
        InputError: the file is missing or broken, holds other objects than tensors, or a weight is not finite.
    """
    path = regular_file(path, "give a file of weights")
    try:
        if path.suffix == ".safetensors":
            found = load_file(path)
        else:
            found = torch.load(path, weights_only=True, map_location="cpu")
    except _BROKEN as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{path}: cannot be read as a file of weights ({reason}); nothing in it was run. Fetch it again, or "
            "save the weights alone: a dictionary of tensors, best as .safetensors"
        ) from error
    for part in ("state_dict", "model"):  # of a training checkpoint
        if isinstance(found, dict) and isinstance(found.get(part), dict):
            found = found[part]
    if not isinstance(found, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in found.values()):
        raise InputError(f"{path}: holds no dictionary of tensors by name")
    check_finite(found, path)
    return found


def check_finite(tensors: Mapping[str, torch.Tensor], source: str | Path) -> None:
    """Check that no weight is NaN or infinite.

    Raises:
        InputError: names the source and the first such weight.
    """
    for name, tensor in tensors.items():
        # A sum is finite if all terms are, and needs no second tensor of the same size; it may overflow, though.
        if tensor.is_floating_point() and not tensor.float().sum().isfinite() and not tensor.isfinite().all():
            broken = int((~tensor.isfinite()).sum())
            raise InputError(
                f"{source}: weight {name} has {broken} of {tensor.numel()} values that are NaN or infinite; the file "
                "is damaged or its training failed. Fetch it again, or take an earlier one"
            )
