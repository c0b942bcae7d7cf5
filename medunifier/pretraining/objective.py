"""The pre-training objective: forward of a batch to the four losses (paper Eq. 24).

Shapes: n pairs of this process, N of all processes, L text tokens, T image tokens, Q queries, W width,
P projection width, V vocabulary, R rows of a packed batch.
"""

from typing import NamedTuple

import torch

from medunifier.model.distributed import world_size
from medunifier.model.network import MedUnifierNetwork
from medunifier.model.packing import Packing
from medunifier.pretraining import losses as objectives
from medunifier.pretraining import matching
from medunifier.pretraining.matching import Fetched, KeysValues, Negatives, candidates

OBJECTIVES = ("itc", "itm", "itg", "tig")


class Losses(NamedTuple):
    """Outcome of a training or validation step."""

    total: torch.Tensor  # weighted sum (Eq. 24)
    parts: dict[str, torch.Tensor]  # each objective's loss and further values to log, detached


class WholeBatch(NamedTuple):
    """What the losses of one micro-batch need to know of the others (see `gradient_cache`).

    Counts and gradients are such that the mean over micro-batches, as the training loop takes it, is the loss and the
    gradient of the whole batch.
    """

    itc: torch.Tensor | None = None  # ITC of the whole batch, and its gradients:
    query_gradient: torch.Tensor | None = None  # (n, Q, P) at the embeddings of own queries
    text_gradient: torch.Tensor | None = None  # (n, P) at those of own texts
    temperature_gradient: torch.Tensor | None = None  # at the logarithm of the temperature, a scalar
    negatives: Fetched | None = None  # of own pairs, for ITM
    labelled: torch.Tensor | None = None  # pairs that count in ITM, all processes, mean over micro-batches
    tokens: torch.Tensor | None = None  # tokens that count in ITG, all processes, mean over micro-batches

    def contrastive(
        self, queries: torch.Tensor, texts: torch.Tensor, log_temperature: torch.Tensor
    ) -> torch.Tensor:
        """Return ITC of the whole batch, with its gradient at own embeddings (n, Q, P), (n, P)."""
        assert self.itc is not None and self.temperature_gradient is not None
        assert self.query_gradient is not None and self.text_gradient is not None
        linear = (queries * self.query_gradient).sum() + (texts * self.text_gradient).sum()
        linear = linear + log_temperature * self.temperature_gradient
        return self.itc + (linear - linear.detach())  # the value of the one, the gradient of the other


class Encoded(NamedTuple):
    """A batch after the Q-Former's first pass."""

    tokens: torch.Tensor  # (n, T, vision width) normalised image features
    image: KeysValues
    queries: torch.Tensor  # (n, Q, W)
    text: torch.Tensor | None  # (n, W) outputs of [CLS]
    words: torch.Tensor | None  # (R, W) outputs for ITG
    places: Packing | None  # of these rows


def switched_on(weights: dict[str, float] | None) -> dict[str, float]:
    """Return the weights above 0 by objective; None: 1 for each."""
    weights = dict.fromkeys(OBJECTIVES, 1.0) if weights is None else weights
    return {name: weights[name] for name in OBJECTIVES if weights.get(name, 0.0) > 0}


