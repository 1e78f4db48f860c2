"""Faults of the gradient methods."""

from tests.mutation.fault import fault

_ALL = "test_gradients.py"
FAULTS = [
    fault("gradients/methods.py", "saliency keeps the sign", "gradient = gradient.abs()", "gradient = gradient", _ALL),
    fault("gradients/methods.py", "NaN is explained", "if not bool(torch.isfinite(inputs).all()):", "if False:", _ALL),
    fault("gradients/methods.py", "the channels' mean, not their maximum", "gradient.amax(1) if", "gradient.mean(1) if", _ALL),
    fault("gradients/methods.py", "the caller's tensor gets a gradient", "inputs.detach().clone().requires_grad_()",
          "inputs.requires_grad_()", _ALL),
    fault("gradients/methods.py", "an unknown option is ignored", "if unknown:\n", "if False:\n", _ALL),
    fault("gradients/methods.py", "a method is registered over another", "if name in METHODS:\n", "if False:\n", "test_gradients.py::test_a_method_is_not_registered_over_another"),
    fault("gradients/scores.py", "one column gets a softmax", "logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(1)",
          "logits.softmax(1)", _ALL),
    fault("gradients/scores.py", "no target is class 0", "return scores.argmax(1)", "return scores.argmax(1) * 0", _ALL),
    fault("gradients/scores.py", "one target too many is let in", "(indices >= classes)", "(indices > classes)", _ALL),
    fault("gradients/scores.py", "a target of True is class 1", "or indices.dtype == torch.bool", "", _ALL),
    fault("gradients/captum_methods.py", "smoothgrad draws another noise each time", "torch.manual_seed(seed)", "pass", _ALL),
    fault("gradients/captum_methods.py", "noise is a share of the maximum", "(image.max() - image.min())", "image.max()", _ALL),
    fault("gradients/captum_methods.py", "Grad-CAM is repeated, not shared, over channels", " / signal.shape[1]", "", _ALL),
    fault("gradients/captum_methods.py", "Grad-CAM keeps negative values", "relu_attributions=True", "relu_attributions=False", _ALL),
    fault("gradients/captum_methods.py", "Grad-CAM's layer is the first", "return found[-1]", "return found[0]", _ALL),
    fault("gradients/captum_methods.py", "a feature map may be one pixel", "output.shape[2] * output.shape[3] > 1", "True", _ALL),
    fault("gradients/captum_methods.py", "occlusion paints 0 whatever the baseline", "baselines=baseline,\n        target=target,\n        perturbations",
          "baselines=0.0,\n        target=target,\n        perturbations", "test_gradients.py::test_one_step_of_integrated_gradients_is_the_midpoint_and_occlusion_paints_its_baseline"),
    fault("gradients/captum_methods.py", "steps are ignored", "n_steps=steps,", "n_steps=50,", "test_gradients.py::test_one_step_of_integrated_gradients_is_the_midpoint_and_occlusion_paints_its_baseline"),
    fault("gradients/captum_methods.py", "LRP of a probability is taken for the logit's", 'if output != "logit":', "if False:", _ALL),
]  # fmt: skip
