"""Generated and reconstructed radiographs beside real ones, in the frozen encoder's features: for `benchmarks.real_data`."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
import torch

from benchmarks.real_baselines import Values, area, mean_features, opening_facts
from medunifier.evaluation.classifier import fit_probe, probabilities
from medunifier.evaluation.items import seeded_rows
from medunifier.evaluation.loading import load_trained
from medunifier.image_scoring.encoding import ImageEncoder
from medunifier.image_scoring.image_batches import StoredImages, in_batches
from medunifier.image_scoring.reconstruction import decode_images
from medunifier.image_scoring.similarity import frechet_distance
from medunifier.metrics.bootstrap import BootstrapOptions
from medunifier.runtime.params import Params
from medunifier.storage.tables import LABEL_PREFIX
from medunifier.synthesis.codes import read_coded_images
from medunifier.synthesis.generated_sets import read_generated_sets

LEAST = 20  # images that a fact needs on either side, in each split
SETS = ("reports", "unconditional")


def generated_images(params: Params, variant: str, tables: Mapping[str, pl.DataFrame]) -> Values:
    """Compare generated and reconstructed images with real ones, in the working directory's run.

    `fd SET`: Frechet distance to the test images in mean features, of as many training images (`real`), reconstructed test
    images (`reconstructed`), images generated from test reports (`reports`) and without text (`unconditional`).
    `FACT SET`: AUROC of a linear probe, trained on real images, on each set against what is known of the test image,
    or of the one whose report is the prompt; of `unconditional` nothing is known.
    """
    dataset, test = params.pretrain.dataset, tables["test"]
    vectors = {split: mean_features(dataset, table["image_id"].to_list()) for split, table in tables.items()}
    trained = load_trained(variant)
    encoder = ImageEncoder(params.vision, trained, params.features.batch_size)
    sets = read_generated_sets(Path("data/generated") / variant)
    made = {name: encoder.encode(StoredImages(sets[name][1])).means for name in SETS}
    coded = read_coded_images(variant, dataset, "test")
    made["reconstructed"] = encoder.encode(in_batches(decode_images(trained, coded))).means

    size = min(map(len, made.values()))
    compared = {"real": vectors["train"], **made}
    values: Values = {}
    for name, found in compared.items():
        chosen = found[seeded_rows(len(found), size, params.seed)]
        values[f"fd {name}"] = [frechet_distance(chosen, vectors["test"]), None, None, size]

    rows = dict(zip(test["image_id"], range(len(test)), strict=True))
    judged = {
        "real": (vectors["test"], np.arange(len(test))),
        "reconstructed": (made["reconstructed"], np.array([rows[i] for i in coded["image_id"]])),
        "reports": (made["reports"], np.array([rows[i] for i in sets["reports"][0]["source_id"]])),
    }
    facts = {split: facts_of(table) for split, table in tables.items()}
    patients = test["patient_id"].to_numpy()
    for fact in [name for name in facts["train"] if all(name in known for known in facts.values())]:
        probe = probe_of(fact, vectors, facts)
        for name, (inputs, sources) in judged.items():
            truth = facts["test"][fact][sources]
            known = np.flatnonzero(truth >= 0)
            options = BootstrapOptions(1000, params.seed, patients[sources[known]].tolist())
            values[f"{fact} {name}"] = area(evidence(probe, inputs[known]), truth[known] == 1, options)
    return values


def facts_of(table: pl.DataFrame) -> dict[str, np.ndarray]:
    """Return binary facts of images, each 1, 0, or -1 where it is unknown, int64 [n].

    The view (AP) and the sex (male) are those of the text from labels; every label is a fact, too. A fact needs `LEAST`
    images on either side.
    """
    facts = {}
    opened = [opening_facts(report or "") for report in table["report"]]
    for name, key, yes, no in (("view AP", "view", "ap", "pa"), ("sex male", "sex", "male", "female")):
        facts[name] = np.array([{yes: 1, no: 0}.get(each[key] or "", -1) for each in opened])
    for column in table.columns:
        if column.startswith(LABEL_PREFIX):
            name = column.removeprefix(LABEL_PREFIX).replace("_", " ")
            facts[name] = table[column].fill_null(0).to_numpy().astype(int)
    return {n: v for n, v in facts.items() if min((v == 1).sum(), (v == 0).sum()) >= LEAST}


def probe_of(
    fact: str, vectors: Mapping[str, np.ndarray], facts: Mapping[str, Mapping[str, np.ndarray]]
) -> torch.nn.Linear:
    """Return the linear probe of a fact, fitted on real training images; validation images choose its penalty."""
    known = {split: facts[split][fact] >= 0 for split in ("train", "validate")}
    (train, train_target), (held, held_target) = (
        (vectors[split][rows], facts[split][fact][rows]) for split, rows in known.items()
    )
    return fit_probe(train, train_target, held, held_target, 1)


def evidence(probe: torch.nn.Linear, inputs: np.ndarray) -> np.ndarray:
    """Return a probe's probabilities for mean features [n, width]: float32 [n]."""
    with torch.inference_mode():
        return probabilities(probe(torch.from_numpy(inputs)))[:, 1].numpy()
