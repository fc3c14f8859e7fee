"""Annotation files with boxes: COCO, YOLO and Pascal VOC."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final
from xml.etree import ElementTree as ET

import yaml

from sdclr.data.boxes import MARGIN, AnnotatedImage, Annotations, Box, BoxSource
from sdclr.data.folder import FolderSource
from sdclr.data.source import Edges
from sdclr.decoding.decode import BadImage
from sdclr.decoding.formats import SUFFIXES
from sdclr.errors import InputError
from sdclr.files import read_regular

_LIMIT: Final = 16 * 2**20
"""Maximum bytes of the annotation file of one image; the boxes of a crowded image take a hundredth of it."""

_NOWHERE: Final = Edges(math.nan, math.nan, math.nan, math.nan)


_KINDS: Final = ("coco", "yolo", "voc")
_MOST_CLASSES: Final = 10_000


def is_boxes(spec: object) -> bool:
    """Whether a text names annotated boxes: "coco:FILE", "yolo:FOLDER", "voc:FOLDER", or a `.json` file."""
    kind, colon, _ = str(spec).partition(":")
    named = bool(colon) and kind in _KINDS and not Path(str(spec)).exists()
    return named or (Path(str(spec)).suffix.lower() == ".json" and Path(str(spec)).is_file())


def split_options(text: str) -> tuple[str, dict[str, str]]:
    """Split a text such as "a,margin=0.2" into the name of the images and the options after commas."""
    place, *texts = re.split(r",(?=[a-z]+=)", text)
    return place, dict(text.split("=", 1) for text in texts)


def open_boxes(spec: str | Path, *, split: str | None = None) -> BoxSource:
    """Open annotated boxes as a source, in which each box is an item.

    Args:
        spec: "coco:FILE.json", "yolo:FOLDER", "voc:FOLDER", or just a COCO `.json` file. Options follow after commas:
            "images=FOLDER" is the folder of the images (COCO, VOC), "margin=0.2" the margin around a box.
        split: Must be None: an annotation file or folder is one split.

    Raises:
        InputError: An option is unknown, no usable boxes are found, or a split is given.

    Examples:
        >>> cells = open_boxes("coco:cells/instances.json,margin=0.2")
        >>> len(cells), cells.classes
        (2, ('cell',))
    """
    if split is not None:
        raise InputError(f"{spec}: annotated boxes have no split {split!r}; name the annotations of that split")
    kind, colon, rest = str(spec).partition(":")
    if not colon or kind not in _KINDS:
        kind, rest = "coco", str(spec)
    place, options = split_options(rest)
    margin, images = _margin(options.pop("margin", None), spec), options.pop("images", None)
    if options or (images is not None and kind == "yolo"):
        name = next(iter(options), "images")
        known = "margin" if kind == "yolo" else "images and margin"
        raise InputError(f"{spec}: {kind} has no option {name!r}; it takes {known}")
    path = Path(place).expanduser()
    folder = None if images is None else Path(images).expanduser()
    match kind:
        case "coco":
            found = read_coco(path, images=folder)
        case "yolo":
            found = read_yolo(path)
        case _:
            found = read_voc(path, images=folder)
    return BoxSource(found, margin=margin)


def _margin(text: str | None, spec: object) -> float:
    try:
        return MARGIN if text is None else float(text)
    except ValueError as error:
        raise InputError(f"{spec}: margin is {text!r}; give a number, as in margin=0.2") from error


def read_coco(file: str | Path, *, images: str | Path | None = None) -> Annotations:
    """Read a COCO file of object instances (Lin et al., ECCV 2014; cocodataset.org/#format-data).

    Args:
        file: JSON with `images`, `annotations` and `categories`. A box is `bbox`: left, top, width, height in pixels.
        images: The folder of the images. By default the first of these that holds images: the folder of the file and
            the folder above, each with its subfolders `images`, SPLIT and `images/SPLIT` for `instances_SPLIT.json`.

    Returns:
        The annotations. Crowd regions (`iscrowd`) are left out and listed, because they are not single objects.

    Raises:
        InputError: The file cannot be read, is not a COCO file, or its images are not found.
    """
    file = Path(file)
    try:
        values = json.loads(read_regular(file))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: cannot be read as JSON ({error}); give a COCO file") from error
    keys = ("images", "annotations")
    listed, found = (values.get(key) if isinstance(values, dict) else None for key in keys)
    if not isinstance(listed, list) or not isinstance(found, list):
        raise InputError(f"{file} is not a COCO file, which has the lists `images` and `annotations`; give one")
    categories = {
        entry.get("id"): str(entry.get("name", entry.get("id")))
        for entry in values.get("categories") or ()
        if isinstance(entry, dict)
    }
    entries = {entry.get("id"): entry for entry in listed if isinstance(entry, dict)}
    boxes: dict[object, list[Box]] = {key: [] for key in entries}
    faults = []
    for number, entry in enumerate(found):
        key = str(entry.get("id", number)) if isinstance(entry, dict) else str(number)
        if not isinstance(entry, dict) or entry.get("image_id") not in boxes:
            faults.append(BadImage(f"{file.name}#{key}", "its image is not listed", counted=True))
            continue
        boxes[entry["image_id"]].append(_coco_box(key, entry, entries[entry["image_id"]], categories))
    names = {key: str(entry.get("file_name", "")) for key, entry in entries.items()}
    folder = Path(images) if images is not None else _image_folder(file, [names[key] for key in names if boxes[key]])
    return Annotations(
        name=file.stem,
        images=[
            AnnotatedImage(
                id=PurePosixPath(names[key].replace("\\", "/")).as_posix(),
                file=_inside(folder, names[key]),
                boxes=boxes[key],
                size=_coco_size(entries[key]),
            )
            for key in entries
        ],
        categories=tuple(categories.values()) if len(set(categories.values())) == len(categories) else (),
        faults=faults,
    )


def read_yolo(folder: str | Path) -> Annotations:
    """Read YOLO annotations (docs.ultralytics.com/datasets/detect): a text file for each image.

    The text file of `…/images/a/b.jpg` is `…/labels/a/b.txt`, otherwise `b.txt` beside the image. A line has a class
    number and the center, width and height of a box as fractions of the image's sides; a sixth number, the confidence
    of a detector, is ignored. A line with more numbers is a polygon, whose bounding box is used. Class names come from
    `data.yaml` or `classes.txt`, in the folder or up to three levels above it.

    Args:
        folder: A folder of images, or one that holds `images` and `labels`. Images without boxes are left out.

    Raises:
        InputError: The folder holds no images, or class names cannot be read.
    """
    root = Path(folder)
    source = FolderSource(root)
    categories = _yolo_categories(root)
    images = []
    for file in dict.fromkeys(source.place(index)[0] for index in range(len(source))):
        text = _yolo_text(file)
        boxes = [] if text is None else list(_yolo_boxes(text, categories))
        images.append(AnnotatedImage(id=file.relative_to(root).as_posix(), file=file, boxes=boxes))
    return Annotations(name=source.name, images=images, categories=categories, faults=_unreadable(source.skipped))


def read_voc(folder: str | Path, *, images: str | Path | None = None) -> Annotations:
    """Read Pascal VOC annotations (Everingham et al., IJCV 2010): an XML file for each image.

    Args:
        folder: A folder that holds `Annotations` and `JPEGImages`, or the folder of the XML files itself.
        images: The folder of the images; by default `JPEGImages` or `images` beside the XML files' folder, or that
            folder itself.

    Raises:
        InputError: There are no XML files.
    """
    root = Path(folder)
    place = root / "Annotations" if (root / "Annotations").is_dir() else root
    files = sorted(place.rglob("*.xml"))
    if not files:
        raise InputError(f"{root}: holds no XML files; give the folder with `Annotations` and `JPEGImages`")
    beside = [place.parent / "JPEGImages", place.parent / "images", place]
    pictures = Path(images) if images is not None else next(path for path in beside if path.is_dir())
    found, faults = [], []
    for file in files:
        try:
            found.append(_voc_image(file, pictures))
        except (InputError, ET.ParseError, ValueError) as error:
            reason = " ".join(str(error).removeprefix(f"{file}").split())[:120]
            faults.append(BadImage(file.relative_to(place).as_posix(), f"no annotation: {reason}", counted=True))
    return Annotations(name=root.absolute().name, images=found, faults=faults)


def _coco_box(key: str, entry: Mapping[str, Any], image: Mapping[str, Any], categories: Mapping[object, str]) -> Box:
    category = categories.get(entry.get("category_id"), str(entry.get("category_id", "")))
    size = _coco_size(image)
    if size is None:
        return Box(key, _NOWHERE, category, "its image has no width and height")
    if entry.get("iscrowd"):
        return Box(key, _NOWHERE, category, "a region of many objects (iscrowd)")
    try:
        left, top, width, height = (float(value) for value in entry["bbox"])
    except (KeyError, TypeError, ValueError):
        return Box(key, _NOWHERE, category, "it has no bbox of four numbers")
    edges = Edges(left / size[0], top / size[1], (left + width) / size[0], (top + height) / size[1])
    return Box(key, edges, category)


def _coco_size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    width, height = image.get("width"), image.get("height")
    if isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0:
        return width, height
    return None


def _image_folder(file: Path, names: Sequence[str]) -> Path:
    """The folder of a COCO file's images."""
    split = file.stem.removeprefix("instances_")
    above = [file.parent, file.parent.parent]
    places = [place / inner for place in above for inner in ("", "images", split, f"images/{split}")]
    if not names:
        return file.parent
    for place in places:
        if any(_inside(place, name).is_file() for name in names[:100]):
            return place
    raise InputError(
        f"{file}: its image {names[0]!r} is not found in {', '.join(map(str, places[:2]))} or the folders above; name "
        f"the folder of the images, as in coco:{file},images=FOLDER"
    )


def _inside(folder: Path, name: str) -> Path:
    """A file below a folder. For a name that points outside, the folder itself, which is not a file."""
    path = PurePosixPath(name.replace("\\", "/"))
    return folder / ("" if path.is_absolute() or ".." in path.parts or "\0" in name else path)


def _yolo_categories(root: Path) -> tuple[str, ...]:
    for folder in (root, *list(root.absolute().parents)[:3]):
        for name in ("data.yaml", "data.yml", "dataset.yaml"):
            if (folder / name).is_file():
                return _yaml_names(folder / name)
        if (folder / "classes.txt").is_file():
            lines = read_regular(folder / "classes.txt", limit=_LIMIT).decode("utf-8-sig", "replace").splitlines()
            return tuple(line.strip() for line in lines if line.strip())
    return ()


def _yaml_names(file: Path) -> tuple[str, ...]:
    try:
        values = yaml.safe_load(read_regular(file, limit=_LIMIT))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{file}: cannot be read as YAML ({reason[:200]}); correct it, or remove it") from error
    names = values.get("names") if isinstance(values, dict) else None
    if isinstance(names, dict) and all(isinstance(key, int) and 0 <= key < _MOST_CLASSES for key in names):
        return tuple(str(names.get(number, number)) for number in range(max(names, default=-1) + 1))
    return tuple(str(name) for name in names) if isinstance(names, list) else ()


def _yolo_text(image: Path) -> str | None:
    """The annotation of an image; None if it has none."""
    parts = image.parts
    places = [image.with_suffix(".txt")]
    if "images" in parts:
        last = len(parts) - 1 - parts[::-1].index("images")
        places.insert(0, Path(*parts[:last], "labels", *parts[last + 1 :]).with_suffix(".txt"))
    for place in places:
        if place.is_file():
            return read_regular(place, limit=_LIMIT).decode("utf-8-sig", "replace")
    return None


def _yolo_boxes(text: str, categories: Sequence[str]) -> Iterator[Box]:
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        try:
            values = [float(word) for word in words]
        except ValueError:
            values = []
        if len(values) in (5, 6):
            _, x, y, width, height = values[:5]
            edges, fault = Edges(x - width / 2, y - height / 2, x + width / 2, y + height / 2), ""
        elif len(values) >= 7 and len(values) % 2:
            edges = Edges(min(values[1::2]), min(values[2::2]), max(values[1::2]), max(values[2::2]))
            fault = ""
        else:
            edges, fault = _NOWHERE, "its line is not a class and four numbers"
        yield Box(str(number), edges, _category(values, categories), fault)


def _category(values: Sequence[float], categories: Sequence[str]) -> str:
    if not values or not values[0].is_integer() or values[0] < 0:
        return ""
    number = int(values[0])
    return categories[number] if number < len(categories) else str(number)


def _voc_image(file: Path, pictures: Path) -> AnnotatedImage:
    data = read_regular(file, limit=_LIMIT)
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise InputError("it declares XML entities, which annotations do not need")
    tree = ET.fromstring(data)  # noqa: S314  # without entities, XML cannot expand
    name = (tree.findtext("filename") or "").strip()
    if Path(name).suffix.lower() not in SUFFIXES:
        name = f"{file.stem}.jpg"
    size = (round(float(tree.findtext("size/width") or 0)), round(float(tree.findtext("size/height") or 0)))
    if min(size) < 1:
        raise InputError("it states no width and height")
    boxes = [_voc_box(str(number), entry, size) for number, entry in enumerate(tree.iter("object"), start=1)]
    return AnnotatedImage(id=PurePosixPath(name).as_posix(), file=_inside(pictures, name), boxes=boxes, size=size)


def _voc_box(key: str, entry: ET.Element, size: tuple[int, int]) -> Box:
    category = (entry.findtext("name") or "").strip()
    try:
        left, top, right, bottom = (
            float(entry.findtext(f"bndbox/{edge}") or "") for edge in ("xmin", "ymin", "xmax", "ymax")
        )
    except ValueError:
        return Box(key, _NOWHERE, category, "it has no bndbox of four numbers")
    # Pixel numbers start at 1, and the last pixel belongs to the box.
    edges = Edges((left - 1) / size[0], (top - 1) / size[1], right / size[0], bottom / size[1])
    return Box(key, edges, category)


def _unreadable(skipped: Sequence[BadImage]) -> list[BadImage]:
    """The skipped files of a folder that are not annotations."""
    return [entry for entry in skipped if Path(entry.id).suffix.lower() not in {".txt", ".yaml", ".yml", ".cache"}]
