"""Faults of what asks other devices' entries, and of a GPU's kernels."""

from tests.mutation.fault import fault

_LOOKS, _KERNELS = "devices/test_looks.py", "devices/test_kernels.py"
FAULTS = [
    fault("algebra/looks.py", "what was asked is never answered", "                if said:", "                if False:", _LOOKS),
    fault("algebra/looks.py", "what is supposed is never doubted", "            raise WronglySupposedError\n", "            pass\n", _LOOKS),
    fault("algebra/primitives.py", "lost relevance is not asked under a mode", "_forgotten, must=True", "_forgotten", _LOOKS),
    fault("propagation/restored.py", "a device's buffers stay written", "                    copy_each(",
          "                    (lambda *given: None)(", _LOOKS),
    fault("propagation/restored.py", "a device's writes do not void the pass", "partial(_void, alike)", "lambda: None", _LOOKS),
    fault("attribution/targets.py", "a device's class numbers may be out of range", "(given >= shape[1])", "(given > shape[1])", _LOOKS),
    fault("attribution/inputs.py", "a sum that overflows is an infinite entry", "        if not torch.isfinite(tensor).all():  #",
          "        if True:  #", _LOOKS),
    fault("fast/compact.py", "a negative side alone gets beta", "torch.where(p > 0, -form.beta, 1.0)", "-form.beta", _KERNELS),
    fault("fast/compact.py", "a positive side alone gets alpha", "torch.where(o > 0, form.alpha, 1.0)", "form.alpha", _KERNELS),
    fault("fast/compact.py", "halves are not halved", "(first - second) * 0.5", "(first - second)", _KERNELS),
    fault("fast/kernels.py", "a kernel that gives something else is used", "        if mine.dtype != theirs.dtype or", "        if False and", _KERNELS),
    fault("fast/kernels.py", "why no kernel is made is told each time", "    if reason not in _told:", "    if True:", _KERNELS),
    fault("fast/maps.py", "gamma's fast path takes any numbers", "return favoured.scale if alike else None", "return favoured.scale",
          "engine/test_fast_equals_general.py"),
    fault("algebra/parts.py", "a part that is subtracted has the kind of one that is added", 'else f"-{part.kind}"', "else part.kind",
          "engine/test_fast_equals_general.py"),
    fault("evaluation/scoring.py", "a target's rows are not counted", "len(rows) and len(value) <=", "False and len(value) <=",
          "evaluation/test_exact_measures.py"),
]  # fmt: skip
