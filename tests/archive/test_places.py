"""Paths and URLs, lists of items, and the plan that finds an id without a scan."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrp_plugin.archive import places
from lrp_plugin.archive.items import SCHEMA, Plan, key_of, read_items, write_items


def test_a_url_of_fsspec_is_read_written_and_listed() -> None:
    url = "memory://bucket/archive"
    places.write_bytes(places.join(url, "a", "b.bin"), b"12345")
    assert places.read_bytes(f"{url}/a/b.bin") == b"12345"
    assert places.files_below(url) == {"a/b.bin": 5}
    assert places.exists(f"{url}/a/b.bin") and not places.exists(f"{url}/c") and places.is_folder(url)
    places.delete(f"{url}/a/b.bin")
    with pytest.raises(FileNotFoundError, match="memory://bucket/archive/a/b.bin does not exist"):
        places.read_bytes(f"{url}/a/b.bin")
    with pytest.raises(ValueError, match="neither pyarrow nor fsspec"):
        places.read_bytes("nothing-known://x/y")


def test_a_local_file_may_be_a_url(tmp_path: Path) -> None:
    places.write_bytes(f"file://{tmp_path}/x.bin", b"1")
    assert places.read_bytes(str(tmp_path / "x.bin")) == b"1"
    assert places.is_local(f"file://{tmp_path}")


def test_a_folder_gives_its_pictures_by_their_paths(tmp_path: Path) -> None:
    for name in ("a/1.png", "a/b/2.DCM", "3.jpeg", "notes.txt"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"x")
    (tmp_path / "masks" / "a").mkdir(parents=True)
    (tmp_path / "masks" / "a" / "1.png").write_bytes(b"x")
    rows = {row["id"]: row for row in read_items(str(tmp_path / "in"), str(tmp_path / "masks")).to_pylist()}
    assert set(rows) == {"a/1.png", "a/b/2.DCM", "3.jpeg"}
    assert rows["a/1.png"]["mask"] == str(tmp_path / "masks" / "a" / "1.png")
    assert rows["3.jpeg"]["mask"] is None
    with pytest.raises(ValueError, match="none of the 3 items"):
        read_items(str(tmp_path / "in"), str(tmp_path / "in" / "a" / "b"))
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_items(str(tmp_path / "out"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no pictures"):
        read_items(str(tmp_path / "empty"))


def test_a_list_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    listed = tmp_path / "list.csv"

    def read(text: str) -> list[dict[str, object]]:
        listed.write_text(text)
        return read_items(str(listed)).to_pylist()

    (row,) = read("path,id,target,extra\nx/1.png,007,3 5,1.5\n")
    assert (row["id"], row["targets"], row["source"]) == ("007", [3, 5], str(tmp_path / "x" / "1.png"))
    assert read("path\ns3://b/1.png\n")[0]["source"] == "s3://b/1.png"
    for text, message in {
        "file\n1.png\n": "has no column 'path' but file",
        "path,id\n1.png,a\n2.png,a\n": "1 ids more than once \\('a'\\)",
        "path,id\n1.png,a\n,b\n": "row 2 has no path",
        "path,target\n1.png,COVID\n": "target 'COVID' is no number",
    }.items():
        with pytest.raises(ValueError, match=message):
            read(text)
    pq.write_table(pa.table({"path": ["1.png"], "target": [[1, 2]], "id": [12]}), tmp_path / "list.parquet")
    (row,) = read_items(str(tmp_path / "list.parquet")).to_pylist()
    assert (row["id"], row["targets"]) == ("12", [1, 2])


@given(
    st.lists(st.sets(st.text(min_size=1, max_size=5), min_size=1, max_size=30), min_size=1, max_size=3),
    st.integers(1, 7),
)
def test_every_id_is_found_in_its_chunk(
    tmp_path_factory: pytest.TempPathFactory, parts: list[set[str]], chunk: int
) -> None:
    url = str(tmp_path_factory.mktemp("plan"))
    known: set[str] = set()
    written = 0
    for part in parts:
        names = sorted({name for name in part if name.isprintable()} - known)
        if not names:
            continue
        known |= set(names)
        rows = [{"key": key_of(n), "id": n, "source": n, "label": None, "targets": None, "mask": None} for n in names]
        table = pa.Table.from_pylist(rows, SCHEMA).sort_by([("key", "ascending"), ("id", "ascending")])
        write_items(url, written, table, chunk)
        written += 1
    if not known:
        return
    plan = Plan(url)
    assert len(plan) == len(known) == sum(plan.size(number) for number in range(plan.chunks))
    assert set(plan.ids()) == known
    for name in known:
        number, place = plan.find(name)
        assert plan.items(number)[place].id == name
    with pytest.raises(KeyError):
        plan.find("\x00 no such id")
