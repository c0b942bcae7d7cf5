"""Sections of params.yaml about training: the model, its pre-training, the variants and the priors."""

from typing import Literal

from medunifier.runtime.sections.base import (
    MAX_COUNT,
    MAX_WIDTH,
    Fraction,
    Fractions,
    Int,
    Names,
    Precision,
    Section,
    Seed,
    Temperatures,
    Text,
    Widths,
    knob,
)


class Model(Section):
    """Sizes of the Q-Former and of the image generator."""

    width: Int = knob("Width of the Q-Former.", ge=1, le=MAX_WIDTH)
    layers: Int = knob("Blocks of the Q-Former.", ge=1, le=1000)
    heads: Int = knob("Attention heads.", ge=1, le=1000)
    queries: Int = knob(
        "Learnable query embeddings: the top latent, a map of 4 x queries / 4.",
        ge=4,
        le=MAX_WIDTH,
        multiple_of=4,
    )
    cross_attention_every: Int = knob(
        "Blocks from one cross-attention to the next: 1 in every block (paper), 2 in every second (authors' code).",
        ge=1,
        le=1000,
    )
    dropout: Fraction = knob("Probability of dropout.")
    init_std: float = knob("Standard deviation of new weights (BERT: 0.02, at width 768).", gt=0, le=10)
    vision_norm_start: Literal["data", "plain"] = knob(
        "Start of the norm after the frozen encoder: data: each channel to mean 0 and variance 1; plain: weight 1, "
        "bias 0 (authors' code)."
    )
    vision_position: Literal["none", "sinusoidal"] = knob(
        "Spatial positions added to what the Q-Former reads of an image: sinusoidal: for a CNN, whose feature maps hold no "
        "places; none: for a ViT, whose tokens do."
    )
    max_text_tokens: Int = knob("Longest report, the special token included.", unit="tokens", ge=2, le=512)
    projection: Int = knob("Width of the embeddings that ITC compares.", ge=1, le=MAX_WIDTH)
    text_checkpoint: bool = knob(
        "true: the text side starts from the BERT weights that lie beside the tokenizer (tokenizer.pretrained or "
        "tokenizer.folder); false: random."
    )
    codebook_size: Int = knob("Codes at each level.", ge=2, le=65_536)
    codebook_start: Literal["data", "uniform"] = knob(
        "data: latents of the first batch, dead codes are moved; uniform: +-1/size, left there (van den Oord et al. 2017; "
        "authors' code)."
    )
    code_width: Int = knob("Dimension of the codes.", ge=1, le=MAX_WIDTH)
    codebook_weight: float = knob(
        "Weight of the codebook term of Eq. 23 (authors' code: 0.5).", ge=0, le=1000
    )
    commitment: float = knob("beta_1 = beta_2 of Eq. 23 (authors' code: 1.0).", ge=0, le=1000)
    adapter: Literal["unit_length", "rectified"] = knob(
        "How latents end: unit_length, or rectified: in a ReLU (paper, whose residual block ends so; authors' code)."
    )
    adapter_blocks: Int = knob(
        "Residual blocks in each latent adapter (paper: 1; authors' code: 3).", ge=1, le=1000
    )
    adapter_residual: Literal["plain", "batch_norm"] = knob(
        "Residual blocks of the adapters: plain: two convolutions; batch_norm: the bottleneck of He et al. (2016), which "
        "ends in a ReLU (paper, authors' code)."
    )
    adapter_position: Literal["learnt", "sinusoidal"] = knob(
        "Spatial positions in the adapters: learnt, or the fixed two-dimensional encoding of Wang and Liu (2019; paper, "
        "authors' code); that needs a code_width that is a multiple of 4."
    )
    bottom_latents: Literal["joined", "concatenated"] = knob(
        "With the top latents: joined to code_width, or concatenated to twice that (authors' code)."
    )
    decoder_kind: Literal["tapered", "deconvolutional", "residual"] = knob(
        "tapered: few channels, linear paths beside them; deconvolutional: four blocks of a transposed convolution, a ReLU "
        "and a norm (paper); residual: a residual layer, three blocks and a bare transposed convolution (authors' code)."
    )
    decoder_channels: Widths = knob(
        "Channels that enter each transposed convolution. Three: the last one enlarges by 4 (tapered only); four: each "
        "doubles (authors' code: 2304, 4608, 4608, 2304).",
        min_length=3,
        max_length=4,
    )
    decoder_norm: Literal["group", "batch"] = knob(
        "Norm of the decoder: batch as in the paper; group does not depend on the batch."
    )
    decoder_shortcut: bool = knob(
        "Images are also made straight from the 14 x 14 map before the doublings; with decoder_kind tapered only."
    )
    image_channels: Literal[1, 3] = knob("Channels of an image: 1: grey (radiographs); 3: as the paper.")


