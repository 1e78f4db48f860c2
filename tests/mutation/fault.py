"""One planted fault: what an engineer may get wrong in one place, and the tests that are to see it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Fault:
    """A fault as data.

    Args:
        file: Where, from the repository's root.
        what: What is wrong then, in a few words; with ``file`` its name.
        text: What stands there now; exactly once in the file.
        replacement: What stands there instead.
        tests: The tests that are to fail: ``tests/x/test_y.py`` or ``tests/x/test_y.py::test_name``.
        equivalent: Why nobody can see it, where that is so; it is run all the same.
    """

    file: str
    what: str
    text: str
    replacement: str
    tests: tuple[str, ...]
    equivalent: str = ""

    @property
    def place(self) -> Path:
        """The file, in this checkout."""
        return ROOT / self.file

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from all others."""
        return self.file, self.what

    def planted_in(self, source: str) -> str:
        """The file's text with the fault.

        Raises:
            ValueError: The text is not there exactly once: the file has changed, and so must the entry.
        """
        found = source.count(self.text)
        if found != 1:
            raise ValueError(f"{self.file}: {self.what}: {self.text!r} occurs {found} times; it must occur once")
        return source.replace(self.text, self.replacement)


def fault(file: str, what: str, text: str, replacement: str, *tests: str, equivalent: str = "") -> Fault:
    """An entry of a table: the path is from ``lrp_plugin/``, the tests' from ``tests/``."""
    return Fault(f"lrp_plugin/{file}", what, text, replacement, tuple(f"tests/{test}" for test in tests), equivalent)
