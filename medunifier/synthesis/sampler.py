"""Drawing codes from the priors, exactly and one position at a time.

Nothing is computed twice. What a position needs from its causal convolutions depends on earlier positions
alone (see `medunifier.synthesis.pixelsnail`), so that
* a row's share of the kernels `above` is one matrix product for the whole row, made when the row begins;
* a position's share of the kernels `left` is one product over all residual blocks of the network at once;
* attention keeps its keys and values, and the report's and the top codes' contributions are made at the start.

Images do not disturb each other: each has its own random numbers, drawn from its own seed. What is left is how
matrix products round, which differs with the size of the batch. Priors in double precision (`Prior.double`) keep that
below 1e-12 of a logit, too little to change a code; in float32 it is about 1e-5, and now and then it changes one.

Shapes: B images, K codes, C channels, R residual blocks in the whole network.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from medunifier.model.text import Text
from medunifier.synthesis.pixelsnail import CausalConv, KeysValues, Prior


class Sampler:
    """Draws from a pair of priors; keeps their weights in the order in which drawing needs them.

    Raises ValueError for priors that do not fit together or are in training mode.
    """

    def __init__(self, top_prior: Prior, bottom_prior: Prior):
        for prior, level in ((top_prior, "top"), (bottom_prior, "bottom")):
            if prior.config.level != level:
                raise ValueError(f"the {level} prior is one of level {prior.config.level}")
            if prior.training:
                raise ValueError(f"the {level} prior is in training mode; call eval() first")
        if (top_prior.text_reader is None) != (bottom_prior.text_reader is None):
            raise ValueError(
                "one prior takes a text, the other does not; train both with one prior.condition"
            )
        self.top, self.bottom = Weights(top_prior), Weights(bottom_prior)

    @torch.inference_mode()
    def draw(
        self,
        text: Text | None = None,
        *,
        seeds: Sequence[int],
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        guidance: float = 1.0,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes of new images: top (B, 64), bottom (B, 256), long; see `sample_codes`."""
        count = len(seeds)
        if text is not None and len(text.states) != count:
            raise ValueError(f"{len(text.states)} texts for {count} seeds")
        if guidance != 1 and text is None:
            raise ValueError("guidance needs a text")
        uniforms = torch.stack([_uniforms(seed, self.top.size + self.bottom.size) for seed in seeds])

        def one_level(weights: Weights, uniforms: torch.Tensor, top: torch.Tensor | None) -> torch.Tensor:
            return _draw_level(weights, uniforms, top, text, temperature, top_k, top_p, guidance)

        top = one_level(self.top, uniforms[:, : self.top.size], None)
        return top, one_level(self.bottom, uniforms[:, self.top.size :], top)


