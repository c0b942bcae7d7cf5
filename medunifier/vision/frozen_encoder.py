"""The frozen image encoder: any ViT or CNN of timm, transformers, open_clip, torchvision or torchxrayvision."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medunifier.runtime.errors import InputError
from medunifier.runtime.files import require_no_pipes
from medunifier.runtime.json_files import read_json_object
from medunifier.runtime.own_encoder import ADVICE, is_own
from medunifier.storage.weights import check_finite
from medunifier.vision.feature_maps import LoadedEncoder, Network

HUBS = ("timm:", "hf:", "open_clip:", "torchvision:")
CHOICE = (
    "model",
    "revision",
    "skip_last_blocks",
    "pixels",
    "size",
    "crop",
    "levels",
)  # arguments of `load_vision`


class FrozenEncoder(nn.Module):
    """An image encoder without gradients that always stays in evaluation mode, with its own preprocessing.

    Args:
        encoder: the network, its preprocessing already as `vision` asks for it.
        choice: the arguments of `load_vision`.

    Attributes:
        checksum: SHA-256 of weights, preprocessing and levels, as recorded in the feature manifests.
        rows: of the grid of features.
        columns: of the grid of features.
        width: of the features.

    Raises:
        InputError: weights are not finite, the network does not take images of this size, or it gives other features
            each time.
    """

    def __init__(self, encoder: LoadedEncoder, choice: Mapping[str, Any]):
        super().__init__()
        self.network = encoder.network.eval().requires_grad_(False)
        self.preprocessing, self._encode = encoder.preprocessing, encoder.encode
        self.choice = {name: choice[name] for name in CHOICE}
        weights = self.network.state_dict()
        check_finite(weights, self.choice["model"])
        recipe = {"preprocessing": self.preprocessing.record(), "levels": list(self.choice["levels"])}
        whole = weights_checksum(self.network) + json.dumps(recipe, sort_keys=True)
        self.checksum = hashlib.sha256(whole.encode()).hexdigest()
        self.width, self.rows, self.columns = self._try()

    def _try(self) -> tuple[int, int, int]:
        """Encode two equal images; returns width, rows and columns of the features."""
        height, width = self.preprocessing.size
        one = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
        try:
            with torch.no_grad():
                grid = self._encode(self.network, self.preprocessing(one.expand(2, -1, -1, -1))).grid
        except (AssertionError, RuntimeError, ValueError) as error:
            raise InputError(
                f"vision.model: takes no images of {height} x {width} pixels: {' '.join(str(error).split())[:200]}. "
                "Leave vision.size null for the model's own size"
            ) from error
        if not torch.allclose(grid[0], grid[1], rtol=1e-3, atol=1e-3):
            raise InputError(
                "vision.model: gives other features for the same image, as a masked autoencoder does, which hides "
                "patches at random; save its encoder as a plain ViT"
            )
        return int(grid.shape[1]), int(grid.shape[2]), int(grid.shape[3])

    def train(self, mode: bool = True) -> "FrozenEncoder":
        """Stay in evaluation mode, whatever `mode` is."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Encode images; they are prepared as the model's own processor does.

        Args:
            pixels: (B, 3, H, W) in [0, 1], three equal channels, of any size.

        Returns:
            Features (B, 1 + rows * columns, width): the class token, the model's pooled output or else the mean
            first, then the grid, row by row.
        """
        return self._encode(self.network, self.preprocessing(pixels)).tokens()

    def record(self) -> dict[str, Any]:
        """Return what a feature manifest says about the encoder: choice, preprocessing, grid and checksum."""
        return {
            **self.choice,
            "levels": list(self.choice["levels"]),
            "preprocessing": self.preprocessing.record(),
            "grid": [self.rows, self.columns],
            "checksum": self.checksum,
        }


def load_vision(
    model: str,
    revision: str | None = None,
    skip_last_blocks: int = 0,
    *,
    pixels: str = "model",
    size: int | None = None,
    crop: str = "none",
    levels: tuple[int, ...] = (),
) -> FrozenEncoder:
    """Load a frozen encoder by name or folder.

    Args:
        model: `timm:NAME`, `hf:NAME`, `open_clip:hf-hub:NAME`, `torchvision:NAME`, or a folder (see `open_encoder`).
        revision: commit of a hub model; name of the weights of torchvision.
        skip_last_blocks: number of blocks left out at the end, together with the final norm. BLIP-2 takes ViT-g's
            tokens after 39 of 40 blocks and without the norm of the last block.
        pixels: `model`: normalised by the model's own mean and deviation; `unit`: in [0, 1], not normalised.
        size: height and width that the encoder reads; None: the model's own.
        crop: `none`: the whole image; `model`: the centre, as the model's own processor crops it.
        levels: strides of the levels of a CNN that are joined; (): the deepest.

    Raises:
        InputError: the model cannot be found or loaded, or its preprocessing is unknown.
    """
    encoder = open_encoder(model, revision, size=size, levels=tuple(levels), pixels=pixels)
    if skip_last_blocks:
        drop_last_blocks(encoder.network, skip_last_blocks)
    adapted = LoadedEncoder(
        encoder.network, encoder.encode, encoder.preprocessing.adapted(pixels, size, crop)
    )
    values = (model, revision, skip_last_blocks, pixels, size, crop, tuple(levels))
    return FrozenEncoder(adapted, dict(zip(CHOICE, values, strict=True)))


def load_recorded_vision(record: Mapping[str, Any], project: str | Path = ".") -> FrozenEncoder:
    """Load the encoder that a feature manifest or a model's config.json records.

    Args:
        record: the arguments of `load_vision` and `checksum`.
        project: folder from which a relative path in `model` counts.

    Raises:
        InputError: the encoder cannot be found or loaded, or its weights or preprocessing differ from the recorded ones.
    """
    choice: dict[str, Any] = {name: record[name] for name in CHOICE if name in record}
    choice["levels"] = tuple(choice.get("levels", ()))
    if not choice["model"].startswith(HUBS):
        choice["model"] = str(Path(project) / choice["model"])
    encoder = load_vision(**choice)
    if encoder.checksum != record["checksum"]:
        raise InputError(
            f"{record['model']}: other weights or another preprocessing than those that features or model were made "
            "with (its SHA-256 differs from the recorded one); put the files back, or run extract_features again"
        )
    return encoder


def open_encoder(
    model: str,
    revision: str | None = None,
    *,
    size: int | None = None,
    levels: tuple[int, ...] = (),
    pixels: str = "model",
) -> LoadedEncoder:
    """Load an image encoder of any library, with its own preprocessing.

    A folder is recognised by its files: open_clip_config.json (open_clip); config.json with `model_type`
    (transformers), `architecture` (timm), `torchvision` or `torchxrayvision`. The arguments are those of `load_vision`.

    Raises:
        InputError: the model cannot be found or loaded, or its preprocessing is unknown.
    """
    try:
        return _open(model, revision, size, levels, pixels)
    except InputError:
        raise
    except Exception as error:  # five libraries answer a broken folder with errors of every class
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise InputError(f"vision.model: cannot load {model!r}: {reason}") from error


def _open(
    model: str, revision: str | None, size: int | None, levels: tuple[int, ...], pixels: str
) -> LoadedEncoder:
    # Each library takes seconds to import: only the one that the model needs is loaded.
    library, _, name = model.partition(":") if model.startswith(HUBS) else ("", "", model)
    folder = Path(name)
    config: dict[str, Any] = {}
    if not library and (folder / "open_clip_config.json").is_file():
        library = "open_clip"
    elif not library:
        if not (folder / "config.json").is_file():
            if is_own(folder):
                raise InputError(f"vision.folder: {model!r} is not there, or not whole. {ADVICE}")
            raise InputError(
                f"vision.folder: {model!r} has no config.json. Give the folder of a saved encoder, or let vision.model "
                f"be one of {', '.join(f'{hub}NAME' for hub in HUBS)}"
            )
        config = read_json_object(folder / "config.json")
        require_no_pipes(folder)
        if "torchvision" not in config and "torchxrayvision" not in config:
            library = "hf" if "model_type" in config else "timm"
            name = name if library == "hf" else f"local-dir:{name}"
            revision = None
    if library == "timm":
        from medunifier.vision.libraries.timm_models import load_timm

        return load_timm(_timm_name(name, revision), size, levels)
    if library == "hf":
        from medunifier.vision.libraries.transformers_models import load_transformers

        return load_transformers(name, revision, levels, pixels)
    if library == "open_clip":
        from medunifier.vision.libraries.open_clip_models import load_open_clip

        return load_open_clip(name, revision, size, levels)
    from medunifier.vision.libraries.torchvision_models import load_folder, load_torchvision

    return load_torchvision(name, revision, levels) if library else load_folder(folder, config, levels)


def _timm_name(name: str, revision: str | None) -> str:
    """Return the name with its commit, as timm takes it: of a model of timm's own, in its repository on the hub."""
    if revision is None:
        return name
    return f"{name if name.startswith('hf-hub:') else f'hf-hub:timm/{name}'}@{revision}"


