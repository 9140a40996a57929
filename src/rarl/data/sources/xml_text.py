"""XML from strangers: read whole, without entities, which can grow without end. What the elements mean is
left to the sources."""

from xml.etree import ElementTree


class UnfitXmlError(Exception):
    """Why a text is not read as XML."""


def xml_root(data: bytes, tag: str) -> ElementTree.Element:
    """The root of an XML text. A document type is refused, since entities in it can grow without end.

    Raises:
        UnfitXmlError: if it has one, is not XML, or its root is not called `tag`.
    """
    # In UTF-16, each of these characters has a zero beside it. XML allows no other encoding that hides them.
    if b"<!DOCTYPE" in data.replace(b"\0", b""):
        raise UnfitXmlError("has a <!DOCTYPE>, which is refused; remove it")
    try:
        root = ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise UnfitXmlError(f"not XML ({error})") from error
    if root.tag != tag:
        raise UnfitXmlError(f"its root is <{root.tag[:80]}>, not <{tag}>")
    return root
