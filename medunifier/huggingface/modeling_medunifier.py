"""MedUnifier as a model of transformers, and its training losses."""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModel, PreTrainedModel
from transformers import initialization as init

from medunifier.huggingface.configuration_medunifier import MedUnifierConfig
from medunifier.model.image_generator import LatentAdapter
from medunifier.model.network import MedUnifierNetwork
from medunifier.model.qformer import QFormer
from medunifier.pretraining.objective import Losses, pretraining_losses


class MedUnifierModel(MedUnifierNetwork, PreTrainedModel):
    """`MedUnifierNetwork` with transformers' loading and saving, initial weights, and the losses of pre-training."""

    config_class = MedUnifierConfig
    main_input_name = "features"
    _supports_sdpa = True

    def __init__(self, config: MedUnifierConfig):
        PreTrainedModel.__init__(self, config)
        self.build()
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        # BERT's start for the transformer and its heads; convolutions keep torch's
        std = self.config.initializer_range
        if isinstance(module, LatentAdapter):
            for layer in module.map:
                if isinstance(layer, nn.Linear):
                    init.normal_(layer.weight, std=layer.in_features**-0.5)
        elif isinstance(module, nn.Linear):
            init.normal_(module.weight, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=std)
        elif isinstance(module, QFormer):
            init.normal_(module.query_tokens, std=std)

    @torch.no_grad()
    def constrain(self) -> None:
        """Keeps the temperature in its range; called after every optimiser step."""
        if self.config.temperature_range is not None:
            low, high = torch.tensor(self.config.temperature_range).log().tolist()
            self.log_temperature.clamp_(low, high)

    @torch.no_grad()
    def standardise_vision(self, features: torch.Tensor) -> None:
        """Starts the norm after the ViT so that each channel of these tokens has mean 0 and variance 1.

        A frozen ViT's channels differ in scale by orders of magnitude, and much of a token is the same in
        every image; what differs between images is then what attention sees first. features (B, T, vision width).
        """
        plain = F.layer_norm(features, self.vision_norm.normalized_shape).flatten(0, 1)
        scale = plain.std(0).clamp_min(1e-3)
        self.vision_norm.weight.copy_(1 / scale)
        self.vision_norm.bias.copy_(-plain.mean(0) / scale)

    def forward(
        self,
        features: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        images: torch.Tensor | None = None,
        weights: dict[str, float] | None = None,
        generator: torch.Generator | None = None,
    ) -> Losses:
        """The pre-training losses of a batch (Eq. 24). An objective of weight 0 is not computed.

        Args:
            images: targets of TIG, (B, image channels, 224, 224) in [0, 1].
            weights: objective -> lambda; None: 1 for each.
            generator: draws the hard negatives; in the same state on every process.
        """
        return pretraining_losses(self, features, input_ids, attention_mask, images, weights, generator)


AutoModel.register(MedUnifierConfig, MedUnifierModel)
