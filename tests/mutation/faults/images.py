"""Faults of the picture reader."""

from tests.mutation.fault import fault

_READ, _DICOM = "images/test_reading.py", "cxr/test_dicom.py"
FAULTS = [
    fault("images/dicom.py", "MONOCHROME1 is not inverted", "grey = 1.0 - grey", "grey = grey * 1.0", _DICOM),
    fault("images/dicom.py", "MONOCHROME1 with a VOI table is not inverted",
          'if kind == "MONOCHROME1":', 'if kind == "MONOCHROME1" and not dataset.get("VOILUTSequence"):', _DICOM),
    fault("images/dicom.py", "a VOI table's depth is taken for 16 bit", "(2.0**depth - 1.0)", "65535.0", _DICOM),
    fault("images/dicom.py", "the window's centre is not moved by half a value", "(centre - 0.5)", "centre", _DICOM),
    fault("images/dicom.py", "LINEAR_EXACT is taken for LINEAR", '"LINEAR_EXACT"', '"EXACT"', _DICOM),
    fault("images/dicom.py", "the last of several windows is taken", "value[0] if hasattr", "value[-1] if hasattr", _DICOM),
    fault("images/dicom.py", "the sigmoid's slope is 1", "-4.0 * (values", "-1.0 * (values", _DICOM),
    fault("images/dicom.py", "padding counts among the pixels", "seen = values[stored != padding]", "seen = values", _DICOM),
    fault("images/dicom.py", "the rescale slope is ignored",
          "values = np.asarray(apply_modality_lut(stored, dataset), dtype=np.float64)",
          "values = np.asarray(stored, dtype=np.float64)", _DICOM),
    fault("images/labelled.py", "an index may lie outside the data", "if not -len(self) <= index < len(self):", "if False:",
          "cxr/test_cli.py::test_a_run_of_another_model_or_an_unknown_method_is_refused"),
    fault("images/errors.py", "a bomb is measured by one side", "if width * height >", "if max(width, height) >", _READ),
    fault("images/reading.py", "EXIF's orientation is ignored", "ImageOps.exif_transpose(picture)", "picture",
          f"{_READ}::test_exif_orientation_is_applied"),
    fault("images/reading.py", "white-is-zero is not turned over", "return (1.0 - values if negative else values)",
          "return (values)", f"{_READ}::test_white_is_zero_is_turned_over"),
    fault("images/reading.py", "16 bits are divided by 65536", "else 65535.0", "else 65536.0",
          f"{_READ}::test_sixteen_bits_are_absolute_or_stretched"),
    fault("images/reading.py", "stretch is ignored", "if (stretch and picture.mode != \"F\") or low < 0", "if low < 0",
          f"{_READ}::test_sixteen_bits_are_absolute_or_stretched"),
    fault("images/reading.py", "grey is the red channel", '.convert("RGB").convert("L")', '.convert("RGB").getchannel(0)', _READ),
    fault("images/reading.py", "NaN in a floating-point file is let in", "if not np.isfinite(values).all():", "if False:",
          f"{_READ}::test_values_that_are_none_are_named"),
    fault("images/reading.py", "a header's sides are not turned upright", "in (5, 6, 7, 8) else", "in () else",
          _READ, "cxr/test_datasets.py"),
    fault("images/reading.py", "a floating-point file within [0, 1] is stretched", 'stretch and picture.mode != "F"', "stretch", _READ),
    fault("images/reading.py", "opaque pixels count as transparent", "getextrema()[3][0] < 255", "getextrema()[3][0] <= 255", _READ),
    fault("images/reading.py", "DICOM's mark is looked for at the beginning", "[128:]", "[:4]", _READ),
]  # fmt: skip
