"""A small project with what stages leave and read again, and the doors through which they read it."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from transformers import CLIPConfig, CLIPModel

from medunifier.data.tokenizer import load_tokenizer
from medunifier.evaluation.external_encoders import load_encoder
from medunifier.evaluation.loading import load_trained
from medunifier.huggingface.modeling_medunifier import MedUnifierModel
from medunifier.model.qformer import QFormer
from medunifier.model.text import TextHead
from medunifier.pretraining.bert_checkpoint import load_bert
from medunifier.report.results_files import read_metrics
from medunifier.results.item_scores import items_path, read_items, write_items
from medunifier.runtime.files import write_json
from medunifier.storage.image_shards import ImageStore
from medunifier.storage.tables import PREPARED, read_table
from medunifier.synthesis.codes import read_codes, write_codes
from medunifier.synthesis.generated_sets import GENERATED, TABLE, read_generated_set, write_generated_set
from medunifier.synthesis.generator import load_priors
from medunifier.vision.feature_shards import FeatureStore
from medunifier.vision.frozen_encoder import load_vision
from tests.support.small_encoder import write_small_encoder
from tests.support.trained_project import DATASET, VARIANT, image_of, make_priors, make_project
from tests.unit.pretraining.test_bert_folders import WORDS, masked_lm, save

MODEL, PRIOR = Path("models") / VARIANT, Path(f"models/priors/{VARIANT}-top")
SHARD, IMAGES, PREPARED_TABLE = (
    Path(f"data/features/{DATASET}/0"),
    Path(f"data/images/{DATASET}"),
    Path(f"data/prepared/{DATASET}/test.parquet"),
)
VIT, CLIP, BERT, CODES, SET = Path("vit"), Path("clip"), Path("bert"), Path("codes.parquet"), Path("set")
STAGE = "retrieve@full-phantom"
SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def build(folder: Path) -> None:
    """Write the project into a folder, and stay there."""
    folder.mkdir()
    os.chdir(folder)
    make_project(folder)
    make_priors()
    write_small_encoder(VIT)
    torch.manual_seed(0)
    tokenizer = load_tokenizer(MODEL)
    text = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 40,
        "eos_token_id": tokenizer.sep_token_id,
    }
    vision = {"image_size": 32, "patch_size": 16}
    clip = CLIPConfig(text_config=SMALL | text, vision_config=SMALL | vision, projection_dim=8)
    CLIPModel(clip).save_pretrained(CLIP)
    tokenizer.save_pretrained(CLIP)
    BERT.mkdir()
    save(BERT, masked_lm().state_dict())
    ids = [f"i{n}" for n in range(4)]
    top, bottom = np.zeros((4, 64), np.int64), np.ones((4, 256), np.int64)
    write_codes(CODES, ids, top, bottom)
    columns = {"image_id": ids, "prompt": None, "seed": range(4), "source_id": None, "row": range(4)}
    table = pl.DataFrame(columns | {"top": top, "bottom": bottom}, schema=dict(GENERATED.columns))
    write_generated_set(SET, table, (image_of(n) for n in range(4)), 224)
    values = {"metric": "map", "seed": 0, "item_id": ids, "patient_id": ids, "value": 0.5}
    nothing = {
        "positive": pl.Series([None] * 4, dtype=pl.Boolean),
        "statistics": pl.Series([None] * 4, dtype=pl.List(pl.Float64)),
    }
    write_items(STAGE, [pl.DataFrame(values).with_columns(seed=pl.col("seed").cast(pl.Int64), **nothing)])
    write_json(f"results/metrics/{STAGE}.json", {"image_to_text_map_at_1": 50.0})


def bert() -> Any:
    """Load the BERT checkpoint into a Q-Former."""
    sizes = {"width": 16, "layers": 2, "heads": 2, "queries": 4, "vision_width": 10}
    qformer = QFormer(**sizes, vocab_size=len(WORDS) + 1, max_positions=20)
    return load_bert(qformer, TextHead(16, len(WORDS) + 1), str(BERT))


def whole_store(store: Any) -> Any:
    """Read all rows of a store."""
    return store.read(range(len(store)))


@dataclass(frozen=True)
class Door:
    """What reads files of the project.

    Attributes:
        read: opens them.
        files: their paths.
        optional: those that need not be there.
        configuration: the file whose values are spoiled one by one, too.
        fine: names of faults that leave a file of this kind whole.
    """

    read: Callable[[], Any]
    files: tuple[Path, ...]
    optional: tuple[Path, ...] = ()
    configuration: Path | None = None
    fine: tuple[str, ...] = ()


DOORS: Mapping[str, Door] = {
    "model": Door(
        lambda: load_trained(VARIANT), (MODEL / "config.json", MODEL / "model.safetensors"),
        configuration=MODEL / "config.json",
    ),
    "model of transformers": Door(
        lambda: MedUnifierModel.from_pretrained(MODEL), (MODEL / "config.json", MODEL / "model.safetensors"),
    ),
    "tokenizer": Door(
        lambda: load_tokenizer(MODEL), (MODEL / "tokenizer.json", MODEL / "tokenizer_config.json"),
        optional=(MODEL / "tokenizer_config.json",),
    ),
    "priors": Door(
        lambda: load_priors(VARIANT, load_trained(VARIANT)), (PRIOR / "config.json", PRIOR / "model.safetensors"),
        configuration=PRIOR / "config.json",
    ),
    "features": Door(
        lambda: whole_store(FeatureStore(SHARD.parent)),
        (SHARD / "manifest.json", SHARD / "image_ids.parquet", SHARD / "tokens.npy"),
        configuration=SHARD / "manifest.json",
    ),
    "images": Door(lambda: whole_store(ImageStore(IMAGES)), (IMAGES / "part-00000.arrow",)),
    "prepared table": Door(lambda: read_table(PREPARED_TABLE, PREPARED), (PREPARED_TABLE,)),
    "codes": Door(lambda: read_codes(CODES), (CODES,)),
    "generated set": Door(lambda: whole_store(read_generated_set(SET)[1]), (SET / TABLE, SET / "part-00000.arrow")),
    "item scores": Door(lambda: read_items(STAGE), (items_path(STAGE),)),
    "metrics": Door(lambda: read_metrics(STAGE), (Path(f"results/metrics/{STAGE}.json"),), fine=("{}",)),
    "frozen encoder": Door(
        lambda: load_vision(str(VIT)), (VIT / "config.json", VIT / "model.safetensors", VIT / "preprocessor_config.json"),
        configuration=VIT / "config.json",
    ),
    "encoder to evaluate": Door(
        lambda: load_encoder(CLIP), (CLIP / "config.json", CLIP / "model.safetensors", CLIP / "tokenizer.json"),
    ),
    "BERT checkpoint": Door(
        bert, (BERT / "config.json", BERT / "model.safetensors"), configuration=BERT / "config.json",
    ),
}  # fmt: skip
