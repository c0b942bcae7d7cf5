"""Encoders of others: small random checkpoints, saved and loaded for real, evaluated by the same stages."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from medunifier.data.tokenizer import load_tokenizer
from medunifier.evaluation.classifier import Classifier, cross_entropy
from medunifier.evaluation.external_encoders import load_encoder
from medunifier.evaluation.loading import load_model
from medunifier.runtime.errors import InputError
from medunifier.tracking import LocalRun
from stages.finetune import finetune
from stages.retrieve import retrieve
from stages.zero_shot import zero_shot
from tests.support.external_encoders import (
    save_biomed_clip,
    save_blip_2,
    save_clip,
    save_dinov2,
    save_open_clip,
    save_siglip,
    save_timm,
    save_torchvision,
)
from tests.support.trained_project import DATASET, make_project


@pytest.fixture
def params(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    params = make_project(tmp_path)
    Path("own.yaml").write_text(
        "items: test\nclasses: {edema: {prompts: [edema]}, cardiomegaly: {prompts: [cardiomegaly]}}"
    )
    return params.replace(
        encoders=("other",),
        evaluate=params.evaluate.replace(finetune={DATASET: ("edema",)}),
        finetune=params.finetune.replace(steps=2, batch_size=4, validate_every=1, bootstrap=20),
        zero_shot=params.zero_shot.replace(prompts="own.yaml", bootstrap=20),
        retrieve=params.retrieve.replace(bootstrap=20),
    )


SAVERS = {"clip": save_clip, "siglip": save_siglip, "blip_2": save_blip_2, "open_clip": save_open_clip}
BACKBONES = {"timm": save_timm, "torchvision": save_torchvision}
ALL = SAVERS | BACKBONES | {"dinov2": save_dinov2}


@pytest.mark.slow
@pytest.mark.parametrize("kind", SAVERS)
def test_the_same_evaluations_run_on_it(params, kind):
    torch.manual_seed(0)
    SAVERS[kind]("models/other")
    model = load_model(params, "other", DATASET)
    ids = model.images.image_ids[:3]
    images, texts = model.embed_images(ids), model.embed_texts(["edema", "no edema"])
    assert np.linalg.norm(images, axis=-1) == pytest.approx(1, abs=1e-5)
    assert np.linalg.norm(texts, axis=-1) == pytest.approx(1, abs=1e-5)
    assert images.shape == (3, 4 if kind == "blip_2" else 1, texts.shape[1])
    assert np.allclose(model.embed_images(ids[1:2]), images[1:2], atol=1e-5), "batches change nothing"
    with pytest.raises(InputError, match=r"models/other: has no matching head"):
        model.match(ids[:1], ["edema"])

    run = LocalRun(f"retrieve@other-{DATASET}", "results/metrics")
    retrieve(params, run, "other", DATASET)
    assert 0 <= run.final["i2t_map_at_1"] <= 100
    run = LocalRun(f"zero_shot@other-{DATASET}", "results/metrics")
    zero_shot(params, run, "other", DATASET)
    assert 0 <= run.final["accuracy"] <= 100


@pytest.mark.slow
@pytest.mark.parametrize("kind", ALL)
def test_training_changes_the_copy_and_not_the_original(params, kind):
    torch.manual_seed(0)
    ALL[kind]("models/other")
    model = load_model(params, "other", DATASET)
    images = model.read_images(model.images.image_ids[:4])
    net = Classifier(copy.deepcopy(model.image_encoder()), 1).eval()
    original = {name: value.clone() for name, value in model.encoder.network.state_dict().items()}
    with torch.no_grad():
        before = net.encoder(images)
    torch.nn.init.ones_(net.head.weight)  # at zero it would pass no gradient on
    cross_entropy(net(images), torch.tensor([0, 1, 0, 1])).backward()
    torch.optim.AdamW(net.parameter_groups(0.01, 0.01, 0.05), lr=0.01).step()

    trained = net.encoder.network.state_dict()
    assert any(not torch.equal(value, original[name]) for name, value in trained.items())
    with torch.no_grad():
        assert not torch.allclose(net.encoder(images), before, atol=1e-3), "the vectors stay as they were"
        assert torch.equal(model.image_encoder()(images), before)
    kept = model.encoder.network.state_dict()
    assert all(torch.equal(value, original[name]) for name, value in kept.items())


@pytest.mark.slow
@pytest.mark.parametrize("saver", [save_clip, save_timm, save_torchvision, save_dinov2])
def test_it_is_fine_tuned(params, saver):
    torch.manual_seed(0)
    saver("models/other")
    run = LocalRun(f"finetune@other-{DATASET}-100", "results/metrics")
    finetune(params, run, "other", DATASET, "100")
    assert 0 <= run.final["auroc"] <= 100 and 0 <= run.final["probe_auroc"] <= 100


def test_a_clip_folder_gives_the_embeddings_of_transformers(params):
    from transformers import CLIPModel

    save_clip("models/other")
    encoder, plain = load_encoder("models/other"), CLIPModel.from_pretrained("models/other").eval()
    pixels = torch.randn(2, 3, 32, 32)
    tokens = load_tokenizer("models/other")(["edema"], return_tensors="pt")
    with torch.no_grad():
        out = plain(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], pixel_values=pixels
        )
        assert torch.allclose(encoder.embed_images(pixels)[:, 0], out.image_embeds, atol=1e-5)
        assert torch.allclose(encoder.embed_texts(["edema"]), out.text_embeds, atol=1e-5)


def test_a_blip_2_folder_gives_the_similarity_of_transformers(params):
    from transformers import Blip2ForImageTextRetrieval

    save_blip_2("models/other")
    encoder = load_encoder("models/other")
    plain = Blip2ForImageTextRetrieval.from_pretrained("models/other").eval()
    pixels = torch.randn(1, 3, 28, 28)
    tokens = load_tokenizer("models/other")(["edema"], return_tensors="pt")
    with torch.no_grad():
        out = plain(
            pixel_values=pixels,
            input_ids=tokens["input_ids"],
            attention_mask=tokens["attention_mask"],
            use_image_text_matching_head=False,
        )
        mine = (encoder.embed_images(pixels)[0] @ encoder.embed_texts(["edema"])[0]).max()
    assert mine.item() == pytest.approx(out.logits_per_image.item(), abs=1e-5)


def test_a_siglip_folder_gives_the_embeddings_of_transformers(params):
    from transformers import SiglipModel

    save_siglip("models/other")
    encoder, plain = load_encoder("models/other"), SiglipModel.from_pretrained("models/other").eval()
    pixels, texts = torch.randn(2, 3, 32, 32), ["edema", "no large edema here"]
    tokens = load_tokenizer("models/other")(
        texts, padding="max_length", max_length=40, return_tensors="pt", return_token_type_ids=False
    )
    with torch.no_grad():
        out = plain(**tokens, pixel_values=pixels)
        assert torch.allclose(encoder.embed_images(pixels)[:, 0], out.image_embeds, atol=1e-5)
        assert torch.allclose(encoder.embed_texts(texts), out.text_embeds, atol=1e-5)


def test_an_open_clip_folder_gives_the_embeddings_of_open_clip(params):
    import open_clip

    save_open_clip("models/other")
    encoder, name = load_encoder("models/other"), f"local-dir:{Path('models/other').absolute()}"
    plain = open_clip.create_model(name).eval()
    pixels, texts = torch.randn(2, 3, 32, 32), ["edema", "no large edema here"]
    with torch.no_grad():
        images, _, _ = plain(pixels)
        _, embedded, _ = plain(text=open_clip.get_tokenizer(name)(texts))
        assert torch.allclose(encoder.embed_images(pixels)[:, 0], images, atol=1e-5)
        assert torch.allclose(encoder.embed_texts(texts), embedded, atol=1e-5)


@pytest.mark.parametrize("kind", BACKBONES)
def test_a_backbone_folder_gives_what_its_library_s_head_reads(params, kind):
    import timm
    import torchvision
    from safetensors.torch import load_file

    BACKBONES[kind]("models/other")
    encoder, pixels = load_encoder("models/other"), torch.randn(2, 3, 160, 160)
    plain = timm.create_model("test_vit") if kind == "timm" else torchvision.models.mobilenet_v3_small()
    plain.load_state_dict(load_file("models/other/model.safetensors"))
    plain.eval()
    with torch.no_grad():
        if kind == "timm":
            expected = plain.forward_head(plain.forward_features(pixels), pre_logits=True)
        else:
            expected = plain.avgpool(plain.features(pixels)).flatten(1)
        assert torch.allclose(encoder.vectors(encoder.network, pixels), expected, atol=1e-5)


def library_pixels(kind, own, images):
    """The pixels that a library makes of images; with `own`, by a mean and deviation that the folder tells."""
    if kind == "open_clip":
        import open_clip

        name = f"local-dir:{Path('models/other').absolute()}"
        return torch.stack([open_clip.create_model_and_transforms(name)[2](p) for p in images])
    if kind == "timm":
        import timm

        network = timm.create_model(f"local-dir:{Path('models/other').absolute()}")
        settings = timm.data.resolve_model_data_config(network) | {"crop_pct": 1.0}  # the whole image
        return torch.stack([timm.data.create_transform(**settings)(p) for p in images])
    if kind == "torchvision":
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms._presets import ImageClassification

        whole = ImageClassification(crop_size=224, resize_size=224, interpolation=InterpolationMode.BICUBIC)
        return torch.stack([whole(p) for p in images])
    from transformers import BlipImageProcessor, CLIPImageProcessor, SiglipImageProcessor

    processors = {"clip": CLIPImageProcessor, "blip_2": BlipImageProcessor, "siglip": SiglipImageProcessor}
    size = 28 if kind == "blip_2" else 32
    settings = {"size": {"height": size, "width": size}}
    if kind == "clip":
        settings = {"size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}}
    if own:
        settings |= {"image_mean": [0.3, 0.4, 0.5], "image_std": [0.2, 0.3, 0.4]}
        processors[kind](**settings).save_pretrained("models/other")
    return processors[kind](**settings)(images, return_tensors="pt")["pixel_values"]


@pytest.mark.parametrize(
    ("kind", "own"), [*((kind, False) for kind in SAVERS | BACKBONES), ("clip", True), ("siglip", True)]
)
def test_images_are_prepared_as_their_library_does(params, kind, own):
    (SAVERS | BACKBONES)[kind]("models/other")
    grey = np.random.default_rng(0).integers(60, 196, (2, 224, 224)).astype(np.uint8)
    expected = library_pixels(kind, own, [Image.fromarray(image).convert("RGB") for image in grey])
    found = load_encoder("models/other").prepare(torch.from_numpy(grey))
    assert found.shape == expected.shape
    # the libraries round to whole grey values after they have resized
    assert (found - expected).abs().max() < 1.5 / 255 / 0.2


def test_what_cannot_be_used_is_refused(params):
    with pytest.raises(InputError, match="models/other: cannot be loaded as an encoder"):
        load_model(params, "other", DATASET)
    Path("models/other").mkdir()
    refused = {
        '{"model_type": "bert"}': "cannot load 'models/other'",
        '{"model_type": "siglip2"}': "take one for a fixed size",
        "[1]": "holds a JSON list; expected an object",
    }
    for config, message in refused.items():
        Path("models/other/config.json").write_text(config)
        with pytest.raises(InputError, match=message) as error:
            load_model(params, "other", DATASET)
        assert "\n" not in str(error.value)
    Path("models/other/config.json").unlink()
    Path("models/other").rmdir()
    save_torchvision("models/other")
    model = load_model(params, "other", DATASET)
    with pytest.raises(InputError, match="a backbone reads no text"):
        model.embed_texts(["a"])


def test_any_encoder_of_vision_is_a_backbone_with_its_own_preprocessing(params):
    from transformers import AutoImageProcessor, Dinov2Model

    save_dinov2("models/other")
    grey = np.random.default_rng(0).integers(60, 196, (2, 70, 70)).astype(np.uint8)
    processor = AutoImageProcessor.from_pretrained("models/other", do_resize=False)
    pixels = processor([Image.fromarray(g).convert("RGB") for g in grey], return_tensors="pt")["pixel_values"]
    encoder = load_encoder("models/other")
    prepared = encoder.prepare(torch.from_numpy(grey))
    torch.testing.assert_close(prepared, pixels, rtol=0, atol=1e-5)
    assert encoder.prepare(torch.zeros(1, 224, 224, dtype=torch.uint8)).shape == (1, 3, 70, 70)
    with torch.no_grad():
        expected = Dinov2Model.from_pretrained("models/other").eval()(pixels).last_hidden_state[:, 0]
        torch.testing.assert_close(encoder.vectors(encoder.network, prepared), expected, rtol=0, atol=1e-5)
    assert encoder.embed_texts is None


def test_biomed_clip_offline_says_which_file_to_put_where_and_then_works(params, monkeypatch):
    torch.manual_seed(0)
    plain = save_biomed_clip("models/other")
    encoder = load_encoder("models/other")
    pixels, texts = torch.randn(2, 3, 160, 160), ["edema", "no large edema here"]
    tokens = load_tokenizer("models/other")(texts, padding="max_length", max_length=32, return_tensors="pt")
    with torch.no_grad():
        images = plain.encode_image(pixels, normalize=True)
        embedded = plain.encode_text(tokens["input_ids"], normalize=True)
        assert torch.allclose(encoder.embed_images(pixels)[:, 0], images, atol=1e-5)
        assert torch.allclose(encoder.embed_texts(texts), embedded, atol=1e-5)
    config = Path("models/other/text_tower/config.json")
    values = json.loads(config.read_text())
    config.write_text(json.dumps(values | {"auto_map": {"AutoConfig": "own.Config"}}))
    with pytest.raises(InputError, match="names code of its own"):
        load_encoder("models/other")
    config.unlink()
    where = "built by the config.json of microsoft/no-such-bert.* put that file to models/other/text_tower/config.json"
    with pytest.raises(InputError, match=where):
        load_encoder("models/other")


def test_weights_that_are_not_finite_are_refused(params):
    from transformers import CLIPModel

    save_clip("models/other")
    model = CLIPModel.from_pretrained("models/other")
    with torch.no_grad():
        model.visual_projection.weight[0, 0] = float("nan")
    model.save_pretrained("models/other")
    with pytest.raises(InputError, match=r"weight visual_projection.weight has 1 of"):
        load_encoder("models/other")
