"""MedUnifier's configuration in transformers' form."""

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from medunifier.model.config import MODEL_TYPE, Sizes


@strict
class MedUnifierConfig(Sizes, PreTrainedConfig):
    """`Sizes`, saved and loaded by transformers."""

    model_type = MODEL_TYPE


AutoConfig.register(MODEL_TYPE, MedUnifierConfig)
