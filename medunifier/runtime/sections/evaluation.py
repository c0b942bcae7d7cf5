"""Sections of params.yaml about evaluation: what is measured on which data, and generation."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from medunifier.runtime.schema import A_LIST, A_SECTION
from medunifier.runtime.sections.base import (
    LIST,
    MAX_COUNT,
    NO_FILE,
    CutOffs,
    Int,
    Names,
    Percents,
    Precision,
    Section,
    Seeds,
    Text,
    Texts,
    knob,
)

# Scorers of the package radeval that metrics/clinical_scorers.py offers.
ClinicalName = Literal[
    "rouge",
    "bertscore",
    "radeval_bertscore",
    "f1chexbert",
    "radgraph",
    "radgraph_radcliq",
    "radcliq",
    "ratescore",
    "srrbert",
    "temporal",
    "green",
]
ClinicalNames = Annotated[tuple[ClinicalName, ...], *LIST]
BOOTSTRAP = "Bootstrap resamples for the confidence intervals (95 %)."


class MultiLabel(Section):
    """Labels that do not exclude each other: an image may have several of them, or none."""

    labels: Texts = knob("The labels, each a binary task of its own.", min_length=1)
    blank: Literal["negative", "ignore"] = knob(
        "What a blank is: negative, or ignore: this label does not count for this image. By default negative.",
        default="negative",
    )
    uncertain: Literal["ignore", "positive", "negative"] = knob(
        "What an uncertain label (-1) is: ignore, positive or negative (U-Ignore, U-Ones, U-Zeros of Irvin et al. "
        "2019). By default ignore.",
        default="ignore",
    )


Labels = Annotated[
    Annotated[Texts, Field(min_length=1), Tag(A_LIST)] | Annotated[MultiLabel, Tag(A_SECTION)],
    Discriminator(lambda value: A_SECTION if isinstance(value, Mapping | MultiLabel) else A_LIST),
]


class Evaluate(Section):
    """The data sets on which each evaluation runs."""

    finetune: Mapping[str, Labels] = knob(
        "Data set: labels. One label is a binary task; several are classes that exclude each other; several that do "
        "not are a section: {labels: [...], blank: negative, uncertain: ignore}."
    )
    finetune_models: Names = knob("Variants and encoders to fine-tune.")
    finetune_percents: Percents = knob(
        "Parts of the training split, in %: stratified, each inside the next.", unit="%", min_length=1
    )
    zero_shot: Names = knob("Data sets for zero-shot classification.")
    retrieve: Names = knob("Data sets for retrieval.")
    write_reports: Names = knob("Data sets whose test images get a generated report.", min_length=1)


class Finetune(Section):
    """Fine-tuning of the image side, and a linear probe."""

    seeds: Seeds = knob("Each samples its own training part and order; metrics are means over them.")
    steps: Int = knob("Optimizer steps at most; early stopping ends before.", ge=1, le=MAX_COUNT)
    epochs: Int | None = knob(
        "Passes through the training part, with a validation after each and no early stopping (authors' code: 5); null: "
        "steps, validate_every and patience count.",
        ge=1,
        le=MAX_COUNT,
    )
    batch_size: Int = knob(
        "Images in an optimizer step; fewer where the part is smaller.", unit="images", ge=1, le=MAX_COUNT
    )
    precision: Precision = knob("Number format of the arithmetic.")
    learning_rate: float = knob(
        "Learning rate of the pre-trained weights at its peak (paper: 3e-6).", ge=0, le=10
    )
    head_learning_rate: float = knob("Learning rate of the task head at its peak (paper: 3e-4).", gt=0, le=10)
    head: Literal["linear", "two_layers"] = knob(
        "linear: one layer on the mean of the query outputs; two_layers: two linear layers on all of them, side by side "
        "(authors' code)."
    )
    head_start: Literal["zero", "probe", "random"] = knob(
        "Start of the task head: zero, the linear probe (with head linear), or random (authors' code)."
    )
    warmup_fraction: float = knob("Part of the steps in which the learning rate rises.", ge=0, le=1)
    weight_decay: float = knob("Weight decay of matrices.", ge=0, le=10)
    decay_all: bool = knob("true: weight decay of biases and norms, too (authors' code).")
    validate_every: Int = knob("Optimizer steps between two validations.", unit="steps", ge=1, le=MAX_COUNT)
    patience: Int = knob(
        "Validations without a better validation loss after which training ends.", ge=1, le=MAX_COUNT
    )
    bootstrap: Int = knob(BOOTSTRAP, ge=1, le=1_000_000)

    @property
    def start_in_words(self) -> str:
        """What a head is before its first step, for a reader."""
        starts = {
            "probe": "the linear probe",
            "zero": "a head of zeros",
            "random": "a head of random weights",
        }
        return starts[self.head_start]


class ZeroShot(Section):
    """Zero-shot classification by the similarity of images and class prompts."""

    prompts: Text = knob("YAML file with the classes and their prompts; a file of your own works, too.")
    prompts_per_class: Int | None = knob("Prompts sampled for each class; null: all.", ge=1, le=MAX_COUNT)
    aggregation: Literal["max", "mean", "ensemble"] = knob(
        "Over the prompts of a class: max or mean of the similarities, or an ensemble of the embeddings."
    )
    multi_label: Mapping[str, MultiLabel] = knob(
        "Data set: labels that do not exclude each other, scored one by one on the test split; other data sets have "
        "one class for each image. For example nih: {labels: [...]}."
    )
    seeds: Seeds = knob("Each samples its own prompts; metrics are means over them.")
    itm: bool = knob("true: the matching head also scores the best prompt of each class.")
    bootstrap: Int = knob(BOOTSTRAP, ge=1, le=1_000_000)


class Retrieve(Section):
    """Retrieval of reports by image and of images by report."""

    ks: CutOffs = knob("Cut-offs K of mAP@K.", min_length=1)
    rerank: Int | None = knob(
        "First candidates that the matching head ranks again, scored in addition; null: none.",
        ge=2,
        le=MAX_COUNT,
    )
    bootstrap: Int = knob(BOOTSTRAP, ge=1, le=1_000_000)


class WriteReports(Section):
    """Generation of reports for test images."""

    max_reports: Int | None = knob("Test reports generated; null: all.", unit="reports", ge=1, le=MAX_COUNT)
    batch_size: Int = knob("Images at a time.", unit="images", ge=1, le=MAX_COUNT)
    num_beams: Int = knob("1: greedy, or sampling where do_sample; more: beam search.", ge=1, le=1000)
    do_sample: bool = knob("true: sample each token.")
    temperature: float = knob("Temperature of the sampling.", gt=0, le=1000)
    top_k: Int | None = knob("Sample among so many most likely tokens; null: all.", ge=1, le=MAX_COUNT)
    top_p: float | None = knob(
        "Sample among the most likely tokens that reach this probability; null: all.", gt=0, le=1
    )
    r2gen_min_count: Int | None = knob(
        "R2Gen's whole protocol, too: words rarer than this in training reports become <unk> (R2Gen: 10 on "
        "MIMIC-CXR, 3 on IU X-ray); null: not scored.",
        ge=1,
        le=MAX_COUNT,
    )
    r2gen_max_ids: Int = knob(
        "Ids to which R2Gen's protocol cuts a reference, its start included (R2Gen: 100 on MIMIC-CXR, 60 on IU X-ray).",
        ge=2,
        le=MAX_COUNT,
    )
    clinical: ClinicalNames = knob(
        "Clinical scorers of the package radeval, which `make clinical` installs; []: none."
    )
    clinical_device: Literal["auto", "cpu", "cuda"] = knob("Of the clinical scorers; auto: a GPU, if any.")
    clinical_batch_size: Int = knob(
        "Reports at a time, where a clinical scorer has batches.", unit="reports", ge=1, le=MAX_COUNT
    )
    bootstrap: Int = knob(BOOTSTRAP, ge=1, le=1_000_000)


class Generate(Section):
    """Generation of images from the priors."""

    unconditional: Int = knob("Images generated without a text.", unit="images", ge=4, le=MAX_COUNT)
    reports: Int | None = knob(
        "Images generated from reports of the test split; null: from all.", unit="images", ge=4, le=MAX_COUNT
    )
    prompts: Text = knob("File of prompts: YAML, or .txt with one a line.")
    samples: Int = knob("Images of each prompt.", unit="images", ge=2, le=MAX_COUNT)
    shown: Int = knob(
        "Images of the first two sets that are also PNG files.", unit="images", ge=1, le=MAX_COUNT
    )
    batch_size: Int = knob(
        "Images generated at a time; results do not depend on it.", unit="images", ge=1, le=MAX_COUNT
    )
    temperature: float = knob(
        "Divides the priors' logits; below 1: more alike; 0: the most likely codes.", ge=0, le=1000
    )
    top_k: Int | None = knob("Sample among so many most likely codes; null: all.", ge=1, le=65_536)
    top_p: float | None = knob(
        "Sample among the most likely codes that reach this probability; null: all.", gt=0, le=1
    )
    guidance: float = knob(
        "How strongly a text counts: 1: as trained; above 1: its effect, so many times.", ge=0, le=1000
    )


class ScoreImages(Section):
    """Scores of generated images."""

    reconstructed: Literal["test", "train"] = knob(
        "Images whose reconstructions Table 5 compares with training images: train: training images (paper); test: "
        "held-out ones. PSNR and SSIM are always of test images."
    )
    max_images: Int | None = knob(
        "Images of each set for the image scores; null: all.", unit="images", ge=2, le=MAX_COUNT
    )
    inception_weights: Text = knob(
        f"File with torch-fidelity's Inception weights; {NO_FILE}: none, then there is fd_vit but no FID.",
        allowed=f"a file, or {NO_FILE}",
    )

    @property
    def inception_file(self) -> str | None:
        """The file with the Inception weights; None if there is none."""
        return None if self.inception_weights == NO_FILE else self.inception_weights
