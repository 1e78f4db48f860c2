"""Faults of the page on a classifier."""

from tests.mutation.fault import fault

# Without those that open a browser.
_PAGE = [
    f"report/test_report.py::test_{name}"
    for name in (
        "a_warning_needs_the_whole_interval_below_the_threshold", "a_shortcut_needs_the_drop_and_reports_the_maps_beside_it",
        "the_page_names_the_shortcut_and_the_evidence_outside", "numbers_that_round_alike_look_alike",
        "metrics_and_confusion_are_shown_and_missing_numbers_are_dashes", "the_page_loads_nothing_from_anywhere",
        "text_from_outside_is_escaped", "the_layer_is_red_for_blue_against_and_exactly_clear_at_zero",
        "large_radiographs_are_reduced", "bad_input_is_named", "an_example_without_a_label_claims_no_truth",
        "examples_of_an_archive_are_linked_and_loaded_late", "further_sections_hold_tables_and_figures",
        "outlines_follow_the_mask_and_end_at_the_border",
    )
]  # fmt: skip
FAULTS = [
    fault("report/data.py", "specificity is sensitivity", "rest / (rest + called - right),", "right / actual,",
          "report/test_report.py::test_each_class_against_the_rest_equals_scikit_learns"),
    fault("report/findings.py", "a warning needs only the mean below the threshold", "if upper(entry.inside) < report.minimum_inside",
          "if entry.inside.mean < report.minimum_inside", *_PAGE),
    fault("report/findings.py", "a drop that may be none is a shortcut", "if lower(test.drop) > report.minimum_drop:", "if test.drop.mean > report.minimum_drop:", *_PAGE),
    fault("report/findings.py", "one image's value is no value", "return interval.mean if math.isnan(interval.high) else interval.high", "return interval.high", *_PAGE),
    fault("report/findings.py", "other classes' maps stand beside a shortcut", "if entry.class_name == test.class_name]", "if True]", *_PAGE),
    fault("report/findings.py", "agreeing and differing methods are exchanged", "own if entry in warned]", "own if entry not in warned]", *_PAGE),
    fault("report/page.py", "text from outside is not escaped", "autoescape=True", "autoescape=False", *_PAGE),
    fault("report/page.py", "a percentage is a share", "{100 * value:.1f}", "{value:.1f}", *_PAGE),
    fault("report/page.py", "an unlabelled example is of its predicted class", "views[example.true_class or UNLABELLED]",
          "views[example.true_class or example.predicted_class]", *_PAGE),
    fault("report/page.py", "the last digit depends on rounding before", "size = round(abs(value), 3)", "size = abs(value)", *_PAGE),
    fault("report/pictures.py", "height and width of a large picture are exchanged", "size = (max(round(picture.shape[1] * scale), 1), max(round(picture.shape[0] * scale), 1))",
          "size = (max(round(picture.shape[0] * scale), 1), max(round(picture.shape[1] * scale), 1))", *_PAGE),
    fault("report/pictures.py", "zero is not clear", "* 127 + 127).round()", "* 127 + 128).round()", *_PAGE),
    fault("report/pictures.py", "an outline is open at the border", "padded = np.pad(region_mask(mask, size), 1).astype(float)",
          "padded = np.pad(region_mask(mask, size), 1, mode=\"edge\").astype(float)", *_PAGE),
    fault("report/pictures.py", "an outline is a pixel off", "points = np.asarray(line) - 0.5", "points = np.asarray(line) + 0.5", *_PAGE),
    fault("report/data.py", "counts of a fraction are let in", " or (counts != counts.round()).any()", "", *_PAGE),
    fault("report/data.py", "two maps of one method are let in", "doubled = {name for name in names if names.count(name) > 1}", "doubled = set()", *_PAGE),
    fault("report/data.py", "a probability above 1 is let in", "if not 0 <= example.probability <= 1:", "if example.probability < 0:", *_PAGE),
]  # fmt: skip
