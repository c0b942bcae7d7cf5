"""The Q-Former's start from a BERT checkpoint (paper appendix 2: CXR-BERT, Boecking et al. 2022)."""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import nn

from medunifier.runtime.errors import InputError

TOKENIZER = "Let tokenizer.pretrained be the checkpoint's own tokenizer."
LENGTH_ADVICE = {  # what to do where the number of rows alone does not fit
    "qformer.word_embeddings.weight": TOKENIZER,
    "text_head.bias": TOKENIZER,
    "qformer.position_embeddings.weight": "Set model.max_text_tokens to the checkpoint's positions at most.",
}


class LoadReport(NamedTuple):
    """What a checkpoint gave: names that found no use, and our parameters that it does not cover."""

    unused: list[str]
    missing: list[str]


def read_checkpoint(name: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """config.json and tensors of a BERT checkpoint, by hub name or folder; names without the leading `bert.`.

    Raises InputError when there are no weights or no config.json.
    """
    folder = Path(name)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        try:
            folder = Path(
                snapshot_download(name, allow_patterns=["*.safetensors", "pytorch_model.bin", "*.json"])
            )
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            raise InputError(
                f"model.text_checkpoint: {name!r} is no folder and cannot be fetched from the hub ({error}). "
                "Give the folder of a BERT checkpoint, or fetch it where there is a network."
            ) from error
    if (folder / "model.safetensors").is_file():
        tensors = load_file(folder / "model.safetensors")
    elif (folder / "pytorch_model.bin").is_file():
        tensors = torch.load(folder / "pytorch_model.bin", weights_only=True, map_location="cpu")
    else:
        raise InputError(f"{folder} holds neither model.safetensors nor pytorch_model.bin.")
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{folder} holds no config.json, which tells the number of heads; put it beside the weights."
        )
    old = {
        "gamma": "weight",
        "beta": "bias",
    }  # names of LayerNorm parameters in checkpoints of TensorFlow origin
    clean = {}
    for key, tensor in tensors.items():
        stem, _, last = key.removeprefix("bert.").rpartition(".")
        clean[f"{stem}.{old.get(last, last)}"] = tensor
    return json.loads((folder / "config.json").read_text(encoding="utf-8")), clean


def load_bert(qformer: nn.Module, text_head: nn.Module, name: str) -> LoadReport:
    """Copies a BERT checkpoint into the Q-Former and the text head.

    The text feed-forward weights go into the query branch too, as in BLIP-2. BERT adds the embedding of
    token type 0 to every word; it is folded into the position embeddings. Cross-attention and query
    tokens have no counterpart and keep their start. One word more here (the added [DEC]) and fewer
    positions are expected; every other difference in shape, in heads, blocks or activation is refused.

    Raises InputError naming the first that does not fit.
    """
    config, source = read_checkpoint(name)
    attention = qformer.blocks[0].attention
    for key, default, ours, advice in (  # what is not told is BERT's default
        ("num_attention_heads", 12, attention.heads, "set model.heads to the checkpoint's"),
        ("num_hidden_layers", 12, len(qformer.blocks), "set model.layers to the checkpoint's"),
        ("hidden_act", "gelu", "gelu", "give a checkpoint with this activation"),
    ):
        theirs = config.get(key, default)
        if theirs != ours:
            raise InputError(
                f"model.text_checkpoint {name!r}: {key} is {ours} here and {theirs} there; {advice}."
            )
    used: set[str] = set()
    target = {f"qformer.{k}": v for k, v in qformer.state_dict().items()}
    target |= {f"text_head.{k}": v for k, v in text_head.state_dict().items()}
    filled: set[str] = set()

    def take(key: str) -> torch.Tensor | None:
        if key in source:
            used.add(key)
        return source.get(key)

    def put(to: str, tensor: torch.Tensor | None, *, fewer: int = 0, more: float = 0) -> None:
        """Copies the rows that both have; there may be that many rows fewer or more there than here."""
        if tensor is None:
            return
        own = target[to]
        if own.shape[1:] != tensor.shape[1:] or not len(own) - fewer <= len(tensor) <= len(own) + more:
            advice = "Set model.width to the checkpoint's."
            if own.shape[1:] == tensor.shape[1:]:
                advice = LENGTH_ADVICE.get(to, advice)
            raise InputError(
                f"model.text_checkpoint {name!r}: {to} is {tuple(own.shape)} here and {tuple(tensor.shape)} there. "
                f"{advice}"
            )
        n = min(len(own), len(tensor))
        own[:n].copy_(tensor[:n])
        filled.add(to)

    with torch.no_grad():
        put("qformer.word_embeddings.weight", take("embeddings.word_embeddings.weight"), fewer=1)
        positions, kinds = (
            take("embeddings.position_embeddings.weight"),
            take("embeddings.token_type_embeddings.weight"),
        )
        if positions is not None:
            put(
                "qformer.position_embeddings.weight",
                positions + (kinds[0] if kinds is not None else 0),
                more=math.inf,
            )
        pairs = [("embeddings.LayerNorm", "qformer.norm")]
        for i in range(len(qformer.blocks)):
            theirs, ours = f"encoder.layer.{i}", f"qformer.blocks.{i}"
            for kind in ("weight", "bias"):
                parts = [f"{theirs}.attention.self.{part}.{kind}" for part in ("query", "key", "value")]
                if source.keys() >= set(parts):
                    put(f"{ours}.attention.query_key_value.{kind}", torch.cat([take(key) for key in parts]))
            pairs += [(f"{theirs}.attention.output.dense", f"{ours}.attention.out")]
            pairs += [(f"{theirs}.attention.output.LayerNorm", f"{ours}.attention.norm")]
            for branch in ("text", "queries"):
                pairs += [(f"{theirs}.intermediate.dense", f"{ours}.feed_forward_{branch}.up")]
                pairs += [(f"{theirs}.output.dense", f"{ours}.feed_forward_{branch}.down")]
                pairs += [(f"{theirs}.output.LayerNorm", f"{ours}.feed_forward_{branch}.norm")]
        pairs += [("cls.predictions.transform.dense", "text_head.dense")]
        pairs += [("cls.predictions.transform.LayerNorm", "text_head.norm")]
        for theirs, ours in pairs:
            for kind in ("weight", "bias"):
                put(f"{ours}.{kind}", take(f"{theirs}.{kind}"))
        put("text_head.bias", take("cls.predictions.bias"), fewer=1)
    if f"qformer.blocks.{len(qformer.blocks) - 1}.attention.query_key_value.weight" not in filled:
        raise InputError(
            f"model.text_checkpoint {name!r} lacks weights of its last block, or is no BERT checkpoint."
        )
    return LoadReport(sorted(source.keys() - used), sorted(target.keys() - filled))
