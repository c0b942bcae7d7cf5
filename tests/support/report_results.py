"""A folder of plausible results, written as the stages write them, from which the page is made."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image

from medunifier.data.overlaps import content_digests
from medunifier.runtime.params import load_params
from medunifier.storage.image_shards import write_images
from medunifier.synthesis.generated_sets import GENERATED, write_generated_set
from tests.support.paths import REPO

SIZE = 224
REFERENCES = [
    "The heart is mildly enlarged. There is a small left pleural effusion. No pneumothorax.",
    "The lungs are clear. No pleural effusion or pneumothorax. The cardiac silhouette is normal.",
    "Patchy opacity in the right lower lobe is concerning for pneumonia. No effusion is seen.",
    "Mild pulmonary edema with bilateral <small> effusions. The heart is moderately enlarged.",
    "Linear opacities at the left base are most consistent with atelectasis. No focal consolidation.",
]


def image(rng: np.random.Generator) -> np.ndarray:
    """A soft grey shape, uint8 [224, 224]."""
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    lungs = sum(np.exp(-(((x - s * rng.uniform(0.35, 0.5)) / 0.3) ** 2 + (y / 0.6) ** 2)) for s in (-1, 1))
    return (230 - 180 * np.clip(lungs, 0, 1) + rng.normal(0, 3, x.shape)).clip(0, 255).astype(np.uint8)


def interval(name: str, value: float, half: float, n: int, chance: float | None = None) -> dict[str, float]:
    """A metric as the stages name it."""
    flat = {name: value, f"{name}_ci_low": value - half, f"{name}_ci_high": value + half, f"{name}_n": n}
    return flat | ({} if chance is None else {f"{name}_chance": chance})


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_results(folder: Path) -> Path:
    """Parameters, dvc.yaml and every file that `summarize` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    prompts = "workflow/zero_shot_prompts.yaml"
    for source, name in (
        ("workflow/presets/demo.yaml", "params.yaml"),
        ("dvc.yaml", "dvc.yaml"),
        (prompts, prompts),
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text((REPO / source).read_text())
    rng = np.random.default_rng(0)
    write_data(folder, rng)
    write_metrics(folder / "results/metrics", rng)
    write_curve(folder / "results/curves/pretrain@full.csv", rng)
    write_reconstructions(folder / "results/images/full", rng)
    write_drawn_sets(folder, rng)
    return folder


def write_data(folder: Path, rng: np.random.Generator) -> None:
    kept = {"train": 1104, "validate": 98, "test": 201, "benchmark": 150}
    summary = {
        "dataset": "phantom",
        "raw": 2480,
        "kept": kept,
        "rejected": {"other_view": 641, "missing_text": 92, "benchmark_patient": 187, "missing_image": 7},
        "patients": {name: int(number * 0.7) for name, number in kept.items()},
        "studies": {name: int(number * 0.9) for name, number in kept.items()},
        "bytes": 10**8,
        "image_ids_sha256": {name: f"sha256 of {name}" for name in kept},
        "notes": {"reports_not_utf8": 3, "label_rows_without_image": 0},
        "texts": {"from": "reports"},
        "benchmark": {"classes": dict.fromkeys(("atelectasis", "cardiomegaly", "pleural_effusion"), 50)},
    }
    write_json(folder / "data/prepared/phantom/summary.json", summary)
    decoded = {"dataset": "phantom", "pictures": 1553, "decoded": 1549, "rejected": {"unreadable_image": 4}}
    decoded |= {"verified": 1553, "notes": {"12 of 16 declared bits used": 7}}
    write_json(folder / "data/images/phantom/summary.json", decoded)
    for name in load_params(folder / "params.yaml").datasets.keys() - {"phantom"}:
        write_small_data(folder, name)
    ids = [f"image-{number:03d}" for number in range(40)]
    images = [image(rng) for _ in ids]
    write_images(folder / "data/images/phantom", ids, images, SIZE)
    content_digests(ids, images).write_parquet(folder / "data/images/phantom/contents.parquet")
    write_splits(folder, "phantom", {"train": ids[:20], "test": ids[20:30], "benchmark": ids[30:]})
    table = pl.DataFrame(
        {
            "image_id": ids,
            "study_id": [f"study-{number}" for number in range(40)],
            "reference": [REFERENCES[i % 5] for i in range(40)],
            "prediction": [REFERENCES[i * 3 % 5] for i in range(40)],
        }
    )
    target = folder / "results/reports/full-phantom/predictions.parquet"
    target.parent.mkdir(parents=True)
    table.write_parquet(target)


def write_small_data(folder: Path, name: str) -> None:
    """The counts of one of the other data sets."""
    parts = {"train": 7, "validate": 2, "test": 3}
    summary = {"dataset": name, "raw": 13, "kept": parts, "rejected": {"missing_image": 1}}
    summary |= {
        "patients": parts,
        "studies": parts,
        "bytes": 10**4,
        "notes": {},
        "texts": {"from": "reports"},
    }
    summary["image_ids_sha256"] = {split: f"sha256 of {name} {split}" for split in parts}
    write_json(folder / f"data/prepared/{name}/summary.json", summary)
    decoded = {"dataset": name, "pictures": 12, "decoded": 12, "rejected": {}}
    decoded |= {"verified": 0, "notes": {}}
    write_json(folder / f"data/images/{name}/summary.json", decoded)
    contents = pl.DataFrame({"image_id": ["a", "b"], "sha256": [f"{name}-a", f"{name}-b"]})
    contents.write_parquet(folder / f"data/images/{name}/contents.parquet")
    write_splits(folder, name, {"train": ["a"], "test": ["b"], "benchmark": ["b"]})


def write_splits(folder: Path, name: str, splits: dict[str, list[str]]) -> None:
    for split, ids in splits.items():
        path = folder / f"data/prepared/{name}/{split}.parquet"
        pl.DataFrame({"image_id": ids, "view": [None] * len(ids)}).write_parquet(path)


def write_metrics(folder: Path, rng: np.random.Generator) -> None:
    losses = {"itc": (3.5, 1.2), "itm": (0.68, 0.31), "itg": (6.9, 0.84), "tig": (0.21, 0.012)}
    values = {"train_pairs": 1100, "validate_pairs": 97, "temperature": 0.05, "parameters": 4_200_000}
    for name, (first, last) in losses.items():
        values |= {f"val_{name}_first": first, f"val_{name}_last": last}
    write_json(folder / "pretrain@full.json", values)
    codes = {
        "perplexity_top": 101.5,
        "perplexity_bottom": 311.2,
        "used_fraction_top": 0.41,
        "used_fraction_bottom": 0.93,
    }
    write_json(folder / "encode_codes@full.json", codes)

    values = {"n_items": 150, "n_classes": 5, "n_reports": 148}
    for direction, base in (("i2t", 52.0), ("t2i", 48.0)):
        for k in (1, 5, 10):
            values |= interval(f"{direction}_map_at_{k}", base - k, 7.1, 150, 19.3 - k)
            values |= interval(f"{direction}_map_release_at_{k}", base + k, 6.0, 150, 30.2)
            values |= interval(f"{direction}_recall_at_{k}", 2.0 * k, 1.9, 150, 0.7 * k)
    write_json(folder / "retrieve@full-phantom.json", values)

    for dataset, metric in (("rsna", "auroc"), ("siim", "auroc"), ("covidx", "accuracy")):
        for percent in (1, 10, 100):
            values = interval(metric, 60 + percent / 5, 5.0, 60, 50.0) | interval(
                f"probe_{metric}", 58, 6.0, 60
            )
            write_json(folder / f"finetune@full-phantom-{dataset}-{percent}.json", values)
    for dataset, chance in (("phantom", 20.0), ("phantom-chexpert", 20.0), ("phantom-rsna", 50.0)):
        write_json(folder / f"zero_shot@full-{dataset}.json", interval("accuracy", 55.5, 4.0, 100, chance))

    values = {"n_written": 40} | interval("bleu_4_gain", 9.8, 2.2, 40)
    for system, base in (("", 24.0), ("constant_", 14.0), ("nearest_", 19.0)):
        for n in (1, 2, 3):
            values |= {f"{system}bleu_{n}": base + 20 / n, f"{system}release_bleu_{n}": base + 10 / n}
        values[f"{system}release_bleu_4"] = base - 4
        for name in ("bleu_4", "meteor", "rouge_l"):
            values |= interval(f"{system}{name}", base, 2.0, 40)
    write_json(folder / "write_reports@full-phantom.json", values)

    values = interval("psnr_reconstruction", 23.41, 0.3, 200) | interval(
        "ssim_reconstruction", 0.71, 0.01, 200
    )
    values |= interval("psnr_mean_image", 15.2, 0.3, 200) | interval("psnr_gain", 8.21, 0.2, 200)
    values |= {"fd_vit_reconstruction": 4.11, "fd_vit_validation": 0.52}
    values |= {"fd_vit_reconstruction_n": 98, "fd_vit_validation_n": 98, "fd_vit_reference_n": 256}
    values |= {f"{kind}_{name}": 1.5 for kind in ("fd_vit", "kd_vit") for name in ("synthetic", "reports")}
    values |= {"kd_vit_validation": 0.01, "kd_vit_reconstruction": 0.4, "fd_vit_synthetic_n": 98}
    values |= {"fd_vit_reports_n": 98}
    for name in ("prompt_fidelity", "prompt_fidelity_side", "prompt_fidelity_both"):
        values |= interval(name, 71.4, 9.0, 56, 14.3) | interval(f"{name}_unconditional", 13.0, 8.0, 56)
    values |= interval("prompt_fidelity_edema", 62.5, 30, 8) | {"judge_auroc_edema": 99.1}
    # its interval must not pass for a finding of the name "ci_low"
    values |= interval("judge_auroc", 92.1, 3, 293)
    values |= interval("judge_accuracy", 84.3, 5, 190) | interval("report_fidelity_auroc", 66.6, 6, 96)
    values |= interval("prompt_retrieval_recall_at_1", 33.3, 10, 56, 7.1)
    values |= interval("ms_ssim_prompt", 0.412, 0.05, 42) | interval("ms_ssim_real", 0.595, 0.02, 42)
    values |= {"nearest_validation": 17.5, "nearest_prompts": 19.25, "nearest_prompts_suspicious": 3.6}
    write_json(folder / "score_images@full.json", values)


def write_curve(path: Path, rng: np.random.Generator) -> None:
    """Training points every 10 steps, validation every 100."""
    rows = []
    starts = {"itc": 3.4, "itm": 0.6, "itg": 6.8, "tig": 0.2}
    for step in range(0, 501, 10):
        decay = {name: 0.1 + start * math.exp(-step / 150) for name, start in starts.items()}
        if step:
            noisy = {k: v * rng.uniform(0.9, 1.1) for k, v in decay.items()}
            rate = 0.001 * min(step / 25, 0.5 + 0.5 * math.cos(math.pi * step / 500))
            row = {
                "step": step,
                "split": "train",
                **noisy,
                "loss": sum(noisy.values()),
                "learning_rate": rate,
            }
            rows.append(row | {"temperature": 0.07 - step * 4e-5})
        if step % 100 == 0:
            used = {"perplexity_top": 20 + step / 6, "perplexity_bottom": 30 + step / 2}
            rows.append({"step": step, "split": "validate", **decay, **used})
    path.parent.mkdir(parents=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)), restval="")
        writer.writeheader()
        writer.writerows(rows)


