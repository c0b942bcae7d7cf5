"""Generated reports against references: three scoring protocols, BLEU, ROUGE-L and CIDEr, the constant baseline.

BLEU is kept as counts for each item, whose sums give the score of the corpus, so that a bootstrap over items costs a
matrix product. METEOR, in the same manner, is in meteor.py. Scores are in [0, 1], those of CIDEr in [0, 10].
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from pycocoevalcap.bleu.bleu_scorer import cook_refs, cook_test
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

ORDERS = 4  # n-grams of 1 to 4 words
BLEU_COUNTS = 2 * ORDERS + 2  # statistics kept for each item

# (references of each item, prediction of each item), as words separated by single spaces
Cleaned = tuple[list[list[str]], list[str]]
Protocol = Callable[[Sequence[str], Sequence[str]], Cleaned]  # of (references, predictions)
UNKNOWN = "<unk>"


def clean_report(text: str) -> str:
    """Clean a report as R2Gen (Chen et al. 2020) does on MIMIC-CXR.

    Lower case; enumeration ("1. ", " 2. ") and punctuation gone, hyphens excepted; each sentence ends in the
    word ".". Sentences end at a full stop followed by a space.
    """
    text = text.replace("\n", " ")
    for repeated in "_ .":
        text = re.sub(re.escape(repeated) + "+", repeated, text)
    text = text.replace("1. ", "")
    for before in (". ", " "):
        for number in "2345":
            text = text.replace(f"{before}{number}. ", ". ")
    sentences = text.strip().lower().split(". ")
    sentences = [re.sub(r"""[.,?;*!%^&_+():<=>@\[\]{}"'/\\]""", "", sentence) for sentence in sentences]
    return " ".join(" . ".join([*sentences, ""]).split())


def clean_caption(text: str, max_words: int = 95) -> str:
    """Clean a text as the authors' code does: case and full stops kept, some marks gone, cut after 95 words."""
    return " ".join(re.sub(r'[!"()*#:;~]', " ", text).split()[:max_words])


def sentences(text: str) -> list[str]:
    """Split a report into sentences, which end at . ! or ? before white space."""
    return [sentence for sentence in re.split(r"(?<=[.!?])\s+", text.strip()) if sentence]


def report_protocol(references: Sequence[str], predictions: Sequence[str]) -> Cleaned:
    """Clean texts by the field's protocol: R2Gen's cleaning; the whole reference is the one reference, uncut.

    R2Gen itself also cuts references and replaces rare words, see `r2gen_protocol`.
    """
    return [[clean_report(text)] for text in references], [clean_report(text) for text in predictions]


def authors_protocol(references: Sequence[str], predictions: Sequence[str]) -> Cleaned:
    """Clean texts by the protocol of the authors' code: every sentence of the reference is a reference, case counts.

    A perfect copy does not reach 1 (a word is credited as often as the richest sentence has it), and a copy
    in lower case, as a lower-casing tokenizer writes it, loses the first word of every sentence. CIDEr punishes the
    length that a report has beyond a sentence, and is about 0.
    """
    split = [[clean_caption(sentence) for sentence in sentences(text)] or [""] for text in references]
    return split, [clean_caption(text) for text in predictions]


def r2gen_protocol(training: Iterable[str], min_count: int, max_ids: int) -> Protocol:
    """Return R2Gen's whole protocol (modules/tokenizers.py, datasets.py and trainer.py of its code, MIMIC-CXR's cleaning).

    Words that stand fewer than `min_count` times in the training reports become <unk>. A reference keeps its first
    max_ids - 1 words, since its first id is a start token. A prediction keeps max_ids words, as many as R2Gen
    generates; its rare words become <unk>, too, since R2Gen's vocabulary holds no others.

    Args:
        training: The training reports, one for each image.
        min_count: R2Gen: 10 on MIMIC-CXR, 3 on IU X-ray.
        max_ids: R2Gen: 100 on MIMIC-CXR, 60 on IU X-ray.
    """
    counts = Counter(word for text in training for word in clean_report(text).split())

    def known(text: str, words: int) -> str:
        kept = clean_report(text).split()[:words]
        return " ".join(word if counts[word] >= min_count else UNKNOWN for word in kept)

    def clean(references: Sequence[str], predictions: Sequence[str]) -> Cleaned:
        return [[known(text, max_ids - 1)] for text in references], [
            known(text, max_ids) for text in predictions
        ]

    return clean


PROTOCOLS: dict[str, Protocol] = {
    "report": report_protocol,
    "release": authors_protocol,  # the name is part of metric names
}


