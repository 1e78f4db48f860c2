"""Faults of PyHealth's spelling."""

from tests.mutation.fault import fault

_LRP, _PICTURES, _TRAINING = (f"pyhealth/test_pyhealth_{name}.py" for name in ("lrp", "pictures", "training"))
FAULTS = [
    fault("pyhealth/outputs.py", "a probability is taken for a logit", 'found = (output["y_prob"] + 1e-10).log()', 'found = output["y_prob"]',
          f"{_LRP}::test_dictionaries_are_read"),
    fault("pyhealth/outputs.py", "no target is the first class", "logits.detach().argmax(1) if target is None else target", "target or 0",
          f"{_LRP}::test_every_spelling_of_a_target"),
    fault("pyhealth/outputs.py", "one logit of a model has other classes", "if logits.shape[1] == 1:", "if False:", f"{_LRP}::test_one_logit_leaves_no_choice"),
    fault("pyhealth/saliency.py", "saliency is the channels' sum", 'channels="max"', 'channels="keep"',
          f"{_PICTURES}::test_saliency_is_the_largest_gradient_over_the_channels"),
    fault("pyhealth/saliency.py", "the target asked for is ignored", "number_of(target_class_idx, OUTPUTS", "number_of(None, OUTPUTS",
          f"{_PICTURES}::test_saliency_is_the_largest_gradient_over_the_channels"),
    fault("pyhealth/saliency.py", "what is stored is lost", "if save_to_batch:\n", "if False:\n", f"{_PICTURES}::test_an_input_batch_is_explained_at_once_and_stored"),
    fault("pyhealth/conservation.py", "errors of a batch cancel", "into, out = (r.double().reshape(len(r), -1).sum(1) for r in",
          "into, out = (r.double().reshape(1, -1).sum(1) for r in", f"{_LRP}::test_the_validator_is_per_example_and_strict_where_asked"),
    fault("pyhealth/conservation.py", "what was absorbed counts as lost", "row.other if row.unknown else row.gap", "row.relevance_out - row.relevance_in",
          f"{_LRP}::test_the_report_is_per_example_and_ends_at_the_logit"),
    fault("pyhealth/conservation.py", "strict is ignored", "if self.strict and not check.valid:", "if False:",
          f"{_LRP}::test_the_validator_is_per_example_and_strict_where_asked"),
    fault("pyhealth/handlers.py", "the first registered is asked first", "known for known in reversed(self.values()) if known.supports", "known for known in self.values() if known.supports",
          f"{_LRP}::test_handlers_can_be_listed_found_and_removed"),
    fault("pyhealth/handlers.py", "a handler hears the relevance twice", "Carrier(substitute(", "Carrier(share=2.0, value=substitute(", "pyhealth/test_exact_pyhealth.py"),
    fault("pyhealth/lrp.py", "handlers keep what they remembered", "handler.clear_cache()", "pass", f"{_LRP}::test_a_handler_overrides_the_built_in_rule"),
    fault("pyhealth/lrp.py", "labels are explained", "if name not in labels and takes_keyword", "if takes_keyword",
          "pyhealth/test_exact_pyhealth.py"),
    fault("pyhealth/lrp.py", "integers are explained whatever was asked", "if whole and not self.use_embeddings:", "if False:",
          f"{_LRP}::test_the_pull_requests_class_takes_a_batch_by_keyword"),
    fault("pyhealth/training.py", "checkpoints are not loaded", "if checkpoint_path is not None:", "if False:", f"{_TRAINING}::test_output_and_checkpoint_paths_are_used"),
    fault("pyhealth/training.py", "other optimizer parameters are dropped", 'if set(optimizer) != {"lr"}:', "if False:", f"{_TRAINING}::test_output_and_checkpoint_paths_are_used"),
    fault("pyhealth/shapes.py", "a patient of a number has nobody's films", "if owner == str(patient_id))", "if owner == patient_id)",
          "cxr/test_datasets.py"),
]  # fmt: skip
