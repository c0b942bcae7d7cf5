"""The rules between parameters, which no field can check alone."""

from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

from medunifier.runtime.schema import refused
from medunifier.runtime.sections.base import NO_FILE
from medunifier.runtime.sections.whole import Params

RESERVED = ("priors", "tokenizer")  # folders of models/ that hold something else


def known_datasets(params: Params) -> Iterator[str]:
    """Every data set in pretrain.dataset and `evaluate` is listed under `datasets`."""
    used = {"pretrain.dataset": (params.pretrain.dataset,)}
    for name in ("finetune", "zero_shot", "retrieve", "write_reports"):
        used[f"evaluate.{name}"] = tuple(getattr(params.evaluate, name))
    for path, datasets in used.items():
        for dataset in datasets:
            if dataset not in params.datasets:
                allowed = f"a data set listed under `datasets` ({', '.join(params.datasets)})"
                yield refused(path, dataset, allowed)


def label_sets(params: Params) -> Iterator[str]:
    """Every data set in zero_shot.multi_label is one of evaluate.zero_shot."""
    for name in params.zero_shot.multi_label:
        if name not in params.evaluate.zero_shot:
            allowed = f"a data set of evaluate.zero_shot ({', '.join(params.evaluate.zero_shot)})"
            yield refused("zero_shot.multi_label", name, allowed)


def split_fractions(params: Params) -> Iterator[str]:
    """split_fractions sum to 1; train is above 0, and with split patient all parts are."""
    for name, dataset in params.datasets.items():
        fractions = dataset.split_fractions
        path = f"datasets.{name}.split_fractions"
        if abs(sum(fractions) - 1) > 1e-6:
            yield refused(path, fractions, "three parts that sum to 1")
        if not fractions[0] or (dataset.split == "patient" and not all(fractions)):
            yield refused(path, fractions, "parts above 0")


def data_layouts(params: Params) -> Iterator[str]:
    """Layout `table` has a section `table`, no other has; a section `folders` belongs to layout `folders`."""
    for name, dataset in params.datasets.items():
        path = f"datasets.{name}"
        if dataset.layout == "table" and dataset.table is None:
            yield refused(f"{path}.table", None, "a section that names the columns, as layout is table")
        for layout in ("table", "folders"):
            section = getattr(dataset, layout)
            if section is not None and dataset.layout != layout:
                allowed = f"null: layout {dataset.layout} does not read it"
                yield refused(f"{path}.{layout}", section.model_dump(mode="json"), allowed)


def text_from_labels(params: Params) -> Iterator[str]:
    """With report_from labels, sections is either or none: the text stands in `findings`."""
    for name, dataset in params.datasets.items():
        if dataset.report_from == "labels" and dataset.sections == "both":
            allowed = "either or none, as report_from is labels"
            yield refused(f"datasets.{name}.sections", dataset.sections, allowed)


def objectives(params: Params) -> Iterator[str]:
    """A variant has at least one weight above 0."""
    for name, variant in params.variants.items():
        if not any(variant.weights.values()):
            yield refused(f"variants.{name}", variant.weights, "at least one weight above 0")


def models(params: Params) -> Iterator[str]:
    """evaluate.finetune_models names variants and encoders; no two models share a folder of models/."""
    known = (*params.variants, *params.encoders)
    for name in params.evaluate.finetune_models:
        if name not in known:
            allowed = f"a variant or one of `encoders` ({', '.join(known)})"
            yield refused("evaluate.finetune_models", name, allowed)
    for name in params.encoders:
        if name in params.variants:
            yield refused("encoders", name, "a name that no variant has")
    for path in ("variants", "encoders"):
        for name in RESERVED:
            if name in getattr(params, path):
                yield refused(path, name, "another name: this folder of models/ holds something else")


