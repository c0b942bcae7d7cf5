"""Initialize the Q-Former from a BERT checkpoint (paper appendix 2: CXR-BERT, Boecking et al. 2022)."""

import math
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from medunifier.model.attention import Block
from medunifier.model.qformer import QFormer
from medunifier.model.text import TextHead
from medunifier.runtime.errors import InputError
from medunifier.runtime.json_files import read_json_object
from medunifier.storage.weights import read_weights

TOKENIZER = "Let tokenizer.pretrained be the checkpoint's own tokenizer."
LENGTH_ADVICE = {  # what to do where the number of rows alone does not fit
    "qformer.word_embeddings.weight": TOKENIZER,
    "text_head.bias": TOKENIZER,
    "qformer.position_embeddings.weight": "Set model.max_text_tokens to the checkpoint's positions at most.",
}
OLD_NAMES = {"gamma": "weight", "beta": "bias"}  # of LayerNorm in checkpoints of TensorFlow origin
FILES = ("model.safetensors", "pytorch_model.bin")


class LoadReport(NamedTuple):
    """Names of the checkpoint that were not used, and our parameters that it does not cover."""

    unused: list[str]
    missing: list[str]


def load_bert(qformer: QFormer, text_head: TextHead, name: str) -> LoadReport:
    """Copy a BERT checkpoint into the Q-Former and the text head.

    * The text's feed-forward weights go into the query branch too, as in BLIP-2.
    * BERT adds the embedding of token type 0 to every token; it is folded into the position embeddings.
    * Cross-attention and query tokens have no counterpart and keep their initial values.
    * The prediction head shares its matrix with the word embeddings here. A checkpoint whose head has another one, or
      none, or heads of its own (CXR-BERT-specialized's `cls_projection_head`), loads as the BERT that it holds; what is
      not used is named.
    * One more token here (the added [DEC]) and fewer positions are expected.

    Args:
        qformer: changed in place.
        text_head: changed in place.
        name: hub name or folder of the checkpoint.

    Raises:
        InputError: names the first difference in shape, heads, blocks or activation; no weights, no config.json.
    """
    config, source = read_checkpoint(name)
    check_architecture(name, config, qformer)
    copier = _Copier(name, source, qformer, text_head)
    with torch.no_grad():
        copier.copy_embeddings()
        for number in range(len(qformer.blocks)):
            copier.copy_block(number)
        copier.copy_text_head()
    if f"qformer.blocks.{len(qformer.blocks) - 1}.attention.query_key_value.weight" not in copier.filled:
        raise InputError(
            f"model.text_checkpoint {name!r} lacks weights of its last block, or is no BERT checkpoint."
        )
    return LoadReport(sorted(source.keys() - copier.used), sorted(copier.target.keys() - copier.filled))


