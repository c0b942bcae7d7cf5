"""params.yaml as typed, validated, frozen objects.

`load_params` checks the file against workflow/schemas/params.schema.json (unknown keys, types, ranges)
and against the rules between keys (`_cross_checks`), and reports every violation at once. What each knob
means is said once, in the comments of params.yaml; the classes below mirror it one to one.
"""

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from medunifier.runtime.errors import InputError
from medunifier.runtime.schema import refused, schema_violations

SCHEMA_PATH = Path(__file__).resolve().parents[2] / "workflow" / "schemas" / "params.schema.json"


@dataclass(frozen=True)
class Vit:
    width: int
    layers: int
    heads: int
    patch_size: int


@dataclass(frozen=True)
class Copies:
    chexpert: int
    rsna: int
    siim_acr: int
    covidx: int


@dataclass(frozen=True)
class Simulate:
    patients: int
    image_size: int
    copies: Copies
    vit: Vit


@dataclass(frozen=True)
class Index:
    images: str
    labels: str
    split: str
    checksums: str
    lists: str


@dataclass(frozen=True)
class Benchmark:
    classes: tuple[str, ...]
    per_class: int
    rule: str
    pool: str
    remove: str


@dataclass(frozen=True)
class Dataset:
    layout: str
    root: str
    reports: str | None
    index: Index
    views: tuple[str, ...] | None
    sections: str
    section_order: str
    split: str
    split_fractions: tuple[float, ...]
    benchmark: Benchmark | None


@dataclass(frozen=True)
class Images:
    size: int
    aspect: str


@dataclass(frozen=True)
class Vision:
    model: str
    revision: str | None
    watch: str
    skip_last_blocks: int


@dataclass(frozen=True)
class Features:
    mode: str
    shards: tuple[int, ...]
    batch_size: int


@dataclass(frozen=True)
class Tokenizer:
    pretrained: str | None
    watch: str
    vocab_size: int


@dataclass(frozen=True)
class Model:
    width: int
    layers: int
    heads: int
    queries: int
    cross_attention_every: int
    dropout: float
    init_std: float
    vision_norm_start: str
    max_text_tokens: int
    projection: int
    text_checkpoint: str | None
    text_watch: str
    codebook_size: int
    codebook_start: str
    code_width: int
    codebook_weight: float
    commitment: float
    adapter: str
    adapter_blocks: int
    bottom_latents: str
    decoder_channels: tuple[int, ...]
    decoder_norm: str
    decoder_shortcut: bool
    image_channels: int


@dataclass(frozen=True)
class Augment:
    rotation: float
    shift: float
    zoom: float
    brightness: float
    contrast: float


@dataclass(frozen=True)
class Pretrain:
    dataset: str
    steps: int
    batch_size: int
    accumulate: int
    precision: str
    learning_rate: float
    warmup_fraction: float
    warmup_start: float
    final_learning_rate: float
    betas: tuple[float, ...]
    weight_decay: float
    decay_all: bool
    clip_norm: float | None
    temperature: float
    temperature_range: tuple[float, ...] | None
    negatives: str
    equal_reports: str
    label_smoothing: float
    text_padding: str
    order: str
    augment: Augment | None
    validate_every: int
    checkpoint_every: int
    checkpoint_minutes: float


@dataclass(frozen=True)
class Variant:
    itc: float
    itm: float
    itg: float
    tig: float
    seed: int | None = None  # of its pre-training; None: `seed` of the whole

    @property
    def weights(self) -> dict[str, float]:
        """Lambda of Eq. 24 by objective."""
        return {"itc": self.itc, "itm": self.itm, "itg": self.itg, "tig": self.tig}


@dataclass(frozen=True)
class TrainedVariants:
    itc: tuple[str, ...]
    itg: tuple[str, ...]
    tig: tuple[str, ...]


@dataclass(frozen=True)
class PriorTraining:
    accumulate: int
    precision: str
    warmup_fraction: float
    warmup_start: float
    final_learning_rate: float
    betas: tuple[float, ...]
    weight_decay: float
    clip_norm: float | None
    validate_every: int
    checkpoint_every: int
    checkpoint_minutes: float


@dataclass(frozen=True)
class PriorLevel:
    channels: int
    kernel: int
    blocks: int
    residual_blocks: int
    residual_channels: int
    attention: bool
    heads: int
    dropout: float
    steps: int
    batch_size: int
    learning_rate: float


@dataclass(frozen=True)
class Prior:
    condition: str
    condition_dropout: float
    top_blocks: int
    bootstrap: int
    training: PriorTraining
    top: PriorLevel
    bottom: PriorLevel


@dataclass(frozen=True)
class Evaluate:
    finetune: Mapping[str, tuple[str, ...]]
    finetune_models: tuple[str, ...]
    finetune_percents: tuple[int, ...]
    zero_shot: tuple[str, ...]
    retrieve: tuple[str, ...]
    write_reports: tuple[str, ...]