def bleu_statistics(references: Sequence[Sequence[str]], predictions: Sequence[str]) -> np.ndarray:
    """Count the n-grams of each item with pycocoevalcap, float64 [N, 10].

    The counts are: matched n-grams (n = 1 to 4), n-grams of the prediction (1 to 4), words of the prediction, words
    of the reference nearest in length.
    """
    rows = []
    for texts, prediction in zip(references, predictions, strict=True):
        counts = cook_test(prediction, cook_refs(texts, n=ORDERS), eff="closest", n=ORDERS)
        rows.append([*counts["correct"], *counts["guess"], counts["testlen"], counts["reflen"]])
    return np.array(rows, np.float64)


def bleu(statistics: np.ndarray) -> np.ndarray:
    """Compute BLEU-1 to BLEU-4 [..., 4] from (sums of) statistics [..., 10]; no smoothing, closest reference length."""
    matched, guessed = statistics[..., :ORDERS], statistics[..., ORDERS : 2 * ORDERS]
    predicted, reference = statistics[..., -2:-1], statistics[..., -1:]
    with np.errstate(divide="ignore"):
        log_precision = np.log(np.divide(matched, guessed, out=np.zeros_like(matched), where=guessed > 0))
    mean = np.cumsum(log_precision, axis=-1) / np.arange(1, ORDERS + 1)
    shortness = np.divide(reference, predicted, out=np.full_like(reference, np.inf), where=predicted > 0)
    return np.exp(mean + np.minimum(0, 1 - shortness))


def rouge_l(references: Sequence[Sequence[str]], predictions: Sequence[str]) -> np.ndarray:
    """Compute ROUGE-L (F with beta = 1.2) of each item [N] with pycocoevalcap."""
    scorer = Rouge()
    pairs = zip(references, predictions, strict=True)
    return np.array([scorer.calc_score([prediction], list(texts)) for texts, prediction in pairs])


def cider(references: Sequence[Sequence[str]], predictions: Sequence[str]) -> np.ndarray:
    """Compute CIDEr of each item [N] with pycocoevalcap, in [0, 10]; word weights come from these references."""
    truth = {number: list(texts) for number, texts in enumerate(references)}
    _, scores = Cider().compute_score(truth, {number: [text] for number, text in enumerate(predictions)})
    return np.asarray(scores, np.float64)


def why_no_cider(references: Sequence[Sequence[str]]) -> str:
    """Return why CIDEr means nothing for these references, or an empty text.

    A word weighs the more, the fewer references hold it. Where all hold the same words, every weight, and so the
    score of any prediction, is 0.
    """
    if len(references) < 2:
        return "there is one report alone, and its word weights need several"
    if len({tuple(texts) for texts in references}) == 1:
        return "all reference reports are equal, so that each of its word weights is 0"
    return ""


def best_constant(reports: Sequence[str]) -> str:
    """Return the one of `reports` with the highest BLEU-4 as the prediction for every one of them.

    This constant baseline is what a model that ignores the image can reach, under the protocol `report`. The search is
    exact, and linear in the number of reports: with one reference each, the matches of a candidate's k-th
    occurrence of an n-gram are the reports that have it at least k times. Among equals the most frequent wins,
    then the first in the alphabet.
    """
    if not reports:
        raise ValueError("no reports to choose from")
    first: dict[str, str] = {}
    for report in reports:
        first.setdefault(clean_report(report), report)
    copies = Counter(clean_report(report) for report in reports)
    holders: Counter[tuple[tuple[str, ...], int]] = Counter()
    reference_words = 0
    for text, count in copies.items():
        words = text.split()
        reference_words += count * len(words)
        for occurrence in _occurrences(words):
            holders[occurrence] += count

    candidates = sorted(copies, key=lambda text: (-copies[text], text))
    totals = np.zeros((len(candidates), BLEU_COUNTS))
    for row, text in zip(totals, candidates, strict=True):
        words = text.split()
        for ngram, k in _occurrences(words):
            row[len(ngram) - 1] += holders[ngram, k]
            row[ORDERS + len(ngram) - 1] += len(reports)
        row[-2:] = len(words) * len(reports), reference_words
    return first[candidates[int(bleu(totals)[:, ORDERS - 1].argmax())]]


def _occurrences(words: list[str]) -> Iterator[tuple[tuple[str, ...], int]]:
    """Yield every n-gram of 1 to 4 words with the number of times it came before."""
    seen: Counter[tuple[str, ...]] = Counter()
    for n in range(1, ORDERS + 1):
        for start in range(len(words) - n + 1):
            ngram = tuple(words[start : start + n])
            yield ngram, seen[ngram]
            seen[ngram] += 1