def trained(params: Params) -> Iterator[str]:
    """trained.OBJECTIVE names variants whose weight of it is above 0; trained.itc may name encoders, too."""
    for objective, names in params.trained:
        able = [name for name, variant in params.variants.items() if getattr(variant, objective) > 0]
        able += params.encoders if objective == "itc" else ()  # they embed images and texts, no more
        for name in names:
            if name not in able:
                which = ", ".join(able) or "there is none"
                allowed = f"a variant whose weight of {objective} is above 0 ({which})"
                yield refused(f"trained.{objective}", name, allowed)


def stage_names(params: Params) -> Iterator[str]:
    """No two stages have the same name MODEL-DATASET: model `a-b` on `c` would be `a` on `b-c`."""
    seen: dict[str, tuple[str, str]] = {}
    for model, dataset in product((*params.variants, *params.encoders), params.datasets):
        name = f"{model}-{dataset}"
        if name in seen:
            other = " on ".join(seen[name])
            path = "variants" if model in params.variants else "encoders"
            yield refused(
                path, model, f"another name: on {dataset}, its stages are called as those of {other}"
            )
        seen[name] = (model, dataset)


def heads(params: Params) -> Iterator[str]:
    """model.width is a multiple of its heads."""
    model = params.model
    if model.width % model.heads:
        yield refused("model.width", model.width, f"a multiple of the {model.heads} heads")


def image_generator(params: Params) -> Iterator[str]:
    """The decoder's options fit its kind; sinusoidal positions need a code_width that is a multiple of 4."""
    model = params.model
    if model.decoder_kind != "tapered":
        if len(model.decoder_channels) != 4:
            allowed = f"four numbers, as model.decoder_kind is {model.decoder_kind}"
            yield refused("model.decoder_channels", model.decoder_channels, allowed)
        if model.decoder_shortcut:
            yield refused(
                "model.decoder_shortcut", True, f"false, as model.decoder_kind is {model.decoder_kind}"
            )
    if model.decoder_kind == "deconvolutional" and model.decoder_norm != "batch":
        # The last block makes the pixels: a norm of each image by itself would remove its brightness.
        yield refused(
            "model.decoder_norm", model.decoder_norm, "batch, as model.decoder_kind is deconvolutional"
        )
    if model.adapter_position == "sinusoidal" and model.code_width % 4:
        yield refused("model.code_width", model.code_width, "a multiple of 4, for sinusoidal positions")


def pretraining(params: Params) -> Iterator[str]:
    """In `pretrain`, no learning rate is above the peak, temperature lies in its range, accumulate divides batch_size."""
    recipe = params.pretrain
    for name in ("warmup_start", "final_learning_rate"):
        rate, peak = getattr(recipe, name), recipe.learning_rate
        if rate is not None and rate > peak:
            yield refused(f"pretrain.{name}", rate, f"at most pretrain.learning_rate ({peak})")
    low, high = recipe.temperature_range or (0.0, float("inf"))
    if recipe.temperature_range is not None and low > high:
        yield refused("pretrain.temperature_range", recipe.temperature_range, "two values, the lower first")
    elif not low <= recipe.temperature <= high:
        yield refused(
            "pretrain.temperature", recipe.temperature, f"within temperature_range ({low} to {high})"
        )
    if recipe.batch_size % recipe.accumulate:
        yield refused(
            "pretrain.accumulate", recipe.accumulate, f"a divisor of batch_size ({recipe.batch_size})"
        )


def augmentation(params: Params) -> Iterator[str]:
    """pretrain.augment is null unless features.mode is online."""
    augment = params.pretrain.augment
    if augment is not None and params.features.mode != "online":
        allowed = "null unless features.mode is online: stored features know nothing of a changed image"
        yield refused("pretrain.augment", augment.model_dump(), allowed)


def finetuning(params: Params) -> Iterator[str]:
    """finetune.head_start is not probe with two layers: the linear probe is one."""
    if params.finetune.head_start == "probe" and params.finetune.head == "two_layers":
        yield refused("finetune.head_start", "probe", "zero or random, as finetune.head is two_layers")


