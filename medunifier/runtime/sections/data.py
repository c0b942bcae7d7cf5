"""Sections of params.yaml about data: the phantom, data sets, images, the frozen encoder and the tokenizer."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from medunifier.runtime.sections.base import (
    MAX_COUNT,
    NO_FILE,
    Fractions,
    Int,
    Levels,
    Section,
    Shards,
    Text,
    Texts,
    knob,
    of_pattern,
)


class Copies(Section):
    """Phantoms in the layouts of other data sets."""

    chexpert: Int = knob("Images in CheXpert's layout; 0: none.", unit="images", ge=0, le=MAX_COUNT)
    rsna: Int = knob("Images in RSNA Pneumonia's layout; 0: none.", unit="images", ge=0, le=MAX_COUNT)
    siim_acr: Int = knob("Images in SIIM-ACR's layout; 0: none.", unit="images", ge=0, le=MAX_COUNT)
    covidx: Int = knob("Images in COVIDx's layout; 0: none.", unit="images", ge=0, le=MAX_COUNT)


class Simulate(Section):
    """The phantom: procedural radiographs with reports."""

    patients: Int = knob("Patients in MIMIC-CXR's layout; 0: no phantom is made.", ge=0, le=MAX_COUNT)
    image_size: Int = knob("Height and width of the phantom's JPGs.", unit="pixels", ge=64, le=4096)
    copies: Copies


class Index(Section):
    """The files under `root` on which DVC depends, by the role that they play; one file may play several."""

    images: Text = knob("File that lists the images.")
    labels: Text = knob("File with the labels.")
    split: Text = knob("File with the data set's own split.")
    checksums: Text = knob("File with the checksums of the images.")
    lists: Text = knob(
        "A list of your own: a CSV file (image_id, split, benchmark_class), or a folder with a text file of ids for "
        "each split (train.txt, val.txt, test.txt)."
    )


LabelName = Annotated[
    str, of_pattern("^[a-z][a-z0-9_]*$", "small letters, digits and `_`, the first a letter")
]
Labels = Mapping[LabelName, Text]
Pattern = Annotated[str, Field(min_length=1, max_length=256)]


class TableLayout(Section):
    """Layout `table`: the columns of the file under index.images, CSV or Parquet, one row for each image."""

    image: Text = knob("Column with the image's file; between `folder` and `suffix` it is a path under root.")
    folder: Text = knob("Folder of the image files, relative to root; `.`: root itself.", default=".")
    suffix: Text | None = knob("End of the file names where the column leaves it out.", default=None)
    patient: Text = knob("Column with the patient: no patient is in two splits.")
    study: Text | None = knob(
        "Column with the study, whose images share a report; null: each image is one.", default=None
    )
    view: Text | None = knob("Column with the view, such as PA, AP or LATERAL.", default=None)
    sex: Text | None = knob("Column with the sex, F or M, for text from labels.", default=None)
    age: Text | None = knob("Column with the age in years, for text from labels.", default=None)
    split: Text | None = knob(
        "Column with the split: train, validate (val) or test. With `split: two_step` only test counts.",
        default=None,
    )
    findings: Text | None = knob("Column with the section findings.", default=None)
    impression: Text | None = knob("Column with the section impression.", default=None)
    report: Text | None = knob(
        "Column with the whole report, read where findings and impression are blank; headings such as FINDINGS: or "
        "Impression: divide it.",
        default=None,
    )
    labels: Labels = knob("Label: its column, which holds 1, 0, -1 (uncertain) or nothing.", default={})


class FoldersLayout(Section):
    """Layout `folders`: patterns, each a regular expression with one group, searched in each path of the list."""

    class_pattern: Pattern = knob(
        "Finds the class, by default the folder of the image.", default="([^/]+)/[^/]+$"
    )
    classes: Labels = knob(
        "Label: the class as it is found, in any case; {}: the classes found, in small letters.", default={}
    )
    patient_pattern: Pattern | None = knob("Finds the patient; null: each image is one.", default=None)
    split_pattern: Pattern | None = knob(
        "Finds the split: train, validate (val) or test; null: there is no official one. With `split: two_step` only "
        "test counts.",
        default=None,
    )


class Benchmark(Section):
    """A class-balanced subset in the style of CheXpert 5x200."""

    classes: Texts = knob("Labels that are its classes.", min_length=2)
    per_class: Int = knob("Images of each class.", unit="images", ge=1, le=MAX_COUNT)
    rule: Literal["strict", "five_only", "list"] = knob(
        "strict: every other label is negative; five_only: exactly one of the classes is positive; "
        "list: as benchmark_class in index.lists says."
    )
    pool: Literal["train", "all"] = knob(
        "Frontal images from which it is sampled: those of the training split, or all."
    )
    remove: Literal["patients", "images", "none"] = knob(
        "What leaves the splits: its patients, its images or none."
    )


class Dataset(Section):
    """A data set as it lies on disk, and what is made of it."""

    layout: str = knob(
        "How the data set is laid out: a module in medunifier/data/layouts.",
        pattern="^[a-z][a-z0-9_]*$",
        allowed="small letters, digits and `_`",
    )
    root: Text = knob("Folder with the images and the index files, absolute or relative to the repository.")
    reports: Text | None = knob("Folder with the report texts where they lie apart; null: inside root.")
    index: Index
    links: Literal["follow", "inside"] = knob(
        "Symbolic links under root: follow: they may lead anywhere; inside: an image or report that a link leads out "
        "of root (of `reports`) is left out; left out: follow.",
        default="follow",
    )
    views: Texts | None = knob("Views to keep; null: all.", min_length=1)
    sections: Literal["both", "either", "none"] = knob(
        "Which of findings and impression a study must have (paper: both)."
    )
    ndication: Literal["impression", "indication"] = knob(
        "What the heading NDICATION in a report of MIMIC-CXR is: impression, as in the published parser, or a misspelt "
        "indication, which is left out; left out: impression.",
        default="impression",
    )
    section_order: Literal["findings_first", "impression_first"] = knob(
        "Order in the column `report` where a study has both sections."
    )
    split: Literal["official", "patient", "two_step", "list"] = knob(
        "official: the data set's own; patient: at random by patient; two_step: at random by patient with "
        "scikit-learn's train_test_split, twice; list: index.lists."
    )
    split_fractions: Fractions = knob(
        "Parts of train, validate and test; used where split is patient or two_step.",
        min_length=3,
        max_length=3,
    )
    benchmark: Benchmark | None = knob("Class-balanced subset that is kept out of training; null: none.")
    private: bool = knob(
        "true: no report text, id or image of it goes to MLflow, the report page or the logs.", default=False
    )
    report_from: Literal["reports", "labels"] = knob(
        "reports: the data set's own; labels: sentences written from labels, view, sex and age by `label_sentences`.",
        default="reports",
    )
    table: TableLayout | None = knob("Columns of layout `table`.", default=None)
    folders: FoldersLayout | None = knob("Patterns of layout `folders`.", default=None)


class Images(Section):
    """How radiographs are decoded."""

    size: Int = knob(
        "Height and width of a decoded image, as it is stored; at least what the encoder reads (vision.size) and the 224 of "
        "the image objective.",
        unit="pixels",
        ge=224,
        le=2048,
    )
    aspect: Literal["squash", "pad", "crop"] = knob("How an image that is not square becomes square.")
    bits: Literal["declared", "used"] = knob(
        "Range of an image of more than 8 bits that becomes 0 to 255: by the bits that its file declared, or by those "
        "that its pixels used; a DICOM window counts first."
    )
    verify: Literal["listed", "none"] = knob(
        "listed: files are compared with the checksums that the data set lists, if any; none: they are not."
    )
    max_megapixels: Int = knob(
        "Pixels of an image at most; larger ones are rejected.", unit="megapixels", ge=1, le=178
    )


class Vision(Section):
    """The frozen image encoder: a model of a hub or a local folder."""

    model: Text | None = knob(
        "Model of a hub, pinned by `revision`; null: the one in `folder`.",
        pattern="^(timm|hf|open_clip|torchvision):.+$",
        allowed="timm:NAME, hf:NAME, open_clip:hf-hub:NAME or torchvision:NAME; a local folder belongs under vision.folder",
    )
    revision: Text | None = knob(
        "Commit of the hub's model, or name of torchvision's weights (IMAGENET1K_V1); null for a local folder."
    )
    folder: Text = knob(
        f"Local folder of a saved encoder (docs/encoders.md); {NO_FILE} where `model` names one of a hub."
    )
    pixels: Literal["model", "unit"] = knob(
        "model: pixels as the encoder's own processor prepares them; unit: in [0, 1], not normalised (paper)."
    )
    size: Int | None = knob(
        "Height and width that the encoder reads; null: its own.", unit="pixels", ge=14, le=2048
    )
    crop: Literal["none", "model"] = knob(
        "none: the whole image; model: its centre, where the encoder's own processor crops."
    )
    levels: Levels = knob(
        "Strides of a CNN's levels that are joined on the finest of them, as [16, 32]; []: the deepest alone; a ViT has "
        "none."
    )
    skip_last_blocks: Int = knob(
        "Blocks left out at the end (BLIP-2 leaves out 1 of ViT-g's 40).", ge=0, le=1000
    )

    @property
    def source(self) -> str:
        """Where the encoder comes from: the hub's name or the local folder."""
        return self.model or self.folder

    @property
    def choice(self) -> dict[str, Any]:
        """The arguments of `load_vision`."""
        names = ("revision", "skip_last_blocks", "pixels", "size", "crop", "levels")
        return {"model": self.source, **{name: getattr(self, name) for name in names}}


class Features(Section):
    """The features that the frozen encoder gives."""

    mode: Literal["cached", "online"] = knob(
        "cached: features are stored once; online: the encoder runs again in every pass (docs/features.md)."
    )
    shards: Shards = knob("Names of the parts in which features are extracted, in parallel.", min_length=1)
    batch_size: Int = knob("Images that the encoder takes at a time.", unit="images", ge=1, le=MAX_COUNT)


class Tokenizer(Section):
    """The tokenizer of the reports: trained here, of a hub, or in a local folder."""

    pretrained: Text | None = knob(
        "Tokenizer of the Hugging Face hub; null: the one in `folder`, or else WordPiece is trained on the training "
        "reports.",
        pattern="^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?$",
        allowed="NAME or ORGANISATION/NAME; a local folder belongs under tokenizer.folder",
    )
    folder: Text = knob(f"Local folder of a saved tokenizer; {NO_FILE}: none.")
    vocab_size: Int = knob("WordPiece entries, special tokens included.", ge=64, le=10_000_000)

    @property
    def source(self) -> str | None:
        """Where the tokenizer comes from: the hub's name, the local folder, or None if it is trained here."""
        return self.pretrained or (None if self.folder == NO_FILE else self.folder)
