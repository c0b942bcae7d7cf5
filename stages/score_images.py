"""Stage score_images: how much of a picture its codes keep (paper Table 5, reconstruction)."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from stages.entry import run_stage
from stages.errors import InputError
from stages.inference import BATCH, Trained, batches, load_trained, seeded_rows
from stages.metrics.bootstrap import bootstrap_means
from stages.metrics.image import frechet_distance, inception_features, mean_image, psnr, ssim
from stages.params import Params
from stages.storage.codes import read_codes
from stages.storage.files import atomic_path
from stages.storage.images import ImageStore
from stages.storage.tables import PREPARED, Schema, read_table, write_table
from stages.tracking import Run

RESAMPLES = 1000
AVERAGED = 10_000  # training pictures in the mean image, drawn by the seed
SHOWN = 16  # pictures in the grid
SCORES = Schema(
    "image scores",
    {"image_id": pl.String, "psnr": pl.Float64, "ssim": pl.Float64, "psnr_mean_image": pl.Float64},
    frozenset({"image_id", "psnr", "ssim", "psnr_mean_image"}),
)

Pictures = Callable[[], Iterable[np.ndarray]]  # gives uint8 batches [k, H, W], anew at every call


def score_images(params: Params, run: Run, variant: str) -> None:
    """Draw test pictures from their codes with the model VARIANT and compare them with the pictures themselves.

    PSNR (dB) and SSIM are means over pictures, on grey values; `psnr_mean_image` is that of the mean training
    picture as the answer for every one, `psnr_gain` what the codes add to it. `fd_vit_*` is the Frechet
    distance to training pictures in the features of the frozen ViT, of reconstructed test pictures and of real
    validation pictures; with Inception weights given, `fid_*` is the same in Inception's.
    """
    dataset, seed, size = params.pretrain.dataset, params.seed, params.score_images.max_images
    store = ImageStore(Path("data/images") / dataset)
    trained = load_trained(variant)
    train = coded_pictures(variant, dataset, "train")
    validate = coded_pictures(variant, dataset, "validate")
    test = coded_pictures(variant, dataset, "test")
    test = test[seeded_rows(len(test), size, seed)]

    run.say(f"draw {len(test)} test pictures from their codes")
    averaged = train["image_id"][seeded_rows(len(train), AVERAGED, seed)]
    scores, drawn = compare(trained, store, test, mean_image(stored(store, averaged)))
    columns = {"psnr_reconstruction": scores["psnr"], "ssim_reconstruction": scores["ssim"]}
    columns |= {
        "psnr_mean_image": scores["psnr_mean_image"],
        "psnr_gain": scores["psnr"] - scores["psnr_mean_image"],
    }
    intervals = bootstrap_means(
        np.stack(list(columns.values()), axis=1),
        resamples=RESAMPLES,
        seed=seed,
        clusters=test["patient_id"].to_list(),
    )
    for name, interval in zip(columns, intervals, strict=True):
        run.metrics(interval.flat(name))

    folder = Path("results/images") / variant
    write_table(pl.DataFrame({"image_id": test["image_id"], **scores}), folder / "scores.parquet", SCORES)
    shown = store.read(store.rows(test["image_id"][:SHOWN]))
    write_grid(folder / "reconstructions.png", shown, drawn[:SHOWN])
    run.artifact(folder / "reconstructions.png")

    # A Frechet distance falls with the number of pictures: the two compared sets are of one size.
    n = min(len(test), len(validate), size or len(test))
    chosen = drawn[seeded_rows(len(drawn), n, seed)]
    real = validate["image_id"][seeded_rows(len(validate), n, seed)]
    reference = train["image_id"][seeded_rows(len(train), size, seed)]
    sets: dict[str, Pictures] = {
        "reference": lambda: stored(store, reference),
        "reconstruction": lambda: (chosen[part] for part in batches(n, BATCH, "drawn pictures")),
        "validation": lambda: stored(store, real),
    }
    run.metrics(
        {"fd_vit_reference_n": len(reference), "fd_vit_reconstruction_n": n, "fd_vit_validation_n": n}
    )
    run.metrics(distances("fd_vit", sets, vit_features(params, trained)))
    weights = params.score_images.inception_weights
    if weights is None:
        run.say("no FID: score_images.inception_weights names no file")
        return
    run.metrics({"fid_reference_n": len(reference), "fid_reconstruction_n": n, "fid_validation_n": n})
    run.metrics(
        distances("fid", sets, lambda pictures: inception_features(pictures, weights, str(trained.device)))
    )


def coded_pictures(variant: str, dataset: str, split: str) -> pl.DataFrame:
    """The pictures of a split that have codes: `image_id, top, bottom, patient_id`; InputError if fewer than 2."""
    path = Path("data/codes") / variant / f"{split}.parquet"
    ids, top, bottom = read_codes(path)
    prepared = read_table(Path("data/prepared") / dataset / f"{split}.parquet", PREPARED)
    table = pl.DataFrame({"image_id": ids, "top": top, "bottom": bottom})
    table = table.join(
        prepared.select("image_id", "patient_id"), on="image_id", how="left", maintain_order="left"
    )
    unknown = table["patient_id"].null_count()
    if unknown:
        raise InputError(
            f"{path}: {unknown} pictures are not in {dataset}'s table; run encode_codes@{variant} again"
        )
    if len(table) < 2:
        raise InputError(
            f"{path}: {len(table)} pictures, at least 2 are needed; give the split more patients"
        )
    return table


def compare(
    trained: Trained, store: ImageStore, test: pl.DataFrame, mean: np.ndarray
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Scores [n] of pictures drawn from their codes, by the names of `SCORES`, and these pictures, uint8 [n, H, W].

    Args:
        mean: the mean training picture, [H, W] in [0, 1].
    """
    import torch

    rows, top, bottom = store.rows(test["image_id"]), test["top"].to_numpy(), test["bottom"].to_numpy()
    found: dict[str, list[np.ndarray]] = {"psnr": [], "ssim": [], "psnr_mean_image": []}
    kept = []
    for part in batches(len(test), BATCH, "draw pictures"):
        codes = [torch.from_numpy(level[part].astype(np.int64)).to(trained.device) for level in (top, bottom)]
        with torch.inference_mode():
            pictures = trained.model.decode_codes(*codes)  # (k, C, 224, 224)
        drawn = pictures.float().clamp(0, 1).mean(1).cpu().numpy()
        real = store.read(rows[part]).astype(np.float32) / 255
        if real.shape != drawn.shape:
            raise InputError(
                f"{store.folder}: pictures are {real.shape[1:]}, the model draws {drawn.shape[1:]}; "
                f"set images.size to {drawn.shape[1]}"
            )
        found["psnr"].append(psnr(drawn, real))
        found["ssim"].append(ssim(drawn, real))
        found["psnr_mean_image"].append(psnr(real, mean))
        kept.append((drawn * 255).round().astype(np.uint8))
    return {name: np.concatenate(values) for name, values in found.items()}, np.concatenate(kept)