@dataclass(frozen=True)
class Finetune:
    seeds: tuple[int, ...]
    steps: int
    batch_size: int
    precision: str
    learning_rate: float
    head_learning_rate: float
    head_start: str
    warmup_fraction: float
    weight_decay: float
    validate_every: int
    patience: int
    bootstrap: int


@dataclass(frozen=True)
class ZeroShot:
    prompts: str
    prompts_per_class: int | None
    aggregation: str
    seeds: tuple[int, ...]
    itm: bool
    bootstrap: int


@dataclass(frozen=True)
class Retrieve:
    ks: tuple[int, ...]
    rerank: int | None
    bootstrap: int


@dataclass(frozen=True)
class WriteReports:
    max_reports: int | None
    batch_size: int
    num_beams: int
    do_sample: bool
    temperature: float
    top_k: int | None
    top_p: float | None
    bootstrap: int


@dataclass(frozen=True)
class Generate:
    unconditional: int
    reports: int | None
    prompts: str
    samples: int
    shown: int
    batch_size: int
    temperature: float
    top_k: int | None
    top_p: float | None
    guidance: float


@dataclass(frozen=True)
class ScoreImages:
    max_images: int | None
    inception_weights: str | None
    watch: str


@dataclass(frozen=True)
class Params:
    preset: str
    seed: int
    simulate: Simulate
    datasets: Mapping[str, Dataset]
    images: Images
    vision: Vision
    features: Features
    tokenizer: Tokenizer
    model: Model
    pretrain: Pretrain
    variants: Mapping[str, Variant]
    encoders: tuple[str, ...]
    trained: TrainedVariants
    prior: Prior
    evaluate: Evaluate
    finetune: Finetune
    zero_shot: ZeroShot
    retrieve: Retrieve
    write_reports: WriteReports
    generate: Generate
    score_images: ScoreImages

    def training_seed(self, variant: str) -> int:
        """The seed of a variant's pre-training: its own where it has one, else that of the whole."""
        own = self.variants[variant].seed
        return self.seed if own is None else own


def load_params(path: str | Path = "params.yaml") -> Params:
    """Read, check and type a parameter file.

    Raises InputError if the file is missing, is no YAML, or breaks the schema or a rule between keys; the
    message lists every violation with its path, its value and what is allowed.
    """
    raw = _read_yaml(Path(path))
    problems = list(schema_violations(raw, SCHEMA_PATH))
    if not problems:  # the rules between keys rely on the right shape
        params = _build(Params, raw)
        problems = list(_cross_checks(params))
    if problems:
        raise InputError(
            f"{path}: {len(problems)} wrong value(s); nothing was run. Correct them and start again:\n"
            + "\n".join(f"  {problem}" for problem in problems)
        )
    return params


def _read_yaml(path: Path) -> object:
    # ruamel, because DVC reads params.yaml with it: YAML 1.2, in which 1e-3 is a number and `no` a text.
    from ruamel.yaml import YAML, YAMLError

    try:
        return YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: not found; copy a preset: cp workflow/presets/demo.yaml {path}") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid YAML in UTF-8: {' '.join(str(error).split())}") from None


def _build(kind: typing.Any, value: typing.Any) -> typing.Any:
    """`value` (plain YAML data of the right shape) as the annotated type `kind`."""
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return kind(**{field: _build(hint, value[field]) for field, hint in hints.items() if field in value})
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:  # `X | None`
        return None if value is None else _build(arguments[0], value)
    if origin is tuple:
        return tuple(_build(arguments[0], item) for item in value)
    if origin is Mapping:
        return {key: _build(arguments[1], item) for key, item in value.items()}
    return kind(value)  # int, float (an integer in YAML becomes one), bool, str


