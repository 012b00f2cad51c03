"""Objects (snapshots, dossiers, artifacts) by key, in any place fsspec reaches; a local folder by default."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

import fsspec

from ratchet.errors import CorruptObjectError, Refused, Unavailable
from ratchet.ports.store import AlreadyStored

CHUNK_BYTES = 1 << 20


class MissingObjectError(Refused):
    """No object is stored under that key."""


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a local file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(CHUNK_BYTES):
            digest.update(piece)
    return digest.hexdigest()


class ObjectStore:
    """Byte objects below ``url`` (a local path or an fsspec URL such as ``s3://bucket/prefix``).

    A key is a relative path with ``/``. A local object appears whole or not at all (written beside its place, flushed,
    renamed), so a reader never sees half of one, and a repeated write is harmless. Object stores do so by themselves.
    """

    def __init__(self, url: str, **options: Any) -> None:
        self._fs, root = fsspec.core.url_to_fs(url, **options)
        self._root = root.rstrip("/") or "/"
        self._local = "file" in ([self._fs.protocol] if isinstance(self._fs.protocol, str) else self._fs.protocol)

    def uri(self, key: str) -> str:
        """The address by which another process can open the object (a plain path when local)."""
        path = self._path(key)
        return path if self._local else str(self._fs.unstrip_protocol(path))

    def exists(self, key: str) -> bool:
        """Whether an object (or a folder of objects) is stored under the key."""
        with self._translated(key):
            return bool(self._fs.exists(self._path(key)))

    def put_bytes(self, key: str, data: bytes) -> str:
        """Store the bytes, replacing what was there; returns their SHA-256."""
        with self._translated(key):
            if self._local:
                write_atomically(Path(self._path(key)), data)
            else:
                self._fs.pipe_file(self._path(key), data)
        return sha256(data)

    def put_once(self, key: str, data: bytes) -> str:
        """Store the bytes for good; returns their SHA-256. The same bytes again change nothing.

        Raises:
            AlreadyStored: other bytes are there. Of two writers at once one is refused.

        """
        with self._translated(key):
            try:
                if self._local:
                    write_atomically(Path(self._path(key)), data, replace=False)
                else:
                    self._fs.pipe_file(self._path(key), data, mode="create")
            except FileExistsError as error:
                kept = sha256(self._fs.cat_file(self._path(key)))
                if kept != sha256(data):
                    raise AlreadyStored(
                        f"{self.uri(key)} is immutable and has sha256 {kept}, but was given {sha256(data)}. "
                        "Leave it as it is, and start a new run."
                    ) from error
        return sha256(data)

    def get_bytes(self, key: str, *, digest: str | None = None) -> bytes:
        """The stored bytes.

        Raises:
            MissingObjectError: nothing is stored under the key.
            CorruptObjectError: ``digest`` (SHA-256) is given and the bytes have another.
            Unavailable: the storage did not answer.

        """
        with self._translated(key):
            data: bytes = self._fs.cat_file(self._path(key))
        if digest is not None and sha256(data) != digest:
            raise CorruptObjectError(
                f"{self.uri(key)}: sha256 must be {digest}, but got {sha256(data)}. Restore the object."
            )
        return data

    def put_file(self, key: str, path: Path) -> str:
        """Store a local file, replacing what was there; returns its SHA-256."""
        with self._translated(key):
            if self._local:
                write_atomically(Path(self._path(key)), path)
            else:
                self._fs.put_file(str(path), self._path(key))
        return sha256_file(path)

    def sizes(self, prefix: str) -> dict[str, int]:
        """The bytes of every object below a prefix, by its whole key; none where there is none."""
        root = self._path(prefix)
        with self._translated(prefix):
            found = self._fs.find(root, detail=True) if self._fs.isdir(root) else {}
        return {f"{prefix}/{PurePosixPath(path).relative_to(root)}": int(info["size"]) for path, info in found.items()}

    def delete(self, key: str) -> int:
        """Remove the object, or every object below the key; returns their bytes, 0 where nothing is there.

        Of a folder that was removed in part, as by a killed process, the rest is removed.
        """
        path = self._path(key)
        with self._translated(key):
            if not self._fs.exists(path):
                return 0
            freed = sum(int(info["size"]) for info in self._fs.find(path, detail=True).values())
            self._fs.rm(path, recursive=True)
        return freed

    def put_dir(self, key: str, folder: Path) -> dict[str, str]:
        """Store every file below a local folder; returns relative path → SHA-256, in path order."""
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {
            (name := path.relative_to(folder).as_posix()): self.put_file(f"{key.rstrip('/')}/{name}", path)
            for path in files
        }

    def get_dir(self, key: str, folder: Path) -> Path:
        """Copy every object below the key into a local folder (made when missing) and return the folder."""
        prefix = self._path(key)
        with self._translated(key):
            if not self._fs.isdir(prefix):
                raise FileNotFoundError(prefix)
            for found in sorted(self._fs.find(prefix)):
                target = folder / PurePosixPath(found).relative_to(prefix)
                write_atomically(target, self._fs.cat_file(found))
        return folder

    @contextmanager
    def open(self, key: str) -> Iterator[IO[bytes]]:
        """A seekable binary stream of the object, for reading."""
        with self._translated(key), self._fs.open(self._path(key), "rb") as stream:
            yield stream

    def _path(self, key: str) -> str:
        parts = PurePosixPath(key).parts
        if not parts or key.startswith("/") or ".." in parts:
            raise Refused(f"storage key must be a relative path without '..', but got {key!r}.")
        return "/".join((self._root.rstrip("/"), *parts))

    @contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise MissingObjectError(f"{self.uri(key)}: no such object. Was it deleted by retention?") from error
        except (OSError, TimeoutError) as error:
            raise Unavailable(
                f"{self.uri(key)}: the storage did not answer ({error}). Check connection ratchet_storage."
            ) from error


def write_atomically(path: Path, source: bytes | Path, *, replace: bool = True) -> None:
    """Write bytes, or a copy of a file, whole or not at all; folders are made.

    Raises:
        FileExistsError: the file is there and is not to be replaced.

    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            if isinstance(source, bytes):
                stream.write(source)
            else:
                with source.open("rb") as origin:
                    while piece := origin.read(CHUNK_BYTES):
                        stream.write(piece)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o644)
        if replace:
            temporary.replace(path)
        else:
            os.link(temporary, path)  # fails where a name is taken, which a rename does not
            temporary.unlink()
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
