"""How words are chosen one after the other: greedily, by sampling, by beam search.

A `decoder` is called with the last word of each row, ids (R, 1), and gives logits (R, V) of the next one, -inf
for words that may not come. Its method `reorder(rows)` replaces row i of what it remembers by rows[i].

Returned are ids (B, L): the end token closes each row, padding follows.
"""

from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F

from medunifier.model.qformer import KeysValues, Memory

if TYPE_CHECKING:
    from medunifier.model.network import MedUnifierNetwork


class Decoder(Protocol):
    """Next-word logits; see the module's docstring."""

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor: ...
    def reorder(self, rows: torch.Tensor) -> None: ...


class NextWord:
    """The decoder that a `MedUnifierNetwork` is.

    Args:
        queries: what `QFormer.encode_queries` left behind, one row for each text.
        room: the most words a text may get.
        use_cache: keep keys and values of earlier words; otherwise all words are computed at every call.
    """

    def __init__(self, model: "MedUnifierNetwork", queries: list[KeysValues], *, room: int, use_cache: bool):
        self.model, self.queries = model, queries
        self.memory = [Memory(kv, room) for kv in queries] if use_cache else None
        self.words: torch.Tensor | None = None  # (R, L) so far, without memory
        c = model.config
        self.never = [c.pad_token_id, c.cls_token_id, c.decode_token_id]  # no part of a report

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """Last words (R, 1) -> logits (R, V) of the next."""
        if self.memory is not None:
            x = self.model.qformer.decode_text(tokens, self.memory)
        else:
            self.words = tokens if self.words is None else torch.cat([self.words, tokens], 1)
            x = self.model.qformer.decode_text(self.words, self.queries)
        logits = self.model._logits(x[:, -1])
        logits[:, self.never] = -torch.inf
        return logits

    def reorder(self, rows: torch.Tensor) -> None:
        """Row i goes on from what row rows[i] has seen; both belong to one image, whose queries are the same."""
        if self.memory is None:
            self.words = self.words[rows]
            return
        changed = (rows != torch.arange(len(rows), device=rows.device)).nonzero()[:, 0]
        for memory in self.memory:
            memory.move(changed, rows[changed])


def choose_words(
    decoder: Decoder,
    first: torch.Tensor,
    *,
    max_new_tokens: int,
    end: int,
    pad: int,
    do_sample: bool = False,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """The likeliest word at each place or, with `do_sample`, one drawn from what `keep_likely` leaves.

    first (B, 1): the start token of each row.
    """
    token, done, words = first, torch.zeros(len(first), dtype=torch.bool, device=first.device), []
    for _ in range(max_new_tokens):
        logits = decoder(token).float()
        if do_sample:
            shares = keep_likely(logits, temperature, top_k, top_p).softmax(-1)
            chosen = torch.multinomial(shares, 1, generator=generator)[:, 0]
        else:
            chosen = logits.argmax(-1)
        token = chosen.masked_fill(done, pad)[:, None]
        words.append(token)
        done |= token[:, 0] == end
        if done.all():
            break
    return torch.cat(words, 1)


def keep_likely(
    logits: torch.Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> torch.Tensor:
    """Logits (R, V) divided by the temperature, -inf outside the `top_k` likeliest words and outside the nucleus.

    The nucleus (Holtzman et al. 2020) is the smallest set of likeliest words whose probabilities, after `top_k`,
    reach `top_p`.
    """
    logits = logits / temperature
    if top_k is not None:
        least = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if top_p is not None:
        ordered, words = logits.sort(descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)  # probability of all likelier words
        outside = (before >= top_p).scatter(1, words, before >= top_p)
        logits = logits.masked_fill(outside, -torch.inf)
    return logits


def beam_search(
    decoder: Decoder,
    first: torch.Tensor,
    *,
    num_beams: int,
    max_new_tokens: int,
    end: int,
    pad: int,
    length_penalty: float = 1.0,
) -> torch.Tensor:
    """The best of the texts that `num_beams` parallel searches finish, by log probability / length^length_penalty.

    As transformers does it (`early_stopping=False`): a row is closed once its best running text, at its present
    length, scores below the worst of `num_beams` finished ones.

    first (B, 1). The decoder holds B * num_beams rows, those of one item side by side.
    """
    batch, k = len(first), num_beams
    tokens = first.repeat_interleave(k, 0)  # (B k, 1)
    words = tokens.new_zeros(batch, k, 0)  # of the running texts
    running = torch.full((batch, k), -torch.inf, device=first.device)
    running[:, 0] = 0.0  # all start alike: one counts
    finished = torch.full((batch, k, max_new_tokens), pad, device=first.device)
    scores = torch.full((batch, k), -torch.inf, device=first.device)  # of the finished texts, best first
    is_open = torch.ones(batch, 1, dtype=torch.bool, device=first.device)
    offsets = k * torch.arange(batch, device=first.device)[:, None]
    for length in range(1, max_new_tokens + 1):
        chances = decoder(tokens).float().log_softmax(-1).unflatten(0, (batch, k))  # (B, k, V)
        vocabulary = chances.shape[-1]
        # 2 k candidates: k of them may end, and k have to run on
        chances, flat = (running[..., None] + chances).flatten(1).topk(min(2 * k, k * vocabulary))
        beam, word = flat // vocabulary, flat % vocabulary
        candidates = torch.cat([_pick(words, beam), word[..., None]], 2)  # (B, 2 k, length)

        best_k = torch.arange(word.shape[1], device=word.device) < k
        ends = is_open & best_k & ((word == end) | (length == max_new_tokens))
        new = (chances / length**length_penalty).masked_fill(~ends, -torch.inf)
        texts = torch.cat([finished, F.pad(candidates, (0, max_new_tokens - length), value=pad)], 1)
        scores, kept = torch.cat([scores, new], 1).topk(k)
        finished = _pick(texts, kept)

        running, order = chances.masked_fill(word == end, -torch.inf).topk(k)
        is_open = is_open & (running[:, :1] / length**length_penalty > scores[:, -1:])
        if not is_open.any() or length == max_new_tokens:
            break
        words = _pick(candidates, order)
        tokens = words[:, :, -1].reshape(-1, 1)
        decoder.reorder((beam.gather(1, order) + offsets).flatten())
    best = finished[:, 0]
    return best[:, : int((best != pad).sum(1).max())]


def _pick(texts: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Rows (B, m) of texts (B, n, L): (B, m, L)."""
    return texts.gather(1, rows[..., None].expand(-1, -1, texts.shape[2]))
