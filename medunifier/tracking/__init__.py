"""The one door to MLflow: what a stage reports about itself, and what becomes of runs whose results are reused.

A parent run stands for a configuration (the content of params.yaml), a child run for one execution of a stage.
Stages write journals (`run`, `journal`); one uploader process (`uploader`, started by `background`) brings them into
the store. Only `uploader` and what it imports (`delivery`, `store`, `sqlite_file`) import MLflow.
"""

from medunifier.tracking.background import adopt, begin_run
from medunifier.tracking.run import LocalRun, Run
from medunifier.tracking.settings import EXPERIMENT, StoreError

__all__ = ["EXPERIMENT", "LocalRun", "Run", "StoreError", "adopt", "begin_run"]
