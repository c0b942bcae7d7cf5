import pytest
import torch
from transformers import ViTConfig, ViTModel

from tests.support.encoder_folders import save_unit_processor


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
