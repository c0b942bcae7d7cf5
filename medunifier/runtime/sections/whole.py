"""The whole of params.yaml."""

from collections.abc import Mapping

from medunifier.runtime.sections.base import Name, Names, Section, Seed, Text, knob
from medunifier.runtime.sections.data import Dataset, Features, Images, Simulate, Tokenizer, Vision
from medunifier.runtime.sections.evaluation import (
    Evaluate,
    Finetune,
    Generate,
    Retrieve,
    ScoreImages,
    WriteReports,
    ZeroShot,
)
from medunifier.runtime.sections.training import Model, Pretrain, Prior, TrainedVariants, Variant


class Params(Section):
    """Every parameter of the pipeline."""

    preset: str = knob(
        "Name of this configuration, shown on the report page and in MLflow.",
        pattern="^[A-Za-z0-9][A-Za-z0-9_.-]*$",
        max_length=64,
        allowed="letters, digits, `.`, `_` and `-`, the first a letter or digit",
    )
    seed: Seed = knob("Every random choice of every stage derives from it.")
    simulate: Simulate
    datasets: Mapping[Name, Dataset] = knob(
        "Data sets by name; one that is listed here is prepared, decoded and encoded.", min_length=1
    )
    label_sentences: Text = knob(
        "YAML file with the sentences of data sets with `report_from: labels`; a file of your own works, too."
    )
    images: Images
    vision: Vision
    features: Features
    tokenizer: Tokenizer
    model: Model
    pretrain: Pretrain
    variants: Mapping[Name, Variant] = knob(
        "Named sets of objectives and their weights (Eq. 24); 0 switches one off. With `seed: 1` beside the weights, "
        "a variant is trained with a seed of its own.",
        min_length=1,
    )
    encoders: Names = knob(
        "Other models to evaluate, in folders models/NAME: CLIP, SigLIP, BLIP-2, open_clip, a backbone. List the "
        "names in trained.itc and evaluate.finetune_models, too."
    )
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
        """Return the seed of a variant's pre-training: its own where it has one, else that of the whole."""
        own = self.variants[variant].seed
        return self.seed if own is None else own
