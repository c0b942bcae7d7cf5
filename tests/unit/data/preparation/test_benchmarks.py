import polars as pl
import pytest

from medunifier.data.preparation.benchmarks import choose_benchmark, ids_digest
from medunifier.runtime.errors import InputError
from tests.support.fake_mimic import benchmark

# image_id: atelectasis, edema, cardiomegaly (a class, too), fracture (no class), no finding
ROWS = {
    "only-a": (1, 0, 0, None, None),
    "only-a-nothing-else-said": (1, None, None, None, None),
    "a-and-fracture": (1, 0, 0, 1, None),
    "a-and-maybe-fracture": (1, 0, 0, -1, None),
    "a-and-maybe-cardiomegaly": (1, 0, -1, 0, None),
    "a-and-maybe-edema": (1, -1, 0, 0, None),
    "maybe-a": (-1, 0, 0, 0, None),
    "a-said-to-be-no-finding": (1, 0, 0, 0, 1),
    "a-and-edema": (1, 1, 0, 0, None),
    "nothing": (0, 0, 0, 0, 1),
    "only-edema": (0, 1, 0, 0, None),
    "only-cardiomegaly": (0, 0, 1, 0, None),
}
NAMES = ("label_atelectasis", "label_edema", "label_cardiomegaly", "label_fracture", "label_no_finding")
CLASSES = ("atelectasis", "edema", "cardiomegaly")


@pytest.fixture
def images():
    columns = {name: [values[n] for values in ROWS.values()] for n, name in enumerate(NAMES)}
    return pl.DataFrame({"image_id": list(ROWS), **columns}, schema_overrides=dict.fromkeys(NAMES, pl.Int8))


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("strict", {"only-a", "only-a-nothing-else-said", "a-said-to-be-no-finding"}),
        (
            "five_only",
            {"only-a", "only-a-nothing-else-said", "a-said-to-be-no-finding", "a-and-fracture", "maybe-a"}
            | {"a-and-maybe-fracture", "a-and-maybe-cardiomegaly"},
        ),
    ],
)
def test_candidates_of_a_class(images, rule, expected):
    images = images.filter(pl.col("image_id") != "only-edema", pl.col("image_id") != "only-cardiomegaly")
    asked = benchmark(classes=CLASSES, per_class=len(expected), rule=rule)
    with pytest.raises(
        InputError, match=f"atelectasis {len(expected)}, edema 0, cardiomegaly 0; .* at most 0"
    ):
        choose_benchmark(images, asked, seed=0)
    every = pl.concat([images] + [copies(images, name, len(expected)) for name in ("edema", "cardiomegaly")])
    chosen = choose_benchmark(every, asked, seed=0)
    assert set(chosen.filter(benchmark_class="atelectasis")["image_id"]) == expected


def copies(images, name, count):
    row = images.filter(image_id="nothing").with_columns(pl.lit(1, pl.Int8).alias(f"label_{name}"))
    return pl.concat([row.with_columns(pl.lit(f"{name}-{n}").alias("image_id")) for n in range(count)])


def test_the_draw_is_balanced_seeded_and_free_of_the_order_of_rows(images):
    images = pl.concat([copies(images, name, 20) for name in CLASSES])
    chosen = choose_benchmark(images, benchmark(classes=CLASSES, per_class=5), seed=7)
    assert chosen["benchmark_class"].value_counts().sort("benchmark_class").rows() == [
        ("atelectasis", 5), ("cardiomegaly", 5), ("edema", 5),
    ]  # fmt: skip
    assert chosen["image_id"].n_unique() == 15
    again = choose_benchmark(images.reverse(), benchmark(classes=CLASSES, per_class=5), seed=7)
    assert again.equals(chosen)
    other = choose_benchmark(images, benchmark(classes=CLASSES, per_class=5), seed=8)
    assert ids_digest(other["image_id"]) != ids_digest(chosen["image_id"])
    assert ids_digest(chosen["image_id"].shuffle(1)) == ids_digest(chosen["image_id"])


def test_a_class_without_labels_is_refused(images):
    with pytest.raises(InputError, match="no label for gout; the data set has: atelectasis, edema, cardio"):
        choose_benchmark(images, benchmark(classes=("edema", "gout")), seed=0)
