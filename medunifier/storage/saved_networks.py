"""Folders of trained networks in transformers' layout (config.json, model.safetensors), read and written without it.

transformers takes seconds to import, longer than many a stage computes.
"""

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn

from medunifier.runtime.errors import InputError
from medunifier.runtime.files import require_no_pipes, write_json
from medunifier.runtime.json_files import read_json_object
from medunifier.storage.weights import check_finite


def read_sizes_as(kind: type[Any], folder: str | Path, model_type: str) -> Any:
    """Return a folder's config.json as the dataclass `kind`; fields that the file lacks keep their defaults.

    Raises:
        InputError: the file is missing, or is no configuration of a `model_type` model.
    """
    path = Path(folder) / "config.json"
    values = read_json_object(path)
    if values.get("model_type") != model_type:
        raise InputError(f"{path}: not of a {model_type} model")
    return kind(**{field.name: values[field.name] for field in fields(kind) if field.name in values})


def load_all_weights(network: nn.Module, folder: str | Path) -> None:
    """Load a folder's weights into the network, which must have exactly these.

    Raises:
        OSError: the file is missing, or its weights are not those of this network.
        InputError: a weight is not finite, or a pipe lies in the folder.
        safetensors.SafetensorError: the file is broken.
    """
    path = Path(folder) / "model.safetensors"
    require_no_pipes(folder)
    try:
        weights = load_file(path)
        check_finite(weights, path)
        found = network.load_state_dict(weights, strict=False, assign=True)
    except RuntimeError as error:  # shapes, a line for each weight
        raise OSError(" ".join(str(error).split("\n\t")[:2])) from error
    for kind, names in (("missing", found.missing_keys), ("not known", found.unexpected_keys)):
        if names:
            raise OSError(f"{len(names)} weights are {kind}, {min(names)} first: other code has written it")


def save_network(network: nn.Module, sizes: Any, folder: str | Path, model_type: str) -> None:
    """Write a network's sizes, a dataclass, and its weights to a folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", {"model_type": model_type, **asdict(sizes)})
    weights = {name: weight.contiguous() for name, weight in network.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
