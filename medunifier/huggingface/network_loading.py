"""Load a trained network from a transformers-style folder, without importing transformers.

transformers takes seconds to import, longer than many an evaluation. `MedUnifierModel.from_pretrained` gives the same
weights as a transformers model.
"""

from dataclasses import fields
from pathlib import Path

import torch
from safetensors.torch import load_file

from medunifier.model.config import MODEL_TYPE, Sizes
from medunifier.model.network import MedUnifierNetwork
from medunifier.runtime.errors import InputError
from medunifier.runtime.json_files import read_json_object
from medunifier.storage.weights import check_finite


def load_network(folder: str | Path) -> MedUnifierNetwork:
    """Load the trained network of a folder that `MedUnifierModel.save_pretrained` wrote, in evaluation mode.

    Raises:
        OSError: the file of weights is missing, or its weights are not those of this network.
        InputError: config.json is missing, broken or has sizes of no network, or a weight is not finite.
        safetensors.SafetensorError: the file of weights is broken.
    """
    with torch.random.fork_rng(devices=[]):  # the initial weights are random, and replaced at once
        network = MedUnifierNetwork(read_sizes(folder))
    try:
        weights = load_file(Path(folder) / "model.safetensors")
        check_finite(weights, Path(folder) / "model.safetensors")
        found = network.load_state_dict(weights, strict=False, assign=True)
    except RuntimeError as error:  # shapes, a line for each weight
        raise OSError(" ".join(str(error).split("\n\t")[:2])) from error
    for kind, names in (("missing", found.missing_keys), ("not known", found.unexpected_keys)):
        if names:
            raise OSError(f"{len(names)} weights are {kind}, {min(names)} first: other code has written it")
    return network.eval()


def read_sizes(folder: str | Path) -> Sizes:
    """Read the network's sizes from a folder's config.json, as `MedUnifierConfig.save_pretrained` writes it.

    Raises:
        InputError: the file is missing, or is no MedUnifier configuration.
    """
    path = Path(folder) / "config.json"
    values = read_json_object(path)
    if values.get("model_type") != MODEL_TYPE:
        raise InputError(f"{path}: not of a {MODEL_TYPE} model")
    return Sizes(**{field.name: values[field.name] for field in fields(Sizes) if field.name in values})
