"""How many scans a JPEG file has, told without decoding it. A scan is one pass over the pixels; a progressive
file has several, and nothing in the format says how many."""

import re

_SCAN, _END = 0xDA, 0xD9
# Within a scan a 0xFF of the data is followed by 0x00, and restart markers may stand anywhere.
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")


def number_of_scans(data: bytes, most: int) -> int:
    """The scans of the first picture of a JPEG file, counted up to `most` + 1; any bytes will do."""
    scans, place = 0, 2
    while scans <= most and (marker := _MARKER.search(data, place)) and marker[1][0] != _END:
        scans += marker[1][0] == _SCAN
        # What a segment holds is skipped by its length: a thumbnail in there has scans of its own.
        place = marker.end() + max(2, int.from_bytes(data[marker.end() : marker.end() + 2]))
    return scans
