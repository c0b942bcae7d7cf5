"""Verify a generated PNG by regenerating it from its metadata."""

import json
from collections.abc import Sequence
from pathlib import Path

from medunifier.runtime.errors import InputError
from medunifier.synthesis.generator import Generator, load_generator
from medunifier.synthesis.png_metadata import MODEL_NAME, read_png
from medunifier.synthesis.sampler import SamplingSettings


def count_different_pixels(path: str | Path, generator: Generator | None = None) -> tuple[int, Generator]:
    """Regenerate the image of a PNG from its metadata and compare the pixels.

    Args:
        path: the PNG.
        generator: one that an earlier call has loaded; another is loaded if the image is of another variant.

    Returns:
        The number of pixels that differ, and the generator.

    Raises:
        InputError: if the file is no PNG, lacks metadata, or was generated with other weights than those here.
    """
    pixels, fields = read_png(path)
    try:
        variant, seed, text = fields["variant"], int(fields["seed"]), fields["prompt"] or None
        settings = SamplingSettings(**json.loads(fields["settings"]))
        weights = dict(json.loads(fields["weights"]))
        if fields["model"] != MODEL_NAME:
            raise ValueError(f"model {fields['model']}")
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path}: its metadata are not enough to generate it again ({error}); "
            "only PNGs of generate_images do"
        ) from error
    if generator is None or generator.variant != variant:
        generator = load_generator(variant)
    if other := [name for name, digest in generator.weights.items() if weights.get(name) != digest]:
        raise InputError(
            f"{path}: generated with other weights than those in models/ ({', '.join(other)}); "
            f"restore the models that generated it (git checkout COMMIT, then dvc checkout) and try again"
        )
    try:
        again = generator.generate(None if text is None else [text], [seed], settings).pixels[0]
    except ValueError as error:
        raise InputError(f"{path}: its metadata hold settings that cannot be used ({error})") from error
    if again.shape != pixels.shape:
        raise InputError(
            f"{path}: {pixels.shape} pixels, the model generates {again.shape}; the file was resized"
        )
    return int((again != pixels).sum()), generator


def verify_pngs(paths: Sequence[str | Path]) -> None:
    """Regenerate each PNG from its metadata and print the outcome.

    Raises:
        InputError: if pixels of any of them differ, and as for `count_different_pixels`.
    """
    generator, different = None, 0
    for path in paths:
        pixels, generator = count_different_pixels(path, generator)
        print(f"{path}: {f'{pixels} pixels differ' if pixels else 'the same pixels'}")
        different += pixels > 0
    if different:
        raise InputError(
            f"{different} of {len(paths)} images differ from what their metadata generate: "
            "edited, or generated on other hardware"
        )
