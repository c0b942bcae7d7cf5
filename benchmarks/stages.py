"""Speed of the stages, for `python -m workflow.plan`: `python -m benchmarks.stages [--save]`.

Two kinds of values, run after a complete `make demo` in this folder:
* core-seconds of each stage, as it measured itself (.state/costs), over what the stage worked on;
* FLOP of one forward pass for each preset, counted by PyTorch on the model itself (random weights).
`--save` writes benchmarks/results/stages-DATE.json. `--count` counts alone, in a minute: all presets but the demo, whose
FLOP and measured values are those of the newest record, since the speeds were calculated from both.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import records
from benchmarks.training_step import NoDecoder, bottom_decoder, without_decoder
from medunifier.huggingface.modeling_medunifier import MedUnifierConfig, MedUnifierModel
from medunifier.runtime.yaml import read_mapping
from workflow.plan import load_sizes

REPO = Path(__file__).resolve().parents[1]
PAIRS = 4  # of the batch whose FLOP are counted
PRESETS = ("demo", "lean", "paper", "release")


def core_seconds(folder: Path) -> dict[str, float]:
    """Return stage family -> processor time of all its stages in the run that `folder` holds."""
    seconds: dict[str, float] = {}
    for path in sorted((folder / ".state/costs").glob("*.json")):
        family = path.stem.partition("@")[0]
        costs = json.loads(path.read_text(encoding="utf-8"))["costs"]
        seconds[family] = seconds.get(family, 0.0) + float(costs["cpu_seconds"])
    return seconds


def worked_on(folder: Path) -> dict[str, float]:
    """Return the work of that run: images of the index, images decoded, pairs trained on."""
    params = read_mapping(folder / "params.yaml")
    prepared = [json.loads(p.read_text()) for p in (folder / "data/prepared").glob("*/summary.json")]
    decoded = [json.loads(p.read_text()) for p in (folder / "data/images").glob("*/summary.json")]
    return {
        "index_rows": sum(one["raw"] for one in prepared),
        "decoded": sum(one["decoded"] for one in decoded),
        "source_pixels": params["simulate"]["image_size"] ** 2,
        "pairs_trained_on": params["pretrain"]["steps"] * params["pretrain"]["batch_size"],
    }


def forward_gflop(preset: str) -> dict[str, float]:
    """Return GFLOP of a forward pass per image and report: of the frozen encoder (by rule), of the model (counted)."""
    sizes = load_sizes(REPO / "workflow/presets" / f"{preset}.yaml")
    m = sizes.params["model"]
    names = set(MedUnifierConfig().to_dict()) & set(m)
    config = MedUnifierConfig(
        **{name: m[name] for name in names},
        vision_width=sizes.encoder.width,
        vision_tokens=sizes.tokens,
        vocab_size=sizes.params["tokenizer"]["vocab_size"],
        decode_token_id=4,
    )
    torch.manual_seed(0)
    decoder_flop, decoder_weights = decoding(config)
    model = MedUnifierModel(
        without_decoder(config)
    )  # the authors' decoder takes minutes; its FLOP need no numbers
    model.image_generator.decoder = NoDecoder()
    length = m["max_text_tokens"]
    batch = {
        "features": torch.randn(PAIRS, sizes.tokens, sizes.encoder.width),
        "input_ids": torch.randint(10, 1000, (PAIRS, length)),
        "attention_mask": torch.ones(PAIRS, length, dtype=torch.long),
        "images": torch.rand(PAIRS, m["image_channels"], 224, 224),
    }
    weights = dict.fromkeys(("itc", "itm", "itg", "tig"), 1.0)
    with FlopCounterMode(display=False) as counter:
        model(**batch, weights=weights, generator=torch.Generator().manual_seed(0))
    return {
        # Of the encoder, whatever its kind; the key is that of earlier records.
        "vit": sizes.encoder_flops / 1e9,
        "model": (counter.get_total_flops() / PAIRS + decoder_flop) / 1e9,
        "million_weights": (sum(x.numel() for x in model.parameters()) + decoder_weights) / 1e6,
    }


def decoding(c: MedUnifierConfig) -> tuple[float, int]:
    """Return the FLOP of decoding an image, and the number of the bottom decoder's weights."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        decoder = bottom_decoder(c)
        bottom = c.code_width * (1 if c.bottom_latents == "joined" else 2)
        decoder(torch.empty(1, c.code_width, 16, 16), torch.empty(1, bottom, 16, 16))
    return counter.get_total_flops(), sum(x.numel() for x in decoder.parameters())


def counted_again() -> dict[str, Any]:
    """Return the newest record's measured values and their date, with today's FLOP of all presets but the demo."""
    newest = json.loads(max(records.RESULTS.glob("stages-*.json")).read_text(encoding="utf-8"))
    measured = {
        name: value for name, value in newest.items() if name not in {"command", "python", "torch", "date"}
    }
    counted = rounded({preset: forward_gflop(preset) for preset in PRESETS if preset != "demo"})
    gflop = {"demo": newest["forward_gflop"]["demo"]} | counted
    return {"measured": newest.get("measured", newest["date"])} | measured | {"forward_gflop": gflop}


def planner_values(folder: Path) -> dict[str, Any]:
    """Return everything that the planner reads."""
    seconds, work = core_seconds(folder), worked_on(folder)
    gflop = {preset: forward_gflop(preset) for preset in PRESETS}
    encoder, model = gflop["demo"]["vit"], gflop["demo"]["model"]
    return {
        "forward_gflop": gflop,
        "demo_core_seconds": seconds,
        "demo_worked_on": work,
        "core_prepared_rows_per_s": work["index_rows"] / seconds["prepare"],
        "core_decoded_megapixels_per_s": work["decoded"]
        * work["source_pixels"]
        / 1e6
        / seconds["decode_images"],
        "core_gflops_cnn": encoder * work["decoded"] / seconds["extract_features"],
        "core_gflops_training": 3 * model * work["pairs_trained_on"] / seconds["pretrain"],
    }


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/stages-DATE.json")
    parser.add_argument("--count", action="store_true", help="count FLOP alone")
    parser.add_argument("--folder", type=Path, default=Path(), help="where the demo has run; default: here")
    arguments = parser.parse_args()
    if arguments.count:
        about = counted_again()
    else:
        about = {"cores": os.cpu_count(), **rounded(planner_values(arguments.folder))}
    print(json.dumps(about, indent=1))
    if arguments.save:
        command = f"python -m benchmarks.stages {'--count ' if arguments.count else ''}--save"
        path = records.save("stages", command, about)
        print(f"written: {path.relative_to(REPO)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
