"""Every method under the shared call: right values, and the model left as it was."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from captum.attr import InputXGradient, LayerGradCam, Occlusion
from torch import Tensor, nn

from lrp_plugin.gradients import METHODS, GradientSaliency, build_method, last_feature_layer, resolve_target

HERE = [name for name in METHODS if name != "lrp"]
FAST = {
    "smoothgrad": {"samples": 3},
    "integrated_gradients": {"steps": 8},
    "occlusion": {"window": 4, "stride": 4},
}


class Net(nn.Module):
    """Convolution, batch norm, dropout, in-place ReLU: whatever state a careless call would move."""

    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.5)
        )
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 2, 12, 12, generator=torch.Generator().manual_seed(1))


def gradient(net: nn.Module, images: Tensor, target: list[int], function=lambda logits: logits) -> Tensor:
    x = images.clone().requires_grad_()
    return torch.autograd.grad(function(net(x))[range(len(target)), target].sum(), x)[0]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", HERE)
def test_inputs_that_are_not_finite_are_refused(name, value, net, images):
    images[1, 0, 3, 3] = value
    with pytest.raises(ValueError, match=r"inputs of shape \(3, 2, 12, 12\) hold NaN or infinite"):
        build_method(name, net, **FAST.get(name, {})).attribute(images, 1)


@pytest.mark.parametrize("name", HERE)
def test_result_has_the_inputs_shape_and_is_detached(name, net, images):
    result = build_method(name, net, **FAST.get(name, {})).attribute(images, 1)
    assert result.shape == images.shape
    assert not result.requires_grad
    assert torch.isfinite(result).all() and result.abs().sum() > 0


@pytest.mark.parametrize("name", HERE)
def test_model_inputs_and_generators_are_left_as_they_were(name, net, images):
    net.features[1].eval()
    net.features[3].train()
    for parameter in net.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    given, rng = images.clone(), torch.get_rng_state()
    method = build_method(name, net, **FAST.get(name, {}))
    with pytest.warns(UserWarning, match="training mode"):
        method.attribute(images, 0)
    assert [module.training for module in net.modules()] == modes
    assert all((parameter.grad == 7.0).all() for parameter in net.parameters())
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert not any(
        hooks for m in net.modules() for hooks in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks)
    )
    assert torch.equal(images, given) and not images.requires_grad and images.grad is None
    assert torch.equal(torch.get_rng_state(), rng)


@pytest.mark.parametrize("name", HERE)
def test_hooks_and_modes_are_restored_after_a_failure(name, net, images):
    class Failing(nn.Module):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            Failing.calls += 1
            # The first call only finds the target; the failure comes while the method's hooks are in place.
            if Failing.calls > 1 or name == "saliency":
                raise RuntimeError("broken head")
            return x

    net.head.append(Failing())
    net.train()
    with pytest.warns(UserWarning, match="training mode"), pytest.raises(RuntimeError, match="broken head"):
        build_method(name, net, **FAST.get(name, {})).attribute(images, 0)
    assert all(module.training for module in net.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in net.modules())


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_works_without_gradients_around_it(name, context, net, images):
    method = build_method(name, net, **FAST.get(name, {}))
    expected = method.attribute(images, 2)
    with context():
        assert torch.allclose(method.attribute(images.clone(), 2), expected)


@pytest.mark.parametrize("name", HERE)
def test_a_batch_equals_its_examples_one_by_one(name, net, images):
    method = build_method(name, net, **FAST.get(name, {}))
    together = method.attribute(images, [0, 1, 2])
    alone = torch.cat([method.attribute(images[i : i + 1], i) for i in range(3)])
    assert torch.allclose(together, alone, atol=1e-6)


@pytest.mark.parametrize("name", HERE)
def test_warnings_are_not_passed_on_from_captum(name, net, images):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build_method(name, net, **FAST.get(name, {})).attribute(images)


def test_saliency_is_the_gradient_of_the_logit(net, images):
    truth = gradient(net, images, [2, 2, 2])
    assert torch.allclose(GradientSaliency(net, absolute=False).attribute(images, 2), truth)
    assert torch.allclose(GradientSaliency(net).attribute(images, 2), truth.abs())
    largest = GradientSaliency(net, channels="max").attribute(images, 2)
    assert largest.shape == (3, 12, 12)
    assert torch.allclose(largest, truth.abs().amax(1))


@pytest.mark.parametrize(
    ("output", "function"),
    [
        ("probability", lambda logits: logits.softmax(1)),
        ("log_probability", lambda logits: logits.log_softmax(1)),
    ],
)
def test_saliency_of_probabilities(output, function, net, images):
    truth = gradient(net, images, [1, 1, 1], function)
    assert torch.allclose(GradientSaliency(net, output=output, absolute=False).attribute(images, 1), truth)


def test_a_saturated_model_has_a_logit_map_where_the_probability_has_none(net, images):
    with torch.no_grad():
        net.head[2].weight *= 1e5
        net.head[2].bias *= 1e5
    target = net(images).argmax(1)
    assert GradientSaliency(net, output="probability").attribute(images, target).abs().sum() == 0
    assert GradientSaliency(net).attribute(images, target).abs().sum() > 0


@pytest.mark.parametrize(
    "target",
    [1, np.int64(1), torch.tensor(1), [1, 1, 1], (1, 1, 1), np.array([1, 1, 1]), torch.tensor([1, 1, 1])],
    ids=lambda target: type(target).__name__,
)
def test_every_spelling_of_a_target_is_the_same(target, net, images):
    assert torch.equal(GradientSaliency(net).attribute(images, target), GradientSaliency(net).attribute(images, 1))


def test_no_target_means_each_examples_highest_score(net):
    images = torch.randn(16, 2, 12, 12, generator=torch.Generator().manual_seed(3)) * 4
    with torch.no_grad():
        net.head[2].bias -= net(images).mean(0)
    best = net(images).argmax(1)
    assert len(best.unique()) > 1, "the examples must not agree, or the test could not tell"
    assert torch.equal(GradientSaliency(net).attribute(images), GradientSaliency(net).attribute(images, best))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (3, r"target 3 is outside 0\.\.2"),
        (-1, r"target -1 is outside 0\.\.2"),
        ([0, 9, 0], "target 9"),
        ([0, 1], r"shape \(2,\) for a batch of 3"),
        (1.0, "dtype torch.float32"),
        (True, "dtype torch.bool"),
        (torch.zeros(3, 3, dtype=torch.long), r"shape \(3, 3\)"),
    ],
)
@pytest.mark.parametrize("name", ["saliency", "input_x_gradient"])
def test_bad_targets_are_named(name, target, message, net, images):
    with pytest.raises(ValueError, match=message):
        build_method(name, net).attribute(images, target)


def test_resolve_target_returns_one_index_per_example():
    scores = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    assert resolve_target(None, scores).tolist() == [1, 0]
    assert resolve_target(1, scores).tolist() == [1, 1]


def test_a_single_logit_needs_no_target(images):
    torch.manual_seed(0)
    net = Net(outputs=1).eval()
    one_dimensional = GradientSaliency(net, forward=lambda x: net(x)[:, 0], absolute=False).attribute(images)
    assert torch.allclose(one_dimensional, gradient(net, images, [0, 0, 0]))
    probability = GradientSaliency(net, output="probability", absolute=False).attribute(images)
    assert torch.allclose(probability, gradient(net, images, [0, 0, 0], torch.sigmoid))


@pytest.mark.parametrize("name", HERE)
def test_a_custom_forward_reaches_the_models_own_keywords(name, net, images):
    class Keywords(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, *, scan: Tensor, disease: Tensor) -> dict[str, Tensor]:
            return {"loss": disease.sum(), "logit": self.net(scan)}

    wrapped = Keywords().eval()
    options = FAST.get(name, {})
    method = build_method(name, wrapped, forward=lambda x: wrapped(scan=x, disease=torch.zeros(1)), **options)
    assert torch.allclose(method.attribute(images, 1), build_method(name, net, **options).attribute(images, 1))


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda x: {"y_prob": x}, "without 'logit'"),
        (lambda x: x, r"returned \(3, 2, 12, 12\)"),
        (lambda x: [x], "returned list"),
    ],
)
def test_outputs_that_cannot_be_explained_are_named(forward, message, net, images):
    with pytest.raises(ValueError, match=message):
        GradientSaliency(net, forward=forward).attribute(images)


@pytest.mark.parametrize(
    ("inputs", "error"),
    [(np.zeros((1, 2, 4, 4)), TypeError), (torch.zeros(1, 2, 4, 4, dtype=torch.int32), ValueError),
     (torch.zeros(0, 2, 4, 4), ValueError)],
)  # fmt: skip
def test_inputs_that_have_no_gradient_are_named(inputs, error, net):
    with pytest.raises(error, match="floating-point tensor"):
        GradientSaliency(net).attribute(inputs)


def test_unknown_names_and_options_are_named_with_what_is_legal(net):
    with pytest.raises(ValueError, match="'gradcamm' is unknown; choose from saliency"):
        build_method("gradcamm", net)
    with pytest.raises(ValueError, match="no option step; it has steps, baseline"):
        build_method("integrated_gradients", net, step=3)
    with pytest.raises(ValueError, match="output 'logits' is unknown"):
        GradientSaliency(net, output="logits")
    with pytest.raises(ValueError, match="channels 'sum'"):
        GradientSaliency(net, channels="sum")
    with pytest.raises(ValueError, match="absolute=True"):
        GradientSaliency(net, channels="max", absolute=False)
    with pytest.raises(TypeError, match=r"not a torch.nn.Module"):
        GradientSaliency(lambda x: x)


def test_input_x_gradient_and_occlusion_are_captums(net, images):
    assert torch.allclose(
        build_method("input_x_gradient", net).attribute(images, 1),
        InputXGradient(net).attribute(images.clone().requires_grad_(), target=1),
    )
    assert torch.allclose(
        build_method("occlusion", net, window=4, stride=2).attribute(images, 1),
        Occlusion(net).attribute(images, (2, 4, 4), (2, 2, 2), target=1),
        atol=1e-6,
    )


def test_integrated_gradients_sum_to_the_difference_of_logits(net, images):
    total = build_method("integrated_gradients", net, steps=200, baseline=0.5).attribute(images, 1).sum((1, 2, 3))
    with torch.no_grad():
        truth = net(images)[:, 1] - net(torch.full_like(images, 0.5))[:, 1]
    assert torch.allclose(total, truth, atol=1e-3)


def test_gradcam_channels_sum_to_captums_map(net, images):
    found = build_method("gradcam", net).attribute(images, 1).sum(1, keepdim=True)
    truth = LayerGradCam(net, net.features).attribute(images, target=1, relu_attributions=True)
    assert torch.allclose(found, truth, atol=1e-6)
    other = build_method("gradcam", net, layer=net.features[0]).attribute(images, 1).sum(1, keepdim=True)
    assert not torch.allclose(found, other)


def test_last_feature_layer_follows_execution_and_names_its_absence(net, images):
    assert last_feature_layer(net, images) is net.features
    flat = nn.Sequential(nn.Flatten(), nn.Linear(288, 2))
    with pytest.raises(ValueError, match="feature map"):
        last_feature_layer(flat, images)


def test_smoothgrad_is_seeded_and_tends_to_the_gradient_without_noise(net, images):
    options = {"samples": 4, "noise": 0.2}
    first = build_method("smoothgrad", net, seed=1, **options).attribute(images, 1)
    assert torch.equal(first, build_method("smoothgrad", net, seed=1, **options).attribute(images, 1))
    assert not torch.equal(first, build_method("smoothgrad", net, seed=2, **options).attribute(images, 1))
    quiet = build_method("smoothgrad", net, samples=2, noise=1e-9, absolute=False).attribute(images, 1)
    assert torch.allclose(quiet, gradient(net, images, [1, 1, 1]), atol=1e-6)


def test_a_constant_image_has_no_range_and_smoothgrad_still_works(net):
    flat = torch.full((1, 2, 12, 12), 0.5)
    found = build_method("smoothgrad", net, absolute=False).attribute(flat, 1)
    assert torch.allclose(found, gradient(net, flat, [1]), atol=1e-6)


def test_lrp_takes_the_same_call(monkeypatch, net, images):
    import lrp_plugin

    class Stub:
        def __init__(self, model, **options):
            Stub.seen = (model, options)

        def attribute(self, inputs, target=None):
            return inputs * target[:, None, None, None]

    monkeypatch.setattr(lrp_plugin, "UnifiedLRP", Stub, raising=False)
    result = build_method("lrp", net, composite="epsilon").attribute(images, [0, 1, 2])
    assert Stub.seen == (net, {"composite": "epsilon"}), "the user's own model, so that its module paths hold"
    assert torch.equal(result, images * torch.tensor([0.0, 1.0, 2.0])[:, None, None, None])
    with pytest.raises(ValueError, match="explains the logit"):
        build_method("lrp", net, output="probability")


def test_real_lrp_fits_the_table(net, images):
    with torch.no_grad():
        for module in net.modules():
            if getattr(module, "bias", None) is not None:
                module.bias.zero_()
    method = build_method("lrp", net, epsilon=1e-9)
    found = method.attribute(images, [0, 1, 2])
    assert found.shape == images.shape and not found.requires_grad
    # Without biases, LRP with a small stabilizer is gradient x input, whose sum is the logit.
    assert torch.allclose(found.sum((1, 2, 3)), net(images).diagonal(), rtol=1e-3)
    named = build_method("lrp", net, epsilon=1e-9, forward=lambda x: {"logit": net(x)})
    assert torch.allclose(named.attribute(images, [0, 1, 2]), found, atol=1e-6)


class Cubed(torch.nn.Module):
    """The sum of third powers, (N, 1)."""

    def forward(self, x):
        return (x**3).flatten(1).sum(1, keepdim=True)


def test_one_step_of_integrated_gradients_is_the_midpoint_and_occlusion_paints_its_baseline():
    image = torch.full((1, 1, 2, 2), 2.0)
    steps = {
        n: build_method("integrated_gradients", Cubed().eval(), steps=n).attribute(image, 0)[0, 0, 0, 0]
        for n in (1, 50)
    }
    assert steps[1] == pytest.approx(2 * 3 * 1.0**2) and steps[50] == pytest.approx(8)
    painted = build_method("occlusion", Cubed().eval(), window=1, baseline=1.0).attribute(image, 0)
    assert painted.unique().tolist() == [7]


def test_a_method_is_not_registered_over_another():
    from lrp_plugin.gradients.methods import METHODS, method

    before = METHODS["saliency"]
    with pytest.raises(ValueError, match="'saliency' is registered already"):
        method("saliency")(lambda scores, signal, target: signal)
    assert METHODS["saliency"] is before
