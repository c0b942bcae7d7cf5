"""Stage score_images: reconstructed and newly drawn images against real ones (paper Table 5, Fig. 3)."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import polars as pl

from medunifier.evaluation.items import BATCH, batches, seeded_rows
from medunifier.evaluation.loading import load_trained
from medunifier.evaluation.trained_model import TrainedModel
from medunifier.image_scoring import prompt_fidelity as fidelity
from medunifier.image_scoring import realism
from medunifier.image_scoring.encoding import Seen, looker, retrieval
from medunifier.image_scoring.realism import NEAREST, stored
from medunifier.image_scoring.similarity import inception_features, mean_image, psnr, ssim, thumbnails
from medunifier.metrics.bootstrap import BootstrapOptions, bootstrap_means
from medunifier.runtime.errors import InputError
from medunifier.runtime.params import Params
from medunifier.stage import run_stage
from medunifier.storage.image_shards import ImageStore
from medunifier.storage.tables import PREPARED, Schema, read_table, write_table
from medunifier.synthesis.codes import read_codes
from medunifier.synthesis.generated_sets import TABLE, read_generated_set
from medunifier.synthesis.png_metadata import MODEL_NAME, write_png
from medunifier.tracking import Run

RESAMPLES = 1000
AVERAGED = 10_000  # training images in the mean image, drawn by the seed
JUDGED = 20_000  # training images that the judge learns from, drawn by the seed
SHOWN = 16  # images in the grid
FIGURE = 8  # columns of figure 3
SETS = ("unconditional", "reports", "prompts", "strips")
SCORES = Schema(
    "image scores",
    {"image_id": pl.String, "psnr": pl.Float64, "ssim": pl.Float64, "psnr_mean_image": pl.Float64},
    frozenset({"image_id", "psnr", "ssim", "psnr_mean_image"}),
)
GRID_FIELDS = {
    "synthetic": "in part",
    "description": "Real images, and images that a model reconstructed or drew. Not for clinical use.",
    "model": MODEL_NAME,
}
VIT_NAMES = {"frechet": "fd_vit", "kernel": "kd_vit", "space": "vit"}
INCEPTION_NAMES = {"frechet": "fid", "kernel": "kid", "space": "inception"}


def score_images(params: Params, run: Run, variant: str) -> None:
    """Compare with real images what the model VARIANT makes of test images' codes, and what it has newly drawn.

    Reconstruction: PSNR (dB) and SSIM are means over test images, on grey values; `psnr_mean_image` is that of the
    mean training image as the answer for every one, `psnr_gain` what the codes add to it.

    Table 5: Frechet distances to training images of real validation images, of reconstructed test images, of
    images drawn without a text, as the paper draws them, and of those drawn from test reports: `fd_vit_validation`,
    `fd_vit_reconstruction`, `fd_vit_synthetic`, `fd_vit_reports`, in the features of the frozen ViT; with Inception
    weights given, the same in Inception's as `fid_...`. All compared sets are of one size. Beside them `kd_vit_...` or
    `kid_...` (kernel distance), `precision_...` and `recall_...`. The paper reconstructs training images; these here
    are held out.

    Drawn images, where the priors take a text: prompt fidelity by a judge that learnt from real images, and the
    judge's own quality (see medunifier/image_scoring/prompt_fidelity.py); retrieval of the text by the model itself; MS-SSIM between
    samples of one prompt. For all of them the nearest training image (medunifier/image_scoring/realism.py).
    """
    dataset, seed, size = params.pretrain.dataset, params.seed, params.score_images.max_images
    folder, store = Path("results/images") / variant, ImageStore(Path("data/images") / dataset)
    trained = load_trained(variant)
    train, validate, tested = (
        coded_images(variant, dataset, split) for split in ("train", "validate", "test")
    )
    test = tested[seeded_rows(len(tested), size, seed)]
    options = BootstrapOptions(RESAMPLES, seed)

    run.log(f"draw {len(test)} test images from their codes")
    averaged = train["image_id"][seeded_rows(len(train), AVERAGED, seed)]
    scores, redrawn = compare(trained, store, test, mean_image(stored(store, averaged)))
    columns = {"psnr_reconstruction": scores["psnr"], "ssim_reconstruction": scores["ssim"]}
    columns |= {
        "psnr_mean_image": scores["psnr_mean_image"],
        "psnr_gain": scores["psnr"] - scores["psnr_mean_image"],
    }
    intervals = bootstrap_means(
        np.stack(list(columns.values()), axis=1), options.with_clusters(test["patient_id"].to_list())
    )
    for name, interval in zip(columns, intervals, strict=True):
        run.metrics(interval.flat(name))
    write_table(pl.DataFrame({"image_id": test["image_id"], **scores}), folder / "scores.parquet", SCORES)
    shown = store.read(store.rows(test["image_id"][:SHOWN]))
    write_grid(folder / "reconstructions.png", *_lines(shown, redrawn[:SHOWN]))
    run.artifact(folder / "reconstructions.png")

    drawn = read_sets(Path("data/generated") / variant)
    write_figure(folder / "figure_3.png", trained, store, tested, drawn)
    run.artifact(folder / "figure_3.png")

    run.log("compare sets of images in the frozen ViT's features")
    look = looker(params.vision, trained)
    seen = {name: look(stored(images)) for name, (_, images) in drawn.items()}
    # A Frechet distance falls with the number of images: the compared sets are of one size.
    compared = {"synthetic": "unconditional", "reports": "reports"}
    sizes = [len(drawn[name][0]) for name in compared.values() if name in drawn]
    n = min(len(test), len(validate), size or len(test), *sizes)
    images = {
        "reference": stored(store, train["image_id"][seeded_rows(len(train), size, seed)]),
        "validation": stored(store, validate["image_id"][seeded_rows(len(validate), n, seed)]),
        "reconstruction": _parts(redrawn[seeded_rows(len(redrawn), n, seed)]),
    }
    means = {name: look(batch).means for name, batch in images.items()}
    means |= {name: seen[source].means[:n] for name, source in compared.items() if source in seen}
    run.metrics(realism.distances(VIT_NAMES, means, seed))

    weights = params.score_images.inception_file
    if weights is None:
        run.log("no FID: score_images.inception_weights names no file")
    else:
        images = {
            "reference": stored(store, train["image_id"][seeded_rows(len(train), size, seed)]),
            "validation": stored(store, validate["image_id"][seeded_rows(len(validate), n, seed)]),
            "reconstruction": _parts(redrawn[seeded_rows(len(redrawn), n, seed)]),
        } | {
            name: _parts(drawn[source][1].read(range(n)))
            for name, source in compared.items()
            if source in drawn
        }
        features = {
            name: inception_features(batch, weights, str(trained.device)) for name, batch in images.items()
        }
        run.metrics(realism.distances(INCEPTION_NAMES, features, seed))

    run.log("look for training images that were copied")
    small = {name: _thumbnails(stored(images)) for name, (_, images) in drawn.items()}
    small_train = _thumbnails(stored(store, train["image_id"]))
    sets = {"validation": (validate["image_id"].to_list(), _thumbnails(stored(store, validate["image_id"])))}
    sets["reconstruction"] = (test["image_id"].to_list(), thumbnails(redrawn))
    sets |= {name: (table["image_id"].to_list(), small[name]) for name, (table, _) in drawn.items()}
    nearest, metrics = realism.memorisation(sets, (train["image_id"].to_list(), small_train))
    write_table(nearest, folder / "nearest.parquet", NEAREST)
    run.metrics(metrics)

    if "prompts" in drawn:
        run.log("judge what the images show")
        chosen = seeded_rows(len(train), JUDGED, seed)
        judge = fidelity.judge_of(train[chosen], small_train[chosen])
        run.metrics(judge_images(judge, store, tested, drawn, small, options))
        run.metrics(find_texts(trained, drawn, seen, options))
        table, images = drawn["prompts"]
        real = store.read(store.rows(validate["image_id"][seeded_rows(len(validate), len(table), seed)]))
        run.metrics(realism.diversity(images.read(range(len(table))), table["row"].to_numpy(), real, options))


Drawn = dict[str, tuple[pl.DataFrame, ImageStore]]  # what generate_images has drawn, by the name of the set


def read_sets(root: Path) -> Drawn:
    """The sets that generate_images has drawn; InputError if there is not even the unconditional one."""
    present = [name for name in SETS if name == "unconditional" or (root / name / TABLE).is_file()]
    return {name: read_generated_set(root / name) for name in present}


def judge_images(
    judge: fidelity.Judge,
    store: ImageStore,
    test: pl.DataFrame,
    drawn: Drawn,
    small: dict[str, np.ndarray],
    options: BootstrapOptions,
) -> fidelity.Metrics:
    """Fidelity to prompts and to reports, and the judge's own quality on real test images."""
    asked = fidelity.read_prompts_asked(drawn["prompts"][0]["prompt"].to_list(), judge)
    judged = len(asked.rows) > 0
    metrics: fidelity.Metrics = {"prompts_judged": len(asked.rows), "prompts_drawn": len(drawn["prompts"][0])}
    patients = options.with_clusters(test["patient_id"].to_list())
    real = _thumbnails(stored(store, test["image_id"]))
    metrics |= fidelity.judge_itself(judge, test, real, asked if judged else None, patients)
    if judged:
        metrics |= fidelity.prompt_fidelity(
            judge, asked, small["prompts"][asked.rows], small["unconditional"], options
        )
    sources = (
        drawn["reports"][0]
        .select(image_id="source_id")
        .join(test, on="image_id", how="left", maintain_order="left")
    )
    return metrics | fidelity.report_fidelity(judge, sources, small["reports"], options)


