"""`lrp_plugin.pyhealth.UnifiedLRP`: PyHealth's call, made right."""

from __future__ import annotations

import inspect
import logging
import threading
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lrp_plugin
from lrp_plugin.pyhealth import (
    ConservationError,
    ConservationValidator,
    LayerwiseRelevancePropagation,
    LRPHandlerRegistry,
    LRPLayerHandler,
    UnifiedLRP,
    create_default_registry,
)


def test_names_and_defaults_are_pyhealths() -> None:
    parameters = inspect.signature(UnifiedLRP).parameters
    assert {name: p.default for name, p in list(parameters.items())[1:8]} == {
        "rule": "epsilon",
        "epsilon": 0.01,
        "alpha": 2.0,
        "beta": 1.0,
        "validate_conservation": True,
        "conservation_tolerance": 0.01,
        "custom_registry": None,
    }
    assert list(inspect.signature(UnifiedLRP.attribute).parameters)[1:4] == [
        "inputs",
        "target_class",
        "return_intermediates",
    ]
    assert issubclass(UnifiedLRP, lrp_plugin.UnifiedLRP)


@pytest.mark.parametrize("rule", ["epsilon", "alphabeta"])
def test_result_is_the_engines_by_name(cnn: nn.Module, images: Tensor, rule: str) -> None:
    result = UnifiedLRP(cnn, rule=rule).attribute(inputs={"x": images}, target_class=2)
    assert list(result) == ["x"]
    assert result["x"].shape == images.shape
    assert result["x"].device == next(cnn.parameters()).device
    assert torch.allclose(result["x"], lrp_plugin.UnifiedLRP(cnn, rule).attribute(images, target=2), atol=1e-7)


def test_every_spelling_of_a_target(cnn: nn.Module, images: Tensor) -> None:
    lrp = UnifiedLRP(cnn, validate_conservation=False)
    one = lrp.attribute({"x": images}, 1)["x"]
    for target in (np.int64(1), torch.tensor(1), [1, 1, 1], torch.tensor([1, 1, 1]), np.array([1, 1, 1]), -3):
        assert torch.equal(lrp.attribute({"x": images}, target)["x"], one)
    own = lrp.attribute({"x": images}, [0, 3, 1])["x"]
    for place, target in enumerate((0, 3, 1)):
        assert torch.allclose(own[place], lrp.attribute({"x": images}, target)["x"][place], atol=1e-7)
    highest = cnn(images).argmax(1)
    assert torch.equal(lrp.attribute({"x": images})["x"], lrp.attribute({"x": images}, highest)["x"])


@pytest.mark.parametrize("target", [4, -5, [0, 1, 9]])
def test_a_target_out_of_range_names_the_range(cnn: nn.Module, images: Tensor, target: object) -> None:
    with pytest.raises(ValueError, match="legal are 0 to 3, and -4 to -1"):
        UnifiedLRP(cnn).attribute({"x": images}, target)


@pytest.mark.parametrize("target", [0.5, True, [0, 1], "COVID"])
def test_a_target_of_another_kind_is_refused(cnn: nn.Module, images: Tensor, target: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        UnifiedLRP(cnn).attribute({"x": images}, target)


def test_one_logit_leaves_no_choice(images: Tensor) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(432, 1, bias=False)).eval()
    result = UnifiedLRP(model, epsilon=0.0).attribute({"input": images}, target_class=7)["input"]
    assert torch.allclose(result.sum((1, 2, 3)), model(images)[:, 0], atol=1e-5)


class _Returns(nn.Module):
    def __init__(self, wrap: object) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 3, bias=False)
        self.wrap = wrap

    def forward(self, x: Tensor) -> object:
        """Wrap the logits as PyHealth's models do."""
        return self.wrap(self.fc(x))  # type: ignore[operator]


@pytest.mark.parametrize(
    "wrap",
    [lambda z: {"logit": z, "y_prob": z * 0}, lambda z: {"y_pred": z}, lambda z: {"y_prob": z.abs().exp()}],
    ids=["logit", "y_pred", "y_prob"],
)
def test_dictionaries_are_read(wrap: object) -> None:
    model, x = _Returns(wrap).eval(), torch.rand(2, 5)
    output = model(x)
    expected = output.get("logit", output.get("y_pred"))
    expected = (output["y_prob"] + 1e-10).log() if expected is None else expected
    lrp = UnifiedLRP(model, epsilon=0.0, validate_conservation=False)
    assert torch.allclose(lrp.ledger({"x": x}, 1).output.float(), expected[:, 1], atol=1e-5)


