"""A trained model under evaluation, which owns the images of a data set: MedUnifier, or somebody else's encoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from medunifier.data.saved_tokenizer import SavedTokenizer
from medunifier.data.tokenizer import decode, open_tokenizer, tokenize
from medunifier.evaluation.classifier import ImageEncoder, QueryEncoder
from medunifier.evaluation.external_encoders import Encoder, VectorEncoder
from medunifier.evaluation.items import BATCH, batches
from medunifier.model.network import MedUnifierNetwork
from medunifier.model.text import Text
from medunifier.runtime.errors import InputError
from medunifier.runtime.params import WriteReports
from medunifier.storage.mapped_rows import MappedRows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class EvaluatedModel(ABC):
    """A model in evaluation mode, as every evaluation uses it.

    Attributes:
        folder: Folder of the model.
        device: Device of its weights.
        stored: The images of the data set under evaluation, in the form that the model reads: image features or
            pixels. None: loaded without a data set; the methods that take image ids are then not available.
        can_match: Whether the model has a trained matching head.
    """

    folder: Path
    device: torch.device
    stored: MappedRows | None = field(default=None, kw_only=True)
    can_match: bool = field(default=False, kw_only=True)

    @property
    def images(self) -> MappedRows:
        """Stored images or image features, addressed by image id."""
        if self.stored is None:
            raise ValueError(f"{self.folder}: loaded without a data set")
        return self.stored

    @abstractmethod
    def read_images(self, ids: Sequence[str]) -> torch.Tensor:
        """Return the input of `image_encoder` for these images, on the CPU, float32 [n, ...]."""

    @abstractmethod
    def image_encoder(self) -> ImageEncoder:
        """Return the trainable image encoder, a module with `width` that maps `read_images` to [n, width]."""

    def embed_images(self, ids: Sequence[str]) -> np.ndarray:
        """Embed images in the space shared with texts: float32 [n, queries, projection], L2-normalised."""
        with torch.inference_mode():
            parts = [
                self._embed_image_batch(ids[part]).float().cpu().numpy()
                for part in batches(len(ids), BATCH, "embed images")
            ]
        return np.concatenate(parts)

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts in the space shared with images: float32 [n, projection], L2-normalised.

        Raises:
            InputError: If the model reads no text.
        """
        with torch.inference_mode():
            parts = [
                self._embed_text_batch(texts[part]).float().cpu().numpy()
                for part in batches(len(texts), BATCH, "embed reports")
            ]
        return np.concatenate(parts)

    def check_prompt(self, text: str, where: str) -> None:  # noqa: B027  # most encoders of others spell any word
        """Check that the model can read a prompt; `where` is its place, for the message.

        Raises:
            InputError: If it cannot.
        """

    def match(self, ids: Sequence[str], texts: Sequence[str]) -> np.ndarray:
        """Return the log odds that each text describes the image beside it, float32 [n].

        Raises:
            InputError: If the model has no matching head.
        """
        raise InputError(f"{self.folder}: has no matching head")

    @abstractmethod
    def _embed_image_batch(self, ids: Sequence[str]) -> torch.Tensor:
        """Embed one batch of images."""

    @abstractmethod
    def _embed_text_batch(self, texts: Sequence[str]) -> torch.Tensor:
        """Embed one batch of texts."""


