"""Every private name of torch and captum that the package reads may go: the map is the same, or an error names it.

Each is taken away in a process of its own while the package is imported (torch itself keeps it), and given back.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import lrp_plugin

PRIVATE = re.compile(
    r"torch\._(?!_)|torch\.\w+\._(?!_)|captum\._|captum\.\w+\._|from torch(\.\w+)* import _|nn\.Module\._"
)
ROOT = Path(lrp_plugin.__file__).parent
NAMES = (
    "torch._C._len_torch_dispatch_stack", "torch._C._functorch.peek_interpreter_stack",
    "torch._C._functorch.is_functorch_wrapped_tensor", "torch.utils._python_dispatch._disable_current_modes",
    "torch._C._autograd._top_saved_tensors_default_hooks",
    "torch._C._autograd._get_current_graph_task_keep_graph", "torch.nn.Module._call_impl",
    "torch.overrides._get_current_function_mode_stack", "torch._C.TensorBase", "torch.overrides.get_testing_overrides",
    "captum._utils.common._format_output", "captum._utils.common._select_targets",
    "captum._utils.gradient._verify_select_neuron",
    "torch._functorch.apis.vmap_impl", "torch._functorch.vmap._process_batched_inputs",
    "torch.utils._pytree._broadcast_to_and_flatten",
)  # fmt: skip
MAY_RAISE = ("layer", "unit", "vmap")
"""What there may be an error for, in place of another map; a map itself and attention there always are."""

SCRIPT = """
import importlib, sys, warnings
import torch, captum.attr, torch._dynamo
from torch import nn
warnings.simplefilter("ignore")
path = sys.argv[1].split(".") if len(sys.argv) > 1 else ["torch", "nothing"]
owner = importlib.import_module(path[0])
for name in path[1:-1]:
    owner = getattr(owner, name) if hasattr(owner, name) else importlib.import_module(f"{owner.__name__}.{name}")
taken = getattr(owner, path[-1], None)
if taken is not None:
    try:
        delattr(owner, path[-1])
    except TypeError:
        sys.exit("a name that cannot be taken away")
from lrp_plugin import LayerUnifiedLRP, NeuronUnifiedLRP, UnifiedLRP, UnsupportedOperationError
import lrp_plugin.composites as c
if taken is not None:
    setattr(owner, path[-1], taken)
torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3))
net.double().eval()
x = torch.randn(2, 3, 8, 8).double()
named = c.Composite([(c.path("0"), c.rule("flat")), (c.path("5"), c.rule("epsilon"))])
asked = {
    "map": lambda: UnifiedLRP(net, composite=named).attribute(x, 1),
    "attention": lambda: UnifiedLRP(nn.MultiheadAttention(4, 2, batch_first=True).double().eval(), output=0).attribute(
        (torch.ones(1, 2, 4).double(),) * 3, (0, 1))[0],
    "layer": lambda: LayerUnifiedLRP(net, net[3], composite=named).attribute(x, 1),
    "unit": lambda: NeuronUnifiedLRP(net, net[3], composite=named).attribute(x, (0, 1, 1)),
    "vmap": lambda: UnifiedLRP(lambda v: torch.vmap(lambda row: torch.tanh(row).sum())(v)).attribute(x),
}
for name, ask in asked.items():
    torch.manual_seed(0)
    try:
        print(name, repr(float(ask().double().abs().sum())))
    except (UnsupportedOperationError, ValueError) as error:
        print(name, "raises", error)
"""


def answers(*name: str) -> dict[str, str]:
    run = subprocess.run([sys.executable, "-c", SCRIPT, *name], capture_output=True, text=True, cwd=ROOT.parent)
    assert run.returncode == 0, run.stderr[-2000:]
    return dict(line.split(" ", 1) for line in run.stdout.splitlines())


@pytest.fixture(scope="module")
def usual() -> dict[str, str]:
    return answers()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_without_a_private_name(name: str, usual: dict[str, str]) -> None:
    found = answers(name)
    assert found.keys() == usual.keys()
    for asked, answer in found.items():
        named = asked in MAY_RAISE and answer.startswith("raises") and "is not in torch" in answer
        assert named or answer == usual[asked], (asked, answer)


def test_private_names_stand_in_one_file() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sorted(ROOT.rglob("*.py"))
        if path.name != "torch_private.py"
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if PRIVATE.search(line) and not line.strip().startswith("#")
    ]
    assert not found
