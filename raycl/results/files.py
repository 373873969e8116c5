"""Files below one root, on a local disk or any file system of pyarrow; a file is there as a whole or not at all.

Local files are written aside in their own folder and moved into place. On object stores the bytes are complete before
the key is opened, and one put publishes them: there is no rename, and an exception inside an open stream would publish
a torn object.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from raycl.addresses import expanded, shown
from raycl.errors import StoreError, TornFile


class Files:
    """Reads and writes files by their path relative to a root.

    Attributes:
        uri: what opens the root again: an absolute path for local folders, else the URI, passwords included.
        local: the root as a path; None where it lies on another file system.
    """

    def __init__(self, uri: str, filesystem: pafs.FileSystem, root: str, local: Path | None = None) -> None:
        self.uri = uri
        self.filesystem = filesystem
        self.root = root
        self.local = Path(root) if isinstance(filesystem, pafs.LocalFileSystem) else local

    @classmethod
    def at(cls, uri: str | Path) -> Files:
        """Open a root by path or URI; relative paths are made absolute.

        Raises:
            StoreError: no file system of pyarrow takes the URI.
        """
        text = str(uri)
        if "://" not in text:
            path = str(expanded(text).absolute())
            return cls(path, *_local(path))
        try:
            filesystem, root = pafs.FileSystem.from_uri(text)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
            told = f"no file system takes this URI ({error}); give a path"
            raise StoreError(shown(f"results folder {text}: {told}")) from error
        return cls(root if isinstance(filesystem, pafs.LocalFileSystem) else text.rstrip("/"), filesystem, root)

    def name(self, relative: str) -> str:
        """The file, or the root, as messages name it: without a password that the address holds."""
        return shown(f"{self.uri}/{relative}" if relative else self.uri)

    def _key(self, relative: str) -> str:
        return f"{self.root.rstrip('/')}/{relative}" if relative and self.root else relative or self.root

    def sizes(self, relative: str, recursive: bool = True) -> dict[str, int]:
        """Size in bytes of every file below a folder, by path relative to that folder; empty where it is absent.

        Names that begin with a dot are files in the making and left out.
        """
        base = self._key(relative)
        selector = pafs.FileSelector(base, allow_not_found=True, recursive=recursive)
        with self._guard(relative):
            infos = self.filesystem.get_file_info(selector)
        files = (info for info in infos if info.type == pafs.FileType.File and not info.base_name.startswith("."))
        return {_below(info.path, base): info.size for info in files}

    def children(self, relative: str) -> list[str]:
        """Names of files and folders directly in a folder, sorted; empty where it is absent."""
        selector = pafs.FileSelector(self._key(relative), allow_not_found=True)
        with self._guard(relative):
            infos = self.filesystem.get_file_info(selector)
        return sorted(info.base_name for info in infos if not info.base_name.startswith("."))

    def folders(self, relative: str) -> list[str]:
        """Names of the folders directly in a folder, sorted; empty where it is absent."""
        selector = pafs.FileSelector(self._key(relative), allow_not_found=True)
        with self._guard(relative):
            infos = self.filesystem.get_file_info(selector)
        found = (info.base_name for info in infos if info.type == pafs.FileType.Directory)
        return sorted(name for name in found if not name.startswith("."))

    def changed(self, relatives: Sequence[str]) -> float | None:
        """When the newest of some files, or of the files below some folders, was written, in seconds since the epoch;
        None where there is none, or the file system does not say."""
        with self._guard(""):
            infos = self.filesystem.get_file_info([self._key(relative) for relative in relatives])
            below = [info.path for info in infos if info.type == pafs.FileType.Directory]
            infos += [one for path in below for one in self._infos(path)]
        times = [info.mtime_ns for info in infos if info.type == pafs.FileType.File and info.mtime_ns is not None]
        return max(times) / 1e9 if times else None

    def _infos(self, key: str) -> list[pafs.FileInfo]:
        found: list[pafs.FileInfo] = self.filesystem.get_file_info(pafs.FileSelector(key, recursive=True))
        return found

    def exists(self, relative: str) -> bool:
        with self._guard(relative):
            return bool(self.filesystem.get_file_info(self._key(relative)).type == pafs.FileType.File)

    def existing(self, relatives: Sequence[str]) -> list[str]:
        """Those of many files that are there; object stores are asked for all of them at once."""
        with self._guard(""):
            infos = self.filesystem.get_file_info([self._key(relative) for relative in relatives])
        return [name for name, info in zip(relatives, infos, strict=True) if info.type == pafs.FileType.File]

    def read(self, relative: str) -> bytes | None:
        """The bytes of a file; None where it is absent."""
        with self._guard(relative):
            if self.local is not None:
                try:
                    return (self.local / relative).read_bytes()
                except FileNotFoundError:
                    return None
            if not self.exists(relative):
                return None
            with self.filesystem.open_input_file(self._key(relative)) as stream:
                return bytes(stream.read())

    def opened(self, relative: str) -> pa.NativeFile:
        """A file whose parts are read one by one.

        Raises:
            StoreError: it is absent.
        """
        with self._guard(relative):
            return self.filesystem.open_input_file(self._key(relative))

    def write(self, relative: str, data: bytes) -> None:
        """Write a file as a whole; replaces one that is there."""
        with self._guard(relative):
            if self.local is None:
                self._put(relative, data)
                return
            aside = self._aside(relative, data)
            aside.replace(self.local / relative)

    def write_once(self, relative: str, data: bytes) -> bool:
        """Write a file unless it is there already; False where another writer was first."""
        with self._guard(relative):
            if self.local is None:
                if self.exists(relative):
                    return False
                self._put(relative, data)
                return True
            aside = self._aside(relative, data)
            try:
                _link(aside, self.local / relative)
            except FileExistsError:
                return False
            finally:
                aside.unlink(missing_ok=True)
            return True

    def delete(self, relative: str) -> None:
        """Delete a file; nothing happens where it is absent."""
        with self._guard(relative):
            if self.local is not None:
                (self.local / relative).unlink(missing_ok=True)
            elif self.exists(relative):
                self.filesystem.delete_file(self._key(relative))

    def delete_folder(self, relative: str) -> None:
        """Delete a folder with all it holds; nothing happens where it is absent."""
        with self._guard(relative):
            if self.filesystem.get_file_info(self._key(relative)).type == pafs.FileType.Directory:
                self.filesystem.delete_dir(self._key(relative))

    def read_json(self, relative: str) -> Any:
        """The content of a JSON file; None where it is absent.

        Raises:
            TornFile: the file is no JSON.
        """
        data = self.read(relative)
        if data is None:
            return None
        try:
            return json.loads(data)
        except ValueError as error:
            raise TornFile(f"{self.name(relative)}: not complete JSON ({error}); delete the file, run again") from error

    def _put(self, relative: str, data: bytes) -> None:
        key = self._key(relative)
        self.filesystem.create_dir(str(PurePosixPath(key).parent), recursive=True)
        with self.filesystem.open_output_stream(key) as stream:
            stream.write(data)

    def _aside(self, relative: str, data: bytes) -> Path:
        assert self.local is not None
        target = self.local / relative
        aside = target.with_name(f".{target.name}.{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}")
        try:
            aside.write_bytes(data)
        except FileNotFoundError:  # the folder is made on the first write only: most writes find it there
            target.parent.mkdir(parents=True, exist_ok=True)
            aside.write_bytes(data)
        except OSError:
            aside.unlink(missing_ok=True)
            raise
        return aside

    @contextmanager
    def _guard(self, relative: str) -> Iterator[None]:
        try:
            yield
        except PermissionError as error:
            raise StoreError(f"{self.name(relative)}: no permission ({error}); choose another folder") from error
        except (OSError, pa.ArrowException) as error:
            what = getattr(error, "strerror", None) or error  # without the name of a file in the making
            raise StoreError(
                f"{self.name(relative)}: cannot be read or written ({what}); choose another folder, or repair this one"
            ) from error


def dump_json(value: Any) -> bytes:
    """Canonical JSON: sorted keys, so that equal values are equal bytes."""
    return (json.dumps(value, sort_keys=True, indent=1) + "\n").encode()


def digest(data: bytes) -> str:
    """sha256 in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def _local(path: str) -> tuple[pafs.FileSystem, str, Path]:
    """The file system of a local folder, the folder's name in it, and the folder.

    pyarrow takes names that are text only; where the folder's is none, it stands inside the folder and never sees it.
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        return pafs.SubTreeFileSystem(os.fsencode(path), pafs.LocalFileSystem()), "", Path(path)
    return pafs.LocalFileSystem(), path, Path(path)


def _below(path: str, base: str) -> str:
    return path.removeprefix(base).lstrip("/") if path.startswith(base) else path.lstrip("/").removeprefix(base + "/")


def _link(source: Path, target: Path) -> None:
    """Give a complete file its name, failing where the name is taken."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS):
            raise
        if target.exists():  # a file system without hard links: a race is then decided by the last writer
            raise FileExistsError(str(target)) from error
        source.replace(target)
