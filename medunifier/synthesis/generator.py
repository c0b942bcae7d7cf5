"""Images out of nothing, or out of a text: both priors, the decoder, and the proof of where an image comes from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medunifier.evaluation.loading import Trained, load_trained
from medunifier.runtime.errors import InputError
from medunifier.synthesis.png_metadata import MODEL_NAME, read_png

if TYPE_CHECKING:
    from medunifier.synthesis.pixelsnail import Prior
    from medunifier.synthesis.sampler import Sampler

LEVELS = ("top", "bottom")


@dataclass(frozen=True)
class Settings:
    """How codes are drawn; see params.yaml, `generate`."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    guidance: float = 1.0


@dataclass(frozen=True)
class Drawn:
    """New images and what they were decoded from."""

    pixels: np.ndarray  # uint8 [n, H, W]
    top: np.ndarray  # uint16 [n, 64]
    bottom: np.ndarray  # uint16 [n, 256]


@dataclass(frozen=True)
class Generator:
    """A trained model and the priors of its codes.

    Attributes:
        takes_text: whether the priors were trained with reports (`prior.condition: text`).
        weights: SHA-256 of each file of weights, by what it holds.
    """

    variant: str
    trained: Trained
    sampler: Sampler
    takes_text: bool
    weights: Mapping[str, str]

    def draw(self, texts: Sequence[str] | None, seeds: Sequence[int], settings: Settings) -> Drawn:
        """One image for each seed, from the text beside it; without a text if `texts` is None.

        The same seed, text and settings give the same pixels in a batch of any size: codes are drawn from random
        numbers of their own, and drawn and decoded in double precision, where the order of a sum reaches neither a
        code nor 8 bits.
        Raises InputError if there are texts and the priors take none.
        """
        import torch

        if texts is not None and not self.takes_text:
            raise InputError(
                f"models/priors/{self.variant}-*: these priors take no text; set prior.condition to text in "
                f"params.yaml and run train_prior@{self.variant}-top and train_prior@{self.variant}-bottom"
            )
        read = None if texts is None else self.trained.read_texts(texts)
        top, bottom = self.sampler.draw(
            read,
            seeds=seeds,
            temperature=settings.temperature,
            top_k=settings.top_k,
            top_p=settings.top_p,
            guidance=1.0 if texts is None else settings.guidance,
        )
        with torch.inference_mode():
            images = [
                self.trained.model.decode_codes(t, b)
                for t, b in zip(top.split(8), bottom.split(8), strict=True)
            ]
        grey = torch.cat(images).mean(1).clamp(0, 1)  # (n, 224, 224)
        return Drawn(
            (grey * 255).round().to(torch.uint8).cpu().numpy(),
            top.cpu().numpy().astype(np.uint16),
            bottom.cpu().numpy().astype(np.uint16),
        )

    def check_length(self, text: str, where: str) -> None:
        """InputError, naming `where` it stands, if a prompt is empty or has more tokens than the model reads."""
        tokens = len(self.trained.tokenizer.encode(text, add_special_tokens=False))
        if not tokens:  # characters that are not to be seen are none
            raise InputError(f"{where}: the prompt is empty; say what the image shall show")
        limit = self.trained.model.config.max_text_tokens - 2  # [CLS] and [SEP] frame it
        if tokens > limit:
            raise InputError(
                f"{where}: the prompt has {tokens} tokens, the model reads {limit}; shorten it to about "
                f"{len(text.split()) * limit // tokens} words"
            )

    def fields(self, text: str | None, seed: int, settings: Settings) -> dict[str, str]:
        """What a PNG says about itself, enough to draw it again; an empty prompt stands for none."""
        return {
            "synthetic": "true",
            "description": "Drawn by a model. It shows no patient and is not for clinical use.",
            "model": MODEL_NAME,
            "variant": self.variant,
            "seed": str(seed),
            "prompt": text or "",
            "settings": json.dumps(vars(settings)),
            "weights": json.dumps(dict(self.weights)),
        }