def sample_codes(
    top_prior: Prior,
    bottom_prior: Prior,
    condition: Text | None = None,
    *,
    count: int,
    seeds: Sequence[int],
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    guidance: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes of `count` new images. For several batches make a `Sampler` once and call its `draw`.

    Args:
        condition: a report for each image, of the same padded length in every batch; None: no text.
        seeds: one for each image. The same seed and text give the same image in a batch of any size, if the
            priors are in double precision.
        temperature: divides the logits; 0 takes the likeliest code. top_k: codes kept, the likeliest.
        top_p: the likeliest codes kept whose probabilities sum to at least this.
        guidance: logits are those without the text plus `guidance` times what the text changes (Ho and
            Salimans 2022); 1: plain conditional sampling.
    Returns: top (count, 64) and bottom (count, 256), long.
    Raises: ValueError for priors, seeds or settings that do not fit.
    """
    if len(seeds) != count:
        raise ValueError(f"{len(seeds)} seeds for {count} images")
    return Sampler(top_prior, bottom_prior).draw(
        condition, seeds=seeds, temperature=temperature, top_k=top_k, top_p=top_p, guidance=guidance
    )


def choose(
    logits: torch.Tensor,
    uniforms: torch.Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> torch.Tensor:
    """Codes (B,) drawn from logits (B, K) by inverting the distribution function at uniforms (B,) in [0, 1)."""
    if temperature < 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise ValueError(
            f"temperature {temperature}, top_k {top_k}, top_p {top_p}: expected a temperature of at least 0, "
            "top_k of at least 1, top_p above 0 and at most 1"
        )
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits.double() / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        kept = logits.topk(top_k).indices
        logits = torch.full_like(logits, -torch.inf).scatter(-1, kept, logits.gather(-1, kept))
    shares = logits.softmax(-1)
    if top_p is not None and top_p < 1:
        ordered, order = shares.sort(descending=True)
        before = ordered.cumsum(-1) - ordered  # what likelier codes hold together
        shares = shares.masked_fill(
            torch.zeros_like(order, dtype=torch.bool).scatter(-1, order, before >= top_p), 0
        )
    function = shares.cumsum(-1)
    target = uniforms[:, None] * function[:, -1:]
    return torch.searchsorted(function, target, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)


def _draw_level(
    weights: "Weights",
    uniforms: torch.Tensor,
    top: torch.Tensor | None,
    text: Text | None,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    guidance: float,
) -> torch.Tensor:
    """Codes (B, N) from uniforms (B, N), on the device of the prior."""
    device = weights.prior.device
    uniforms = uniforms.to(device)
    count, guided = len(uniforms), guidance != 1
    if text is not None:
        text = Text(text.states.to(device, weights.prior.dtype), text.mask.to(device))
    if guided:  # the same images once more, without the text, in the second half of the batch
        text = Text(text.states.repeat(2, 1, 1), torch.cat([text.mask, torch.zeros_like(text.mask)]))
        top = None if top is None else top.repeat(2, 1)
    state = Incremental(weights, count * (1 + guided), top, text)
    drawn = []
    for i in range(weights.size):
        logits = state.logits()
        if guided:
            plain = logits[count:]
            logits = plain + guidance * (logits[:count] - plain)
        codes = choose(logits, uniforms[:, i], temperature, top_k, top_p)
        state.put(codes.repeat(1 + guided))
        drawn.append(codes)
    return torch.stack(drawn, 1)


def _uniforms(seed: int, number: int) -> torch.Tensor:
    """An image's random numbers, on every machine and device the same."""
    return torch.rand(number, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Convolutions:
    """The weights of causal convolutions that stand side by side, as matrices."""

    def __init__(self, convolutions: Sequence[CausalConv]):
        first = convolutions[0]
        self.reach, self.rows = first.reach, first.above.kernel_size[0]
        self.channels, self.out, self.number = (
            first.left.in_channels,
            first.left.out_channels,
            len(convolutions),
        )

        def matrices(name: str) -> torch.Tensor:  # (out, C, rows, columns) -> (rows * columns * C, out)
            kernels = [getattr(conv, name).weight.detach() for conv in convolutions]
            return torch.stack([kernel.permute(2, 3, 1, 0).flatten(0, 2) for kernel in kernels])

        self.above, self.left = matrices("above"), matrices("left")  # (R, ..., out)
        self.bias = torch.stack([conv.above.bias.detach() for conv in convolutions])  # (R, out)


class Weights:
    """A prior and its convolutions' weights, ready for drawing. Later changes of the prior do not reach it."""

    def __init__(self, prior: Prior):
        self.prior, self.size = prior, prior.grid**2
        residual = [residual for block in prior.blocks for residual in block.residual]
        self.enter = Convolutions([prior.enter])
        self.inner = Convolutions([block.enter for block in residual])
        self.gates = Convolutions([block.leave for block in residual])
        self.conditions = [block.condition for block in residual]


class Rows:
    """Inputs of side-by-side convolutions so far, and their outputs at the next position."""

    def __init__(self, weights: Convolutions, batch: int, grid: int):
        w, new = weights, weights.bias.new_zeros
        self.weights, self.grid, self.known = weights, grid, 0
        width = grid + 2 * w.reach  # what lies outside the image is 0
        self.past = new(w.number, batch, w.rows, width, w.channels)  # the rows above, the nearest last
        self.row = new(w.number, batch, width, w.channels)
        self.above = new(w.number, grid, batch, w.out)  # this row's share of the kernels `above`

    def start_row(self) -> None:
        """Moves on to the next row (from above the first one to the first)."""
        w, (number, batch, rows, _, channels) = self.weights, self.past.shape
        self.above.copy_(w.bias[:, None, None])
        if self.known:
            self.past[:, :, :-1] = self.past[:, :, 1:].clone()
            self.past[:, :, -1] = self.row
            seen = min(self.known, rows)
            window = (2 * w.reach + 1) * channels
            past = self.past[:, :, rows - seen :]
            s = past.stride()
            # (R, grid, B, rows seen, columns * C): for each place in the row, what its kernel covers
            patches = past.as_strided(
                (number, self.grid, batch, seen, window), (s[0], s[3], s[1], s[2], 1), past.storage_offset()
            )
            for i in range(number):
                above = self.above[i].view(-1, w.out)
                above.addmm_(patches[i].reshape(len(above), -1), w.above[i, -seen * window :])
        self.known += 1

    def at(self, column: int) -> torch.Tensor:
        """Outputs at a column of this row, (R, B, out)."""
        seen = self.row[:, :, column : column + self.weights.reach].flatten(2)
        return torch.baddbmm(self.above[:, column], seen, self.weights.left)

    def put(self, column: int, x: torch.Tensor, first: int = 0) -> None:
        """Inputs at a column, (n, B, C), of the convolutions from number `first` on."""
        self.row[first : first + len(x), :, column + self.weights.reach] = x


class Incremental:
    """The logits of a prior one position after the other: `logits`, `put` the codes there, `logits` ...

    Args:
        weights: of the prior. batch: B. top, text: as `Prior.forward` takes them.
    """

    def __init__(
        self, weights: Weights, batch: int, top: torch.Tensor | None = None, text: Text | None = None
    ):
        prior = weights.prior
        self.prior, self.grid, self.position = prior, prior.grid, 0
        self.enter = Rows(weights.enter, batch, self.grid)
        self.inner = Rows(weights.inner, batch, self.grid)
        self.gates = Rows(weights.gates, batch, self.grid)
        self.background = prior.background().unsqueeze(1).expand(-1, batch, -1).unsqueeze(2)  # (N, B, 1, 2)
        self.last = self.enter.row.new_zeros(batch, 1, prior.config.channels)  # the code before, embedded
        self.text, self.text_mask = prior.read_text(text, batch)
        self.seen = [
            self._room(block.attention.heads, batch) if block.attention else None for block in prior.blocks
        ]
        condition = prior.condition(top, text)
        self.condition = None
        if condition is not None:  # (R, 8, 8, B, 2 C), or (R, 1, 1, B, 2 C)
            maps = [linear(condition).permute(1, 2, 0, 3) for linear in weights.conditions]
            self.condition = torch.stack(maps)

    def _room(self, heads: int, batch: int) -> KeysValues:
        c = self.prior.config
        return KeysValues(
            *(
                self.enter.row.new_zeros(batch, heads, self.grid**2, c.channels // 2 // heads)
                for _ in range(2)
            )
        )

    def logits(self) -> torch.Tensor:
        """Logits (B, K) of the next position."""
        row, column = divmod(self.position, self.grid)
        if column == 0:
            self._start_row(row)
        x = self.enter.at(column)[0] + self.prior.positions[self.position]  # (B, C)
        inner = self.inner.at(column)  # (R, B, residual channels)
        branches = F.glu(self.gates.at(column), -1)  # (R, B, C)
        self.gates.put(column, F.elu(inner))
        background, number = self.background[self.position], self.prior.config.residual_blocks
        for b, block in enumerate(self.prior.blocks):
            first = b * number
            # the block's input, and the sum after each of its residual blocks: (1 + number, B, C)
            sums = torch.cat([x[None], branches[first : first + number]]).cumsum(0)
            self.inner.put(column, F.elu(sums[:-1]), first)
            x = self._look(b, block, sums[0, :, None], sums[-1, :, None], background)
        return self.prior.leave(F.elu(x))

    def put(self, codes: torch.Tensor) -> None:
        """Settles the codes (B,) of the position whose logits came last."""
        embedded = self.prior.embedding(codes)
        self.enter.put(self.position % self.grid, embedded[None])
        self.last = embedded[:, None]
        self.position += 1

    def _look(
        self, b: int, block, before: torch.Tensor, x: torch.Tensor, background: torch.Tensor
    ) -> torch.Tensor:
        """The pointwise end of block b: its input and its sum (B, 1, C) -> (B, C)."""
        seen = None
        if self.seen[b] is not None:
            n = self.position + 1
            for room, new in zip(self.seen[b], block.remember(before, x, self.last, background), strict=True):
                room[:, :, n - 1 : n] = new
            seen = KeysValues(*(room[:, :, :n] for room in self.seen[b]))
        return block.look(x, background, seen, self.text[b], self.text_mask)[:, 0]

    def _start_row(self, row: int) -> None:
        for rows in (self.enter, self.inner, self.gates):
            rows.start_row()
        if self.condition is not None:
            scale = self.grid // self.condition.shape[1]
            self.gates.above.unflatten(1, (-1, scale)).add_(self.condition[:, row // scale].unsqueeze(2))