def pretraining_losses(
    model: MedUnifierNetwork,
    features: torch.Tensor,
    ids: torch.Tensor,
    mask: torch.Tensor,
    images: torch.Tensor | None = None,
    weights: dict[str, float] | None = None,
    generator: torch.Generator | None = None,
    whole: WholeBatch | None = None,
) -> Losses:
    """Compute the losses of a batch; arguments as for `MedUnifierModel.forward`.

    An objective of weight 0 is not computed. ITM by itself computes ITC's similarities too, to choose negatives by.
    """
    on, known = switched_on(weights), whole or WholeBatch()
    encoded = encode(model, features, ids, mask, on)
    losses: dict[str, torch.Tensor] = {}
    watch: dict[str, torch.Tensor] = {}
    cosines: list[torch.Tensor] = []
    if on.keys() & {"itc", "itm"}:
        assert encoded.text is not None
        embeddings = model.embed_queries(encoded.queries), model.embed_text(encoded.text)
        if whole is None:
            losses["itc"], *cosines = contrastive(model, *embeddings, model.temperature)
        elif "itc" in on:
            losses["itc"] = whole.contrastive(*embeddings, model.log_temperature)
        if "itm" in on:
            if known.negatives is None:
                negatives = choose_negatives(model, features, encoded.image, ids, mask, cosines, generator)
            else:
                negatives = matching.read_again(model, ids, mask, known.negatives)
            losses["itm"], terms = matching.matching_loss(model, encoded.image, negatives, known.labelled)
            watch |= terms
    if encoded.words is not None and encoded.places is not None:
        logits, targets = model.text_logits(encoded.words), encoded.places.pick(ids[:, 1:])  # (R, V), (R,)
        smoothing = model.config.label_smoothing
        losses["itg"] = objectives.generation(logits, targets, None, smoothing, known.tokens)
    if "tig" in on:
        losses["tig"], terms = generator_loss(model, encoded.queries, encoded.tokens, encoded.text, images)
        watch |= terms
    losses = {name: loss for name, loss in losses.items() if name in on}
    total = torch.as_tensor(sum(on[name] * loss for name, loss in losses.items()))
    return Losses(total, {name: value.detach() for name, value in (losses | watch).items()})


def encode(
    model: MedUnifierNetwork,
    features: torch.Tensor,
    ids: torch.Tensor,
    mask: torch.Tensor,
    on: dict[str, float],
) -> Encoded:
    """Run the Q-Former's first pass, on what the objectives `on` need."""
    tokens = model.normalise_tokens(features)  # (n, T, vision width)
    image = model.qformer.read_image(tokens)
    reports = (ids, mask) if on.keys() & {"itc", "itm", "tig"} else None
    words = _words(model, ids, mask) if "itg" in on else None
    queries, _, text, written = model.qformer.encode(image, reports, words)  # (n, Q, W), _, (n, W), (R, W)
    return Encoded(tokens, image, queries, text, written, words and words[1])


def _words(model: MedUnifierNetwork, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, Packing]:
    """Return ITG's input: ids (n, L - 1) that begin with [DEC], and the places that are followed by a token."""
    start = ids.clone()
    start[:, 0] = model.config.decode_token_id
    return start[:, :-1], Packing.of(mask[:, 1:])


def contrastive(
    model: MedUnifierNetwork, queries: torch.Tensor, texts: torch.Tensor, temperature: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute ITC of embeddings (n, Q, P), (n, P) as the model's configuration asks; see `losses.contrastive`."""
    smoothing = model.config.label_smoothing
    return objectives.contrastive(queries, texts, temperature, smoothing, lambda own: candidates(model, own))


def choose_negatives(
    model: MedUnifierNetwork,
    features: torch.Tensor,
    image: KeysValues,
    ids: torch.Tensor,
    mask: torch.Tensor,
    cosines: list[torch.Tensor],
    generator: torch.Generator | None,
) -> Negatives:
    """Draw ITM's negatives by the cosines of images with texts and of texts with images, (n, N) each."""
    image_to_text, text_to_image = cosines
    hard = matching.draw_hard_negatives(model, ids, mask, image_to_text, text_to_image, generator)
    if world_size() == 1 or model.config.negatives == "local":
        return matching.here(image, ids, mask, hard)
    return matching.read_again(model, ids, mask, matching.fetch(model, features, ids, mask, hard))


def generator_loss(
    model: MedUnifierNetwork,
    queries: torch.Tensor,
    tokens: torch.Tensor,
    text: torch.Tensor | None,
    images: torch.Tensor | None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Compute TIG (Eq. 23): squared error, codebook and commitment term; returns their sum and each."""
    assert text is not None and images is not None, "TIG needs reports and images"
    made = model.image_generator(queries, tokens[:, 1:], text)
    mse = objectives.reconstruction(made.images, images)
    codebook = made.top.codebook_loss + made.bottom.codebook_loss
    commitment = made.top.commitment_loss + made.bottom.commitment_loss
    total = mse + model.config.codebook_weight * codebook + model.config.commitment * commitment
    return total, {"tig_mse": mse, "tig_codebook": codebook, "tig_commitment": commitment}
