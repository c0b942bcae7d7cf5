"""Stage generate_images: images without a text, from test reports and from prompts (paper section 4.2, Fig. 3)."""

import inspect
import shutil
import sys
from pathlib import Path

from medunifier.runtime.errors import refuse
from medunifier.runtime.params import Generate, Params
from medunifier.stage import run_stage, set_library_defaults
from medunifier.synthesis.command_line import run_by_hand
from medunifier.synthesis.generator import load_generator
from medunifier.synthesis.image_requests import generate_set, request_sets, write_set
from medunifier.synthesis.sampler import SamplingSettings
from medunifier.tracking import Run

SHOWN_SAMPLES = 4  # images of each prompt that become PNGs


def generate_images(params: Params, run: Run, variant: str) -> None:
    """Generate images with the model VARIANT and its priors, in four sets under data/generated/VARIANT.

    unconditional   without a text, as in the paper
    reports         from reports of the test split, one image each
    prompts         from each prompt of the file generate.prompts, generate.samples images each
    strips          from the strips of that file: the same seed, one word of the prompt changes

    The last three need priors that were trained with prior.condition: text. A set is a store of pixels with a
    table of prompts, seeds and codes. Some of its images are also PNGs, in the folder `shown`, with metadata that
    say what they were generated from. `python -m stages.generate_images --verify FILE.png` regenerates such an
    image and compares the pixels.

    By hand, with any trained model: `python -m stages.generate_images --prompt TEXT --samples 4 --out DIR`.
    """
    generator = load_generator(variant)
    requests = request_sets(params, run, generator)
    settings = SamplingSettings.from_params(params.generate)
    root = Path("data/generated") / variant
    if root.exists():
        shutil.rmtree(root)
    for name, wanted in requests.items():
        run.log(f"generate {len(wanted)} images: {name}")
        table, pixels = generate_set(generator, name, wanted, settings, params.generate.batch_size)
        pngs = shown_images(name, len(wanted), params.generate)
        write_set(root / name, table, pixels, generator, settings, pngs)
        run.metrics({f"n_{name}": len(wanted)})
    for path in sorted(root.glob("prompts/shown/*.png"))[:SHOWN_SAMPLES]:
        run.artifact(path)


def shown_images(name: str, count: int, settings: Generate) -> list[int]:
    """Return the numbers of the images of a set that become PNGs.

    Args:
        name: of the set.
        count: images of the set.
        settings: `samples` of a prompt stand in a row; `shown` limits the sets that have no prompts file.
    """
    if name == "prompts":
        return [i for i in range(count) if i % settings.samples < SHOWN_SAMPLES]
    return list(range(count if name == "strips" else min(count, settings.shown)))


if __name__ == "__main__":
    from_dvc = len(sys.argv) == 3 and sys.argv[1] == "--variant"
    if any(argument.startswith("-") for argument in sys.argv[1:]) and not from_dvc:
        set_library_defaults()
        try:
            run_by_hand(sys.argv[1:], inspect.getdoc(generate_images) or "")
        except Exception as error:
            sys.exit(refuse("generate_images", error))
    else:
        run_stage(generate_images, arguments=("variant",))