def find_texts(
    trained: TrainedModel, drawn: Drawn, seen: dict[str, Seen], options: BootstrapOptions
) -> fidelity.Metrics:
    """Retrieval of what images were drawn from, by the model itself."""
    metrics: fidelity.Metrics = {}
    for name, prefix in (("prompts", "prompt"), ("reports", "report")):
        metrics |= retrieval(prefix, seen[name], drawn[name][0]["prompt"].to_list(), trained, options)
    return metrics


def coded_images(variant: str, dataset: str, split: str) -> pl.DataFrame:
    """The images of a split that have codes: `top, bottom` and their prepared rows; InputError if fewer than 2."""
    path = Path("data/codes") / variant / f"{split}.parquet"
    ids, top, bottom = read_codes(path)
    prepared = read_table(Path("data/prepared") / dataset / f"{split}.parquet", PREPARED)
    table = pl.DataFrame({"image_id": ids, "top": top, "bottom": bottom})
    table = table.join(prepared, on="image_id", how="left", maintain_order="left")
    unknown = table["patient_id"].null_count()
    if unknown:
        raise InputError(
            f"{path}: {unknown} images are not in {dataset}'s table; run encode_codes@{variant} again"
        )
    if len(table) < 2:
        raise InputError(f"{path}: {len(table)} images, at least 2 are needed; give the split more patients")
    return table