def _cross_checks(params: Params) -> Iterator[str]:
    """The rules between keys, which a JSON schema cannot tell; one line for each that is broken."""
    used = {"pretrain.dataset": (params.pretrain.dataset,)}
    for name in ("finetune", "zero_shot", "retrieve", "write_reports"):
        used[f"evaluate.{name}"] = tuple(getattr(params.evaluate, name))
    for path, datasets in used.items():
        for dataset in datasets:
            if dataset not in params.datasets:
                yield refused(
                    path, dataset, f"a data set listed under `datasets` ({', '.join(params.datasets)})"
                )

    for name, dataset in params.datasets.items():
        fractions = dataset.split_fractions
        if abs(sum(fractions) - 1) > 1e-6:
            yield refused(f"datasets.{name}.split_fractions", fractions, "three parts that sum to 1")
        if not fractions[0] or (dataset.split == "patient" and not all(fractions)):
            yield refused(f"datasets.{name}.split_fractions", fractions, "parts above 0")

    for name, variant in params.variants.items():
        if not any(variant.weights.values()):
            yield refused(f"variants.{name}", variant.weights, "at least one weight above 0")
    for name in params.evaluate.finetune_models:
        if name not in (*params.variants, *params.encoders):
            allowed = ", ".join((*params.variants, *params.encoders))
            yield refused("evaluate.finetune_models", name, f"a variant or one of `encoders` ({allowed})")
    for name in params.encoders:
        if name in params.variants:
            yield refused("encoders", name, "a name that no variant has")
    for path in ("variants", "encoders"):
        for name in set(getattr(params, path)) & {"priors", "tokenizer"}:
            yield refused(path, name, "another name: this folder of models/ holds something else")
    for objective, names in vars(params.trained).items():
        able = [name for name, variant in params.variants.items() if getattr(variant, objective) > 0]
        able += params.encoders if objective == "itc" else ()  # they embed images and texts, no more
        for name in names:
            if name not in able:
                allowed = (
                    f"a variant whose weight of {objective} is above 0 ({', '.join(able) or 'there is none'})"
                )
                yield refused(f"trained.{objective}", name, allowed)

    for path, part in {"simulate.vit.width": params.simulate.vit, "model.width": params.model}.items():
        if part.width % part.heads:
            yield refused(path, part.width, f"a multiple of the {part.heads} heads")

    pretrain = params.pretrain
    for name in ("warmup_start", "final_learning_rate"):
        rate, peak = getattr(pretrain, name), pretrain.learning_rate
        if rate > peak:
            yield refused(f"pretrain.{name}", rate, f"at most pretrain.learning_rate ({peak})")
    low, high = pretrain.temperature_range or (0.0, float("inf"))
    if not low <= pretrain.temperature <= high:
        yield refused(
            "pretrain.temperature", pretrain.temperature, f"within temperature_range ({low} to {high})"
        )
    if pretrain.batch_size % pretrain.accumulate:
        allowed = f"a divisor of batch_size ({pretrain.batch_size})"
        yield refused("pretrain.accumulate", pretrain.accumulate, allowed)

    if pretrain.augment is not None and params.features.mode != "online":
        allowed = "null unless features.mode is online: stored features know nothing of a changed image"
        yield refused("pretrain.augment", vars(pretrain.augment), allowed)
    if params.write_reports.do_sample and params.write_reports.num_beams > 1:
        yield refused("write_reports.do_sample", True, "false with num_beams above 1")
    yield from _prior_checks(params.prior)

    yield from _watch_checks(params)

    checkpoint, tokenizer = params.model.text_checkpoint, params.tokenizer.pretrained
    if checkpoint is not None and (tokenizer is None or Path(tokenizer) != Path(checkpoint)):
        allowed = (
            f"{checkpoint}, as model.text_checkpoint: its weights know the words by that tokenizer's numbers"
        )
        yield refused("tokenizer.pretrained", tokenizer, allowed)


def _prior_checks(prior: Prior) -> Iterator[str]:
    """What a level's sizes and the recipe that both share ask of each other."""
    for level, sizes in {"top": prior.top, "bottom": prior.bottom}.items():
        path = f"prior.{level}"
        if sizes.kernel % 2 == 0:
            yield refused(f"{path}.kernel", sizes.kernel, "an odd number")
        if sizes.channels % (2 * sizes.heads):
            yield refused(f"{path}.channels", sizes.channels, f"a multiple of twice the {sizes.heads} heads")
        if sizes.batch_size % prior.training.accumulate:
            allowed = f"a multiple of prior.training.accumulate ({prior.training.accumulate})"
            yield refused(f"{path}.batch_size", sizes.batch_size, allowed)
        for name in ("warmup_start", "final_learning_rate"):
            rate = getattr(prior.training, name)
            if rate > sizes.learning_rate:
                allowed = f"at most prior.{level}.learning_rate ({sizes.learning_rate})"
                yield refused(f"prior.training.{name}", rate, allowed)


def _watch_checks(params: Params) -> Iterator[str]:
    """A `watch` key is what DVC watches for a knob that takes a local path or a name on a hub: that path
    itself or, as a hub cannot be watched, a file of code that the stage depends on anyway.
    """
    vision, tokenizer, model, scores = params.vision, params.tokenizer, params.model, params.score_images
    hub = vision.model.startswith(("timm:", "hf:"))
    if hub and vision.revision is None:
        yield refused("vision.revision", None, "a commit: a hub's model must not change unnoticed")
    if not hub and vision.revision is not None:
        yield refused("vision.revision", vision.revision, "null, as vision.model is a local folder")

    text, score = "medunifier/data/tokenizer.py", "stages/score_images.py"
    for path, watch, expected in (
        ("vision.watch", vision.watch, "medunifier/vision/frozen_encoder.py" if hub else vision.model),
        ("tokenizer.watch", tokenizer.watch, _local(tokenizer.pretrained) or text),
        ("model.text_watch", model.text_watch, _local(model.text_checkpoint) or text),
        ("score_images.watch", scores.watch, scores.inception_weights or score),
    ):
        if watch != expected:
            yield refused(path, watch, expected)


def _local(name: str | None) -> str | None:
    """`name` if it is a path here; None if it is null or a hub's ORGANISATION/NAME."""
    return name if name is not None and (name.startswith((".", "/", "~")) or Path(name).exists()) else None
