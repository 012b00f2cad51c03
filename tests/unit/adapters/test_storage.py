import hashlib
from pathlib import Path

import pytest

from ratchet.adapters import storage
from ratchet.adapters.storage import CorruptObjectError, MissingObjectError, ObjectStore
from ratchet.errors import Refused
from ratchet.ports.store import AlreadyStored


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    return ObjectStore(str(tmp_path / "store") if request.param == "folder" else f"memory://{tmp_path}")


def test_bytes_come_back_and_their_digest_is_told(store: ObjectStore):
    digest = store.put_bytes("a/b.bin", b"rows")
    assert digest == hashlib.sha256(b"rows").hexdigest()
    assert store.get_bytes("a/b.bin", digest=digest) == b"rows"


def test_a_second_write_replaces_the_first(store: ObjectStore):
    store.put_bytes("a", b"old")
    store.put_bytes("a", b"new")
    assert store.get_bytes("a") == b"new"


def test_what_is_kept_for_good_is_not_replaced(store: ObjectStore):
    digest = store.put_once("a/b", b"first")
    assert store.put_once("a/b", b"first") == digest
    with pytest.raises(AlreadyStored, match=f"immutable and has sha256 {digest}"):
        store.put_once("a/b", b"second")
    assert store.get_bytes("a/b", digest=digest) == b"first"


def test_a_refused_write_leaves_no_scraps(tmp_path: Path):
    store = ObjectStore(str(tmp_path))
    store.put_once("a", b"first")
    with pytest.raises(AlreadyStored):
        store.put_once("a", b"second")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_bytes_of_another_digest_are_refused(store: ObjectStore):
    store.put_bytes("a", b"changed")
    with pytest.raises(CorruptObjectError, match="sha256 must be"):
        store.get_bytes("a", digest="0" * 64)


def test_an_absent_object_is_missing_not_empty(store: ObjectStore):
    assert not store.exists("nothing")
    with pytest.raises(MissingObjectError, match="nothing"):
        store.get_bytes("nothing")
    with pytest.raises(MissingObjectError):
        store.get_dir("nothing", Path("unused"))


def test_a_folder_goes_out_and_comes_back(store: ObjectStore, tmp_path: Path):
    folder = tmp_path / "out"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_bytes(b"a")
    (folder / "sub" / "b.txt").write_bytes(b"b")
    digests = store.put_dir("kept", folder)
    back = store.get_dir("kept", tmp_path / "back")
    assert list(digests) == ["a.txt", "sub/b.txt"]
    assert (back / "sub" / "b.txt").read_bytes() == b"b"


def test_an_object_can_be_read_as_a_stream(store: ObjectStore):
    store.put_bytes("a", b"0123456789")
    with store.open("a") as stream:
        stream.seek(8)
        assert stream.read() == b"89"


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../outside", "a/../../b"])
def test_a_key_cannot_leave_the_store(store: ObjectStore, key: str):
    with pytest.raises(Refused, match="relative path"):
        store.put_bytes(key, b"")


def test_a_local_uri_is_a_plain_path(tmp_path: Path):
    store = ObjectStore(str(tmp_path))
    store.put_bytes("a/b", b"x")
    assert Path(store.uri("a/b")).read_bytes() == b"x"


def test_an_interrupted_local_write_leaves_the_old_object_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = ObjectStore(str(tmp_path))
    store.put_bytes("a", b"old")

    def power_failure(handle: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(storage.os, "fsync", power_failure)
    with pytest.raises(KeyboardInterrupt):
        store.put_bytes("a", b"half")
    assert store.get_bytes("a") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_sizes_of_all_that_lies_below_a_prefix(store: ObjectStore):
    store.put_bytes("a/b/c.bin", b"123")
    store.put_bytes("a/d", b"12345")
    store.put_bytes("ab/e", b"1")
    assert store.sizes("a") == {"a/b/c.bin": 3, "a/d": 5}
    assert store.sizes("nothing") == {}


def test_an_object_or_a_folder_is_removed_and_its_bytes_are_told(store: ObjectStore):
    store.put_bytes("a/b/c.bin", b"123")
    store.put_bytes("a/d", b"12345")
    store.put_bytes("ab/e", b"1")
    assert store.delete("a/d") == 5
    assert store.delete("a") == 3
    assert store.delete("a") == store.delete("never/there") == 0
    assert store.sizes("ab") == {"ab/e": 1}
    assert not store.exists("a")
