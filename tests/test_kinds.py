"""Arguments are of the kind that their annotations say, or named."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pytest
import torch
from torch import Tensor

from lrp_plugin.errors import KindError, told
from lrp_plugin.kinds import at_least, checked


class Named(Protocol):
    """What has a name."""

    @property
    def name(self) -> str:
        """The name."""
        ...


RIGHT: list[tuple[Any, list[Any], list[Any]]] = [
    (
        int,
        [1, np.int64(2), torch.tensor(3), np.array(4)],
        [1.0, True, "1", None, torch.tensor(1.0), torch.tensor([1]), np.array([1]), np.array(1.5)],
    ),
    (float, [1, 1.5, np.float32(2), torch.tensor(0.1)], [True, "1", 1j, None, torch.ones(2)]),
    (bool, [True, np.bool_(False)], [0, 1, "yes", None]),
    (str, ["", "a"], [b"a", 1, None]),
    (Tensor, [torch.ones(2)], [np.ones(2), [1.0], None]),
    (int | None, [1, None], ["1", 1.5]),
    (Literal["a", "b"], ["a"], ["c", 1, [1]]),
    (str | os.PathLike[str], ["a", Path("a")], [1, b"a"]),
    (Callable[[int], int], [len, int], [3, "len"]),
    (
        Sequence[int],
        [[1, 2], (1,), [], np.array([1]), torch.tensor([1, 2])],
        ["ab", [1.5], [[1]], {1: 2}, {1}, 3, torch.tensor(1), np.array(1)],
    ),
    (
        Collection[str],
        [["a"], {"a"}, (), np.array(["a", "b"])],
        [torch.zeros(2), torch.zeros(0), np.array([]), np.array([1]), "a"],
    ),
    (Sequence[Callable[[int], int]], [[len], ()], [np.array([1]), [3]]),
    (Sequence[Named], [[Path("a")], ()], [range(2), torch.zeros(2), [Path]]),
    (Sized, ["a", [1], torch.zeros(2)], [torch.tensor(1.0), np.array(1), 3]),
    (Iterable[str], [["a"], {"a"}, iter("ab")], [[1], "ab", 3]),
    (tuple[int, int], [(1, 2), [1, 2]], [(1,), (1, 2, 3), (1, "2"), 5]),
    (tuple[int, ...], [(), (1, 2, 3)], [(1.5,), 3]),
    (Mapping[str, float], [{}, {"a": 1}], [{1: 1}, {"a": "b"}, [("a", 1)]]),
    (Any, [1, None, "a"], []),
]


@pytest.mark.parametrize(("kind", "right", "wrong"), RIGHT, ids=[str(kind) for kind, _, _ in RIGHT])
def test_what_is_of_the_kind_passes_and_what_is_not_is_named(kind: Any, right: list[Any], wrong: list[Any]) -> None:
    def takes(argument, other=None):  # type: ignore[no-untyped-def]
        """Its own."""
        return argument

    takes.__annotations__ = {"argument": kind}
    function = checked(takes)
    assert function.__name__ == "takes" and function.__doc__ == "Its own."
    for value in right:
        for found in (function(value), function(argument=value)):
            plain = kind in (int, float, bool) and isinstance(value, (np.generic, np.ndarray, Tensor))
            assert (type(found), found) == (type(value.item()), value.item()) if plain else found is value
    for value in wrong:
        with pytest.raises(TypeError, match=r"^takes\(argument=.*\): legal is \S") as raised:
            function(value, other=3)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("kind", "value", "found"),
    [
        (int | None, np.int64(2), int),
        (int | str | None, np.int64(2), int),
        (int | Tensor, torch.tensor(2), Tensor),
        (int | Tensor, np.int64(2), int),
        (float, np.float32(0.5), float),
        (Sequence[int], np.array([1]), np.ndarray),
    ],
)  # fmt: skip
def test_a_number_of_numpys_arrives_as_pythons(kind: Any, value: Any, found: type) -> None:
    def takes(argument):  # type: ignore[no-untyped-def]
        return argument

    takes.__annotations__ = {"argument": kind}
    assert type(checked(takes)(value)) is found


def test_a_call_that_does_not_fit_says_what_it_takes() -> None:
    @checked
    def takes(first: int, *, second: str = "") -> int:
        return first

    for call in (lambda: takes(), lambda: takes(1, 2), lambda: takes(1, third=3)):
        with pytest.raises(TypeError, match=r"takes\(\): .*it takes first, second"):
            call()
    assert takes(torch.tensor(3)) == 3


def test_a_dataclass_is_held_to_the_fields_it_inherits_from_another_file() -> None:
    from lrp_plugin.cxr.runfolder import RunSettings  # adds to TrainSettings, whose annotations name what it imports

    with pytest.raises(ValueError, match=r"RunSettings\(epochs=1\.5\): legal is an int"):
        RunSettings(epochs=1.5)  # type: ignore[arg-type]


def test_what_only_type_checkers_import_hides_no_other_argument() -> None:
    """A name that is not there at run time left the whole function unchecked."""

    @checked
    def drawn(ax: Axes, count: int) -> int:  # type: ignore[name-defined]  # noqa: F821
        return count

    assert drawn(object(), 2) == 2
    with pytest.raises(KindError, match="count"):
        drawn(object(), "two")


@pytest.mark.parametrize("value", [torch.tensor(0.1), np.array(0.1)])
def test_a_number_in_a_tensor_is_not_several(value: object) -> None:
    @checked
    def listed(rows: Iterable[Any]) -> int:
        return len(list(rows))

    with pytest.raises(KindError, match="rows"):
        listed(value)


def test_a_number_below_the_least_is_named() -> None:
    at_least(1, columns=1)
    with pytest.raises(ValueError, match="columns is 0; give 1 or more"):
        at_least(1, samples=2, columns=0)


def test_a_value_in_a_message_stays_short_and_on_one_line() -> None:
    for value in ("x" * 5000, "\n" * 300, [torch.zeros(3, 3)] * 50, 10**5000, {"a": "b" * 900}):
        assert 0 < len(told(value)) <= 200 and "\n" not in told(value)
    assert told("zplus") == "'zplus'" and told(3) == "3"
