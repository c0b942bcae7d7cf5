"""PyTorch's compiler is imported when something is compiled; optimizers do without it."""

import json
import subprocess
import sys

import pytest

from tests.support.paths import REPO

TRAIN = """
import json, sys
from medunifier.runtime.compiler import import_compiler_late
if sys.argv[1] == "late":
    import_compiler_late()
import torch
from accelerate import Accelerator
from torch import nn

torch.manual_seed(0)
model = nn.Linear(3, 1)
model, optimizer = Accelerator(cpu=True).prepare(model, torch.optim.AdamW(model.parameters(), lr=0.1))
for _ in range(3):
    model(torch.arange(6.0).view(2, 3)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()
optimizer.load_state_dict(optimizer.state_dict())
weights = model.weight.tolist()
before = "torch._dynamo.eval_frame" in sys.modules

compiled = []
def backend(graph, example):
    compiled.append(graph)
    return graph.forward
doubled = torch.compile(lambda x: 2 * x + 1, backend=backend)(torch.ones(2)).tolist()
import torch._dynamo.utils
whole = torch._dynamo is sys.modules["torch._dynamo"] and hasattr(torch._dynamo, "optimize")
print(json.dumps([weights, before, doubled, len(compiled), whole]))
"""


def results(when: str) -> list:
    done = subprocess.run([sys.executable, "-c", TRAIN, when], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_training_does_without_the_compiler_and_compiling_still_works():
    weights, before, *compiled = results("late")
    assert not before
    assert compiled == [[3.0, 3.0], 1, True]
    assert weights == results("at once")[0]


def test_stages_put_it_off():
    code = "import sys, stages.finetune; print('sympy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


def test_a_whole_training_does_without(tmp_path):
    code = """
import sys
from pathlib import Path
import stages
from tests.support.small_training import fit, recipe
fit(Path(sys.argv[1]), chosen=recipe(optimizer="muon"))
print([name for name in ("torch._dynamo.eval_frame", "torch.distributed.tensor", "sympy") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], cwd=REPO, capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[-2] == "[]"


@pytest.mark.parametrize(
    "code",
    [
        "import torch._dynamo.config as config; whole = torch._dynamo.config is config\n"
        "config.cache_size_limit = 3; whole = whole and torch._dynamo.config.cache_size_limit == 3",
        "from torch._dynamo.eval_frame import OptimizedModule\n"
        "whole = isinstance(torch.compile(torch.nn.Linear(2, 2)), OptimizedModule)",
        "from torch._dynamo import exc; import torch._dynamo.exc; whole = torch._dynamo.exc is exc\n"
        "import sys; whole = whole and sys.modules['torch._dynamo.convert_frame'].exc is exc",
        "import importlib.util; whole = importlib.util.find_spec('torch._dynamo') is not None\n"
        "import torch._dynamo.variables.builder; whole = whole and hasattr(torch._dynamo.variables, 'builder')",
    ],
)
def test_a_part_of_the_compiler_is_there_once(code):
    start = (
        "from medunifier.runtime.compiler import import_compiler_late; import_compiler_late(); import torch\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", start + code + "\nprint(whole)"], capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[-1] == "True"
