"""The Q-Former the slow and obvious way: one sequence [queries ; text], one mask per pass (Fig. 2)."""

import torch
import torch.nn.functional as F


def visible(kind: str, queries: int, mask: torch.Tensor) -> torch.Tensor:
    """(B, Q + L, Q + L): True where row i may attend to column j."""
    batch, length = mask.shape
    total = queries + length
    allowed_pairs = torch.zeros(batch, total, total, dtype=torch.bool)
    for b in range(batch):
        for i in range(total):
            for j in range(total):
                i_text, j_text = i >= queries, j >= queries
                allowed = {
                    "uni-modal": i_text == j_text,
                    "bi-directional": True,
                    "multi-modal causal": (not j_text) or (i_text and j <= i),
                }[kind]
                real = not j_text or bool(mask[b, j - queries])
                allowed_pairs[b, i, j] = allowed and real
    return allowed_pairs


def forward(
    qformer, features: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor, kind: str
) -> torch.Tensor:
    """Outputs (B, Q + L, W) of the whole sequence; evaluation mode."""
    n = qformer.query_tokens.shape[1]
    words = qformer.word_embeddings(ids) + qformer.position_embeddings(torch.arange(ids.shape[1]))
    x = qformer.norm(torch.cat([qformer.query_tokens.expand(len(ids), -1, -1), words], 1))
    allowed_pairs = visible(kind, n, mask)
    for block in qformer.blocks:
        x = attend(block.attention, x, x, allowed_pairs)
        queries, text = x[:, :n], x[:, n:]
        if block.cross_attention is not None:
            everything = torch.ones(len(ids), n, features.shape[1], dtype=torch.bool)
            queries = attend(block.cross_attention, queries, features, everything)
        x = torch.cat([feed(block.feed_forward_queries, queries), feed(block.feed_forward_text, text)], 1)
    return x


def attend(layer, x, source, allowed_pairs):
    heads = []
    if hasattr(layer, "query_key_value"):
        queries, keys, values = layer.query_key_value(x).chunk(3, -1)
    else:
        queries, (keys, values) = layer.query(x), layer.key_value(source).chunk(2, -1)
    size = x.shape[-1] // layer.heads
    for h in range(layer.heads):
        part = slice(h * size, (h + 1) * size)
        q, k, v = queries[..., part], keys[..., part], values[..., part]
        scores = (q @ k.transpose(1, 2) / size**0.5).masked_fill(~allowed_pairs, -torch.inf)
        heads.append(scores.softmax(-1).nan_to_num() @ v)
    return layer.norm(x + layer.out(torch.cat(heads, -1)))


def feed(layer, x):
    return layer.norm(x + layer.down(F.gelu(layer.up(x))))
