"""The one loader of trained models for evaluation: MedUnifier's variants, and other encoders."""

from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError

from medunifier.evaluation.external_encoders import load_encoder
from medunifier.evaluation.trained_model import EvaluatedModel, ExternalModel, TrainedModel
from medunifier.huggingface.network_loading import load_network
from medunifier.model.network import MedUnifierNetwork
from medunifier.runtime.errors import InputError
from medunifier.runtime.params import Params
from medunifier.storage.image_shards import ImageStore
from medunifier.vision.image_features import Features, open_features


def load_model(params: Params, name: str, dataset: str) -> EvaluatedModel:
    """Load the model of `models/NAME`, a variant or one of `encoders`, with a data set's images as it reads them.

    Raises:
        InputError: As `load_trained`, `load_encoder` and the stores of images and features do.
    """
    if name not in params.encoders:
        return replace(load_trained(name, dataset), can_match=params.variants[name].itm > 0)
    folder, device = Path("models") / name, _device()
    encoder = load_encoder(folder)
    encoder.network.to(device)
    return ExternalModel(folder, device, encoder, stored=ImageStore(Path("data/images") / dataset))


def load_trained(variant: str, dataset: str | None = None) -> TrainedModel:
    """Load the MedUnifier of `models/VARIANT`, with the image features of a data set where one is named.

    Raises:
        InputError: If the folder is missing or broken, if the data set has no features, or if they come from another
            frozen encoder than the one that the model was trained with.
    """
    features = None if dataset is None else open_features(dataset)
    folder = Path("models") / variant
    missing = [name for name in ("config.json", "model.safetensors") if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"{folder}: no trained model ({', '.join(missing)} missing); run pretrain@{variant} first"
        )
    try:
        model = load_network(folder)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{folder}: not a whole model ({error}); run pretrain@{variant} again") from error
    if features is not None:
        _check_encoder(features, model, folder)
    device = _device()
    return TrainedModel(folder, device, model.to(device), stored=features, can_match=True)


def _check_encoder(features: Features, model: MedUnifierNetwork, folder: Path) -> None:
    """Raise InputError unless the features come from the frozen encoder that the model was trained with."""
    again = f"run extract_features and pretrain@{folder.name} with the same `vision`"
    if features.width != model.config.vision_width:
        raise InputError(
            f"{features.folder}: features are {features.width} wide, {folder} was trained on "
            f"{model.config.vision_width}; {again}"
        )
    trained_on = (model.config.vision or {}).get("checksum")
    if trained_on is not None and next(iter(features.manifests.values()))["checksum"] != trained_on:
        raise InputError(
            f"{features.folder}: the features are another ViT's than those that {folder} was trained on; {again}"
        )


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
