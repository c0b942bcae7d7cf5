"""The stages train_tokenizer and pretrain on a tiny project: inputs, outputs, messages."""

import csv
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from medunifier.data.tokenizer import DECODE_TOKEN, decode
from medunifier.huggingface.new_model import build_model
from medunifier.pretraining.pairs import Pairs
from medunifier.pretraining.validation import validation_losses
from medunifier.runtime.errors import InputError
from medunifier.runtime.params import load_params
from medunifier.tracking import LocalRun
from medunifier.training import loop as training
from medunifier.vision.feature_shards import FeatureStore, write_feature_shard
from stages import pretrain, train_tokenizer
from tests.support.trained_project import REPOSITORY, make_project


def tiny(params, **changes):
    """The shipped parameters with a network and a recipe small enough for a test."""
    model = params.model.replace(
        width=16,
        layers=2,
        heads=2,
        projection=8,
        codebook_size=32,
        code_width=8,
        decoder_channels=(8, 8, 4, 4),
        max_text_tokens=40,
    )
    recipe = {"steps": 6, "batch_size": 4, "validate_every": 3, "checkpoint_every": 2}
    return params.replace(model=model, pretrain=params.pretrain.replace(**(recipe | changes)))


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    params = tiny(make_project(tmp_path))
    train_tokenizer.train_tokenizer(params, LocalRun("train_tokenizer", "results/metrics"))
    return params


