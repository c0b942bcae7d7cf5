"""Choose the tokens of reports one after the other: greedily, by sampling, or by beam search.

A `Decoder` takes the last token of each row, ids (R, 1), and returns logits (R, V) of the next one, -inf for tokens
that may not come. Searches return ids (B, L): the end token closes each row, padding follows.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F

from medunifier.model.attention import KeysValues, Memory
from medunifier.model.qformer import QFormer


class Decoder(Protocol):
    """Logits of the next token; see the module's docstring."""

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return logits (R, V) after the tokens so far and these, (R, 1)."""
        ...

    def reorder(self, rows: torch.Tensor) -> None:
        """Replace the state of row i by that of row rows[i]; rows (R,)."""
        ...


class Limits(NamedTuple):
    """Where a text ends."""

    max_new_tokens: int  # longest text in tokens, the end token included
    end: int  # id that closes a text
    pad: int  # id after it


class Sampling(NamedTuple):
    """How to sample a token; see `keep_likely`."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    generator: torch.Generator | None = None  # source of the random numbers


class NextWord:
    """The decoder of a Q-Former and its text head.

    Args:
        qformer: decodes the text after the queries.
        logits: text outputs (R, W) -> logits (R, V).
        queries: keys and values from `QFormer.encode_queries`, one row per text.
        never: ids that may not be generated.
        room: longest text in tokens.
        use_cache: keep keys and values of earlier tokens; otherwise compute all tokens at every call.
    """

    def __init__(
        self,
        qformer: QFormer,
        logits: Callable[[torch.Tensor], torch.Tensor],
        queries: list[KeysValues],
        *,
        never: Sequence[int],
        room: int,
        use_cache: bool,
    ):
        self.qformer, self.logits, self.queries = qformer, logits, queries
        self.never = list(never)
        self.memory = [Memory(kv, room) for kv in queries] if use_cache else None
        self.words: torch.Tensor | None = None  # (R, L) so far, without memory

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return logits (R, V) after the last tokens (R, 1)."""
        if self.memory is not None:
            x = self.qformer.decode_text(tokens, self.memory)
        else:
            self.words = tokens if self.words is None else torch.cat([self.words, tokens], 1)
            x = self.qformer.decode_text(self.words, self.queries)
        logits = self.logits(x[:, -1])
        logits[:, self.never] = -torch.inf
        return logits

    def reorder(self, rows: torch.Tensor) -> None:
        """Continue row i from the tokens of row rows[i]. Both belong to one image, so their queries are the same."""
        if self.words is not None:
            self.words = self.words[rows]
        if self.memory is not None:
            changed = (rows != torch.arange(len(rows), device=rows.device)).nonzero()[:, 0]
            for memory in self.memory:
                memory.move(changed, rows[changed])


def choose_words(
    decoder: Decoder,
    first: torch.Tensor,
    limits: Limits,
    sampling: Sampling | None = None,
) -> torch.Tensor:
    """Choose the likeliest token at each place or, with `sampling`, sample one.

    Args:
        decoder: gives the logits; called once per token.
        first: the start token of each row (B, 1).
        limits: where a text ends.
        sampling: None: greedy decoding.

    Returns:
        Ids (B, L) after `first`.
    """
    token, done, words = first, torch.zeros(len(first), dtype=torch.bool, device=first.device), []
    for _ in range(limits.max_new_tokens):
        logits = decoder(token).float()  # (B, V)
        if sampling is not None:
            shares = keep_likely(logits, sampling.temperature, sampling.top_k, sampling.top_p).softmax(-1)
            chosen = torch.multinomial(shares, 1, generator=sampling.generator)[:, 0]
        else:
            chosen = logits.argmax(-1)
        token = chosen.masked_fill(done, limits.pad)[:, None]
        words.append(token)
        done |= token[:, 0] == limits.end
        if done.all():
            break
    return torch.cat(words, 1)


def keep_likely(
    logits: torch.Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> torch.Tensor:
    """Return logits (R, V) / temperature, -inf outside the `top_k` likeliest tokens and outside the nucleus.

    The nucleus (Holtzman et al. 2020) is the smallest set of likeliest tokens whose probabilities, after `top_k`,
    reach `top_p`.
    """
    logits = logits / temperature
    if top_k is not None:
        least = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if top_p is not None:
        ordered, words = logits.sort(descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)  # probability of all likelier tokens
        outside = (before >= top_p).scatter(1, words, before >= top_p)
        logits = logits.masked_fill(outside, -torch.inf)
    return logits


def beam_search(
    decoder: Decoder,
    first: torch.Tensor,
    limits: Limits,
    num_beams: int,
    length_penalty: float = 1.0,
) -> torch.Tensor:
    """Return the best finished text of a beam search, by log probability / length^length_penalty.

    The rules are those of transformers with `early_stopping=False`: a row is closed once its best running text, at
    its present length, scores below the worst of `num_beams` finished ones.

    Args:
        decoder: holds B * num_beams rows, those of one item side by side.
        first: the start token of each item (B, 1).
        limits: where a text ends.
        num_beams: running texts per item.
        length_penalty: exponent of the length.

    Returns:
        Ids (B, L) after `first`.
    """
    (longest, end, pad), batch, k = limits, len(first), num_beams
    tokens = first.repeat_interleave(k, 0)  # (B k, 1)
    words = tokens.new_zeros(batch, k, 0)  # of the running texts
    running = torch.full((batch, k), -torch.inf, device=first.device)
    running[:, 0] = 0.0  # all start alike: one counts
    finished = torch.full((batch, k, longest), pad, device=first.device)
    scores = torch.full((batch, k), -torch.inf, device=first.device)  # of the finished texts, best first
    is_open = torch.ones(batch, 1, dtype=torch.bool, device=first.device)
    offsets = k * torch.arange(batch, device=first.device)[:, None]
    for length in range(1, longest + 1):
        chances = decoder(tokens).float().log_softmax(-1).unflatten(0, (batch, k))  # (B, k, V)
        vocabulary = chances.shape[-1]
        # 2 k candidates: k of them may end, and k have to go on
        chances, flat = (running[..., None] + chances).flatten(1).topk(min(2 * k, k * vocabulary))
        beam, word = flat // vocabulary, flat % vocabulary  # (B, 2 k)
        candidates = torch.cat([_pick(words, beam), word[..., None]], 2)  # (B, 2 k, length)

        best_k = torch.arange(word.shape[1], device=word.device) < k
        ends = is_open & best_k & ((word == end) | (length == longest))
        new = (chances / length**length_penalty).masked_fill(~ends, -torch.inf)
        texts = torch.cat([finished, F.pad(candidates, (0, longest - length), value=pad)], 1)
        scores, kept = torch.cat([scores, new], 1).topk(k)
        finished = _pick(texts, kept)

        running, order = chances.masked_fill(word == end, -torch.inf).topk(k)
        is_open = is_open & (running[:, :1] / length**length_penalty > scores[:, -1:])
        if not is_open.any() or length == longest:
            break
        words = _pick(candidates, order)
        tokens = words[:, :, -1].reshape(-1, 1)
        decoder.reorder((beam.gather(1, order) + offsets).flatten())
    best = finished[:, 0]
    return best[:, : int((best != pad).sum(1).max())]


def _pick(texts: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return rows (B, m) of texts (B, n, L): (B, m, L)."""
    return texts.gather(1, rows[..., None].expand(-1, -1, texts.shape[2]))
