"""Stage pretrain: the four-loss pre-training of one variant (paper section 3, recipe of section 4.1)."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medunifier.runtime.errors import InputError
from medunifier.runtime.files import write_curves
from medunifier.runtime.params import Params
from medunifier.stage import run_stage
from medunifier.storage.image_shards import ImageStore
from medunifier.storage.tables import read_table
from medunifier.tracking import Run
from medunifier.vision.image_features import Features, OnlineFeatures, check_representable, open_features

if TYPE_CHECKING:
    import torch

    from medunifier.huggingface.modeling_medunifier import MedUnifierModel


def pretrain(params: Params, run: Run, variant: str) -> None:
    """Trains the Q-Former and the image generator with the objectives and weights of VARIANT."""
    import torch

    from medunifier.data.tokenizer import load_tokenizer
    from medunifier.model.distributed import rank
    from medunifier.training.batch_order import mix
    from medunifier.training.checkpoints import Checkpoints, state_folder
    from medunifier.training.loop import Trainer
    from medunifier.training.recipe import Recipe

    p = params.pretrain
    weights = params.variants[variant].weights
    params = params.replace(seed=params.training_seed(variant))
    tokenizer = load_tokenizer("models/tokenizer")
    images = weights["tig"] > 0
    training = Pairs(params, tokenizer, "train", images)
    validation = Pairs(params, tokenizer, "validate", images)
    run.log(f"{len(training)} pairs to train on, {len(validation)} to validate on")

    torch.manual_seed(mix(params.seed, 0))
    model = build_model(params, tokenizer, training.features, run)
    if params.model.vision_norm_start == "data":
        first = training.see(model, training.load(np.arange(min(64, len(training)))))
        model.standardise_vision(first["features"])

    def loss(called, batch, generator):  # `called` is the model, or what shares its gradients among processes
        batch = training.see(model, batch, generator)
        losses = called(**batch, weights=weights, generator=generator)
        watch = {"temperature": model.temperature.detach()}
        if weights["tig"] > 0:
            maker = model.image_generator
            watch["perplexity_top"] = maker.top_quantizer.perplexity()
            watch["perplexity_bottom"] = maker.bottom_quantizer.perplexity()
            watch["revived_top"] = maker.top_quantizer.revived.float()  # dead codes moved since the start
            watch["revived_bottom"] = maker.bottom_quantizer.revived.float()
        return losses.total, losses.parts | watch

    def validate(model: "MedUnifierModel") -> dict[str, float]:
        return validation_losses(model, validation, p.batch_size, weights, params.seed)

    history = Trainer(
        model,
        Recipe.from_params(p, seed=params.seed),
        items=len(training),
        load=training.load,
        loss=loss,
        validate=validate,
        tracker=run,
        checkpoints=Checkpoints(state_folder(run.name, run.signature)),
        blocks=training.shards() if p.order == "by_shard" else None,
    ).run()

    if rank() > 0:
        return  # results are written once
    first, last = history.first_and_last("validate")
    values = {"train_pairs": len(training), "validate_pairs": len(validation)}
    for name in (n for n in weights if n in last):
        values |= {f"val_{name}_first": first[name], f"val_{name}_last": last[name]}
    values |= {name: last[name] for name in last if name.startswith("perplexity")}
    if weights["tig"] > 0:
        values["revived_top"] = int(model.image_generator.top_quantizer.revived)
        values["revived_bottom"] = int(model.image_generator.bottom_quantizer.revived)
    values |= {
        "temperature": float(model.temperature.detach()),
        "parameters": sum(x.numel() for x in model.parameters()),
    }
    write_curves(history.rows, Path("results/curves") / f"{run.name}.csv")
    save_model(model, tokenizer, params, variant, values)
    run.metrics(values)
    run.artifact(Path("results/curves") / f"{run.name}.csv")


class Pairs:
    """One split of the pre-training data set as (features, report, image): `load` reads, `see` completes.

    Rows of the prepared table without a decoded image or a report are left out. The same rows come without their
    images where `with_images` is false: TIG alone asks for them.
    """

    def __init__(self, params: Params, tokenizer, split: str, with_images: bool = True):
        from medunifier.data.tokenizer import encode

        name = params.pretrain.dataset
        self.images = ImageStore(Path("data/images") / name)
        self.features = open_features(name)
        table = read_table(Path("data/prepared") / name / f"{split}.parquet")
        usable = [
            (image_id, report)
            for image_id, report in table.select("image_id", "report").iter_rows()
            if report and image_id in self.images and image_id in self.features
        ]
        if not usable:
            raise InputError(
                f"data set {name}, split {split}: no image with a report; pre-training needs both."
            )
        ids = self.image_ids = [image_id for image_id, _ in usable]
        self.with_images, self.channels = with_images, params.model.image_channels
        self.online = isinstance(self.features, OnlineFeatures)
        self.augmentation = vars(params.pretrain.augment) if params.pretrain.augment else {}
        self.pad_id = tokenizer.pad_token_id
        full = params.pretrain.text_padding == "full"
        self.padded_length = params.model.max_text_tokens if full else None
        self.image_rows, self.feature_rows = self.images.rows(ids), self.features.rows(ids)
        self.tokens = [encode(tokenizer, report, params.model.max_text_tokens) for _, report in usable]

    def __len__(self) -> int:
        return len(self.tokens)

    def shards(self) -> list[np.ndarray]:
        """Row numbers, (k,) each, of the pairs whose features lie in the same shard."""
        shard = self.features.piece_of(self.feature_rows)
        return [np.flatnonzero(shard == number) for number in np.unique(shard)]

    def load(self, rows: np.ndarray) -> "dict[str, torch.Tensor]":
        """Row numbers (k,) -> what `see` takes: tokens of the reports, pixels (k, H, W) as uint8, float16 features.

        Of pixels and features only those that are needed and stored: online features are made of the pixels. `rows`
        go with these, to name an image by.
        """
        import torch

        from medunifier.data.tokenizer import pad

        ids, mask = pad([self.tokens[row] for row in rows], self.pad_id, self.padded_length)
        batch = {"input_ids": ids, "attention_mask": mask}
        if self.online:
            batch["rows"] = torch.from_numpy(rows)
        else:
            batch["features"] = torch.from_numpy(self.features.read(self.feature_rows[rows]))
        if self.online or self.with_images:
            batch["pixels"] = torch.from_numpy(self.images.read(self.image_rows[rows]))
        return batch

    def see(
        self,
        model: "MedUnifierModel",
        batch: "dict[str, torch.Tensor]",
        generator: "torch.Generator | None" = None,
    ) -> "dict[str, torch.Tensor]":
        """What `load` gave, on the model's device -> what `MedUnifierModel.forward` takes.

        With a generator the images are augmented where pretrain.augment says so, before the ViT and as TIG's target
        alike. All is computed in full precision, as stored features are, whatever the training's precision.

        InputError names an image whose tokens half precision cannot hold.
        """
        import torch

        from medunifier.pretraining.augmentation import augment

        batch = dict(batch)
        rows = batch.pop("rows", None)
        if "pixels" in batch:
            pixels = batch.pop("pixels")
            with torch.autocast(pixels.device.type, enabled=False):
                pixels = pixels[:, None].float() / 255  # (k, 1, H, W)
                if generator is not None and self.augmentation:
                    pixels = augment(pixels, generator, **self.augmentation)
                if self.online:
                    batch["features"] = model.extract_features(pixels.expand(-1, 3, -1, -1))
                    check_representable(batch["features"], [self.image_ids[row] for row in rows.tolist()])
            if self.with_images:
                batch["images"] = pixels.expand(-1, self.channels, -1, -1)
        batch["features"] = batch["features"].float()
        return batch


def build_model(params: Params, tokenizer, features: Features, run: Run) -> "MedUnifierModel":
    """A new model of the sizes in params.yaml, its text side from `model.text_checkpoint` if there is one."""
    from medunifier.data.tokenizer import DECODE_TOKEN
    from medunifier.huggingface.modeling_medunifier import MedUnifierConfig, MedUnifierModel

    m = params.model
    vision = next(iter(features.manifests.values()))  # all shards tell the same
    model = MedUnifierModel(
        MedUnifierConfig(
            vision_width=features.width,
            vision_tokens=features.n_tokens,
            width=m.width,
            layers=m.layers,
            heads=m.heads,
            queries=m.queries,
            cross_attention_every=m.cross_attention_every,
            dropout=m.dropout,
            vocab_size=len(tokenizer),
            max_text_tokens=m.max_text_tokens,
            projection=m.projection,
            temperature=params.pretrain.temperature,
            temperature_range=params.pretrain.temperature_range,
            negatives=params.pretrain.negatives,
            equal_reports=params.pretrain.equal_reports,
            label_smoothing=params.pretrain.label_smoothing,
            codebook_size=m.codebook_size,
            codebook_start=m.codebook_start,
            code_width=m.code_width,
            codebook_weight=m.codebook_weight,
            commitment=m.commitment,
            adapter=m.adapter,
            adapter_blocks=m.adapter_blocks,
            bottom_latents=m.bottom_latents,
            decoder_channels=m.decoder_channels,
            decoder_norm=m.decoder_norm,
            decoder_shortcut=m.decoder_shortcut,
            image_channels=m.image_channels,
            pad_token_id=tokenizer.pad_token_id,
            cls_token_id=tokenizer.cls_token_id,
            sep_token_id=tokenizer.sep_token_id,
            initializer_range=m.init_std,
            decode_token_id=tokenizer.convert_tokens_to_ids(DECODE_TOKEN),
            vision={name: vision[name] for name in ("model", "revision", "skip_last_blocks", "checksum")},
        )
    )
    if m.text_checkpoint:
        from medunifier.pretraining.bert_checkpoint import load_bert

        checkpoint = str(params.tokenizer.source)
        report = load_bert(model.qformer, model.text_head, checkpoint)
        run.log(f"text side from {checkpoint}; unused there: {report.unused}; new here: {report.missing}")
    return model


def validation_losses(
    model: "MedUnifierModel", pairs: Pairs, batch_size: int, weights: dict[str, float], seed: int
) -> dict[str, float]:
    """Losses over a whole split in evaluation mode, and the perplexity of its codes at both levels.

    Batches are as large as in training, since ITC and ITM depend on it; the last one is filled up from the
    start of the split. Hard negatives are drawn alike at every call. Processes share each batch.
    """
    import torch

    from medunifier.model.distributed import all_sum, own_rows, world_size

    device = next(model.parameters()).device
    order = np.resize(np.arange(len(pairs)), -(-len(pairs) // batch_size) * batch_size)
    sums: dict[str, float] = {}
    counts = {level: torch.zeros(model.config.codebook_size) for level in ("top", "bottom")}
    batches = order.reshape(-1, batch_size)
    for number, rows in enumerate(batches):
        share = rows[own_rows(len(rows) // world_size())]
        batch = pairs.see(model, {k: v.to(device) for k, v in pairs.load(share).items()})
        with torch.no_grad():
            generator = torch.Generator().manual_seed(seed + number)
            parts = model(**batch, weights=weights, generator=generator).parts
            if weights["tig"] > 0:
                codes = model.encode_codes(batch["features"], batch["input_ids"], batch["attention_mask"])
                for level, found in zip(counts, codes, strict=True):
                    counts[level] += torch.bincount(found.flatten().cpu(), minlength=len(counts[level]))
        for name, value in parts.items():
            mean = float(all_sum(value)) / world_size()
            sums[name] = sums.get(name, 0.0) + mean / len(batches)
    if weights["tig"] > 0:
        for level, count in counts.items():
            share = torch.distributions.Categorical(probs=all_sum(count.to(device)))
            sums[f"perplexity_{level}"] = float(share.entropy().exp())
    return sums


def save_model(
    model: "MedUnifierModel", tokenizer, params: Params, variant: str, values: dict[str, float]
) -> None:
    """models/VARIANT in transformers' layout, with a model card."""
    from medunifier.huggingface.processing_medunifier import MedUnifierImageProcessor, MedUnifierProcessor

    folder = Path("models") / variant
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    images = MedUnifierImageProcessor(params.images.size, params.images.aspect)
    MedUnifierProcessor(images, tokenizer, params.model.max_text_tokens).save_pretrained(folder)
    p = params.pretrain
    lines = [
        "---\nlibrary_name: transformers\ntags: [chest-x-ray, vision-language, medunifier]\n---",
        f"# MedUnifier, variant `{variant}`",
        (
            f"Pre-trained on `{p.dataset}` (seed {params.seed}): {p.steps} steps of "
            f"{p.batch_size} pairs, {p.precision}. Objectives and weights: {params.variants[variant].weights}. "
            f"Reads the tokens of the frozen encoder `{params.vision.source}`."
        ),
        "Research software: not a medical device, not for clinical use.",
        "| value | |\n|---|---|\n" + "\n".join(f"| {name} | {value:.6g} |" for name, value in values.items()),
    ]
    (folder / "README.md").write_text("\n\n".join(lines) + "\n")


if __name__ == "__main__":
    run_stage(pretrain, arguments=("variant",))
