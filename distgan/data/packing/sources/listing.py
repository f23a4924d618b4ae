"""A folder of images, on disk or in an archive: which names are images, and what labels they have."""

import posixpath
from collections.abc import Collection, Mapping, Sequence
from typing import NoReturn

from distgan.data.packing.items import FileRange, Item, LeftOut, Source, ZipMember
from distgan.data.packing.labels import LABEL_FILES, parse_label_file, sorted_classes
from distgan.data.packing.places import UnreadableError, read_content
from distgan.data.packing.transform import EXTENSIONS
from distgan.errors import InputError

_SPLITS = {"train", "test", "val", "valid", "validation"}


def extension(name: str) -> str:
    """'a/b.1.PNG' -> 'png'."""
    return posixpath.splitext(name)[1][1:].lower()


def is_image(name: str) -> bool:
    """Whether a name is taken for an image's."""
    return extension(name) in EXTENSIONS and not is_hidden(name)


def is_hidden(name: str) -> bool:
    """Whether a name, or a folder in it, is one that file managers leave behind, such as ._NAME or __MACOSX."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def refuse_label_members(path: str, name: str) -> NoReturn:
    """Raise InputError: `name` is a label beside an image, as WebDataset has them."""
    raise InputError(
        f"SRC is {path!r}, which has labels beside its images ({name}), as WebDataset has them; make it a tar "
        "(tar --sort=name -cf x.tar -C FOLDER .) and pack that."
    )


def labelled(
    kind: str,
    path: str,
    places: Mapping[str, FileRange | ZipMember],
    left_out: list[LeftOut],
    num_links: int = 0,
    num_other_files: int = 0,
) -> Source:
    """The source that images and label files (place by name) make; labels are those of the label file, or the folders at the top.

    Raises:
        InputError: the labels contradict each other, or cannot be told.
    """
    images = {name: place for name, place in places.items() if is_image(name)}
    label_files = sorted(name for name in places if name in LABEL_FILES)
    left_out = [entry for entry in left_out if is_image(entry.name)]
    if len(label_files) > 1:
        raise InputError(f"SRC is {path!r}, which has {' and '.join(label_files)}; leave one of them there.")
    if label_files:
        labels, class_names, missing = _labels_of_file(label_files[0], places[label_files[0]], images)
        left_out = left_out + missing
    else:
        labels, class_names = _labels_of_folders(path, sorted(images))
    items = [Item(name, images[name], labels[name]) for name in sorted(labels)]
    return Source(kind, {"train": items}, class_names, left_out, num_links, num_other_files)


def _labels_of_file(
    name: str, place: FileRange | ZipMember, images: Collection[str]
) -> tuple[dict[str, int | None], list[str] | None, list[LeftOut]]:
    """Label by name of the images that the file names, the classes' names, and what only one of both has."""
    try:
        given, class_names = parse_label_file(name, read_content(place))
    except UnreadableError as error:
        raise InputError(f"{name} of SRC {error}; write it again.") from None
    if not given:
        return dict.fromkeys(images), None, []
    labels: dict[str, int | None] = {image: given[image] for image in images if image in given}
    if images and not labels:
        raise InputError(
            f"{name} of SRC has {next(iter(given))!r}, but no image has a name that it gives; names are paths from its folder."
        )
    missing = [LeftOut(image, f"is in {name}, but not there") for image in sorted(given.keys() - labels.keys())]
    missing += [LeftOut(image, f"is not in {name}") for image in sorted(set(images) - labels.keys())]
    return labels, class_names, missing


def _labels_of_folders(path: str, images: Sequence[str]) -> tuple[dict[str, int | None], list[str] | None]:
    """Label by name, and the names of the folders; no labels if there are none."""
    folders = {name.partition("/")[0] for name in images if "/" in name}
    flat = next((name for name in images if "/" not in name), None)
    if not folders:
        return dict.fromkeys(images), None
    if flat is not None:
        nested = next(name for name in images if "/" in name)
        raise InputError(
            f"SRC is {path!r}, which has images beside its folders ({flat}) and in them ({nested}); "
            "put all of them into folders, one for each class, or write a labels.csv."
        )
    if len(folders) > 1 and {folder.lower() for folder in folders} <= _SPLITS:
        raise InputError(
            f"SRC is {path!r}, whose folders {' and '.join(sorted(folders))} are parts of a data set rather than classes; "
            "pack each of them by itself, or write a labels.csv."
        )
    class_names = sorted_classes(folders)
    number_of = {folder: number for number, folder in enumerate(class_names)}
    return {name: number_of[name.partition("/")[0]] for name in images}, class_names
