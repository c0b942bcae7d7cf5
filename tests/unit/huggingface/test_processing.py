"""The processor, and README's example with a small model and the ViT that it was trained on."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, ViTConfig, ViTModel

from medunifier.data.image_decoding import decode_image
from medunifier.data.tokenizer import DECODE_TOKEN, tokenize, train_wordpiece
from medunifier.huggingface.configuration_medunifier import MedUnifierConfig
from medunifier.huggingface.image_processing_medunifier import MedUnifierImageProcessor
from medunifier.huggingface.modeling_medunifier import MedUnifierModel
from medunifier.huggingface.processing_medunifier import MedUnifierProcessor
from medunifier.runtime.errors import InputError
from medunifier.vision.frozen_encoder import load_vision
from tests.support.encoder_folders import save_unit_processor
from tests.support.paths import REPO

README = REPO / "README.md"
REPORTS = ["There is a large left pleural effusion.", "No pneumothorax. The heart is not enlarged."] * 5


def make_folder(folder: Path) -> Path:
    """A project with `models/full`, its ViT in `vit`, and radiograph.jpg."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    ViTModel(ViTConfig(patch_size=14, **sizes)).save_pretrained(folder / "vit")
    save_unit_processor(folder / "vit")
    tokenizer = train_wordpiece(REPORTS, 80)
    vision = load_vision(str(folder / "vit")).record() | {"model": "vit"}
    config = MedUnifierConfig(
        vision_width=8,
        width=16,
        layers=2,
        heads=2,
        vocab_size=len(tokenizer),
        max_text_tokens=20,
        code_width=8,
        codebook_size=16,
        decoder_channels=(8, 8, 4, 4),
        decode_token_id=tokenizer.convert_tokens_to_ids(DECODE_TOKEN),
        vision=vision,
    )
    trained = folder / "models/full"
    MedUnifierModel(config).save_pretrained(trained)
    MedUnifierProcessor(MedUnifierImageProcessor(224, "pad"), tokenizer, 20).save_pretrained(trained)
    image = np.random.default_rng(0).integers(0, 255, (300, 200), np.uint8)
    Image.fromarray(image).save(folder / "radiograph.jpg")
    return folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory as `make_folder` makes it."""
    monkeypatch.chdir(tmp_path)
    return make_folder(tmp_path)


def test_images_and_texts_are_those_of_the_stages(folder):
    processor = AutoProcessor.from_pretrained("models/full")
    assert type(processor) is MedUnifierProcessor
    batch = processor(images=["radiograph.jpg", Path("radiograph.jpg")], text=REPORTS[:2])
    expected = torch.from_numpy(decode_image("radiograph.jpg", 224, "pad")).float() / 255
    assert torch.equal(batch["pixel_values"], expected.expand(2, 3, -1, -1))
    ids, mask = tokenize(processor.tokenizer, REPORTS[:2], 20)
    assert torch.equal(batch["input_ids"], ids) and torch.equal(batch["attention_mask"], mask)
    assert processor.batch_decode(ids[:, 1:]) == [text.lower() for text in REPORTS[:2]]
    assert processor.decode(ids[1, 1:]) == REPORTS[1].lower()
    opened = processor(images=Image.open("radiograph.jpg"))["pixel_values"]
    assert opened.shape == (1, 3, 224, 224) and (opened - expected).abs().max() < 0.02
    assert list(processor(text=REPORTS[0])) == ["input_ids", "attention_mask"]


def test_another_encoder_than_that_of_the_training_is_refused(folder):
    model = MedUnifierModel.from_pretrained("models/full")
    model.config.vision["checksum"] = "another"
    with pytest.raises(InputError, match="other weights or another preprocessing"):
        model.extract_features(torch.rand(1, 3, 224, 224))
    model.config.vision = None
    with pytest.raises(InputError, match="does not record the frozen encoder"):
        model.extract_features(torch.rand(1, 3, 224, 224))
