"""Tapered decoder and the authors' decoder, trained alike: `python -m benchmarks.decoder FOLDER [--save]`.

FOLDER is the project folder of a finished demo, whose phantom images and features are used. Two models are trained on
the image objective (TIG) alone, from the same start, for the same steps on the same images, once per seed. One has the
tapered decoder of the preset `lean`, (1536, 768, 768) channels and the shortcut. The other has the authors' (2304,
4608, 4608, 2304). All channels are divided by `--divide`; undivided, a step of the authors' takes 90 s per image on a
core. Reported are PSNR and SSIM of the reconstructed validation images, and the arithmetic of an image through each
decoder. `--save` writes benchmarks/results/decoder-DATE.json. The exit code is 1 if the tapered decoder is worse in
the mean over seeds.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import records
from medunifier.data.tokenizer import load_tokenizer
from medunifier.huggingface.new_model import build_model
from medunifier.image_scoring.similarity import psnr, ssim
from medunifier.pretraining.pairs import Pairs
from medunifier.runtime.params import Params, load_params
from medunifier.runtime.yaml import read_mapping
from medunifier.tracking import LocalRun
from medunifier.training.batch_order import mix
from medunifier.training.checkpoints import Checkpoints
from medunifier.training.loop import Trainer
from medunifier.training.recipe import Recipe
from medunifier.training.throughput import flop_counter

REPO = Path(__file__).resolve().parents[1]
WEIGHTS = {"itc": 0.0, "itm": 0.0, "itg": 0.0, "tig": 1.0}
SCORED = 128  # validation images
DECODERS = {"tapered": "lean", "release": "release"}  # name -> preset that it comes from


def decoder_of(preset: str, divide: int) -> dict[str, Any]:
    """Return the decoder settings of a preset, its channels divided."""
    model = read_mapping(REPO / "workflow/presets" / f"{preset}.yaml")["model"]
    return {
        "decoder_kind": model["decoder_kind"],
        "decoder_norm": model["decoder_norm"],
        "decoder_channels": tuple(width // divide for width in model["decoder_channels"]),
        "decoder_shortcut": model["decoder_shortcut"],
    }


def trained(params: Params, decoder: dict[str, Any], steps: int, seed: int) -> dict[str, float]:
    """Train from scratch; return mean PSNR (dB) and SSIM over validation images, and GFLOP of decoding one."""
    params = params.replace(model=params.model.replace(**decoder))
    tokenizer = load_tokenizer(Path("models/tokenizer"))
    pairs, held_out = Pairs(params, tokenizer, "train"), Pairs(params, tokenizer, "validate")
    torch.manual_seed(mix(seed, 0))
    with tempfile.TemporaryDirectory() as temporary:
        run = LocalRun("decoder", temporary)
        model = build_model(params, tokenizer, pairs.features, run.log)
        model.standardise_vision(pairs.model_inputs(model, pairs.load(np.arange(64)))["features"])

        def loss(called, batch, generator):
            losses = called(**pairs.model_inputs(model, batch), weights=WEIGHTS, generator=generator)
            return losses.total, losses.parts

        p = params.pretrain
        recipe = Recipe(
            steps=steps,
            batch_size=p.batch_size,
            learning_rate=p.learning_rate,
            seed=seed,
            warmup_start=p.warmup_start,
            final_learning_rate=p.final_learning_rate,
            validate_every=steps,
        )
        Trainer(
            model,
            recipe,
            items=len(pairs),
            load=pairs.load,
            loss=loss,
            validate=lambda _: {},
            tracker=run,
            checkpoints=Checkpoints(Path(temporary) / "state"),
        ).run()
    model.eval()
    made, real = [], []
    with torch.no_grad():
        for rows in np.arange(min(SCORED, len(held_out))).reshape(-1, 16):
            batch = {name: value.to(model.device) for name, value in held_out.load(rows).items()}
            batch = held_out.model_inputs(model, batch)
            top, bottom = model.encode_codes(batch["features"], batch["input_ids"], batch["attention_mask"])
            made.append(model.decode_codes(top, bottom).mean(1).cpu().numpy())
            real.append(batch["images"].mean(1).cpu().numpy())
        with flop_counter() as counter:
            model.decode_codes(top[:1], bottom[:1])
    made, real = np.concatenate(made), np.concatenate(real)
    return {
        "psnr": float(psnr(made, real).mean()),
        "ssim": float(ssim(made, real).mean()),
        "gflop": counter.get_total_flops() / 1e9,
    }


def earlier_runs(about: dict[str, Any]) -> dict[str, list[dict[str, float]]]:
    """Return the runs of today's record, of each decoder that was trained with the same settings."""
    path = records.path("decoder")
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    about = json.loads(json.dumps(about))
    if any(record.get(key) != about[key] for key in ("steps", "seeds", "pictures")):
        return {}
    return {
        name: runs
        for name, runs in record["each"].items()
        if record["decoders"].get(name) == about["decoders"][name]
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="project folder of a finished demo")
    parser.add_argument("--divide", type=int, default=24, help="of all channels (24)")
    parser.add_argument("--steps", type=int, default=200, help="of training, each (200)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of start and order (0 1 2)")
    parser.add_argument(
        "--decoders",
        nargs="+",
        choices=DECODERS,
        default=list(DECODERS),
        help="train these alone (both); with --save, the other's runs of the same day and settings stay",
    )
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/decoder-DATE.json")
    arguments = parser.parse_args()
    os.chdir(arguments.folder)
    params = load_params()
    decoders = {name: decoder_of(preset, arguments.divide) for name, preset in DECODERS.items()}
    about = {"decoders": decoders, "steps": arguments.steps, "seeds": arguments.seeds, "pictures": SCORED}
    found = {name: [] for name in arguments.decoders}
    for seed in arguments.seeds:
        for name, runs in found.items():
            runs.append(trained(params, decoders[name], arguments.steps, seed))
            print(f"seed {seed}, {name} {decoders[name]}: {runs[-1]}", flush=True)
    if arguments.save:
        found = earlier_runs(about) | found
    means = {
        name: {key: float(np.mean([run[key] for run in runs])) for key in runs[0]}
        for name, runs in found.items()
    }
    print(json.dumps(means, indent=1))
    if arguments.save:
        command = f"python -m benchmarks.decoder FOLDER --divide {arguments.divide} --steps {arguments.steps} --save"
        records.save("decoder", command, about | {"each": found, "means": means})
    if len(means) < len(DECODERS):
        return 0
    worse = [key for key in ("psnr", "ssim") if means["tapered"][key] < means["release"][key]]
    print(
        f"the tapered decoder is worse in {' and '.join(worse)}"
        if worse
        else "the tapered decoder is at least as good"
    )
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
