"""Methods compared: rows that say why, values that do not depend on batches, a comparison that goes on."""

from __future__ import annotations

import math

import pytest
import torch
from captum.attr import Deconvolution, Saliency
from torch import Tensor, nn

from lrp_plugin import UnifiedLRP
from lrp_plugin.composites import epsilon_plus
from lrp_plugin.evaluation import METRICS, Metric, bootstrap_mean, compare, mask_share, perturbation_curves
from lrp_plugin.evaluation.examples import Examples
from lrp_plugin.evaluation.methods import builder, method_names


class Net(nn.Module):
    """A small network that learned nothing, for pictures of one channel; three classes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
            nn.Flatten(), nn.Linear(16, 3),
        )  # fmt: skip
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def data(count: int = 10, side: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(count, 1, side, side, generator=generator)
    mask = torch.zeros(count, 1, side, side, dtype=torch.bool)
    mask[:, :, :4, :4] = True
    return x, torch.arange(count) % 3, mask


QUIET = {"progress": False}
METHODS = ("saliency", "epsilon", "epsilon_plus_flat")


def test_values_are_those_of_the_functions_and_do_not_depend_on_batches() -> None:
    model, (x, y, mask) = Net(), data()
    found = compare(model, (x, y, mask), METHODS, **QUIET)
    small = compare(model, [(x[:7], y[:7], mask[:7]), (x[7:], y[7:], mask[7:])], METHODS, batch_size=3, **QUIET)
    relevance = UnifiedLRP(model).attribute(x, target=y)
    torch.testing.assert_close(found.values["epsilon", "srg"], perturbation_curves(model, x, relevance, y).srg)
    torch.testing.assert_close(found.values["epsilon", "mask_share"], mask_share(relevance, mask))
    for key, value in found.values.items():
        torch.testing.assert_close(small.values[key], value, rtol=1e-4, atol=1e-5)  # float32 in other batches
    assert found.methods == (*METHODS, "random")
    assert found.interval("epsilon", "srg") == bootstrap_mean(found.values["epsilon", "srg"], resamples=1000)
    torch.testing.assert_close(found.curves["saliency"][:, 1, 0], found.curves["saliency"][:, 0, 0])
    assert found.agreement.shape == (4, 4) and torch.allclose(found.agreement.diagonal(), torch.ones(4).double())
    assert all(cost.seconds > 0 for cost in found.costs.values())
    assert found.costs["epsilon"].mebibytes > 4 * 16 * 16 * 4 * 4 / 2**20  # the first convolution's output alone


def test_methods_in_every_form() -> None:
    model, (x, y, _) = Net(), data(4)
    given = {
        "name": "saliency", "class": Saliency, "instance": Saliency(model), "composite": epsilon_plus(),
        "explainer": UnifiedLRP(model, "zplus"), "builder": lambda net: UnifiedLRP(net, gamma=0.1, rule="gamma"),
        "function": lambda inputs, target: inputs, "function_named": lambda inputs, target=None: 2 * inputs,
    }  # fmt: skip
    found = compare(model, (x, y), given, ["srg", "randomization"], **QUIET)
    values = found.values
    assert torch.equal(values["class", "srg"], values["instance", "srg"])
    torch.testing.assert_close(values["name", "srg"], values["class", "srg"])
    assert torch.equal(values["function", "srg"], values["function_named", "srg"])
    for bound in ("instance", "explainer", "function", "function_named"):  # a randomized copy has no such method
        assert "cannot be made for another" in found.failures[bound, "randomization"]
        assert (bound, "randomization") not in values
    assert values["builder", "randomization"].abs().max() <= 1
    for name in method_names():
        assert builder(name, model, (0.0, 1.0))(model)(x, y).shape == x.shape


def test_a_method_that_fails_says_why_and_the_others_run() -> None:
    model, (x, y, _) = Net(), data(6)

    def breaks(inputs: Tensor, target: Tensor) -> Tensor:
        raise RuntimeError("no gradient today")

    def partly(inputs: Tensor, target: Tensor) -> Tensor:
        return torch.where(torch.arange(len(inputs))[:, None, None, None] == 2, torch.nan, inputs)

    def empty(inputs: Tensor, target: Tensor) -> Tensor:
        return torch.full_like(inputs, torch.nan)

    given = {"breaks": breaks, "partly": partly, "empty": empty, "wrong": lambda inputs, target: inputs[:2],
             "deconvolution": Deconvolution, "saliency": "saliency"}  # fmt: skip
    failing = Metric("failing", "failing", True, lambda case: torch.zeros(3)[case.target + 5])
    found = compare(model, (x, y), given, ["srg", failing], **QUIET)
    assert found.failures["breaks"] == "RuntimeError: no gradient today" and "breaks" not in found.costs
    assert "every one of its 6 maps" in found.failures["empty"]
    assert "for 6 examples" in found.failures["wrong"]
    assert found.values["partly", "srg"].isnan().tolist() == [False, False, True, False, False, False]
    assert any("1 of 6 maps hold NaN" in note for note in found.notes)
    assert ("saliency", "srg") in found.values and "IndexError" in found.failures["saliency", "failing"]
    assert set(found.ordered()[-3:]) == {"breaks", "empty", "wrong"}
    assert ("partly", "failing") in found.failures and ("random", "failing") in found.failures
    text = str(found)
    assert "no gradient today" in text and "every one of its 6 maps" in text
    assert "no gradient today" in found.to_html()


def test_it_goes_on_where_it_stopped(tmp_path) -> None:
    model, given = Net(), data()
    calls: list[str] = []

    def counted(name: str, stop: bool = False):
        def explain(inputs: Tensor, target: Tensor) -> Tensor:
            calls.append(name)
            if stop:
                raise KeyboardInterrupt
            return inputs

        return explain

    with pytest.raises(KeyboardInterrupt):
        compare(model, given, {"one": counted("one"), "two": counted("two", True)}, folder=tmp_path / "kept", **QUIET)
    calls.clear()
    both = {"one": counted("one"), "two": counted("two")}
    found = compare(model, given, both, folder=tmp_path / "kept", **QUIET)
    assert set(calls) == {"two"}
    calls.clear()
    again = compare(model, given, both, folder=tmp_path / "kept", **QUIET)
    assert not calls and str(again) == str(found)
    assert all(torch.equal(again.values[key], value) for key, value in found.values.items())
    torch.testing.assert_close(again.agreement, found.agreement)
    more = compare(model, given, both, ["srg", "entropy"], folder=tmp_path / "kept", **QUIET)
    assert calls and ("one", "entropy") in more.values
    torch.testing.assert_close(more.values["one", "srg"], found.values["one", "srg"], rtol=0, atol=0)
    with pytest.raises(ValueError, match="holds another comparison: seed"):
        compare(model, given, both, folder=tmp_path / "kept", seed=3, **QUIET)
    with torch.no_grad():
        model.body[0].weight.mul_(2)
    with pytest.raises(ValueError, match="holds another comparison: model"):
        compare(model, given, both, folder=tmp_path / "kept", **QUIET)


def test_memory_does_not_grow_with_the_examples() -> None:
    """No batch outlives its turn: of the tensors handed to a method none is alive when the next comes."""
    import gc
    import weakref

    model, (x, y, _) = Net(), data(40)
    held: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    def explain(inputs: Tensor, target: Tensor) -> Tensor:
        gc.collect()
        alive.append(sum(one() is not None for one in held))
        found = inputs + 0
        held.append(weakref.ref(found))
        return found

    batches = [(x[k : k + 5], y[k : k + 5]) for k in range(0, 40, 5)]
    compare(model, batches, {"watched": explain}, ["srg", "entropy"], floor=False, agreement=0, **QUIET)
    assert len(alive) >= 8 and max(alive) <= 1


class Pictures:
    """A data set of dicts, as the X-ray module's."""

    def __init__(self, count: int) -> None:
        self.x, self.y, self.mask = data(count)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {
            "image": self.x[index],
            "disease": self.y[index],
            "evidence": self.mask[index],
            "lungs": self.mask[index],
        }


