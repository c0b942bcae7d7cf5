"""Stage score_images: reconstructed and generated images against real ones (paper Table 5, Fig. 3)."""

from pathlib import Path

import numpy as np

from medunifier.evaluation.items import seeded_rows
from medunifier.image_scoring import realism
from medunifier.image_scoring.classifier_quality import train_finding_classifier
from medunifier.image_scoring.encoding import EncodedImages, ImageEncoder, prompt_retrieval
from medunifier.image_scoring.image_batches import StoredImages, in_batches
from medunifier.image_scoring.reconstruction import SCORES, reconstruct, reconstruction_metrics
from medunifier.image_scoring.similarity import inception_features, mean_image, thumbnails
from medunifier.image_scoring.text_fidelity import text_fidelity
from medunifier.metrics.bootstrap import BootstrapOptions
from medunifier.runtime.params import Params
from medunifier.stage import run_stage
from medunifier.storage.tables import write_table
from medunifier.synthesis.image_grids import write_figure_3, write_pairs
from medunifier.synthesis.scoring_inputs import ScoringInputs, read_scoring_inputs
from medunifier.tracking import Run

RESAMPLES = 1000  # of the bootstrap
MEAN_IMAGES = 10_000  # training images in the mean image, at most
CLASSIFIER_IMAGES = 20_000  # training images of the finding classifier, at most
SHOWN = 16  # images in the grid of reconstructions
COMPARED = {"synthetic": "unconditional", "reports": "reports"}  # sets of Table 5, by their metrics' name


def score_images(params: Params, run: Run, variant: str) -> None:
    """Compare images that the model VARIANT reconstructs from test images' codes, or generates, with real ones.

    Reconstruction: PSNR (dB) and SSIM are means over test images, on grey values. `psnr_mean_image` is the PSNR of
    the mean training image, the baseline. `psnr_gain` is the difference.

    Table 5: Frechet distances to training images in the features of the frozen encoder. `fd_vit_validation`: real
    validation images; `fd_vit_reconstruction`: reconstructed images, of the training split as in the paper or of the
    test split (`score_images.reconstructed`); `fd_vit_synthetic`: images generated without a text, as in the paper;
    `fd_vit_reports`: images generated from test reports. With Inception weights given, also `fid_...` in Inception's
    features. All compared sets are of one size. Beside them `kd_vit_...` or `kid_...` (kernel distance),
    `precision_...` and `recall_...`.

    Generated images, where the priors take a text: prompt fidelity by a finding classifier that is trained on real
    images, and the classifier's own quality (medunifier/image_scoring/prompt_fidelity.py and classifier_quality.py);
    retrieval of the text by the model itself; MS-SSIM between samples of one prompt. For all of them the nearest
    training image (medunifier/image_scoring/realism.py).
    """
    inputs, folder = read_scoring_inputs(params, variant), Path("results/images") / variant
    private = params.datasets[params.pretrain.dataset].private
    reconstructed = score_reconstructions(inputs, run, folder)
    run.artifact(folder / "reconstructions.png", private=private)
    write_figure_3(folder / "figure_3.png", inputs.trained, inputs.store, inputs.test, inputs.generated)
    run.artifact(folder / "figure_3.png", private=private)
    encoded = compare_sets(params, inputs, reconstructed, run)
    small = find_copies(inputs, reconstructed, run, folder)
    if "prompts" in inputs.generated:
        score_texts(inputs, encoded, small, run)


def score_reconstructions(inputs: ScoringInputs, run: Run, folder: Path) -> np.ndarray:
    """Score and show reconstructed test images; returns them, uint8 [n, H, W]."""
    test, options = inputs.choose(inputs.test, inputs.max_images), BootstrapOptions(RESAMPLES, inputs.seed)
    run.log(f"reconstruct {len(test)} test images from their codes")
    mean = mean_image(inputs.images(inputs.choose(inputs.train, MEAN_IMAGES)))
    scores, reconstructed = reconstruct(inputs.trained, inputs.store, test, mean)
    run.metrics(reconstruction_metrics(scores, options.with_clusters(test["patient_id"].to_list())))
    write_table(scores, folder / "scores.parquet", SCORES)
    shown = inputs.images(test[:SHOWN]).read()
    write_pairs(folder / "reconstructions.png", shown, reconstructed[:SHOWN])
    return reconstructed