def stored(store: ImageStore, ids: Sequence[str]) -> Iterator[np.ndarray]:
    """Stored pictures in uint8 batches [k, H, W]."""
    rows = store.rows(ids)
    for part in batches(len(rows), BATCH, "read pictures"):
        yield store.read(rows[part])


def vit_features(params: Params, trained: Trained) -> Callable[[Iterable[np.ndarray]], np.ndarray]:
    """A function from picture batches to features, float32 [n, width]: the frozen ViT's patch tokens, averaged."""
    import torch

    from stages.models.vision import load_vision

    vision = params.vision
    vit = load_vision(vision.model, vision.revision, vision.skip_last_blocks).to(trained.device)

    def features(pictures: Iterable[np.ndarray]) -> np.ndarray:
        means = []
        for batch in pictures:
            grey = torch.from_numpy(batch).to(trained.device).float()[:, None] / 255
            with torch.inference_mode():
                tokens = vit(grey.expand(-1, 3, -1, -1))  # (k, 1 + patches, width)
            means.append(tokens[:, 1:].float().mean(1).cpu().numpy())
        return np.concatenate(means)

    return features


def distances(
    name: str, sets: dict[str, Pictures], features: Callable[[Iterable[np.ndarray]], np.ndarray]
) -> dict[str, float]:
    """`NAME_reconstruction` and `NAME_validation`: Frechet distances of these sets to the set `reference`."""
    reference = features(sets["reference"]())
    compared = ("reconstruction", "validation")
    return {f"{name}_{other}": frechet_distance(features(sets[other]()), reference) for other in compared}


def write_grid(path: Path, real: np.ndarray, drawn: np.ndarray, per_row: int = 8) -> None:
    """A PNG of uint8 pictures [n, H, W]: rows of real ones, below each the row of their reconstructions."""
    from PIL import Image

    rows = []
    for start in range(0, len(real), per_row):
        for pictures in (real, drawn):
            row = np.full((per_row, *real.shape[1:]), 255, np.uint8)  # white where there is no picture
            part = pictures[start : start + per_row]
            row[: len(part)] = part
            rows.append(np.concatenate(row, axis=1))
    with atomic_path(path) as temporary:
        Image.fromarray(np.concatenate(rows)).save(temporary, format="PNG")


if __name__ == "__main__":
    run_stage(score_images, arguments=("variant",))
