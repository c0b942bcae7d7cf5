"""Build an untrained model from the parameters."""

from collections.abc import Callable
from typing import cast

from transformers import PreTrainedTokenizerBase

from medunifier.data.tokenizer import DECODE_TOKEN, special_id
from medunifier.huggingface.configuration_medunifier import MedUnifierConfig
from medunifier.huggingface.modeling_medunifier import MedUnifierModel
from medunifier.model.config import Sizes
from medunifier.pretraining.bert_checkpoint import load_bert
from medunifier.runtime.fields import matching_fields
from medunifier.runtime.params import Params
from medunifier.vision.frozen_encoder import CHOICE
from medunifier.vision.image_features import Features

VISION_RECORD = (*CHOICE, "preprocessing", "checksum")  # of a feature manifest


def model_config(params: Params, tokenizer: PreTrainedTokenizerBase, features: Features) -> MedUnifierConfig:
    """Return the configuration by params.yaml, the tokenizer and the image features."""
    manifest = next(iter(features.manifests.values()))  # all shards record the same encoder
    return MedUnifierConfig(
        **matching_fields(Sizes, params.model, params.pretrain),
        initializer_range=params.model.init_std,
        vision_width=features.width,
        vision_tokens=features.n_tokens,
        vision_grid=manifest.get("grid"),
        vision={name: manifest[name] for name in VISION_RECORD if name in manifest},
        vocab_size=len(tokenizer),
        pad_token_id=special_id(tokenizer, "pad"),
        cls_token_id=special_id(tokenizer, "cls"),
        sep_token_id=special_id(tokenizer, "sep"),
        decode_token_id=cast(int, tokenizer.convert_tokens_to_ids(DECODE_TOKEN)),
    )


def build_model(
    params: Params, tokenizer: PreTrainedTokenizerBase, features: Features, log: Callable[[str], None]
) -> MedUnifierModel:
    """Return a new model. With `model.text_checkpoint` its text side starts from the BERT weights beside the tokenizer.

    Raises:
        InputError: as `load_bert` does.
    """
    model = MedUnifierModel(model_config(params, tokenizer, features))
    if params.model.text_checkpoint:
        checkpoint = str(params.tokenizer.source)
        report = load_bert(model.qformer, model.text_head, checkpoint)
        log(f"text side from {checkpoint}; not used: {report.unused}; not covered: {report.missing}")
    return model
