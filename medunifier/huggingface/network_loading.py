"""Load a trained network from a transformers-style folder, without importing transformers.

transformers takes seconds to import, longer than many an evaluation. `MedUnifierModel.from_pretrained` gives the same
weights as a transformers model.
"""

from pathlib import Path

import torch

from medunifier.model.config import MODEL_TYPE, Sizes
from medunifier.model.network import MedUnifierNetwork
from medunifier.storage.saved_networks import load_all_weights, read_sizes_as


def load_network(folder: str | Path) -> MedUnifierNetwork:
    """Load the trained network of a folder that `MedUnifierModel.save_pretrained` wrote, in evaluation mode.

    Raises:
        OSError: the file of weights is missing, or its weights are not those of this network.
        InputError: config.json is missing, broken or has sizes of no network, or a weight is not finite.
        safetensors.SafetensorError: the file of weights is broken.
    """
    with torch.random.fork_rng(devices=[]):  # the initial weights are random, and replaced at once
        network = MedUnifierNetwork(read_sizes(folder))
    load_all_weights(network, folder)
    return network.eval()


def read_sizes(folder: str | Path) -> Sizes:
    """Read the network's sizes from a folder's config.json, as `MedUnifierConfig.save_pretrained` writes it.

    Raises:
        InputError: the file is missing, or is no MedUnifier configuration.
    """
    return read_sizes_as(Sizes, folder, MODEL_TYPE)
