"""Parameters with which the whole pipeline takes minutes or less: few phantoms, tiny networks, short trainings."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests.support.small_encoder import FOLDER, VISION, write_small_encoder


def merge(target: dict, values: Mapping[str, Any]) -> dict:
    """Set values in nested mappings; keys that are not named stay. Returns `target`."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            merge(target.setdefault(key, {}), value)
        else:
            target[key] = value
    return target


SMALL = {
    "datasets": {"phantom": {"benchmark": {"per_class": 1}}},
    "simulate": {"patients": 60, "image_size": 224}
    | {"copies": {"chexpert": 0, "rsna": 0, "siim_acr": 0, "covidx": 0}},
    "vision": VISION,
    "features": {"shards": [0, 1]},
    "model": {"width": 32, "layers": 1, "heads": 2, "queries": 32, "projection": 16}
    | {"codebook_size": 32, "code_width": 8, "decoder_channels": [8, 8, 8, 8], "max_text_tokens": 48},
    "pretrain": {"steps": 40, "batch_size": 4, "validate_every": 20, "checkpoint_every": 10},
    "prior": {"bootstrap": 20, "top": {"steps": 4}, "bottom": {"steps": 4}},
    "zero_shot": {"bootstrap": 20},
    "generate": {"unconditional": 4, "reports": 4, "samples": 2, "shown": 2},
    "retrieve": {"bootstrap": 20},
    "write_reports": {"max_reports": 8, "bootstrap": 20},
    "score_images": {"max_images": 8},
}
_PRIOR = {
    "channels": 8,
    "blocks": 1,
    "residual_blocks": 1,
    "residual_channels": 8,
    "heads": 1,
    "batch_size": 8,
}
# Less of it, each stage once, checkpoints every few steps, and a fine-tuning. It reads PROMPTS from prompts.txt.
PROMPTS = "Large left pleural effusion.\nNo acute process.\n"
SMALLEST = merge(
    copy.deepcopy(SMALL),
    {
        "simulate": {"patients": 48},
        "features": {"shards": [0]},
        "pretrain": {"steps": 12, "validate_every": 6, "checkpoint_every": 3},
        "prior": {
            "training": {"validate_every": 2, "checkpoint_every": 2},
            "top": _PRIOR,
            "bottom": _PRIOR,
        },
        "evaluate": {"finetune": {"phantom": ["pneumothorax"]}, "finetune_percents": [100]},
        "finetune": {"steps": 4, "validate_every": 2, "batch_size": 8, "bootstrap": 20},
        "write_reports": {"max_reports": 4, "num_beams": 2},
        "generate": {"prompts": "prompts.txt"},
    },
)


def shrink_parameters(path: Path, values: Mapping[str, Any] = SMALL) -> None:
    """Leave the data set `phantom` alone in params.yaml, without fine-tuning, then set `values`; write SMALL's encoder."""
    yaml = YAML()
    params = yaml.load(path.read_text(encoding="utf-8"))
    for name in [name for name in params["datasets"] if name != "phantom"]:
        del params["datasets"][name]
    params["evaluate"] |= {"finetune": {}, "zero_shot": ["phantom"]}
    merge(params, values)
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(params, file)
    if params["vision"]["folder"] == FOLDER and not (path.parent / FOLDER).exists():
        write_small_encoder(path.parent / FOLDER)