def test_an_unreadable_output_names_the_legal_ones() -> None:
    with pytest.raises(ValueError, match="'y_prob'"):
        UnifiedLRP(_Returns(lambda z: {"loss": z}).eval()).attribute({"x": torch.rand(2, 5)}, 0)


class _TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Conv2d(1, 4, 3)
        self.head = nn.Linear(4 + 5, 3)

    def forward(self, image: Tensor, record: Tensor, factor: float = 1.0) -> Tensor:
        """Registered in another order than they run."""
        seen = torch.relu(self.image(image)).mean((2, 3))
        return self.head(torch.cat([seen, record * factor], 1))


def test_named_inputs_get_their_own_relevance() -> None:
    torch.manual_seed(0)
    model = _TwoInputs().eval()
    inputs = {"record": torch.rand(2, 5), "image": torch.rand(2, 1, 6, 6)}
    lrp = UnifiedLRP(model, epsilon=0.0)
    result = lrp.attribute(inputs, 1)
    assert {name: r.shape for name, r in result.items()} == {name: t.shape for name, t in inputs.items()}
    # The record enters the head only: its relevance there is weight times value.
    expected = model.head.weight[1, 4:] * inputs["record"]
    assert torch.allclose(result["record"], expected, atol=1e-6)
    ledger = lrp.ledger(inputs, 1)
    total = result["record"].sum(1) + result["image"].sum((1, 2, 3))
    assert torch.allclose(total.double(), ledger.output - ledger.bias, atol=1e-5)
    # Further keywords reach the model and get no relevance.
    doubled = lrp.attribute(inputs, 1, factor=2.0)
    assert sorted(doubled) == ["image", "record"]
    assert torch.allclose(doubled["record"], 2 * expected, atol=1e-6)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [({}, "empty"), ({"x": [1.0]}, "list"), ({"image": torch.rand(1, 3, 8, 8)}, "legal are 'x'")],
)
def test_bad_inputs_are_named(cnn: nn.Module, inputs: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UnifiedLRP(cnn).attribute(inputs, 0)  # type: ignore[arg-type]


def test_intermediates_are_the_relevance_at_each_layers_input(images: Tensor) -> None:
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(432, 20), nn.ReLU(), nn.Linear(20, 10), nn.ReLU(), nn.Linear(10, 4)]
    model = nn.Sequential(*layers).eval()
    lrp = UnifiedLRP(model, epsilon=0.1)
    result = lrp.attribute({"input": images}, 1, return_intermediates=True)
    found = result["_intermediates"]
    assert list(found) == [str(place) for place in range(6)]
    assert torch.allclose(found["0"], result["input"])
    for place in range(1, 6):
        below = model[:place](images)
        # The tail alone, explained from the layer's input, is the same relevance.
        tail = UnifiedLRP(model[place:].eval(), epsilon=0.1).attribute({"input": below.detach()}, 1)["input"]
        assert torch.allclose(found[str(place)], tail, atol=1e-6)


