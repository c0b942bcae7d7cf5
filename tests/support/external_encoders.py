"""Small random checkpoints of the encoders of others, as their libraries save them."""

import json
from pathlib import Path

from medunifier.data.tokenizer import load_tokenizer

SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def save_clip(folder):
    from transformers import CLIPConfig, CLIPModel

    tokenizer = load_tokenizer("models/full")
    text = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 40,
        "eos_token_id": tokenizer.sep_token_id,
    }
    vision = {"image_size": 32, "patch_size": 16}
    CLIPModel(
        CLIPConfig(text_config=SMALL | text, vision_config=SMALL | vision, projection_dim=8)
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_siglip(folder):
    from transformers import SiglipConfig, SiglipModel

    tokenizer = load_tokenizer("models/full")
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": 40, "projection_size": 16}
    vision = {"image_size": 32, "patch_size": 16}
    SiglipModel(SiglipConfig(text_config=SMALL | text, vision_config=SMALL | vision)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_blip_2(folder):
    from transformers import Blip2Config, Blip2ForImageTextRetrieval

    tokenizer = load_tokenizer("models/full")
    qformer = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 40,
        "encoder_hidden_size": 16,
        "use_qformer_text_input": True,
    }
    config = Blip2Config(
        vision_config=SMALL | {"image_size": 28, "patch_size": 14},
        qformer_config=SMALL | qformer,
        text_config={"model_type": "opt", "hidden_size": 16, "num_hidden_layers": 1, "vocab_size": 30},
        num_query_tokens=4,
        image_text_hidden_size=8,
    )
    Blip2ForImageTextRetrieval(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_open_clip(folder):
    import open_clip
    from safetensors.torch import save_file

    config = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
    network = open_clip.CLIP(**config)
    Path(folder).mkdir(parents=True)
    (Path(folder) / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}})
    )
    weights = {k: v.contiguous() for k, v in network.state_dict().items()}
    save_file(weights, Path(folder) / "open_clip_model.safetensors")


def save_torchvision(folder):
    import torchvision
    from safetensors.torch import save_file

    Path(folder).mkdir(parents=True)
    (Path(folder) / "config.json").write_text('{"torchvision": "mobilenet_v3_small"}')
    network = torchvision.models.mobilenet_v3_small()
    save_file(network.state_dict(), Path(folder) / "model.safetensors")


def save_timm(folder):
    import timm
    from timm.models import save_for_hf

    save_for_hf(timm.create_model("test_vit"), folder, safe_serialization=True)


def save_dinov2(folder):
    """A vision model of transformers, which only `vision`'s door knows."""
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    Dinov2Model(Dinov2Config(**SMALL, image_size=70, patch_size=14)).save_pretrained(folder)
    size = {"height": 70, "width": 70}
    BitImageProcessor(size={"shortest_edge": 80}, crop_size=size).save_pretrained(folder)


def save_biomed_clip(folder, text_tower=True):
    """BiomedCLIP's form: a ViT of timm, and a BERT of transformers that open_clip builds by a config.json elsewhere."""
    import open_clip
    from safetensors.torch import save_file
    from transformers import BertConfig

    folder, tokenizer = Path(folder), load_tokenizer("models/full")
    bert = BertConfig(**SMALL, vocab_size=len(tokenizer), max_position_embeddings=40)
    bert.save_pretrained(folder / "text_tower")
    vision = {
        "timm_model_name": "test_vit",
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": "linear",
    }
    text = {"hf_model_name": "microsoft/no-such-bert", "hf_tokenizer_name": "microsoft/no-such-bert"}
    text |= {"hf_proj_type": "mlp", "hf_pooler_type": "cls_last_hidden_state_pooler", "context_length": 32}
    config = {"embed_dim": 8, "vision_cfg": vision | {"image_size": 160}, "text_cfg": text}
    built = text | {"hf_model_name": str(folder / "text_tower"), "hf_model_pretrained": False}
    network = open_clip.CustomTextCLIP(8, config["vision_cfg"], built)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    weights = {k: v.contiguous() for k, v in network.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    tokenizer.save_pretrained(folder)
    return network.eval()
