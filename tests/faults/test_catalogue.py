"""The plan of a soak: complete, and the same whenever the seed is."""

from itertools import islice

from medunifier.runtime.dvc_pipeline import Pipeline
from tests.faults.catalogue import STATE_FILES, Fault, cells, faults
from tests.faults.sandbox import output_kinds
from tests.support.paths import REPO

CELLS = cells(output_kinds(Pipeline(REPO)))


def first(count: int, seed: int = 0) -> list[Fault]:
    return list(islice(faults(seed, CELLS), count))


def test_two_hundred_faults_hold_every_kind_with_every_target() -> None:
    assert {fault.cell for fault in first(200)} == set(CELLS)
    assert {cell.target for cell in CELLS if cell.kind == "flip, time kept"} > set(STATE_FILES)
    assert {"data/features", "models/VARIANT", "results/metrics"} <= {cell.target for cell in CELLS}


def test_ten_faults_are_of_ten_kinds() -> None:
    assert len({fault.cell.kind for fault in first(10)}) == 10


def test_a_fault_depends_on_seed_and_number_alone() -> None:
    assert first(200)[:50] == first(50) != first(50, seed=1)
    one, same = first(30)[-1], first(200)[29]
    assert one.chance.random() == same.chance.random() != first(30, seed=1)[-1].chance.random()