def test_data_in_every_form_and_predicted_classes() -> None:
    model, (x, y, mask) = Net(), data(7)
    wanted = compare(model, (x, y, mask), ["saliency"], ["srg", "mask_share"], floor=False, **QUIET)
    loader = torch.utils.data.DataLoader(Pictures(7), batch_size=4)
    for form in (
        Pictures(7),
        loader,
        [{"image": x, "disease": y, "evidence": mask[:, 0]}],
        {"x": x, "y": y, "mask": mask},
    ):
        found = compare(model, form, ["saliency"], ["srg", "mask_share"], floor=False, batch_size=4, **QUIET)
        for key, value in wanted.values.items():
            torch.testing.assert_close(found.values[key], value, rtol=1e-4, atol=1e-6)
        assert found.targets.tolist() == y.tolist()
    predicted = compare(model, x, ["saliency"], ["srg"], floor=False, **QUIET)
    assert predicted.targets.tolist() == model(x).argmax(1).tolist()


def test_bad_input_is_named() -> None:
    model, (x, y, mask) = Net(), data(4)
    for given, message in (
        ((x, y[:2]), "one class for each"), ((x, y, mask[..., :8]), "of another size"), (iter([(x, y)]), "only once"),
        ((x[:0], y[:0]), "holds no example"), ([], "holds no example"), ([("a", y)], "without inputs"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            compare(model, given, METHODS, **QUIET)
    for change, message in (
        ({"metrics": ["mask_share"]}, "needs masks"), ({"metrics": ["best"]}, "unknown metric"), ({"metrics": []}, "no metric"),
        ({"metrics": ["srg", "srg"]}, "twice"), ({"sort_by": "road"}, "not among the metrics"),
        ({"methods": ["magic"]}, "unknown method"), ({"methods": []}, "at least one"),
        ({"methods": ["gradcam"] * 2}, "its own"),
        ({"methods": ["epsilon_gamma_box"]}, "needs the input's range"), ({"replacement": "black"}, "legal are zero"),
        ({"shares": 0}, "positive number of steps"), ({"regions": torch.zeros(2, 2)}, "do not fit"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            compare(model, (x, y), **{"methods": METHODS, **QUIET, **change})
    with pytest.raises(TypeError, match="give a name"):
        compare(model, (x, y), {"one": 3}, **QUIET)
    with pytest.raises(TypeError, match="takes 3 arguments"):
        compare(model, (x, y), {"one": lambda a, b, c: a}, **QUIET)


def test_masks_that_are_empty_and_maps_without_positive_relevance_have_no_score() -> None:
    model, (x, y, mask) = Net(), data(4)
    mask[0] = False
    found = compare(model, (x, y, mask), {"negative": lambda inputs, target: torch.where(
        torch.arange(len(inputs))[:, None, None, None] == 1, -inputs, inputs)}, ["mask_share"], **QUIET)  # fmt: skip
    assert found.values["negative", "mask_share"].isnan().tolist() == [True, True, False, False]
    interval = found.interval("negative", "mask_share")
    assert interval is not None and (interval.count, interval.missing) == (2, 2)


def test_a_prediction_that_never_moves_is_noted() -> None:
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 0 * x.flatten(1).sum(1, keepdim=True) + torch.tensor([1.0, 2.0])

    x, y, _ = data(4)
    found = compare(Constant().eval(), (x, y % 2), {"input": lambda inputs, target: inputs}, ["srg"], **QUIET)
    assert found.values["input", "srg"].abs().max() == 0
    assert any("no removal changes the prediction" in note for note in found.notes)


def test_every_metric_runs_and_the_pictures_are_drawn(tmp_path) -> None:
    model, given = Net(), data(6)
    found = compare(model, given, METHODS, list(METRICS), sort_by="srg", **QUIET)
    assert not found.failures
    for metric in METRICS:
        assert all(torch.isfinite(found.values[name, metric]).all() for name in METHODS), metric
        ranks = found.mean_ranks(metric)
        assert sum(rank.mean for rank in ranks.values()) == pytest.approx(sum(range(1, 5)))
    best = found.ranking("morf")
    means = [float(found.values[name, "morf"].mean()) for name in best]
    assert means == sorted(means)
    assert "random" not in found.leaders("stability")
    page = found.to_html(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text() == page and page.count("<img") == 3 and "http" not in page
    assert len(found.plot().axes) == 2 and found.plot_ranks().axes
    rows = found.rows()
    assert len(rows) == 4 and math.isfinite(rows[0]["srg_low"])
    pandas = pytest.importorskip("pandas", reason="to_frame() needs pandas")
    frame = found.to_frame()
    assert isinstance(frame, pandas.DataFrame) and frame.loc["epsilon", "srg"] == pytest.approx(
        float(found.values["epsilon", "srg"].mean())
    )


def test_examples_are_read_again_and_hashed() -> None:
    x, y, mask = data(5)
    one = Examples((x, y, mask), 2)
    assert len(list(one)) == len(list(one)) == 3
    assert one.fingerprint() != Examples((x + 1, y, mask), 2).fingerprint()


def test_a_measure_without_a_value_for_any_example_says_why() -> None:
    x, y, mask = data()
    against = {"against": lambda inputs, target: -torch.ones_like(inputs)}
    found = compare(Net(), (x, y, mask), against, ["mask_share", "pointing_game", "srg", "stability"], **QUIET)
    said = (
        "mask_share, pointing_game: no example has a value (an empty mask, or no positive relevance); "
        "stability: no example has a value (a map without variation)"
    )
    assert found.reason("against") == said and f"against: {said}" in str(found) and found.reason("random") is None
    unseen = compare(Net(), (x, y, torch.zeros_like(mask)), ["saliency"], ["mask_share"], **QUIET)
    assert "an empty mask" in (unseen.reason("saliency") or "")


def test_nothing_is_guessed_of_a_measure_of_the_users_own() -> None:
    x, y, mask = data()
    mine = Metric("mine", "mine", True, lambda case: torch.full((len(case.inputs),), math.nan))
    assert compare(Net(), (x, y, mask), ["saliency"], [mine], **QUIET).reason("saliency") == (
        "mine: no example has a value"
    )