@pytest.mark.slow
def test_leaves_a_model_curves_and_metrics(project):
    run = LocalRun("pretrain@full", "results/metrics")
    pretrain.pretrain(project, run, "full")
    model, tokenizer = AutoModel.from_pretrained("models/full"), AutoTokenizer.from_pretrained("models/full")
    assert model.config.decode_token_id == tokenizer.convert_tokens_to_ids(DECODE_TOKEN)
    assert not list(Path("models/full").glob("*.bin")) and Path("models/full/model.safetensors").is_file()
    assert "pretrained on" in Path("models/full/README.md").read_text().lower().replace("-", "")

    with open("results/curves/pretrain@full.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(r["step"]) for r in rows if r["split"] == "validate"] == [0, 3, 6]
    for name in ("itc", "itm", "itg", "tig"):
        validate = [float(r[name]) for r in rows if r["split"] == "validate"]
        assert run.final[f"val_{name}_first"] == pytest.approx(validate[0], rel=1e-4)
        assert run.final[f"val_{name}_last"] == pytest.approx(validate[-1], rel=1e-4)
    assert 1 <= run.final["perplexity_top"] <= 32
    for level in ("top", "bottom"):  # revived codes are logged, as a curve and as a metric
        curve = [float(r[f"revived_{level}"]) for r in rows if r["split"] == "train"]
        revived = getattr(model.image_generator, f"{level}_quantizer").revived
        assert curve == sorted(curve) and curve[-1] <= revived == run.final[f"revived_{level}"]
    assert run.final["train_pairs"] == 12 and run.final["validate_pairs"] == 4
    assert run.final["parameters"] == sum(p.numel() for p in model.parameters())


ON_TWO = """
import sys
sys.path.insert(0, sys.argv[1])
from stages import pretrain
from medunifier.training import loop as training
from medunifier.model.distributed import world_size
from medunifier.tracking import LocalRun
from tests.stages.test_pretrain import without_dropout
training.LOG_EVERY = 1
pretrain.pretrain(without_dropout(), LocalRun("pretrain@full", "results/metrics", "two"), "full")
assert world_size() == 2, world_size()
"""


def without_dropout():
    """`tiny` parameters of a training without dropout."""
    params = tiny(load_params(REPOSITORY / "params.yaml"), validate_every=6)
    return params.replace(model=params.model.replace(dropout=0.0))


@pytest.mark.slow
def test_two_processes_train_as_one_does(project, monkeypatch):
    """The whole stage, from the order of the pairs to the validation: the same curves, step by step."""

    def curves():
        with open("results/curves/pretrain@full.csv", newline="") as file:
            return list(csv.DictReader(file))

    monkeypatch.setattr(training, "LOG_EVERY", 1)  # all steps come into the curves
    pretrain.pretrain(without_dropout(), LocalRun("pretrain@full", "results/metrics", "one"), "full")
    one = curves()
    Path("results/curves/pretrain@full.csv").unlink()
    Path("program.py").write_text(ON_TWO)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    subprocess.run(
        [*launcher, "program.py", REPOSITORY], check=True, timeout=300, capture_output=True, text=True
    )
    two = curves()
    assert [(row["step"], row["split"]) for row in two] == [(row["step"], row["split"]) for row in one]
    assert [row["step"] for row in one if row["split"] == "train"] == list("123456")
    for row, other in zip(one, two, strict=True):
        assert row.keys() == other.keys()
        for name in set(row) - {"split"}:
            if row[name]:
                # Once weights differ in their last bit, a latent that is as near to one code as to another goes to
                # the one or the other: codes are counted otherwise, and of four validation images one shows.
                trained = row["step"] != "0"
                close = {"rel": 1e-5, "abs": 1e-5}
                if trained and name.startswith("perplexity"):
                    close = {"rel": 0.05}
                elif trained and name.startswith("tig") and row["split"] == "validate":
                    close = {"rel": 0.01}
                assert float(other[name]) == pytest.approx(float(row[name]), **close), (row["step"], name)


@pytest.mark.slow
def test_interrupted_and_resumed_it_leaves_the_same(project, monkeypatch):
    """The stage as a whole, its dropout and the quantisers' counts included: weights, buffers and curves, bit by bit."""
    dropout = project.replace(model=project.model.replace(dropout=0.2))

    def result(signature):
        pretrain.pretrain(dropout, LocalRun("pretrain@full", "results/metrics", signature), "full")
        weights = AutoModel.from_pretrained("models/full").state_dict()
        shutil.rmtree("models/full")
        return weights, Path("results/curves/pretrain@full.csv").read_text()

    whole, curves = result("whole")
    assert {"usage", "started", "revived"} <= {name.rpartition(".")[2] for name in whole}
    load, calls = Pairs.load, iter(range(100))

    def dies(pairs, rows):
        if (
            len(pairs) == 12 and next(calls) == 5
        ):  # the first call standardises the norm; then the fifth step's batch
            raise KeyboardInterrupt
        return load(pairs, rows)

    with monkeypatch.context() as patch:
        patch.setattr(Pairs, "load", dies)
        with pytest.raises(KeyboardInterrupt):
            result("stopped")
    assert not Path("models/full").exists() and list(Path(".state/checkpoints").rglob("stopped/step-*.pt"))
    resumed, again = result("stopped")
    assert resumed.keys() == whole.keys() and all(torch.equal(resumed[k], whole[k]) for k in whole)
    assert again == curves


@pytest.mark.slow
def test_same_seed_same_weights_other_seed_others(project):
    def weights(seed, signature, own_seed=None):
        variants = {"full": project.variants["full"].replace(seed=own_seed)}
        run = LocalRun("pretrain@full", "results/metrics", signature)
        pretrain.pretrain(project.replace(seed=seed, variants=variants), run, "full")
        return AutoModel.from_pretrained("models/full").state_dict()

    one, again, other = weights(0, "a"), weights(0, "b"), weights(1, "c")
    assert all(torch.equal(one[k], again[k]) for k in one)
    assert not torch.equal(one["qformer.query_tokens"], other["qformer.query_tokens"])
    own = weights(0, "d", own_seed=1)  # the variant's
    assert all(torch.equal(own[k], other[k]) for k in own)


@pytest.mark.slow
def test_the_weights_of_the_lowest_validation_loss_are_kept_where_asked_for(project):
    """A learning rate at which the loss rises from the start: the best weights are those of step 0."""
    recipe = project.pretrain.replace(learning_rate=0.1, warmup_fraction=0.0, final_learning_rate=0.1)
    run = LocalRun("pretrain@full", "results/metrics")
    pretrain.pretrain(project.replace(pretrain=recipe.replace(keep="best")), run, "full")
    with open("results/curves/pretrain@full.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "validate"]
    losses = {int(row["step"]): float(row["loss"]) for row in rows}
    weights = project.variants["full"].weights
    for row in rows:
        total = sum(weight * float(row[name]) for name, weight in weights.items())
        assert float(row["loss"]) == pytest.approx(total, rel=1e-4)
    assert run.final["best_step"] == min(losses, key=lambda step: losses[step])
    kept = AutoModel.from_pretrained("models/full").state_dict()["qformer.query_tokens"]
    last = LocalRun("pretrain@full", "results/metrics", "b")
    pretrain.pretrain(project.replace(pretrain=recipe), last, "full")
    ended = AutoModel.from_pretrained("models/full").state_dict()["qformer.query_tokens"]
    assert torch.equal(kept, ended) == (run.final["best_step"] == max(losses))
    assert run.final["best_step"] < max(losses)


@pytest.mark.slow
def test_the_norm_after_the_vit_starts_plain_or_on_data(project):
    """The features of the tiny project differ from image to image and are far from standardised."""

    def start(how):
        model = project.model.replace(vision_norm_start=how)
        recipe = project.pretrain.replace(steps=1, learning_rate=1e-12, warmup_start=0.0)
        params = project.replace(model=model, pretrain=recipe)
        pretrain.pretrain(params, LocalRun("pretrain@full", "results/metrics", how), "full")
        return AutoModel.from_pretrained("models/full").vision_norm

    plain, data = start("plain"), start("data")
    assert (plain.weight == 1).all() and (plain.bias == 0).all()
    assert not (data.weight == 1).any()


def test_an_objective_that_is_off_leaves_no_trace(project):
    variant = project.variants["full"].replace(itm=0.0, tig=0.0)
    run = LocalRun("pretrain@two", "results/metrics", "two")
    pretrain.pretrain(project.replace(variants={"two": variant}), run, "two")
    assert "val_itc_last" in run.final and "val_itg_last" in run.final
    assert not {k for k in run.final if "itm" in k or "tig" in k or "perplexity" in k or "revived" in k}
    trained = AutoModel.from_pretrained("models/two")
    assert not trained.image_generator.top_quantizer.started  # the generator was never run


def test_pairs_leave_out_what_has_no_report_and_read_what_belongs_together(project):
    table = Path("data/prepared/phantom/train.parquet")
    frame = pl.read_parquet(table)
    gap = pl.when(pl.col("image_id") == "i03").then(None).otherwise(pl.col("report"))
    frame.with_columns(gap.alias("report")).write_parquet(table)
    tokenizer = AutoTokenizer.from_pretrained("models/tokenizer")
    pairs = Pairs(project, tokenizer, "train")
    ids = [i for i in frame["image_id"].to_list() if i != "i03"]
    assert len(pairs) == len(ids)
    batch = pairs.model_inputs(
        None, pairs.load(torch.tensor([5, 2]).numpy())
    )  # stored features need no model
    for place, row in enumerate((5, 2)):
        number = int(ids[row][1:])
        assert batch["features"][place, 0, 0] == number
        real = batch["attention_mask"][place].bool()
        assert decode(tokenizer, batch["input_ids"][place : place + 1, 1:]) == [
            frame.filter(pl.col("image_id") == ids[row])["report"][0].lower()
        ]
        assert real.sum() == len(pairs.tokens[row])
    bare = Pairs(project, tokenizer, "train", with_images=False)
    without = bare.model_inputs(None, bare.load(torch.tensor([5, 2]).numpy()))
    assert without.keys() == batch.keys() - {"images"}
    assert all(torch.equal(without[name], batch[name]) for name in without)
    assert batch["images"].min() >= 0 and batch["images"].max() <= 1 and batch["images"].shape[1] == 1


def test_a_data_set_without_reports_is_refused(project):
    table = Path("data/prepared/phantom/train.parquet")
    pl.read_parquet(table).with_columns(report=pl.lit(None, pl.String)).write_parquet(table)
    with pytest.raises(InputError, match=r"train\.parquet holds no reports"):
        train_tokenizer.train_tokenizer(project, LocalRun("train_tokenizer", "results/metrics"))
    with pytest.raises(InputError, match="no image with a report"):
        pretrain.pretrain(project, LocalRun("pretrain@full", "results/metrics"), "full")


def test_validation_equals_the_losses_of_its_batches_by_hand(project):
    tokenizer = AutoTokenizer.from_pretrained("models/tokenizer")
    pairs = Pairs(project, tokenizer, "train")  # 12 items, batches of 8: the second wraps around
    torch.manual_seed(0)
    model = build_model(project, tokenizer, pairs.features, print).eval()
    weights = {"itc": 1.0, "itm": 1.0, "itg": 1.0, "tig": 1.0}
    found = validation_losses(model, pairs, 8, weights, 7)
    by_hand = []
    with torch.no_grad():
        for number, rows in enumerate(([*range(8)], [8, 9, 10, 11, 0, 1, 2, 3])):
            batch = pairs.model_inputs(model, pairs.load(torch.tensor(rows).numpy()))
            by_hand.append(
                model(**batch, weights=weights, generator=torch.Generator().manual_seed(7 + number)).parts
            )
    for name in weights:
        assert found[name] == pytest.approx(sum(float(p[name]) for p in by_hand) / 2, rel=1e-5)
    assert validation_losses(model, pairs, 8, weights, 7) == found


@pytest.mark.slow
def test_by_shard_reads_the_features_of_one_shard_after_the_other(project, monkeypatch):
    folder = Path("data/features/phantom")
    ids, tokens = FeatureStore(folder).image_ids, FeatureStore(folder).read(np.arange(24))
    shutil.rmtree(folder)
    manifest = {"model": "none", "revision": None, "skip_last_blocks": 0, "checksum": ""}
    for shard in range(3):  # neighbours lie in different shards
        write_feature_shard(folder / str(shard), ids[shard::3], [tokens[shard::3]], manifest)
    read, load = [], Pairs.load

    def noted(pairs, rows):
        if len(pairs) == 12:  # the training split
            read.extend(rows % 3)
        return load(pairs, rows)

    monkeypatch.setattr(Pairs, "load", noted)
    by_shard = project.replace(pretrain=project.pretrain.replace(order="by_shard", validate_every=6))
    pretrain.pretrain(by_shard, LocalRun("pretrain@full", "results/metrics"), "full")
    trained = np.array(read[12:]).reshape(-1, 4)  # the first 12 standardise the norm
    assert len(trained) == 6 and all(len(set(step)) == 1 for step in trained)
    assert all(sorted(set(epoch.flat)) == [0, 1, 2] for epoch in (trained[:3], trained[3:]))
