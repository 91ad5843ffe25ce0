"""Find the image that an annotation file names, without ever leaving the data folder."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path, PurePosixPath

from wsseg.data.listing import Listing, shown


class ImageLookup:
    """Names in annotation files, looked up among the files that were listed.

    No path is built from a name, so no name can reach a file outside of the folder.

    Args:
        listing: The images.
        root: The data folder; ``listing.folder`` is it or lies below it.
    """

    def __init__(self, listing: Listing, root: Path) -> None:
        self._listing = listing
        self._root = root

    def find(self, name: str) -> tuple[str | None, str]:
        r"""Look up one name.

        Args:
            name: File with suffix, relative to the listed folder or, with that folder's name
                before it, to the data folder. ``\`` counts as "/".

        Returns:
            The sample id and "", or None and what is wrong with the name.
        """
        folder = shown(self._listing.folder, self._root)
        if not name.strip():
            return None, "is empty."
        file = PurePosixPath()
        for text in (name, name.strip()):
            file = PurePosixPath(text.replace("\\", "/"))
            if not file.parts or file.is_absolute() or ".." in file.parts or ":" in file.parts[0]:
                return None, f'"{name}" points out of the data folder.'
            if self._listing.folder != self._root and file.parts[0] == self._listing.folder.name:
                file = PurePosixPath(*file.parts[1:])
            sample_id = file.with_suffix("").as_posix() if file.name else ""
            found = self._listing.images.get(sample_id)
            if found is not None and found.name == file.name:
                return sample_id, ""
        place = "the data folder" if folder == "." else f"{folder}/"
        return None, f'"{name}" is not in {place}.{self._near(file)}'

    def _near(self, file: PurePosixPath) -> str:
        """Name a file that differs in letter case, suffix or folder only."""
        if file.as_posix() in self._beside:
            return f" It lies beside {self._listing.folder.name}/; move it inside."
        same_place = self._listing.images.get(file.with_suffix("").as_posix() if file.name else "")
        near = same_place or self._stems.get(file.stem.casefold())
        return f' Did you mean "{shown(near, self._listing.folder)}"?' if near else ""

    @cached_property
    def _stems(self) -> dict[str, Path]:
        return {path.stem.casefold(): path for path in self._listing.images.values()}

    @cached_property
    def _beside(self) -> frozenset[str]:
        if self._listing.folder == self._root:
            return frozenset()
        return frozenset(path.name for path in self._root.iterdir())
