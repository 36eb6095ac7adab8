"""An object store in this process, as fsspec sees one: no folders, no renames."""

import io
import posixpath

import fsspec

OBJECTS: dict[str, bytes] = {}
"""URI -> bytes, of all stores."""


class MemoryStore(fsspec.AbstractFileSystem):
    """`bucket://` and `mem://`; an object appears when all of it is there."""

    protocol = ("bucket", "mem")
    cachable = False

    @classmethod
    def _strip_protocol(cls, path):
        return path.rstrip("/")  # names stay URIs

    def info(self, path, **_):
        path = self._strip_protocol(path)
        if path in OBJECTS:
            return {"name": path, "size": len(OBJECTS[path]), "type": "file", "mtime": 7.0}
        if any(name.startswith(f"{path}/") for name in OBJECTS):
            return {"name": path, "size": 0, "type": "directory"}
        raise FileNotFoundError(path)

    def find(self, path, detail=False, **_):
        below = f"{self._strip_protocol(path)}/"
        found = {name: self.info(name) for name in list(OBJECTS) if name.startswith(below)}
        found = {name: info for name, info in found.items() if not name.endswith("/")}
        return found if detail else list(found)

    def ls(self, path, detail=True, **_):
        below = f"{self._strip_protocol(path)}/"
        names = {below + name[len(below) :].partition("/")[0] for name in self.find(path)}
        if not names:
            raise FileNotFoundError(path)
        return [self.info(name) for name in sorted(names)] if detail else sorted(names)

    def _open(self, path, mode="rb", **_):
        assert mode == "rb"
        if path not in OBJECTS:
            raise FileNotFoundError(path)
        return io.BytesIO(OBJECTS[path])

    def put_file(self, lpath, rpath, **_):
        with open(lpath, "rb") as file:
            OBJECTS[rpath] = file.read()

    def rm_file(self, path):
        if path not in OBJECTS:
            raise FileNotFoundError(path)
        del OBJECTS[path]

    def makedirs(self, path, exist_ok=False):
        pass

    def mv(self, path1, path2, **_):
        """What no object store can, but a cluster's file system."""
        assert posixpath.dirname(path1) == posixpath.dirname(path2)
        OBJECTS[path2] = OBJECTS.pop(path1)
