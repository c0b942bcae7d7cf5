"""Training of a prior: codes and reports of a split, the loss, and bits per code."""

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from medunifier.data.tokenizer import encode_all, pad
from medunifier.evaluation.items import BATCH
from medunifier.evaluation.trained_model import TrainedModel
from medunifier.huggingface.model_card import write_model_card
from medunifier.metrics.bootstrap import BootstrapOptions, bootstrap_means
from medunifier.model.text import Text
from medunifier.runtime.fields import matching_fields
from medunifier.runtime.params import Params
from medunifier.synthesis.codes import read_coded_images
from medunifier.synthesis.pixelsnail import Prior
from medunifier.synthesis.prior_config import PriorConfig

Batch = dict[str, torch.Tensor]


class PriorTexts:
    """Encodes the reports of a batch with the trained model, whose weights stay as they are.

    Args:
        trained: the model and its tokenizer.
        dropout: probability that an image of a training batch loses its report, for classifier-free guidance.
    """

    def __init__(self, trained: TrainedModel, dropout: float):
        self.trained, self.dropout = trained, dropout

    def tokenize(self, reports: Iterable[str]) -> Sequence[list[int]]:
        """Return the token ids of each report, cut at `max_text_tokens`."""
        return encode_all(self.trained.tokenizer, reports, self.trained.model.config.max_text_tokens)

    def pad(self, rows: list[list[int]]) -> Batch:
        """Return `input_ids` and `attention_mask` [k, L], padded to the longest report."""
        pad_id = self.trained.tokenizer.pad_token_id
        assert isinstance(pad_id, int)
        ids, mask = pad(rows, pad_id)
        return {"input_ids": ids, "attention_mask": mask}

    def encode(self, batch: Batch, *, drop: bool = False) -> Text:
        """Return token states and mask of a batch of reports; `drop` removes some reports at random."""
        ids, mask = batch["input_ids"], batch["attention_mask"]
        with torch.no_grad():
            states = self.trained.model.to(ids.device).read_text(ids, mask)
        if drop:
            mask = mask * (torch.rand(len(mask), 1, device=mask.device) >= self.dropout)
        return Text(states, mask)


class CodesOfSplit:
    """One split's codes of a level, with the top codes on the bottom level and with the reports if there are texts.

    Attributes:
        codes: uint16 [n, 64] or [n, 256].
        patients: patient id of each image, [n].

    Raises:
        InputError: as for `read_coded_images`.
    """

    def __init__(self, variant: str, dataset: str, split: str, level: str, texts: PriorTexts | None):
        table = read_coded_images(variant, dataset, split)
        self.codes: np.ndarray = table[level].to_numpy()
        self.top = table["top"].to_numpy() if level == "bottom" else None
        self.patients: list[str] = table["patient_id"].to_list()
        self.texts = texts
        self.tokens = texts.tokenize(table["report"]) if texts else []

    def __len__(self) -> int:
        return len(self.codes)

    def load(self, rows: np.ndarray) -> Batch:
        """Return codes [k, N], on the bottom level `top` [k, 64], and the padded reports, for row numbers [k]."""
        batch = {"codes": torch.from_numpy(self.codes[rows].astype(np.int64))}
        if self.top is not None:
            batch["top"] = torch.from_numpy(self.top[rows].astype(np.int64))
        return batch | (self.texts.pad([self.tokens[row] for row in rows]) if self.texts else {})


def build_prior(params: Params, level: str, trained: TrainedModel) -> Prior:
    """Return an untrained prior with the sizes of params.yaml, for the codes and texts of the trained model."""
    p, sizes, c = params.prior, getattr(params.prior, level), trained.model.config
    return Prior(
        PriorConfig(
            level=level,
            codebook_size=c.codebook_size,
            text_width=c.width if p.condition == "text" else 0,
            **matching_fields(PriorConfig, p, sizes),
        )
    )


def normalise_weights(prior: nn.Module) -> None:
    """Train every convolution and matrix as a direction and a length for each output (Salimans and Kingma 2016).

    The network computes the same as before; only its gradients are others. The authors' PixelSNAIL is trained so.
    """
    for module in list(prior.modules()):
        if isinstance(module, nn.Conv2d | nn.Linear):
            weight_norm(module)


def plain_weights(prior: nn.Module) -> None:
    """Undo `normalise_weights`: each weight becomes a plain tensor again, of the same value."""
    for module in list(prior.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)


def code_loss(prior: torch.nn.Module, batch: Batch, texts: PriorTexts | None) -> torch.Tensor:
    """Return the mean cross-entropy of a training batch's codes, in nats; some of its reports are dropped."""
    text = texts.encode(batch, drop=True) if texts else None
    logits = prior(batch["codes"], batch.get("top"), text)
    return F.cross_entropy(logits.flatten(0, 1).float(), batch["codes"].flatten())


def bits_per_code(prior: torch.nn.Module, codes: CodesOfSplit, texts: PriorTexts | None) -> np.ndarray:
    """Return the mean -log2 p over each image's codes, float [n], without reports if `texts` is None.

    The prior has to be in evaluation mode.
    """
    device, found = next(prior.parameters()).device, []
    with torch.no_grad():
        for start in range(0, len(codes), BATCH):
            rows = np.arange(start, min(start + BATCH, len(codes)))
            batch = {name: value.to(device) for name, value in codes.load(rows).items()}
            logits = prior(batch["codes"], batch.get("top"), texts.encode(batch) if texts else None)
            losses = F.cross_entropy(logits.transpose(1, 2).float(), batch["codes"], reduction="none")
            found.append(losses.mean(1).cpu().numpy() / np.log(2))
    return np.concatenate(found)


def unigram_bits(codes: np.ndarray) -> float:
    """Return the entropy of single codes in bits: the bits per code of a model without context."""
    counts = np.bincount(codes.ravel())
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def prior_metrics(
    prior: Prior,
    training: CodesOfSplit,
    validation: CodesOfSplit,
    texts: PriorTexts | None,
    options: BootstrapOptions,
) -> dict[str, float | int]:
    """Return size and bits per code of a trained prior.

    `bits_per_code` on validation images, with reports also `bits_per_code_without_text`, each with its 95 %
    confidence interval; `unigram_bits` on training images, for comparison.
    """
    values: dict[str, float | int] = {
        "train_pictures": len(training),
        "parameters": sum(x.numel() for x in prior.parameters()),
    }
    found = {"bits_per_code": bits_per_code(prior, validation, texts)}
    if texts:
        found["bits_per_code_without_text"] = bits_per_code(prior, validation, None)
    for name, of_images in found.items():
        values |= bootstrap_means(of_images[:, None], options)[0].flat(name)
    return values | {"unigram_bits": unigram_bits(training.codes)}


def save_prior(
    prior: Prior, folder: Path, params: Params, variant: str, values: dict[str, float | int]
) -> None:
    """Replace `folder` by the prior in transformers' layout with a model card that lists `values`."""
    shutil.rmtree(folder, ignore_errors=True)
    prior.save_pretrained(folder)
    level = prior.config.level
    sizes = getattr(params.prior, level)
    write_model_card(
        folder,
        title=f"Prior of the {level} codes of MedUnifier, variant `{variant}`",
        tags=("chest-x-ray", "image-generation", "medunifier"),
        description=f"PixelSNAIL, trained on the codes of `{params.pretrain.dataset}` (seed {params.seed}): "
        f"{sizes.steps} steps of {sizes.batch_size} images. Condition: {params.prior.condition}.",
        values=values,
    )