def write_reconstructions(folder: Path, rng: np.random.Generator) -> None:
    """The grid of 12 pairs, 8 to a row, and their scores."""
    real = [image(rng) for _ in range(12)]
    white = np.full((SIZE, SIZE), 255, np.uint8)
    rows = []
    for start in (0, 8):
        for images in (real, [255 - p // 2 for p in real]):
            rows.append(np.hstack((images[start : start + 8] + [white] * 8)[:8]))
    folder.mkdir(parents=True)
    Image.fromarray(np.vstack(rows)).save(folder / "reconstructions.png")
    pl.DataFrame({"image_id": [str(i) for i in range(20)], "psnr": np.linspace(20, 25, 20)}).write_parquet(
        folder / "scores.parquet"
    )


def write_drawn_sets(folder: Path, rng: np.random.Generator) -> None:
    """Drawn images as generate_images leaves them, figure 3, and the nearest training images."""
    root, small = folder / "data/generated/full", [image(rng) for _ in range(6)]
    strip = [f"There is a {size} left effusion." for size in ("small", "moderate", "large")]
    for name, prompts, rows in (
        ("unconditional", [None] * 6, range(6)),
        ("reports", REFERENCES, range(5)),
        ("prompts", ["There is <edema>."] * 3 + ["Cardiomegaly."] * 3, [0, 0, 0, 1, 1, 1]),
        ("strips", strip, [0, 0, 0]),
    ):
        count = len(prompts)
        table = pl.DataFrame(
            {
                "image_id": [f"{name}-{i}" for i in range(count)],
                "prompt": prompts,
                "seed": range(count),
                "source_id": [None] * count,
                "row": list(rows),
                "top": np.zeros((count, 64), np.uint16),
                "bottom": np.zeros((count, 256), np.uint16),
            },
            schema=dict(GENERATED.columns),
        )
        write_generated_set(root / name, table, small[:count], SIZE)
    figure = np.vstack([np.hstack(small[:3])] * 4)
    Image.fromarray(figure).save(folder / "results/images/full/figure_3.png")
    sets = {"validation": 5, "unconditional": 6, "reports": 5, "prompts": 6, "strips": 3}
    nearest = [
        {
            "set": name,
            "image_id": f"{name}-{i}",
            "nearest_id": f"image-{i:03d}",
            "distance": 10.0 + i + number,
        }
        for number, (name, count) in enumerate(sets.items())
        for i in range(count)
    ]
    pl.DataFrame(nearest).write_parquet(folder / "results/images/full/nearest.parquet")
