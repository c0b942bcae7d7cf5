import pytest
import torch
from transformers import ViTConfig, ViTModel

from medunifier.vision.convert import lite0_folder
from tests.support.encoder_folders import save_unit_processor


@pytest.fixture(scope="session")
def lite0(tmp_path_factory):
    """The folder of EfficientNet-Lite0 with its real weights, as the set-up makes it."""
    folder = tmp_path_factory.mktemp("encoders") / "tf_efficientnet_lite0"
    assert lite0_folder(folder) == "in their order"
    return folder


@pytest.fixture(scope="module")
def transformers_vit(tmp_path_factory):
    """The folder of a small random ViT of transformers."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vit")
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64, patch_size=14
    )
    ViTModel(config).save_pretrained(folder)
    save_unit_processor(folder)
    return folder
