"""Faults of the one writer of files, and of what every argument and message goes through."""

from tests.mutation.fault import fault

_FILES = "test_files.py"
_KINDS = "test_kinds.py"
FAULTS = [
    fault("files.py", "an existing file is replaced unasked", "if not replace and os.path.lexists(target):", "if False:", _FILES),
    fault("files.py", "a race for a name is lost in silence", "_take_free_name(temporary, target)\n        _flush",
          "os.replace(temporary, target)\n        _flush", _FILES),
    fault("files.py", "two writers share a neighbour", 'f".{uuid.uuid4().hex}.tmp"', '".partial.tmp"', _FILES),
    fault("files.py", "a planted link is followed", "os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr", "os.O_WRONLY | os.O_CREAT | getattr",
          _FILES),
    fault("files.py", "a crash leaves the neighbour", "temporary.unlink(missing_ok=True)", "pass", _FILES),
    fault("files.py", "files are their owner's alone", "getattr(os, \"O_BINARY\", 0), 0o666)", "getattr(os, \"O_BINARY\", 0), 0o600)",
          _FILES, "visualization/test_saving.py"),
    fault("files.py", "a hidden name stays hidden", '.strip("-_")', "", _FILES),
    fault("files.py", "the longest stem is counted in letters", "len(stem.encode()) <= _LONGEST", "len(stem) <= _LONGEST", _FILES),
    fault("files.py", "names that differ by case share a file", "owners.setdefault(stem.casefold(), set())", "owners.setdefault(stem, set())",
          _FILES),
    fault("files.py", "decomposed letters are others", 'unicodedata.normalize("NFC", name)', "name", _FILES),
    fault("files.py", "a formula may begin with @", '("=", "+", "-", "@", "\\t", "\\r")', '("=", "+", "-", "\\t", "\\r")', _FILES),
    fault("files.py", "JSON holds NaN", ", parse_constant=lambda _: None)", ")", _FILES),
    fault("files.py", "a negative number gets a quote", "float(text)\n", "int(text)\n", _FILES),
    fault("kinds.py", "a NumPy number arrives as it is", "bound.arguments[name] = _plain(value, hints.get(name))", "pass", _KINDS),
    fault("kinds.py", "a tensor that may be one becomes a number", "(value.ndim == 0 and not any(kind is type(value) for kind in kinds))", "value.ndim == 0", _KINDS),
    fault("kinds.py", "an array of names is no list of names", "whole = (*whole, str)", "pass",
          _KINDS),
    fault("kinds.py", "an empty array is a list of names", "and value.ndim > 0 and _holds(value, inside[0])", "and value.ndim > 0", _KINDS),
    fault("kinds.py", "a single number has a length", 'isinstance(value, Sized) and getattr(value, "ndim", 1) > 0',
          "isinstance(value, Sized)", _KINDS),
    fault("kinds.py", "anything follows a protocol", "not isinstance(value, type) and all(hasattr(value, name) for name in members)", "True",
          _KINDS),
    fault("kinds.py", "True is a number", "and not isinstance(value, (bool, np.bool_))", "", _KINDS),
    fault("kinds.py", "the least legal number is refused", "if not value >= least:", "if not value > least:", _KINDS),
    fault("errors.py", "a message repeats five thousand letters", 'said if len(said) <= 80 else said[:77] + "..."', "said", _KINDS),
]  # fmt: skip