class Augment(Section):
    """Random changes of training images, each sampled up to its limit."""

    rotation: float = knob("Rotation at most.", unit="degrees", ge=0, le=180)
    shift: Fraction = knob("Shift at most, as a part of the image's size.")
    zoom: Fraction = knob("Zoom at most, as a part of the image's size.")
    brightness: float = knob("Change of brightness at most, in grey levels of 0 to 1.", ge=0, le=1)
    contrast: float = knob("Change of contrast at most, as a factor.", ge=0, le=1)


class Pretrain(Section):
    """The recipe of pre-training."""

    dataset: Text = knob("Data set that trains the model.", max_length=64)
    steps: Int = knob("Optimizer steps.", ge=1, le=MAX_COUNT)
    batch_size: Int = knob(
        "Images in an optimizer step over all processes, however many there are; at k times this size learning_rate "
        "should be sqrt(k) times as high, the rule for AdamW.",
        unit="images",
        ge=2,
        le=MAX_COUNT,
    )
    accumulate: Int = knob("Micro-batches in an optimizer step.", ge=1, le=MAX_COUNT)
    precision: Precision = knob("Number format of the arithmetic.")
    learning_rate: float = knob("Learning rate at its peak.", gt=0, le=10)
    warmup_fraction: float = knob("Part of the steps in which the learning rate rises.", ge=0, le=1)
    warmup_start: float = knob("Learning rate at step 0.", ge=0, le=10)
    final_learning_rate: float | None = knob(
        "Learning rate at the last step; null: it reaches 0 one step later, so that the last step still trains.",
        ge=0,
        le=10,
    )
    optimizer: Literal["adamw", "muon"] = knob(
        "adamw (paper); muon: linear maps and convolutions, but for the heads, by Muon (Jordan et al. 2024), all else by "
        "AdamW."
    )
    muon_rate: float = knob(
        "Learning rate of what Muon moves, as a multiple of learning_rate; unused with adamw.", gt=0, le=1000
    )
    betas: Fractions = knob("AdamW's decay rates of the two moments.", min_length=2, max_length=2)
    weight_decay: float = knob(
        "Weight decay of matrices; biases, norms and embeddings of one dimension have none.", ge=0, le=10
    )
    decay_all: bool = knob(
        "true: weight decay of biases, norms and embeddings of one dimension, too (authors' code)."
    )
    clip_norm: float | None = knob("Largest norm of the gradient; null: any.", gt=0, le=1_000_000)
    temperature: float = knob("ITC temperature at the start.", gt=0, le=100)
    temperature_range: Temperatures | None = knob(
        "Lowest and highest ITC temperature; null: any (authors' code).", min_length=2, max_length=2
    )
    negatives: Literal["global", "local"] = knob(
        "Negatives of ITC and ITM: global: from the whole batch; local: from each process's own part (authors' code)."
    )
    equal_reports: Literal["apart", "negatives"] = knob(
        "Pairs with equal reports in ITM: apart: no negatives of each other; negatives: like any two pairs (authors' code)."
    )
    label_smoothing: Fraction = knob("Label smoothing in ITC and ITG (authors' code: 0.1).")
    text_padding: Literal["longest", "full"] = knob(
        "Texts are padded to the longest of the batch, or to max_text_tokens (full: authors' code)."
    )
    order: Literal["shuffled", "by_shard"] = knob(
        "shuffled, or by_shard: feature shard after shard, shuffled inside (for slow random reads)."
    )
    augment: Augment | None = knob(
        "Random changes of training images, with online features only; null: none. An example: "
        "{rotation: 5, shift: 0.05, zoom: 0.1, brightness: 0.1, contrast: 0.1}."
    )
    keep: Literal["last", "best"] = knob(
        "Weights that the model ends with: of the last step, or of the lowest validation loss (authors' code)."
    )
    validate_every: Int = knob("Optimizer steps between two validations.", unit="steps", ge=1, le=MAX_COUNT)
    checkpoint_every: Int = knob("Optimizer steps between two checkpoints.", unit="steps", ge=1, le=MAX_COUNT)
    checkpoint_minutes: float = knob(
        "Longest time between two checkpoints, in minutes.", unit="minutes", gt=0, le=1_000_000
    )