def compare_sets(
    params: Params, inputs: ScoringInputs, reconstructed: np.ndarray, run: Run
) -> dict[str, EncodedImages]:
    """Measure distances between sets of images; returns the encoded generated sets."""
    generated, seed = inputs.generated, inputs.seed
    run.log("compare sets of images in the frozen encoder's features")
    encoder = ImageEncoder(params.vision, inputs.trained, params.features.batch_size)
    encoded = {name: encoder.encode(StoredImages(images)) for name, (_, images) in generated.items()}
    compared = {name: source for name, source in COMPARED.items() if source in generated}
    # A Frechet distance falls with the number of images: the compared sets are of one size.
    sizes = [len(generated[source][0]) for source in compared.values()]
    n = min(len(inputs.train), len(reconstructed), len(inputs.validate), *sizes)
    real = {
        "reference": inputs.images(inputs.choose(inputs.train, inputs.max_images)),
        "validation": inputs.images(inputs.choose(inputs.validate, n)),
        "reconstruction": in_batches(inputs.reconstructions(n, reconstructed)),
    }
    means = {name: encoder.encode(images).means for name, images in real.items()}
    means |= {name: encoded[source].means[:n] for name, source in compared.items()}
    run.metrics(realism.distances(realism.VIT, means, seed))

    weights = params.score_images.inception_file
    if weights is None:
        run.log("no FID: score_images.inception_weights names no file")
        return encoded
    new = {name: in_batches(generated[source][1].read(np.arange(n))) for name, source in compared.items()}
    device = str(inputs.trained.device)
    features = {name: inception_features(images, weights, device) for name, images in (real | new).items()}
    run.metrics(realism.distances(realism.INCEPTION, features, seed))
    return encoded


def find_copies(
    inputs: ScoringInputs, reconstructed: np.ndarray, run: Run, folder: Path
) -> dict[str, np.ndarray]:
    """Find the nearest training images; returns the thumbnails of the training images and of the generated sets."""
    run.log("search for copies of training images")
    ids = {name: table["image_id"].to_list() for name, (table, _) in inputs.generated.items()}
    small = {name: StoredImages(images).thumbnails() for name, (_, images) in inputs.generated.items()}
    test = inputs.choose(inputs.test, inputs.max_images)
    sets = {
        "validation": (inputs.validate["image_id"].to_list(), inputs.images(inputs.validate).thumbnails()),
        "reconstruction": (test["image_id"].to_list(), thumbnails(reconstructed)),
    }
    sets |= {name: (ids[name], small[name]) for name in small}
    train = inputs.train["image_id"].to_list(), inputs.images(inputs.train).thumbnails()
    nearest, metrics = realism.memorisation(sets, train)
    write_table(nearest, folder / "nearest.parquet", realism.NEAREST)
    run.metrics(metrics)
    return small | {"train": train[1]}


def score_texts(
    inputs: ScoringInputs, encoded: dict[str, EncodedImages], small: dict[str, np.ndarray], run: Run
) -> None:
    """Measure fidelity to prompts and reports, retrieval of the text, and diversity of a prompt's samples."""
    run.log("classify the findings of generated images")
    options = BootstrapOptions(RESAMPLES, inputs.seed)
    rows = seeded_rows(len(inputs.train), CLASSIFIER_IMAGES, inputs.seed)
    classifier = train_finding_classifier(inputs.train[rows], small["train"][rows])
    (prompts, images), (reports, _) = inputs.generated["prompts"], inputs.generated["reports"]
    small = small | {"test": inputs.images(inputs.test).thumbnails()}
    run.metrics(
        text_fidelity(classifier, inputs.test, prompts["prompt"], reports["source_id"], small, options)
    )
    for name, table, prefix in (("prompts", prompts, "prompt"), ("reports", reports, "report")):
        texts = table["prompt"].to_list()
        run.metrics(prompt_retrieval(prefix, encoded[name], texts, inputs.trained, options))
    real = inputs.images(inputs.choose(inputs.validate, len(prompts))).read()
    samples = images.read(np.arange(len(prompts)))
    run.metrics(realism.diversity(samples, prompts["row"].to_numpy(), real, options))


if __name__ == "__main__":
    run_stage(score_images, arguments=("variant",))
