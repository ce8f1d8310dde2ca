"""Reading folder trees and list files as the data sets distribute them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from vireid.errors import InputError

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def open_tree(root: str | Path, entries: Sequence[str], title: str, access: str) -> Path:
    """Find the folder that holds every entry: `root` itself or its one subfolder that does.

    Args:
        root: what the user named.
        entries: relative paths that must exist; `a|b` stands for either.
        title: name of the data set, for the error.
        access: half a sentence on how to get the data, for the error.

    Raises:
        InputError: when no folder, or more than one subfolder, holds them all.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise InputError(f"{title}: there is no folder {root}; name the folder of the data or, to get it, {access}")
    lacking = {
        folder: [entry for entry in entries if not _holds(folder, entry)]
        for folder in [root, *(root / name for name in folders_in(root, "."))]
    }
    complete = [folder for folder, missing in lacking.items() if not missing]
    if root in complete or len(complete) == 1:
        return complete[0]
    if complete:
        names = " and ".join(str(folder) for folder in complete)
        raise InputError(f"{title}: {root} holds more than one copy, {names}; name one of them")
    nearest = min(lacking, key=lambda folder: len(lacking[folder]))
    missing = ", ".join(entry.replace("|", " or ") for entry in lacking[nearest])
    raise InputError(f"{title}: {nearest} has no {missing}; name the folder that does or, to get the data, {access}")


def _holds(folder: Path, entry: str) -> bool:
    return any(os.path.exists(folder / name) for name in entry.split("|"))  # noqa: PTH110 (False if unreadable)


def is_image(name: str) -> bool:
    """Tell whether a file name is an image's; hidden files (`._0001.jpg` of macOS archives) are not."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def images_in(root: Path, folder: str) -> list[str]:
    """List the images of one folder as sorted POSIX paths relative to `root`."""
    with os.scandir(root / folder) as entries:
        return sorted(f"{folder}/{entry.name}" for entry in entries if is_image(entry.name))


def folders_in(root: Path, folder: str) -> list[str]:
    """List the names of the subfolders of one folder, sorted, hidden ones left out."""
    with os.scandir(root / folder) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())


def identity_folders(root: Path, folder: str) -> dict[int, str]:
    """Map identity to relative path for the subfolders whose names are numbers (`0001`)."""
    return {int(name): f"{folder}/{name}" for name in folders_in(root, folder) if name.isdecimal()}


def parent_number(path: str, source: str) -> int:
    """Read the number of the folder that an image lies in: `Visible/12/a.bmp` gives 12.

    Raises:
        InputError: when that folder's name is not a number; `source` says where the path was read.
    """
    name = PurePosixPath(path).parent.name
    if not name.isdecimal():
        raise InputError(f"{source}: {path} does not lie in a folder named by its identity; restore the tree")
    return int(name)


def read_ids(path: Path) -> list[int]:
    """Read the comma-separated identities in the first line of a file; an empty file gives none.

    Raises:
        InputError: when an entry is not an integer.
    """
    line = (_lines(path) or [""])[0]
    try:
        return [int(entry) for entry in line.split(",") if entry.strip()]
    except ValueError:
        raise InputError(f"{path} line 1: expected comma-separated identities, found {line[:40]!r}") from None


def read_list(path: Path) -> tuple[list[str], list[int]]:
    """Read lines `relative/path label`, skipping empty ones.

    Raises:
        InputError: naming the first line that reads otherwise.
    """
    paths, labels = [], []
    for number, line in enumerate(_lines(path), start=1):
        fields = line.rsplit(maxsplit=1)
        if not fields:
            continue
        try:
            image, label = fields
            labels.append(int(label))
        except ValueError:
            raise InputError(f"{path} line {number}: expected `path label`, found {line[:80]!r}") from None
        paths.append(image.strip().replace("\\", "/"))
    return paths, labels


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror}); restore the file") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not a text file; restore it from the distribution") from None