def drop_last_blocks(network: Network, count: int) -> None:
    """Remove the last `count` blocks, the final norm and a pooling that reads it, in place.

    Raises:
        InputError: the model has too few blocks, or they are not found.
    """
    trunk = getattr(network, "trunk", network)  # timm's model within open_clip's
    for holder in (trunk, getattr(trunk, "encoder", None), getattr(trunk, "transformer", None)):
        for name in ("blocks", "layers", "layer", "resblocks"):
            blocks = getattr(holder, name, None)
            if isinstance(blocks, nn.ModuleList | nn.Sequential):
                if count >= len(blocks):
                    raise InputError(
                        f"vision.skip_last_blocks is {count}, but the model has {len(blocks)} blocks."
                    )
                setattr(holder, name, blocks[:-count])
                for norm in ("norm", "fc_norm", "layernorm", "post_layernorm", "ln_post", "ln"):
                    for owner in (trunk, holder):
                        if isinstance(getattr(owner, norm, None), nn.Module):
                            setattr(owner, norm, nn.Identity())
                for pooling in ("attn_pool", "head"):
                    if isinstance(getattr(trunk, pooling, None), nn.Module):
                        setattr(trunk, pooling, None)
                if hasattr(trunk, "use_head"):
                    trunk.use_head = False
                return
    raise InputError("vision.skip_last_blocks: this model's blocks were not found; set it to 0.")


def weights_checksum(module: nn.Module) -> str:
    """Return the SHA-256 of names, shapes and bytes of all weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