def test_intermediates_of_a_layer_that_runs_twice_and_of_two_inputs() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.mix = nn.Linear(4, 4), nn.Bilinear(4, 4, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = torch.relu(self.fc(x))
            return self.mix(torch.relu(self.fc(y)), y)

    found = UnifiedLRP(Twice().eval()).attribute({"x": torch.rand(3, 4)}, 0, return_intermediates=True)
    assert list(found["_intermediates"]) == ["fc", "fc#2", "mix"]
    assert len(found["_intermediates"]["mix"]) == 2
    assert torch.allclose(found["_intermediates"]["fc"], found["x"])


class _Lossy(LRPLayerHandler):
    """Passes a share on to equal parts; the rest vanishes without account."""

    def __init__(self, name: str = "lossy", share: float = 0.5) -> None:
        super().__init__(name)
        self.share = share
        self.told: dict[str, object] = {}
        self.inputs: dict[int, Tensor] = {}

    def supports(self, layer: nn.Module) -> bool:
        return isinstance(layer, nn.Linear)

    def forward_hook(self, module: nn.Module, input: tuple[Tensor, ...], output: Tensor) -> None:
        self.inputs[id(module)] = input[0]

    def backward_relevance(self, layer: nn.Module, relevance_output: Tensor, rule: str, **parameters: object) -> Tensor:
        self.told = {"rule": rule, **parameters}
        x = self.inputs[id(layer)]
        return (self.share * relevance_output.sum(1, keepdim=True) / x.shape[1]).expand_as(x)

    def clear_cache(self) -> None:
        self.inputs.clear()


def test_a_handler_overrides_the_built_in_rule(images: Tensor) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(432, 4)).eval()
    registry, handler = LRPHandlerRegistry(), _Lossy(share=1.0)
    registry.register(handler)
    flat = images.clone()
    flat[:, :, :6] = 0.0  # also pixels of value 0 receive
    result = UnifiedLRP(model, custom_registry=registry).attribute({"input": flat}, 1)["input"]
    expected = (model(flat)[:, 1] / 432)[:, None, None, None].expand_as(flat)
    assert torch.allclose(result, expected, atol=1e-7)
    assert handler.told == {"rule": "epsilon", "epsilon": 0.01, "alpha": 2.0, "beta": 1.0}
    assert not handler.inputs
    # Local: without the registry nothing has changed.
    plain = UnifiedLRP(model).attribute({"input": flat}, 1)["input"]
    assert torch.equal(plain, lrp_plugin.UnifiedLRP(model).attribute(flat, target=1))


def test_handlers_can_be_listed_found_and_removed() -> None:
    registry = create_default_registry()
    before = len(registry)
    assert registry.list_handlers() == [
        "LinearHandler", "ReLUHandler", "EmbeddingHandler", "Conv2dHandler", "MaxPool2dHandler", "AvgPool2dHandler",
        "AdaptiveAvgPool2dHandler", "FlattenHandler", "BatchNorm2dHandler", "DropoutHandler",
    ]  # fmt: skip
    assert LRPHandlerRegistry().list_handlers() == []
    registry.register(_Lossy("first"))
    registry.register(_Lossy("second"))
    assert registry.list_handlers()[:2] == ["second", "first"]
    assert len(registry) == before + 2
    found = registry.get_handler(nn.Linear(2, 2))
    assert found is not None
    assert found.name == "second"
    assert registry.get_handler(nn.GELU()) is None
    assert registry.get_handler(nn.ReLU()).name == "ReLUHandler"
    registry.unregister("second")
    assert registry.list_handlers()[0] == "first"
    with pytest.raises(KeyError, match="registered are: first, Linear"):
        registry.unregister("second")
    with pytest.raises(ValueError, match="already"):
        registry.register(_Lossy("first"))
    with pytest.raises(TypeError, match="LRPLayerHandler"):
        registry.register(object())  # type: ignore[arg-type]
    registry.clear()
    assert len(registry) == 0


def test_a_lossy_handler_is_found_out(images: Tensor) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(432, 4)).eval()
    registry = LRPHandlerRegistry()
    registry.register(_Lossy())
    lrp = UnifiedLRP(model, custom_registry=registry)
    lrp.attribute({"input": images}, 1)
    assert lrp.report is not None
    assert {check.layer_name for check in lrp.report.violations} == {"1", "(model)"}
    worst = next(check for check in lrp.report.checks if check.layer_name == "1")
    assert worst.error.tolist() == pytest.approx([0.5] * 3)
    assert "violated" in str(lrp.report)
    with pytest.raises(ConservationError, match=r"1 \(linear\) misses 50 %"):
        UnifiedLRP(model, custom_registry=registry, strict=True).attribute({"input": images}, 1)