def compare(
    trained: TrainedModel, store: ImageStore, test: pl.DataFrame, mean: np.ndarray
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Scores [n] of images drawn from their codes, by the names of `SCORES`, and these images, uint8 [n, H, W].

    Args:
        mean: the mean training image, [H, W] in [0, 1].
    """
    rows = store.rows(test["image_id"])
    found: dict[str, list[np.ndarray]] = {"psnr": [], "ssim": [], "psnr_mean_image": []}
    kept = []
    for part in batches(len(test), BATCH, "draw images"):
        drawn = decode(trained, test[part])
        real = store.read(rows[part]).astype(np.float32) / 255
        if real.shape != drawn.shape:
            raise InputError(
                f"{store.folder}: images are {real.shape[1:]}, the model draws {drawn.shape[1:]}; "
                f"set images.size to {drawn.shape[1]}"
            )
        found["psnr"].append(psnr(drawn, real))
        found["ssim"].append(ssim(drawn, real))
        found["psnr_mean_image"].append(psnr(real, mean))
        kept.append((drawn * 255).round().astype(np.uint8))
    return {name: np.concatenate(values) for name, values in found.items()}, np.concatenate(kept)


def decode(trained: TrainedModel, coded: pl.DataFrame) -> np.ndarray:
    """Images of the codes in the columns `top` and `bottom`, grey, float32 [n, H, W] in [0, 1]."""
    import torch

    levels = (coded[level].to_numpy().astype(np.int64) for level in ("top", "bottom"))
    with torch.inference_mode():
        images = trained.model.decode_codes(*(torch.from_numpy(codes).to(trained.device) for codes in levels))
    return images.float().clamp(0, 1).mean(1).cpu().numpy()


def write_figure(
    path: Path, trained: TrainedModel, store: ImageStore, test: pl.DataFrame, drawn: Drawn
) -> None:
    """Figure 3 of the paper as a PNG, an image to a column: real ones, their reconstructions, images drawn from
    their reports (where the priors take a text), and images drawn without a text.
    """
    sources = drawn["reports"][0]["source_id"] if "reports" in drawn else test["image_id"]
    columns = min(FIGURE, len(sources), len(drawn["unconditional"][0]))
    coded = (
        sources[:columns].to_frame("image_id").join(test, on="image_id", how="left", maintain_order="left")
    )
    lines = [
        store.read(store.rows(coded["image_id"])),
        (decode(trained, coded) * 255).round().astype(np.uint8),
    ]
    lines += [drawn[name][1].read(range(columns)) for name in ("reports", "unconditional") if name in drawn]
    write_grid(path, *lines)


def write_grid(path: Path, *lines: np.ndarray) -> None:
    """A PNG of lines of images, uint8 [columns, H, W] each; shorter lines are white at their end."""
    columns = max(map(len, lines))
    rows = []
    for images in lines:
        row = np.full((columns, *images.shape[1:]), 255, np.uint8)
        row[: len(images)] = images
        rows.append(np.concatenate(row, axis=1))
    write_png(path, np.concatenate(rows), GRID_FIELDS)


def _lines(real: np.ndarray, drawn: np.ndarray, per_row: int = 8) -> list[np.ndarray]:
    """Rows of real images, below each the row of their reconstructions."""
    starts = range(0, len(real), per_row)
    return [side[start : start + per_row] for start in starts for side in (real, drawn)]


def _parts(images: np.ndarray) -> Iterable[np.ndarray]:
    return (images[part] for part in batches(len(images), BATCH, "drawn images"))


def _thumbnails(images: Iterable[np.ndarray]) -> np.ndarray:
    return np.concatenate([thumbnails(batch) for batch in images])


if __name__ == "__main__":
    run_stage(score_images, arguments=("variant",))
