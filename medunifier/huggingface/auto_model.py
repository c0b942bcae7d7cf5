"""A stand-in for `MedUnifierModel` in the registry of AutoModel.

transformers loads the registry with its tokenizers already, while the model itself imports torchvision and all of
transformers' modelling code. The stand-in imports the model when AutoModel asks for one.
"""

from typing import Any

from transformers import AutoModel

from medunifier.huggingface.configuration_medunifier import MedUnifierConfig


class AutoMedUnifierModel:
    """Load or create a `MedUnifierModel`; the arguments are those of its methods of the same names."""

    config_class = MedUnifierConfig

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load a trained `MedUnifierModel`."""
        from medunifier.huggingface.modeling_medunifier import MedUnifierModel

        return MedUnifierModel.from_pretrained(*args, **kwargs)

    @classmethod
    def _from_config(cls, *args: Any, **kwargs: Any) -> Any:
        from medunifier.huggingface.modeling_medunifier import MedUnifierModel

        return MedUnifierModel._from_config(*args, **kwargs)


AutoModel.register(MedUnifierConfig, AutoMedUnifierModel)