def test_the_report_is_per_example_and_ends_at_the_logit(cnn: nn.Module, images: Tensor) -> None:
    lrp = UnifiedLRP(cnn, epsilon=0.1)
    result = lrp.attribute({"x": images}, [0, 1, 2])["x"]
    assert lrp.report is not None
    last = lrp.report.checks[-1]
    assert last.layer_name == "(model)"
    assert torch.allclose(last.sum_output, cnn(images)[range(3), range(3)].double(), atol=1e-6)
    assert torch.allclose(last.sum_input, result.sum((1, 2, 3)).double(), atol=1e-6)
    summary = lrp.get_conservation_summary()
    assert summary["total_validations"] == len(lrp.report.checks) > 6
    assert summary["violations_count"] == 0
    assert summary["max_error_pct"] < 1e-3
    account = sum(
        np.array(summary[name]) for name in ("input", "bias", "constant", "stabilizer", "no_receiver", "other")
    )
    assert account == pytest.approx(summary["output"], abs=1e-6)
    # Two examples whose errors have opposite signs must not cancel, as they do upstream.
    assert last.error.shape == (3,)
    # An epsilon of 0.1 absorbs, and the report says how much instead of calling it a violation.
    assert max(abs(value) for value in summary["stabilizer"]) > 1e-3


