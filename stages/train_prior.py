"""Stage train_prior: PixelSNAIL over the codes of one level (paper section 4.2, TIG)."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from medunifier.evaluation.loading import BATCH, Trained, load_trained
from medunifier.metrics.bootstrap import BootstrapOptions, bootstrap_means
from medunifier.runtime.errors import InputError
from medunifier.runtime.files import write_curves
from medunifier.runtime.params import Params
from medunifier.stage import run_stage
from medunifier.storage.tables import PREPARED, read_table
from medunifier.synthesis.codes import read_codes
from medunifier.tracking import Run

if TYPE_CHECKING:
    import torch

    from medunifier.model.text import Text
    from medunifier.synthesis.pixelsnail import Prior


def train_prior(params: Params, run: Run, variant: str, level: str) -> None:
    """Learn the distribution of the codes that VARIANT gives the images of the pre-training data set.

    LEVEL is top or bottom; the bottom level is learnt given the top one, and both, with
    `prior.condition: text`, given the report. `bits_per_code` is the mean negative log2 probability of a
    validation code, `unigram_bits` what it is compared with: the entropy of single codes in training.
    """
    import torch

    from medunifier.model.distributed import rank
    from medunifier.training.batch_order import mix
    from medunifier.training.checkpoints import Checkpoints, state_folder
    from medunifier.training.loop import Trainer
    from medunifier.training.recipe import Recipe

    p, sizes = params.prior, getattr(params.prior, level)
    trained = load_trained(variant)
    texts = Texts(trained, p.condition_dropout) if p.condition == "text" else None
    training = Codes(params, variant, level, "train", texts)
    validation = Codes(params, variant, level, "validate", texts)
    run.log(f"{len(training)} images to train on, {len(validation)} to validate on")

    torch.manual_seed(mix(params.seed, 0))
    prior = build_prior(params, level, trained)

    def loss(model, batch, _):
        text = texts.read(batch, drop=True) if texts else None
        logits = model(batch["codes"], batch.get("top"), text)
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), batch["codes"].flatten()), {}

    history = Trainer(
        prior,
        Recipe.from_params(p.training, sizes, seed=params.seed),
        items=len(training),
        load=training.load,
        loss=loss,
        validate=lambda model: {"bits_per_code": float(bits(model, validation, texts).mean())},
        tracker=run,
        checkpoints=Checkpoints(state_folder(run.name, run.signature)),
    ).run()
    if rank() > 0:
        return  # results are written once
    prior.eval()

    resampling = BootstrapOptions(p.bootstrap, params.seed, validation.patients)
    values = {"train_pictures": len(training), "parameters": sum(x.numel() for x in prior.parameters())}
    found = {"bits_per_code": bits(prior, validation, texts)}
    if texts:
        found["bits_per_code_without_text"] = bits(prior, validation, None)
    for name, of_images in found.items():
        values |= bootstrap_means(of_images[:, None], resampling)[0].flat(name)
    values["unigram_bits"] = entropy_bits(training.codes)
    run.metrics(values)
    save_prior(prior, params, variant, level, values)
    curves = Path("results/curves") / f"{run.name}.csv"
    write_curves(history.rows, curves)
    run.artifact(curves)


class Texts:
    """The reports beside the codes, read by the trained model; it does not learn here."""

    def __init__(self, trained: Trained, dropout: float):
        self.trained, self.dropout = trained, dropout

    def tokens(self, reports: Iterable[str]) -> list[list[int]]:
        from medunifier.data.tokenizer import encode

        t = self.trained
        return [encode(t.tokenizer, report, t.model.config.max_text_tokens) for report in reports]

    def pad(self, rows: list[list[int]]) -> dict[str, torch.Tensor]:
        from medunifier.data.tokenizer import pad

        ids, mask = pad(rows, self.trained.tokenizer.pad_token_id)
        return {"input_ids": ids, "attention_mask": mask}

    def read(self, batch: dict[str, torch.Tensor], *, drop: bool = False) -> Text:
        """What the prior takes; with `drop` a share of the images comes without its text, for guidance."""
        import torch

        from medunifier.model.text import Text

        ids, mask = batch["input_ids"], batch["attention_mask"]
        with torch.no_grad():
            states = self.trained.model.to(ids.device).read_text(ids, mask)
        if drop:
            mask = mask * (torch.rand(len(mask), 1, device=mask.device) >= self.dropout)
        return Text(states, mask)


class Codes:
    """One split's codes of a level, with the top codes below them and the reports where they are asked for."""

    def __init__(self, params: Params, variant: str, level: str, split: str, texts: Texts | None):
        dataset = params.pretrain.dataset
        source = Path("data/codes") / variant / f"{split}.parquet"
        ids, top, bottom = read_codes(source)
        self.texts, self.top = texts, top if level == "bottom" else None
        self.codes = bottom if level == "bottom" else top
        prepared = read_table(Path("data/prepared") / dataset / f"{split}.parquet", PREPARED)
        rows = pl.DataFrame({"image_id": ids}).join(
            prepared, on="image_id", how="left", maintain_order="left"
        )
        if rows["patient_id"].null_count():
            raise InputError(
                f"{source}: {rows['patient_id'].null_count()} images are not in data/prepared/{dataset}; "
                f"run encode_codes@{variant} again"
            )
        self.patients = rows["patient_id"].to_list()
        self.tokens = texts.tokens(rows["report"]) if texts else None

    def __len__(self) -> int:
        return len(self.codes)

    def load(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        """Row numbers (k,) -> codes (k, N), top (k, 64) on the bottom level, and the padded reports."""
        import torch

        batch = {"codes": torch.from_numpy(self.codes[rows].astype(np.int64))}
        if self.top is not None:
            batch["top"] = torch.from_numpy(self.top[rows].astype(np.int64))
        return batch | (self.texts.pad([self.tokens[row] for row in rows]) if self.texts else {})


def build_prior(params: Params, level: str, trained: Trained) -> Prior:
    """A new prior of the sizes in params.yaml, for the codes and the texts of the trained model."""
    from medunifier.synthesis.pixelsnail import Prior, PriorConfig

    p, sizes, c = params.prior, getattr(params.prior, level), trained.model.config
    return Prior(
        PriorConfig(
            level=level,
            codebook_size=c.codebook_size,
            channels=sizes.channels,
            kernel=sizes.kernel,
            blocks=sizes.blocks,
            residual_blocks=sizes.residual_blocks,
            residual_channels=sizes.residual_channels,
            attention=sizes.attention,
            heads=sizes.heads,
            top_blocks=p.top_blocks,
            text_width=c.width if p.condition == "text" else 0,
            dropout=sizes.dropout,
        )
    )


def bits(prior: Prior, codes: Codes, texts: Texts | None) -> np.ndarray:
    """Mean -log2 p of an image's codes, for each image [n], in evaluation mode; without `texts`, without them."""
    import torch
    import torch.nn.functional as F

    device, found = prior.device, []
    with torch.no_grad():
        for start in range(0, len(codes), BATCH):
            rows = np.arange(start, min(start + BATCH, len(codes)))
            batch = {name: value.to(device) for name, value in codes.load(rows).items()}
            logits = prior(batch["codes"], batch.get("top"), texts.read(batch) if texts else None)
            losses = F.cross_entropy(logits.transpose(1, 2).float(), batch["codes"], reduction="none")
            found.append(losses.mean(1).cpu().numpy() / np.log(2))
    return np.concatenate(found)


def entropy_bits(codes: np.ndarray) -> float:
    """Entropy of single codes in bits: what each costs when nothing else is known."""
    counts = np.bincount(codes.ravel())
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def save_prior(prior: Prior, params: Params, variant: str, level: str, values: dict[str, float]) -> None:
    """models/priors/VARIANT-LEVEL in transformers' layout, with a model card."""
    folder = Path("models/priors") / f"{variant}-{level}"
    shutil.rmtree(folder, ignore_errors=True)
    prior.save_pretrained(folder)
    sizes = getattr(params.prior, level)
    lines = [
        "---\nlibrary_name: transformers\ntags: [chest-x-ray, image-generation, medunifier]\n---",
        f"# Prior of the {level} codes of MedUnifier, variant `{variant}`",
        (
            f"PixelSNAIL, trained on the codes of `{params.pretrain.dataset}` (seed {params.seed}): {sizes.steps} steps of {sizes.batch_size} images. Condition: {params.prior.condition}."
        ),
        "Research software: not a medical device, not for clinical use.",
        "| value | |\n|---|---|\n" + "\n".join(f"| {name} | {value:.6g} |" for name, value in values.items()),
    ]
    (folder / "README.md").write_text("\n\n".join(lines) + "\n")


if __name__ == "__main__":
    run_stage(train_prior, arguments=("variant", "level"))
