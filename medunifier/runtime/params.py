"""params.yaml as typed, checked, frozen objects: `load_params` and the classes of its sections.

A parameter is declared once, in medunifier/runtime/sections/: type, limits, unit and one sentence. The rules between
parameters are in medunifier/runtime/rules.py. The JSON schema, the presets' comments and docs/parameters.md are
written from both: `python -m workflow.parameters --write`.
"""

from pathlib import Path

from pydantic import ValidationError

from medunifier.runtime.errors import InputError
from medunifier.runtime.rules import broken_rules
from medunifier.runtime.schema import violations
from medunifier.runtime.sections.base import NO_FILE
from medunifier.runtime.sections.data import (
    Benchmark,
    Copies,
    Dataset,
    Features,
    FoldersLayout,
    Images,
    Index,
    Simulate,
    TableLayout,
    Tokenizer,
    Vision,
)
from medunifier.runtime.sections.evaluation import (
    Evaluate,
    Finetune,
    Generate,
    MultiLabel,
    Retrieve,
    ScoreImages,
    WriteReports,
    ZeroShot,
)
from medunifier.runtime.sections.training import (
    Augment,
    Model,
    Pretrain,
    Prior,
    PriorLevel,
    PriorTraining,
    TrainedVariants,
    Variant,
)
from medunifier.runtime.sections.whole import Params
from medunifier.runtime.yaml import read_yaml

__all__ = [
    "NO_FILE",
    "Augment",
    "Benchmark",
    "Copies",
    "Dataset",
    "Evaluate",
    "Features",
    "Finetune",
    "FoldersLayout",
    "Generate",
    "Images",
    "Index",
    "Model",
    "MultiLabel",
    "Params",
    "Pretrain",
    "Prior",
    "PriorLevel",
    "PriorTraining",
    "Retrieve",
    "ScoreImages",
    "Simulate",
    "TableLayout",
    "Tokenizer",
    "TrainedVariants",
    "Variant",
    "Vision",
    "WriteReports",
    "ZeroShot",
    "load_params",
]


def load_params(path: str | Path = "params.yaml") -> Params:
    """Read, check and type a parameter file.

    Raises:
        InputError: The file is missing, is no YAML, or breaks a limit or a rule between parameters. The message
            lists every violation with its path, its value and what is allowed.
    """
    raw = read_yaml(path, missing=f"copy a preset: cp workflow/presets/demo.yaml {path}")
    try:
        params = Params.model_validate(raw)
        problems = list(broken_rules(params))  # which rely on the right types
    except ValidationError as error:
        problems = violations(error, Params)
    else:
        if not problems:
            return params
    raise InputError(
        f"{path}: {len(problems)} wrong value(s); nothing was run. Correct them and start again:\n"
        + "\n".join(f"  {problem}" for problem in problems)
    )