def test_nothing_is_printed_or_logged(
    cnn: nn.Module, images: Tensor, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings():
        warnings.simplefilter("error")
        UnifiedLRP(cnn, epsilon=1.0).attribute({"x": images}, 0)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_no_account_is_kept_where_validation_is_off(
    cnn: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a recorder was made")

    monkeypatch.setattr("lrp_plugin.ledger.Recorder.__init__", refuse)
    lrp = UnifiedLRP(cnn, validate_conservation=False)
    lrp.attribute({"x": images}, 0)
    assert lrp.get_conservation_summary() == {"total_validations": 0}
    with pytest.raises(AssertionError, match="recorder"):
        UnifiedLRP(cnn, validate_conservation=True).attribute({"x": images}, 0)


def test_the_model_is_left_as_it_was(cnn: nn.Module, images: Tensor) -> None:
    cnn.train()
    cnn.bn1.eval()
    modes = [module.training for module in cnn.modules()]
    state = {name: tensor.clone() for name, tensor in cnn.state_dict().items()}
    with pytest.warns(UserWarning, match="training mode"):
        UnifiedLRP(cnn).attribute({"x": images}, 0, return_intermediates=True)
    assert [module.training for module in cnn.modules()] == modes
    assert all(parameter.grad is None for parameter in cnn.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in cnn.modules())
    assert all(torch.equal(tensor, state[name]) for name, tensor in cnn.state_dict().items())


def test_a_batch_equals_its_examples_one_by_one(cnn: nn.Module, images: Tensor) -> None:
    for rule in ("epsilon", "alphabeta"):
        lrp = UnifiedLRP(cnn, rule=rule, validate_conservation=False)
        whole = lrp.attribute({"x": images}, [0, 1, 2])["x"]
        for place in range(3):
            alone = lrp.attribute({"x": images[place : place + 1]}, place)["x"]
            assert torch.allclose(whole[place], alone[0], atol=1e-6)


def test_several_threads_share_one_object(cnn: nn.Module, images: Tensor) -> None:
    lrp = UnifiedLRP(cnn, validate_conservation=False)
    expected = [lrp.attribute({"x": images}, target)["x"] for target in range(4)]
    wrong: list[int] = []

    def explain(target: int) -> None:
        for _ in range(5):
            if not torch.allclose(lrp.attribute({"x": images}, target)["x"], expected[target], atol=1e-6):
                wrong.append(target)

    threads = [threading.Thread(target=explain, args=(target,)) for target in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_works_without_gradients_around_it(cnn: nn.Module, images: Tensor) -> None:
    expected = UnifiedLRP(cnn).attribute({"x": images}, 0)["x"]
    with torch.no_grad():
        assert torch.equal(UnifiedLRP(cnn).attribute({"x": images}, 0)["x"], expected)


def test_illegal_settings_are_named(cnn: nn.Module) -> None:
    with pytest.raises(ValueError, match="alphabeta"):
        UnifiedLRP(cnn, rule="alpha_beta")
    with pytest.raises(ValueError, match="alpha"):
        UnifiedLRP(cnn, rule="alphabeta", alpha=2.0, beta=0.5)
    with pytest.raises(ValueError, match="conservation_tolerance"):
        UnifiedLRP(cnn, conservation_tolerance=-1)


@pytest.mark.parametrize("validate", [True, False])
def test_layer_order_is_the_order_of_execution(images: Tensor, validate: bool) -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.act, self.first = nn.Linear(4, 3), nn.GELU(), nn.Linear(432, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.act(self.first(x.flatten(1))))

    lrp = UnifiedLRP(Backwards().eval(), validate_conservation=validate)
    assert lrp.layer_order == []
    lrp.attribute({"x": images}, 1)
    assert [name for name, _, _ in lrp.layer_order] == ["first", "act", "last"]
    assert [handler and handler.name for _, _, handler in lrp.layer_order] == ["LinearHandler", None, "LinearHandler"]
    assert lrp.layer_order[0][1] is lrp.model.first


def test_the_default_handlers_change_nothing_and_serve_their_layer_alone(images: Tensor) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, 3, bias=False)
    model = nn.Sequential(layer, nn.ReLU(), nn.Flatten(), nn.Linear(400, 3)).eval()
    plain = UnifiedLRP(model, epsilon=0.0).attribute({"input": images}, 1)["input"]
    named = UnifiedLRP(model, epsilon=0.0, custom_registry=create_default_registry())
    assert torch.equal(named.attribute({"input": images}, 1)["input"], plain)
    (handler,) = [known for known in [named.handlers.get_handler(layer)] if known is not None]
    output = layer(images).detach()
    handler.forward_hook(layer, (images,), output)
    relevance = torch.rand_like(output)
    into = handler.backward_relevance(layer, relevance, "epsilon", epsilon=0.0)
    assert handler.validate_conservation(into, relevance, 1e-3)[0]
    twin = images * torch.autograd.grad(layer(x := images.clone().requires_grad_()), x, relevance / output)[0]
    assert torch.allclose(into, twin, atol=1e-4)
    handler.clear_cache()
    with pytest.raises(ValueError, match="call forward_hook first"):
        handler.backward_relevance(layer, relevance, "epsilon")


def test_the_validator_is_per_example_and_strict_where_asked() -> None:
    validator = ConservationValidator(tolerance=0.1)
    kept, lost = torch.ones(2, 4), torch.tensor([[2.0] * 4, [0.0] * 4])
    assert validator.validate("a", kept, kept, "Linear")["valid"]
    assert not validator.validate("b", lost, kept)["valid"], "two examples may not make up for each other"
    summary = validator.get_summary()
    assert (summary["total_validations"], summary["violations_count"], summary["max_error_pct"]) == (2, 1, 100.0)
    assert [found["layer_name"] for found in validator.violations] == ["b"]
    validator.reset()
    assert validator.get_summary()["total_validations"] == 0
    with pytest.raises(ConservationError, match="misses 100 %"):
        ConservationValidator(strict=True).validate("c", lost, kept)


def test_unified_lrp_has_pyhealths_validator(images: Tensor) -> None:
    lrp = UnifiedLRP(nn.Sequential(nn.Flatten(), nn.Linear(432, 4)).eval())
    assert lrp.validator.get_summary()["total_validations"] == 0
    lrp.attribute({"input": images}, 1)
    assert lrp.validator.get_summary()["total_validations"] == len(lrp.report.checks)
    assert lrp.validator.violations == []


def test_the_pull_requests_class_takes_a_batch_by_keyword(images: Tensor) -> None:
    torch.manual_seed(0)

    class Codes(nn.Module):
        feature_keys, label_keys = ("codes",), ("disease",)

        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(9, 5), nn.Linear(5, 3)

        def forward(self, **batch: Tensor) -> dict[str, Tensor]:
            return {"logit": self.head(self.embedding(batch["codes"]).mean(1))}

    model, codes = Codes().eval(), torch.randint(0, 9, (2, 6))
    lrp = LayerwiseRelevancePropagation(model, use_embeddings=True)
    result = lrp.attribute(target_class_idx=1, codes=codes, disease=torch.zeros(2))
    assert {name: value.shape for name, value in result.items()} == {"codes": codes.shape}
    assert torch.equal(result["codes"], UnifiedLRP(model, alpha=1.0, beta=0.0).attribute({"codes": codes}, 1)["codes"])
    with pytest.raises(ValueError, match="codes are integers"):
        LayerwiseRelevancePropagation(model, use_embeddings=False).attribute(codes=codes)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(432, 4)).eval()
    assert LayerwiseRelevancePropagation(plain, rule="alphabeta").attribute(input=images)["input"].shape == images.shape
    with pytest.raises(ValueError, match="no tensor that the model takes"):
        lrp.attribute(disease=torch.zeros(2))
