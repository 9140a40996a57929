"""What annotation tools export, as rows of a table: Label Studio's JSON, with a row for each rater of an
image, and CVAT's XML "for images", with what its tags say of the whole image. Boxes and masks are not read.
Label Studio's CSV and JSON-MIN are tables already."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rarl.data import SPLIT_NAMES
from rarl.data.sources.xml_text import UnfitXmlError, xml_root
from rarl.errors import DataError

LARGEST_EXPORT = 500_000_000  # bytes of XML

# ── Label Studio ─────────────────────────────────────────────────────────────────────────────────────────


def is_label_studio(entries: Sequence[Any]) -> bool:
    """Whether the entries of a JSON list are tasks of Label Studio with their annotations."""
    return bool(entries) and all(
        isinstance(entry, dict)
        and isinstance(entry.get("data"), dict)
        and isinstance(entry.get("annotations", entry.get("completions")), list)
        for entry in entries
    )


def label_studio_rows(file: Path, entries: Sequence[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """A row for each annotation that was not cancelled: the task's data, who annotated, and each answer under
    the name of its field, such as {"image": "/data/upload/3/a.jpg", "annotator": 1, "rating": 4}."""
    names = {
        item["from_name"]: None
        for entry in entries
        for annotation in _annotations(entry)
        for item in _results(annotation)
    }
    for entry_number, entry in enumerate(entries, 1):
        for annotation in _annotations(entry):
            row = dict.fromkeys(names) | entry["data"]
            row["annotator"] = _annotator(annotation.get("completed_by"))
            for item in _results(annotation):
                row[item["from_name"]] = _answer(item["value"])
            if any(item["from_name"] for item in _results(annotation)):
                yield f"{file} entry {entry_number}", row


def _annotations(entry: dict[str, Any]) -> list[dict[str, Any]]:
    given = entry.get("annotations", entry.get("completions"))
    return [each for each in given or () if isinstance(each, dict) and not each.get("was_cancelled")]


def _results(annotation: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        item
        for item in annotation.get("result") or ()
        if isinstance(item, dict)
        and isinstance(item.get("from_name"), str)
        and isinstance(item.get("value"), dict)
    ]


def _annotator(who: Any) -> Any:
    return who.get("email", who.get("id")) if isinstance(who, dict) else who


def _answer(value: dict[str, Any]) -> Any:
    """The one answer in a value such as {"rating": 4} or {"choices": ["good"]}; else the value itself."""
    if len(value) != 1:
        return value
    [answer] = value.values()
    return answer[0] if isinstance(answer, list) and len(answer) == 1 else answer


# ── CVAT ─────────────────────────────────────────────────────────────────────────────────────────────────


def cvat_rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """A row for each image with a tag: its name, its subset as the split if all are splits, and the
    attributes of its tags by name. The label of the tags is the column "label", if they have several labels
    or no attributes.

    Raises:
        DataError: if the file is not CVAT's, or no image has a tag.
    """
    with open(file, "rb") as stream:
        data = stream.read(LARGEST_EXPORT + 1)
    try:
        if len(data) > LARGEST_EXPORT:
            raise UnfitXmlError(f"more than {LARGEST_EXPORT:,} bytes")
        root = xml_root(data, "annotations")
    except UnfitXmlError as error:
        raise DataError(f"{file}: {error}; a table in XML is CVAT's export 'for images'") from error
    images = root.findall("image")
    tagged = [(number, image, image.findall("tag")) for number, image in enumerate(images, 1)]
    tags = [tag for _, _, each in tagged for tag in each]
    if not tags:
        raise DataError(
            f"{file}: none of its {len(images):,} images has a tag, which says a value of a whole image; to "
            "count boxes, export as COCO and use `rarl data prepare coco`"
        )
    labels = Counter(tag.get("label", "") for tag in tags)
    attributes = {attribute.get("name", ""): None for tag in tags for attribute in tag.findall("attribute")}
    subsets = {image.get("subset", "") for image in images}
    are_splits = len(subsets) > 1 and all(subset.lower() in SPLIT_NAMES for subset in subsets)
    for number, image, each in tagged:
        if not each:
            continue
        row: dict[str, Any] = {"file": image.get("name", "")}
        if are_splits:
            row["split"] = image.get("subset")
        if len(labels) > 1 or not attributes:
            row["label"] = ", ".join(tag.get("label", "") for tag in each)
        row |= dict.fromkeys(attributes)
        for tag in each:
            for attribute in tag.findall("attribute"):
                row[attribute.get("name", "")] = (attribute.text or "").strip()
        yield f"{file} image {number}", row