def report_sampling(params: Params) -> Iterator[str]:
    """write_reports.do_sample is false with num_beams above 1."""
    if params.write_reports.do_sample and params.write_reports.num_beams > 1:
        yield refused("write_reports.do_sample", True, "false with num_beams above 1")


def prior(params: Params) -> Iterator[str]:
    """In each level of `prior`, the kernel is odd, channels are a multiple of twice the heads, and training fits it."""
    recipe = params.prior.training
    for level, sizes in {"top": params.prior.top, "bottom": params.prior.bottom}.items():
        path = f"prior.{level}"
        if sizes.kernel % 2 == 0:
            yield refused(f"{path}.kernel", sizes.kernel, "an odd number")
        if sizes.channels % (2 * sizes.heads):
            yield refused(f"{path}.channels", sizes.channels, f"a multiple of twice the {sizes.heads} heads")
        if sizes.batch_size % recipe.accumulate:
            allowed = f"a multiple of prior.training.accumulate ({recipe.accumulate})"
            yield refused(f"{path}.batch_size", sizes.batch_size, allowed)
        for name in ("warmup_start", "final_learning_rate"):
            rate = getattr(recipe, name)
            if rate is not None and rate > sizes.learning_rate:
                allowed = f"at most {path}.learning_rate ({sizes.learning_rate})"
                yield refused(f"prior.training.{name}", rate, allowed)


def image_encoder(params: Params) -> Iterator[str]:
    """Exactly one of vision.model, which needs a revision, and vision.folder names the encoder."""
    vision = params.vision
    if vision.model is None and vision.folder == NO_FILE:
        yield refused("vision.folder", vision.folder, "a local folder, as vision.model is null")
    if vision.model is not None and vision.folder != NO_FILE:
        yield refused("vision.folder", vision.folder, f"{NO_FILE}, as vision.model names a model of a hub")
    if vision.model is not None and vision.revision is None:
        yield refused("vision.revision", None, "a commit: a hub's model must not change unnoticed")
    if vision.model is None and vision.revision is not None:
        yield refused("vision.revision", vision.revision, "null, as vision.folder is a local folder")


def image_size(params: Params) -> Iterator[str]:
    """vision.size is at most images.size: an encoder sees no more than is stored."""
    size = params.vision.size
    if size is not None and size > params.images.size:
        yield refused(
            "vision.size", size, f"at most images.size ({params.images.size}), which is what is stored"
        )


def tokenizer(params: Params) -> Iterator[str]:
    """At most one of tokenizer.pretrained and tokenizer.folder names a tokenizer; model.text_checkpoint needs one."""
    settings = params.tokenizer
    if settings.pretrained is not None and settings.folder != NO_FILE:
        allowed = f"{NO_FILE}, as tokenizer.pretrained names a tokenizer of a hub"
        yield refused("tokenizer.folder", settings.folder, allowed)
    if settings.pretrained is not None and Path(settings.pretrained).exists():
        allowed = "a name on the Hugging Face hub; a local folder belongs under tokenizer.folder"
        yield refused("tokenizer.pretrained", settings.pretrained, allowed)
    if params.model.text_checkpoint and settings.source is None:
        allowed = "false, as neither tokenizer.pretrained nor tokenizer.folder names a checkpoint"
        yield refused("model.text_checkpoint", True, allowed)


RULES: tuple[Callable[[Params], Iterator[str]], ...] = (
    known_datasets,
    label_sets,
    split_fractions,
    data_layouts,
    text_from_labels,
    objectives,
    models,
    trained,
    stage_names,
    heads,
    image_generator,
    pretraining,
    augmentation,
    finetuning,
    report_sampling,
    prior,
    image_encoder,
    image_size,
    tokenizer,
)


def broken_rules(params: Params) -> Iterator[str]:
    """Yield one line for each rule that `params` break: the path, the value and what is allowed."""
    for rule in RULES:
        yield from rule(params)