def load_priors(variant: str, trained: Trained) -> tuple[Prior, Prior]:
    """The top and the bottom prior of `models/priors/VARIANT-*`, in evaluation mode, beside the trained model.

    Raises InputError when one is missing or broken, or belongs to another model.
    """
    from safetensors import SafetensorError

    priors = []
    for level in LEVELS:
        folder, stage = Path("models/priors") / f"{variant}-{level}", f"train_prior@{variant}-{level}"
        if not (folder / "config.json").is_file():
            raise InputError(f"{folder}: no trained prior; run {stage} first")
        try:
            prior = _whole_prior(folder)
        except (OSError, SafetensorError) as error:
            raise InputError(f"{folder}: not a whole model ({error}); run {stage} again") from error
        c, expected = prior.config, trained.model.config
        if c.codebook_size != expected.codebook_size or c.text_width not in (0, expected.width):
            raise InputError(f"{folder}: learnt for another model than models/{variant}; run {stage} again")
        priors.append(prior.to(trained.device).eval())
    return priors[0], priors[1]


def _whole_prior(folder: Path) -> Prior:
    """The prior of a folder. OSError if the file lacks weights, where transformers would go on with random ones."""
    from medunifier.synthesis.pixelsnail import Prior

    prior, about = Prior.from_pretrained(folder, output_loading_info=True)
    if missing := sorted(about["missing_keys"]):
        raise OSError(f"{len(missing)} weights are missing, {missing[0]} first: other code has written it")
    return prior


def load_generator(variant: str) -> Generator:
    """The model of `models/VARIANT` and the priors of `models/priors/VARIANT-top` and `-bottom`.

    Raises InputError when one of them is missing or broken, or when a prior was trained for another model.
    """
    trained = load_trained(variant)
    from medunifier.synthesis.sampler import Sampler

    priors = [prior.double() for prior in load_priors(variant, trained)]  # see `Generator.draw`
    try:
        sampler = Sampler(*priors)
    except ValueError as error:
        raise InputError(
            f"models/priors/{variant}-*: {error}; run train_prior again for both levels"
        ) from error
    files = {"model": Path("models") / variant}
    files |= {f"prior_{level}": Path("models/priors") / f"{variant}-{level}" for level in LEVELS}
    weights = {name: _sha256(folder / "model.safetensors") for name, folder in files.items()}
    trained.model.image_generator.double()  # see `Generator.draw`
    return Generator(variant, trained, sampler, priors[0].config.text_width > 0, weights)


def draw_again(path: str | Path, generator: Generator | None = None) -> tuple[int, Generator]:
    """Draws the image of a PNG once more from what the file says; how many pixels differ from it, and the generator.

    Args:
        generator: one that earlier calls have loaded; another is loaded if the image is of another variant.
    Raises: InputError if the file is no PNG, says not enough, or was drawn with other weights than those here.
    """
    pixels, fields = read_png(path)
    try:
        variant, seed, text = fields["variant"], int(fields["seed"]), fields["prompt"] or None
        settings, weights = Settings(**json.loads(fields["settings"])), dict(json.loads(fields["weights"]))
        if fields["model"] != MODEL_NAME:
            raise ValueError(f"model {fields['model']}")
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"{path}: its fields do not tell how to draw it again ({error}); only PNGs of generate_images do"
        ) from error
    if generator is None or generator.variant != variant:
        generator = load_generator(variant)
    if other := [name for name, digest in generator.weights.items() if weights.get(name) != digest]:
        raise InputError(
            f"{path}: drawn with other weights than those in models/ ({', '.join(other)}); "
            f"restore the models that drew it (git checkout COMMIT, then dvc checkout) and try again"
        )
    try:
        again = generator.draw(text and [text], [seed], settings).pixels[0]
    except ValueError as error:
        raise InputError(f"{path}: its fields ask for what cannot be drawn ({error})") from error
    if again.shape != pixels.shape:
        raise InputError(
            f"{path}: {pixels.shape} pixels, the model draws {again.shape}; the file was resized"
        )
    return int((again != pixels).sum()), generator


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
