from medunifier.huggingface.configuration_medunifier import MedUnifierConfig as MedUnifierConfig
from medunifier.huggingface.modeling_medunifier import MedUnifierModel as MedUnifierModel
from medunifier.huggingface.processing_medunifier import MedUnifierProcessor as MedUnifierProcessor

__all__ = ["MedUnifierConfig", "MedUnifierModel", "MedUnifierProcessor"]
