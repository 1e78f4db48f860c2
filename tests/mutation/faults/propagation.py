"""Faults of the pass."""

from tests.mutation.fault import fault

FAULTS = [
    fault('propagation/steps.py', 'a watched map is folded',
          'if step is None or not step.waits or before.watched or rule.waits.follows is None:',
          'if step is None or not step.waits or rule.waits.follows is None:', 'architectures/test_layer.py'),
    fault('propagation/steps.py', "the values of a second reader are the first's",
          '    for known in (rectified, False):\n',
          '    for known in (rectified, True, False):\n', 'engine/test_fast_equals_general.py'),
    fault('propagation/writes.py', 'memory that others read is written over',
          'if mode.setup.exact or mode.ports or memory.reads > 1 or memory.viewed',
          'if mode.setup.exact or mode.ports or memory.viewed', 'engine/test_overwritten.py'),
    fault('propagation/results.py', 'a value keeps its sign by one signal',
          '            nonnegative = nonnegative and known.nonnegative',
          '            nonnegative = nonnegative or known.nonnegative', 'engine/test_networks.py'),
    fault('propagation/results.py', 'non-negative whatever is added',
          'nonnegative, gate = output.sign == "nonnegative", output.gate or result.gate',
          'nonnegative, gate = True, output.gate or result.gate', 'engine/test_networks.py'),
    fault('propagation/ports.py', "padding's value is relevance's way",
          'found = [torch.where(zero.isfinite(), port - zero, 0) for port, zero in zip(found, added)]',
          'pass', 'engine/test_constant_entries.py::test_the_value_of_padding_is_no_relevances_way'),
    fault('propagation/mode.py', 'the products of two signals are maps',
          'linear = operation in LINEAR_MAPS and len(found) == 1 and',
          'linear = operation in LINEAR_MAPS and', 'rules/test_composites.py::test_a_product_of_two_signals_is_no_linear_map'),
]  # fmt: skip
