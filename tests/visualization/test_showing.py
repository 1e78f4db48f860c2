"""Figures show themselves: as a notebook cell's last line, once, and by ``plt.show()``."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

SHOWN = """
import sys, types, matplotlib
from matplotlib.backends import backend_agg
from matplotlib.backend_bases import FigureManagerBase
fake = types.ModuleType("fake_backend")
shown = []
class Manager(FigureManagerBase):
    @classmethod
    def pyplot_show(cls, *, block=None):
        from matplotlib._pylab_helpers import Gcf
        shown.extend(manager.canvas.figure for manager in Gcf.get_all_fig_managers())
class Canvas(backend_agg.FigureCanvasAgg):
    manager_class = Manager
fake.FigureCanvas, fake.FigureManager = Canvas, Manager
sys.modules["fake_backend"] = fake
matplotlib.use("module://fake_backend")
import matplotlib.pyplot as plt, torch
from lrp_plugin.visualization import plot_heatmap, plot_features, unshown
"""


def run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", SHOWN + code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_plt_show_shows_the_last_twenty_that_are_for_the_screen():
    run(
        "a = plot_heatmap(torch.randn(4, 4)); b = plot_features(torch.randn(3)); plt.show(); assert shown == [a, b]\n"
        "kept = [plot_features(torch.randn(2)) for _ in range(25)]\n"
        "with unshown(): plot_features(torch.randn(2))\n"
        "shown.clear(); plt.show(); assert shown == kept[-20:], len(shown)"
    )


def test_without_a_screen_a_figure_lives_as_long_as_it_is_held():
    import weakref

    import torch

    from lrp_plugin.visualization import plot_features

    held = weakref.ref(plot_features(torch.randn(2)))
    gc.collect()
    assert held() is None


CELLS = {
    "last line": "plot_features(torch.randn(3))",
    "plt.show()": "import matplotlib.pyplot as plt\nplot_features(torch.randn(3))\nplt.show()",
    "inline": "%matplotlib inline\nplot_features(torch.randn(3))",
    "assigned, then shown": "figure = plot_features(torch.randn(3))\ndisplay(figure)",
    "explanation.show()": "found.show()",
}
TABLES = {
    "explanation": "found",
    "ledger": "found.ledger",
    "plan": "UnifiedLRP(model).plan(x)",
    "explainer": "UnifiedLRP(model)",
    "rules": "list_rules()",
}


@pytest.fixture(scope="module")
def outputs() -> dict[str, list[dict]]:
    nbformat = pytest.importorskip("nbformat", reason="needs nbformat (extra test)")
    client = pytest.importorskip("nbclient", reason="needs nbclient (extra test)")
    first = (
        "import torch\nfrom torch import nn\nfrom lrp_plugin import UnifiedLRP, explain_table, list_rules\n"
        "from lrp_plugin.visualization import plot_features\n"
        "model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()\nx = torch.randn(1, 3)\n"
        "found = explain_table(model, x[0])"
    )
    cells = [first, *CELLS.values(), *TABLES.values()]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    made = [cell.outputs for cell in notebook.cells[1:]]
    return dict(zip([*CELLS, *TABLES], made, strict=True))


@pytest.mark.parametrize("name", CELLS)
def test_a_notebook_shows_each_figure_once(outputs, name):
    pictures = [output for output in outputs[name] if "image/png" in output.get("data", {})]
    assert len(pictures) == 1, outputs[name]


@pytest.mark.parametrize("name", TABLES)
def test_a_notebook_shows_tables_as_html(outputs, name):
    (shown,) = [output for output in outputs[name] if output.output_type == "execute_result"]
    assert "<table" in shown["data"]["text/html"]
