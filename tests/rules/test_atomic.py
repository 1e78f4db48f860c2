"""A rule registered for a module type carries the module's call as one operation."""

from __future__ import annotations

import runpy
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lrp_plugin import UnifiedLRP, registry
from lrp_plugin.algebra.primitives import scale, substitute
from lrp_plugin.fast import maps, switches
from lrp_plugin.primitives import Call
from lrp_plugin.registry import Registry, qualified_name


class Cubed(nn.Module):
    """x ** 3, written so that its inside would be seen as several operations."""

    def forward(self, x: Tensor) -> Tensor:
        return x * x * x


class Inner(Cubed):
    """A subclass of a registered type."""


def all_passes(call: Call) -> Tensor:
    """R passes entry by entry."""
    x, value = call.args[0], call.native().detach()
    return substitute(value, lambda m: m * value / x.detach(), x)


def network(kind: type[nn.Module] = Cubed) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4, bias=False), kind(), nn.Linear(4, 2, bias=False)).double().eval()


def registered(key: type | str) -> Registry:
    mine = registry.copy()
    mine.register("passes", key, port="keeps")(all_passes)
    return mine


@pytest.mark.parametrize("key", [Cubed, qualified_name(Cubed)])
@pytest.mark.parametrize("kind", [Cubed, Inner])
def test_an_atomic_module_is_one_operation(key: type | str, kind: type[nn.Module]) -> None:
    """By type or qualified name, subclasses too: one row, whose relevance passes whole."""
    x = torch.randn(2, 3, dtype=torch.float64)
    model = network(kind)
    ledger = UnifiedLRP(model, rule="zero", registry=registered(key), strict=True).ledger(x, target=1)
    assert [row.path for row in ledger.rows] == ["0", "1", "2"]
    torch.testing.assert_close(ledger.rows[1].relevance_in, ledger.rows[1].relevance_out)
    torch.testing.assert_close(ledger.input, model(x)[:, 1].detach())


def test_a_local_registry_is_seen_by_nobody_else() -> None:
    registered(Cubed)
    assert (Cubed, "passes") not in registry
    x = torch.randn(1, 3, dtype=torch.float64)
    assert len(UnifiedLRP(network(), rule="zero").ledger(x, target=0).rows) == 4


def test_hooks_are_gone_after_a_failure() -> None:
    """Also where the module itself raises; the next call works."""

    class Failing(Cubed):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("broken on purpose")

    model = network(Failing)
    lrp = UnifiedLRP(model, rule="zero", registry=registered(Cubed))
    x = torch.randn(1, 3, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="broken on purpose"):
        lrp.attribute(x, target=0)
    for module in model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks
    model[1] = Cubed()
    assert torch.isfinite(lrp.attribute(x, target=0)).all()


def test_threads_do_not_meet_in_an_atomic_module() -> None:
    """Two registries on one model in two threads at once give what one after the other gives."""
    model, x = network(), torch.randn(2, 3, dtype=torch.float64)
    halving = registry.copy()

    @halving.register("halved", Cubed)
    def halved(call: Call) -> Tensor:
        """Half of the relevance passes."""
        return scale(all_passes(call), 0.5)

    explainers = [UnifiedLRP(model, rule="zero", registry=r) for r in (registered(Cubed), halving)]
    alone = [lrp.attribute(x, target=0) for lrp in explainers]
    assert not torch.allclose(*alone)
    found: dict[int, list[Tensor]] = {0: [], 1: []}

    def explain(place: int) -> None:
        found[place].extend(explainers[place].attribute(x, target=0) for _ in range(20))

    threads = [threading.Thread(target=explain, args=(place,)) for place in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for place, relevances in found.items():
        assert len(relevances) == 20 and all(torch.equal(relevance, alone[place]) for relevance in relevances)


def test_a_thread_inside_the_module_outlives_the_hooks() -> None:
    """A plain forward in another thread that found a hook of ours goes on when the hook is gone meanwhile."""
    model, x = network(), torch.randn(2, 3, dtype=torch.float64)
    lrp = UnifiedLRP(model, rule="zero", registry=registered(Cubed))
    expected = model(x)
    inside, explained = threading.Event(), threading.Event()
    outputs: list[Tensor] = []
    other = threading.Thread(target=lambda: outputs.append(model(x)))

    def pause(*_: object) -> None:
        if threading.current_thread() is other:
            inside.set()
            assert explained.wait(60)

    def start_the_other(*_: object) -> None:
        if threading.current_thread() is threading.main_thread() and not other.ident:
            other.start()
            assert inside.wait(60)

    cubed = next(module for module in model if isinstance(module, Cubed))
    cubed.register_forward_hook(pause)  # runs before the hooks that the explanation attaches
    cubed.register_forward_hook(start_the_other)
    lrp.attribute(x, target=0)
    explained.set()
    other.join()
    assert torch.equal(outputs[0], expected)


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """examples/add_a_rule.py: its rule is chosen and its ledger closes."""
    example = Path(__file__).parents[2] / "examples" / "add_a_rule.py"
    names = runpy.run_path(str(example))
    assert "Swish" in capsys.readouterr().out
    ledger = names["lrp"].ledger(names["inputs"], target=0)
    assert ledger.gap.abs().max() < 1e-12 and abs(float((ledger.output - ledger.input)[0])) < 1e-6
    assert len(example.read_text().splitlines()) <= 40


def test_the_example_of_a_fast_path_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """examples/add_a_fast_path.py: it holds itself to the law."""
    added = frozenset(switches.EVERYTHING), dict(maps.PLAN)
    try:
        runpy.run_path(str(Path(__file__).parents[2] / "examples" / "add_a_fast_path.py"))
    finally:
        switches.EVERYTHING.intersection_update(added[0])
        maps.PLAN.clear()
        maps.PLAN.update(added[1])
    assert "fast equals general" in capsys.readouterr().out


def test_functions_known_by_name_are_no_modules() -> None:
    """They would make every pass look through all modules: 6 % of MobileNetV3's time on one image."""
    assert registry.atomic_types() == []
