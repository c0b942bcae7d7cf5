"""The one door to MLflow: what a stage records about itself, and what becomes of runs whose work is reused.

A parent run stands for a configuration (the content of params.yaml), a child run for one execution of a stage.
"""

from medunifier.tracking.configurations import adopt
from medunifier.tracking.interface import EXPERIMENT, StoreError
from medunifier.tracking.run import LocalRun, Run
from medunifier.tracking.store import prepare_store

__all__ = ["EXPERIMENT", "LocalRun", "Run", "StoreError", "adopt", "prepare_store"]