def read_checkpoint(name: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Read config.json and the tensors of a BERT checkpoint, by hub name or folder.

    Returns:
        The configuration; tensors by name, without the leading `bert.`.

    Raises:
        InputError: there are no weights or no config.json, or they are broken.
    """
    folder = Path(name)
    if not folder.is_dir():
        wanted = ["*.safetensors", "pytorch_model.bin", "*.json"]
        try:
            folder = Path(snapshot_download(name, allow_patterns=wanted))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            raise InputError(
                f"model.text_checkpoint: {name!r} is no folder and cannot be fetched from the hub ({error}). "
                "Give the folder of a BERT checkpoint, or fetch it where there is a network."
            ) from error
    path = next((folder / file for file in FILES if (folder / file).is_file()), None)
    if path is None:
        raise InputError(f"{folder} holds neither {' nor '.join(FILES)}.")
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{folder} holds no config.json, which records the number of heads; put it beside the weights."
        )
    config, clean = read_json_object(folder / "config.json"), {}
    for key, tensor in read_weights(path).items():
        stem, _, last = key.removeprefix("bert.").rpartition(".")
        clean[f"{stem}.{OLD_NAMES.get(last, last)}"] = tensor
    return config, clean


def check_architecture(name: str, config: dict[str, Any], qformer: QFormer) -> None:
    """Raise InputError unless heads, blocks and activation are the Q-Former's, which tensors do not show."""
    heads, blocks = cast(Block, qformer.blocks[0]).attention.heads, len(qformer.blocks)
    for key, default, ours, advice in (  # BERT's default where config.json has no value
        ("num_attention_heads", 12, heads, "set model.heads to the checkpoint's"),
        ("num_hidden_layers", 12, blocks, "set model.layers to the checkpoint's"),
        ("hidden_act", "gelu", "gelu", "give a checkpoint with this activation"),
        ("position_embedding_type", "absolute", "absolute", "give a checkpoint with absolute positions"),
    ):
        theirs = config.get(key, default)
        if theirs != ours:
            raise InputError(
                f"model.text_checkpoint {name!r}: {key} is {ours} here and {theirs} there; {advice}."
            )


class _Copier:
    """Copies tensors of a BERT checkpoint by name, and keeps account of what was used and filled."""

    def __init__(
        self, name: str, source: dict[str, torch.Tensor], qformer: QFormer, text_head: TextHead
    ) -> None:
        self.name, self.source = name, source
        self.target = {f"qformer.{k}": v for k, v in qformer.state_dict().items()}
        self.target |= {f"text_head.{k}": v for k, v in text_head.state_dict().items()}
        self.used: set[str] = set()
        self.filled: set[str] = set()

    def copy_embeddings(self) -> None:
        """Copy token embeddings, positions with token type 0, and the norm after them."""
        self.put("qformer.word_embeddings.weight", self.take("embeddings.word_embeddings.weight"), fewer=1)
        positions = self.take("embeddings.position_embeddings.weight")
        types = self.take("embeddings.token_type_embeddings.weight")
        if positions is not None and types is not None:
            positions = positions + types[0]
        self.put("qformer.position_embeddings.weight", positions, more=math.inf)
        self.copy_layer("embeddings.LayerNorm", "qformer.norm")

    def copy_block(self, number: int) -> None:
        """Copy self-attention, and the feed-forward layers into both branches."""
        theirs, ours = f"encoder.layer.{number}", f"qformer.blocks.{number}"
        for kind in ("weight", "bias"):
            names = [f"{theirs}.attention.self.{part}.{kind}" for part in ("query", "key", "value")]
            parts = [part for part in map(self.take, names) if part is not None]
            if len(parts) == len(names):
                self.put(f"{ours}.attention.query_key_value.{kind}", torch.cat(parts))
        self.copy_layer(f"{theirs}.attention.output.dense", f"{ours}.attention.out")
        self.copy_layer(f"{theirs}.attention.output.LayerNorm", f"{ours}.attention.norm")
        for branch in ("text", "queries"):
            self.copy_layer(f"{theirs}.intermediate.dense", f"{ours}.feed_forward_{branch}.up")
            self.copy_layer(f"{theirs}.output.dense", f"{ours}.feed_forward_{branch}.down")
            self.copy_layer(f"{theirs}.output.LayerNorm", f"{ours}.feed_forward_{branch}.norm")

    def copy_text_head(self) -> None:
        """Copy the prediction head of masked language modelling."""
        self.copy_layer("cls.predictions.transform.dense", "text_head.dense")
        self.copy_layer("cls.predictions.transform.LayerNorm", "text_head.norm")
        bias = self.take("cls.predictions.bias")
        twin = self.take("cls.predictions.decoder.bias")  # the same under another name
        self.put("text_head.bias", twin if bias is None else bias, fewer=1)
        words = self.source.get("embeddings.word_embeddings.weight")
        matrix = self.source.get("cls.predictions.decoder.weight")
        if matrix is not None and words is not None and torch.equal(matrix, words):
            self.used.add("cls.predictions.decoder.weight")  # tied, as ours is

    def copy_layer(self, theirs: str, ours: str) -> None:
        """Copy weight and bias of a layer."""
        for kind in ("weight", "bias"):
            self.put(f"{ours}.{kind}", self.take(f"{theirs}.{kind}"))

    def take(self, key: str) -> torch.Tensor | None:
        """Return a tensor of the checkpoint, if it has it, and note that it is used."""
        if key in self.source:
            self.used.add(key)
        return self.source.get(key)

    def put(self, to: str, tensor: torch.Tensor | None, *, fewer: int = 0, more: float = 0) -> None:
        """Copy the rows that both have.

        Args:
            to: name of our parameter.
            tensor: of the checkpoint; None: nothing is copied.
            fewer: how many rows fewer than ours it may have.
            more: how many rows more than ours it may have.

        Raises:
            InputError: the shapes do not fit.
        """
        if tensor is None:
            return
        own = self.target[to]
        if own.shape[1:] != tensor.shape[1:] or not len(own) - fewer <= len(tensor) <= len(own) + more:
            advice = "Set model.width to the checkpoint's."
            if own.shape[1:] == tensor.shape[1:]:
                advice = LENGTH_ADVICE.get(to, advice)
            raise InputError(
                f"model.text_checkpoint {self.name!r}: {to} is {tuple(own.shape)} here and "
                f"{tuple(tensor.shape)} there. {advice}"
            )
        n = min(len(own), len(tensor))
        own[:n].copy_(tensor[:n])
        self.filled.add(to)
