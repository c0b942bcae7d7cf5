"""MedUnifier as a transformers model, with its training losses."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModel, PreTrainedModel
from transformers import initialization as init

from medunifier.huggingface.configuration_medunifier import MedUnifierConfig
from medunifier.huggingface.network_loading import read_sizes
from medunifier.model.config import check_sizes
from medunifier.model.image_generator import LatentAdapter
from medunifier.model.network import MedUnifierNetwork
from medunifier.model.qformer import QFormer
from medunifier.pretraining.objective import Losses, WholeBatch, pretraining_losses
from medunifier.runtime.errors import InputError
from medunifier.runtime.files import require_no_pipes
from medunifier.storage.weights import check_finite
from medunifier.vision.frozen_encoder import load_recorded_vision


class MedUnifierModel(MedUnifierNetwork, PreTrainedModel):
    """`MedUnifierNetwork` with transformers' loading and saving, the initial weights, and the pre-training losses.

    Load a trained model with `from_pretrained("models/full")`. The frozen image encoder is no part of its weights:
    `extract_features` loads the one that config.json records.
    """

    config: MedUnifierConfig  # pyright: ignore[reportIncompatibleVariableOverride] both bases have one
    config_class = MedUnifierConfig
    main_input_name = "features"
    _supports_sdpa = True

    def __init__(self, config: MedUnifierConfig):
        PreTrainedModel.__init__(self, config)
        self.build()
        self._encoder: tuple[nn.Module, ...] = ()  # in a tuple: no part of this model's weights
        self.post_init()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a trained model as transformers does, and refuse weights that are not finite.

        Raises:
            InputError: of a folder that is not whole, or whose config.json has sizes of no network; a weight is NaN or
                infinite.
        """
        folder = Path(pretrained_model_name_or_path)
        if folder.is_dir():
            check_sizes(read_sizes(folder))
            require_no_pipes(folder)
        try:
            found = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except (OSError, RuntimeError, ValueError, SafetensorError) as error:
            if not folder.is_dir():
                raise
            raise InputError(f"{folder}: not a whole model ({' '.join(str(error).split())})") from error
        model = found[0] if isinstance(found, tuple) else found  # with `output_loading_info`
        check_finite(model.state_dict(), str(pretrained_model_name_or_path))
        return found

    def _initialize_weights(self, module: nn.Module, is_custom_code: bool = False) -> None:
        # transformers would pass over modules of custom code that have no weights but their children's, such as adapters
        # with sinusoidal positions, for fear of initialising loaded weights again. transformers.initialization does not.
        super()._initialize_weights(module)

    def _init_weights(self, module: nn.Module) -> None:
        # BERT's initialisation for the transformer and its heads; convolutions keep torch's
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
        """Keep the temperature in its range and end the codebooks' step; called after every optimizer step."""
        self.image_generator.top_quantizer.end_step()
        self.image_generator.bottom_quantizer.end_step()
        if self.config.temperature_range is not None:
            low, high = torch.tensor(self.config.temperature_range).log().tolist()
            self.log_temperature.clamp_(low, high)

    @torch.no_grad()
    def standardise_vision(self, features: torch.Tensor) -> None:
        """Initialise the norm after the frozen encoder so that each channel has mean 0 and variance 1.

        A frozen ViT's channels differ in scale by orders of magnitude, and much of a token is the same in every image.
        After this, attention starts on what differs between images.

        Args:
            features: of some training images, (B, T, vision width).
        """
        plain = F.layer_norm(features.float(), self.vision_norm.normalized_shape)
        plain = plain.flatten(0, 1)  # (B * T, vision width)
        scale = plain.std(0).clamp_min(1e-3)
        self.vision_norm.weight.copy_(1 / scale)
        self.vision_norm.bias.copy_(-plain.mean(0) / scale)

    @torch.no_grad()
    def extract_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Encode images with the frozen encoder, which is loaded at the first call unless `use_encoder` gave one.

        A relative path of the encoder counts from the working directory, or else from the project folder PROJECT of a
        model in PROJECT/models/NAME.

        Args:
            pixel_values: images (B, 3, H, W) in [0, 1], as `MedUnifierProcessor` returns them. The encoder resizes and
                normalises them itself, as in the training.

        Returns:
            `features` (B, 1 + patches, vision width), float32, rounded to half precision as stored features are.

        Raises:
            InputError: the encoder is unknown or not there, or differs from the one of the training.
        """
        if not self._encoder:
            record = self.config.vision
            if record is None:
                raise InputError(
                    "config.json does not record the frozen encoder of this model; pass `features` instead, or `use_encoder` first"
                )
            self.use_encoder(load_recorded_vision(record, self._project(record["model"])))
        encoder = self._encoder[0].to(pixel_values.device)
        return encoder(pixel_values).half().float()

    def _project(self, encoder: str) -> Path:
        """Return the folder from which the encoder's path counts, if it is relative."""
        if Path(encoder).exists() or not self.name_or_path:
            return Path()
        return Path(self.name_or_path).resolve().parent.parent

    def use_encoder(self, encoder: nn.Module) -> None:
        """Use this module, pixels (B, 3, H, W) -> features (B, T, vision width), in `extract_features`."""
        self._encoder = (encoder,)

    def forward(
        self,
        features: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        images: torch.Tensor | None = None,
        weights: dict[str, float] | None = None,
        generator: torch.Generator | None = None,
        whole: WholeBatch | None = None,
    ) -> Losses:
        """Compute the pre-training losses of a batch (paper Eq. 24). An objective of weight 0 is not computed.

        Args:
            features: image features (B, T, vision width).
            input_ids: reports (B, L): [CLS] words [SEP], then padding.
            attention_mask: 1 at tokens, 0 at padding (B, L).
            images: targets of TIG, (B, image channels, 224, 224) in [0, 1].
            weights: lambda by objective (`itc`, `itm`, `itg`, `tig`); None: 1 for each.
            generator: source of the random hard negatives; in the same state on every process.
            whole: of a micro-batch: what it needs to know of the others (`join_micro_batches`).
        """
        return pretraining_losses(
            self, features, input_ids, attention_mask, images, weights, generator, whole
        )


AutoModel.register(MedUnifierConfig, MedUnifierModel)