class Variant(Section):
    """A named set of objectives and their weights (Eq. 24); 0 switches one off."""

    itc: float = knob("Weight of image-text contrast.", ge=0, le=1_000_000)
    itm: float = knob("Weight of image-text matching.", ge=0, le=1_000_000)
    itg: float = knob("Weight of image-grounded text generation.", ge=0, le=1_000_000)
    tig: float = knob("Weight of text-grounded image generation.", ge=0, le=1_000_000)
    seed: Seed | None = knob(
        "Seed of the variant's pre-training; left out or null: `seed` of the whole.", default=None
    )

    @property
    def weights(self) -> dict[str, float]:
        """Lambda of Eq. 24 by objective."""
        return {"itc": self.itc, "itm": self.itm, "itg": self.itg, "tig": self.tig}


class TrainedVariants(Section):
    """Variants that trained an objective; the evaluations that need it run on these alone."""

    itc: Names = knob("Variants and encoders for retrieve and zero_shot.", min_length=1)
    itg: Names = knob("Variants for write_reports.", min_length=1)
    tig: Names = knob(
        "Variants for encode_codes, train_prior, generate_images and score_images.", min_length=1
    )


class PriorTraining(Section):
    """The recipe of both levels of the prior."""

    accumulate: Int = knob("Micro-batches in an optimizer step.", ge=1, le=MAX_COUNT)
    precision: Precision = knob("Number format of the arithmetic.")
    warmup_fraction: float = knob("Part of the steps in which the learning rate rises.", ge=0, le=1)
    warmup_start: float = knob("Learning rate at step 0.", ge=0, le=10)
    final_learning_rate: float | None = knob(
        "Learning rate at the last step; null: it reaches 0 one step later, so that the last step still trains.",
        ge=0,
        le=10,
    )
    betas: Fractions = knob("AdamW's decay rates of the two moments.", min_length=2, max_length=2)
    weight_decay: float = knob(
        "Weight decay of matrices; biases, norms and embeddings of one dimension have none.", ge=0, le=10
    )
    clip_norm: float | None = knob("Largest norm of the gradient; null: any.", gt=0, le=1_000_000)
    validate_every: Int = knob("Optimizer steps between two validations.", unit="steps", ge=1, le=MAX_COUNT)
    checkpoint_every: Int = knob("Optimizer steps between two checkpoints.", unit="steps", ge=1, le=MAX_COUNT)
    checkpoint_minutes: float = knob(
        "Longest time between two checkpoints, in minutes.", unit="minutes", gt=0, le=1_000_000
    )


class PriorLevel(Section):
    """Sizes and training of one level of the prior."""

    channels: Int = knob("Width of the network.", ge=2, le=MAX_WIDTH)
    kernel: Int = knob(
        "Size of the convolutions, odd: a causal one reads kernel - 1 rows above, kernel / 2 columns to each side.",
        unit="positions",
        ge=3,
        le=63,
    )
    blocks: Int = knob("PixelSNAIL blocks.", ge=1, le=1000)
    residual_blocks: Int = knob("Residual blocks in each PixelSNAIL block.", ge=1, le=1000)
    residual_channels: Int = knob("Channels between a residual block's two convolutions.", ge=1, le=MAX_WIDTH)
    attention: bool = knob("Whether a block attends to all earlier positions.")
    heads: Int = knob("Attention heads.", ge=1, le=1000)
    dropout: Fraction = knob("Probability of dropout.")
    steps: Int = knob("Optimizer steps.", ge=1, le=MAX_COUNT)
    batch_size: Int = knob(
        "Images in an optimizer step over all processes.", unit="images", ge=1, le=MAX_COUNT
    )
    learning_rate: float = knob("Learning rate at its peak.", gt=0, le=10)


class Prior(Section):
    """PixelSNAIL over the codes, from which images are generated."""

    condition: Literal["none", "text"] = knob(
        "none: no text (paper); text: both levels attend to the report as the trained model encodes it."
    )
    condition_dropout: float = knob(
        "Part of the training images shown without their text, for guidance; unused with condition none.",
        ge=0,
        le=1,
    )
    weight_norm: bool = knob(
        "true: weight normalisation of all convolutions and matrices in training (authors' code); the saved prior is the "
        "same kind of network."
    )
    top_blocks: Int = knob("Residual blocks that read the top codes, on the bottom level.", ge=0, le=1000)
    bootstrap: Int = knob("Bootstrap resamples for the confidence intervals (95 %).", ge=1, le=1_000_000)
    training: PriorTraining
    top: PriorLevel = knob("The top level: 8 x 8 codes.")
    bottom: PriorLevel = knob("The bottom level: 16 x 16 codes, given the top codes.")