@dataclass(frozen=True)
class TrainedModel(EvaluatedModel):
    """A trained MedUnifier with its tokenizer. It reads image features."""

    model: MedUnifierNetwork

    @cached_property
    def tokenizer(self) -> SavedTokenizer | PreTrainedTokenizerBase:
        """Tokenizer of the model, loaded at its first use."""
        return open_tokenizer(self.folder)

    def check_prompt(self, text: str, where: str) -> None:
        """Check that the model can read a prompt; `where` is its place, for the message.

        Raises:
            InputError: If it is no text, is empty, or nothing of it is known to the tokenizer.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:  # a terminal's bytes that are no UTF-8
            raise InputError(f"{where}: the prompt is no text in UTF-8 ({error}); write it again") from error
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        known = [token for token in ids if token != self.tokenizer.unk_token_id]
        if not known and text.strip() and self.tokenizer.tokenize(text):
            raise InputError(
                f"{where}: no known word in the prompt {text!r}; write it in the words of the training reports"
            )
        if not known:  # invisible characters give no token
            raise InputError(f"{where}: the prompt is empty; describe what the image should show")

    def read_images(self, ids: Sequence[str]) -> torch.Tensor:
        """Return the features of images, on the CPU, float32 [n, T, vision width]."""
        return torch.from_numpy(self.images.read(self.images.rows(ids))).float()

    def features(self, ids: Sequence[str]) -> torch.Tensor:
        """Return the features of images, float32 [n, T, vision width], on the model's device."""
        return torch.from_numpy(self.images.read(self.images.rows(ids))).to(self.device).float()

    def tokens(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokenize texts as in training: token ids and mask, int64 [n, L], on the model's device."""
        ids, mask = tokenize(self.tokenizer, list(texts), self.model.config.max_text_tokens)
        return ids.to(self.device), mask.to(self.device)

    def image_encoder(self) -> ImageEncoder:
        """Return the Q-Former's image side (see `QueryEncoder`)."""
        return QueryEncoder(self.model)

    def match(self, ids: Sequence[str], texts: Sequence[str]) -> np.ndarray:
        """Return the log odds that each text describes the image beside it, by the ITM head (paper Eq. 14).

        Pairs are sorted by image, so that an image that stands in many of them is read once for a batch.

        Returns:
            float32 [n], in the order of the arguments.
        """
        images = np.asarray(ids, dtype=object)
        order = np.argsort(images, kind="stable")
        odds = np.empty(len(order), np.float32)
        with torch.inference_mode():
            for part in batches(len(order), BATCH, "match"):
                pairs = order[part]
                distinct, which = np.unique(images[pairs], return_inverse=True)
                features = self.features(distinct.tolist())[torch.from_numpy(which)]
                logits = self.model.match(features, *self.tokens([texts[int(pair)] for pair in pairs]))
                odds[pairs] = (logits[:, 1] - logits[:, 0]).float().cpu().numpy()
        return odds

    def generate_reports(self, ids: Sequence[str], settings: WriteReports, seed: int) -> list[str]:
        """Generate a report for each image.

        Args:
            ids: Images.
            settings: How tokens are chosen, and how many images form a batch.
            seed: Seed of sampling, where `settings.do_sample` asks for it.

        Returns:
            One text for each image, in the order of `ids`.
        """
        generator = torch.Generator(self.device).manual_seed(seed)
        reports = []
        with torch.inference_mode():
            for part in batches(len(ids), settings.batch_size, "generate reports"):
                tokens = self.model.generate(
                    self.features(ids[part]),
                    num_beams=settings.num_beams,
                    do_sample=settings.do_sample,
                    temperature=settings.temperature,
                    top_k=settings.top_k,
                    top_p=settings.top_p,
                    generator=generator,
                )
                reports += decode(self.tokenizer, tokens.cpu())
        return reports

    def encode_codes(self, ids: Sequence[str], reports: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Encode images, given their reports, as codes of the two codebooks: uint16 [n, 64] and [n, 256]."""
        levels: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        with torch.inference_mode():
            for part in batches(len(ids), BATCH, "encode codes"):
                found = self.model.encode_codes(self.features(ids[part]), *self.tokens(reports[part]))
                for level, codes in zip(levels, found, strict=True):
                    level.append(codes.cpu().numpy().astype(np.uint16))
        top, bottom = (np.concatenate(level) for level in levels)
        return top, bottom

    def read_texts(self, texts: Sequence[str]) -> Text:
        """Encode texts as a prior reads them: states [n, max_text_tokens, width] and their mask.

        Each text is padded to the full length and encoded by itself, so that no bit of it depends on the others.
        """
        states, masks = [], []
        with torch.inference_mode():
            for text in texts:
                ids, mask = self.tokens([text])
                missing = self.model.config.max_text_tokens - ids.shape[1]
                ids = F.pad(ids, (0, missing), value=self.model.config.pad_token_id)
                masks.append(F.pad(mask, (0, missing)))
                states.append(self.model.read_text(ids, masks[-1]))
        return Text(torch.cat(states), torch.cat(masks))

    def _embed_image_batch(self, ids: Sequence[str]) -> torch.Tensor:
        return self.model.encode_image(self.features(ids))[1]

    def _embed_text_batch(self, texts: Sequence[str]) -> torch.Tensor:
        return self.model.encode_text(*self.tokens(texts))[1]


@dataclass(frozen=True)
class ExternalModel(EvaluatedModel):
    """Somebody else's encoder. It reads pixels and has no matching head."""

    encoder: Encoder

    def read_images(self, ids: Sequence[str]) -> torch.Tensor:
        """Return the normalised pixels of images, on the CPU, float32 [n, 3, size, size]."""
        return self.encoder.prepare(torch.from_numpy(self.images.read(self.images.rows(ids))))

    def image_encoder(self) -> ImageEncoder:
        """Return the encoder's image side (see `VectorEncoder`)."""
        return VectorEncoder(self.encoder)

    def _embed_image_batch(self, ids: Sequence[str]) -> torch.Tensor:
        return self.encoder.embed_images(self.read_images(ids).to(self.device))

    def _embed_text_batch(self, texts: Sequence[str]) -> torch.Tensor:
        if self.encoder.embed_texts is None:
            raise InputError(
                f"{self.folder}: a backbone reads no text; list it in evaluate.finetune_models, not in trained.itc"
            )
        return self.encoder.embed_texts(texts)
