"""OpenPGP packets (RFC 4880 §4.2): what exports of keys and signed messages are made of."""

from __future__ import annotations

from collections.abc import Iterator


class PacketError(ValueError):
    """Content is no sequence of whole packets; the text says what it holds instead."""


def packets(content: bytes, *, in_parts: bool = False) -> Iterator[tuple[int, bytes]]:
    """Yield the tag and body of each packet, in order.

    Args:
        content: What is nothing but packets.
        in_parts: Whether bodies may come in parts, as of a message whose length was not known when it began.

    Raises:
        PacketError: There is something else, or a part of a packet.
    """
    at = 0
    while at < len(content):
        first = content[at]
        if not first & 0x80:
            raise PacketError("something that is no OpenPGP key or message")
        if first & 0x40:
            parts, is_part, at = list[bytes](), True, at + 1
            while is_part:
                width, length, is_part = _new_length(content, at)
                if is_part and not in_parts:
                    raise PacketError("a packet of unknown length")
                parts.append(_body(content, at + width, length))
                at += width + length
            yield first & 0x3F, b"".join(parts)
        else:
            width = 1 << (first & 3)
            if width == 8:  # noqa: PLR2004
                raise PacketError("a packet of unknown length")
            length = int.from_bytes(content[at + 1 : at + 1 + width], "big")
            yield (first >> 2) & 0x0F, _body(content, at + 1 + width, length)
            at += 1 + width + length


def _body(content: bytes, start: int, length: int) -> bytes:
    if start + length > len(content):
        raise PacketError("a truncated packet")
    return content[start : start + length]


def _new_length(content: bytes, at: int) -> tuple[int, int, bool]:
    """Return how many bytes a length of the new format takes, the length, and whether another part follows."""
    octets = content[at : at + 5] + bytes(5)
    if octets[0] < 192:  # noqa: PLR2004
        return 1, octets[0], False
    if octets[0] < 224:  # noqa: PLR2004
        return 2, ((octets[0] - 192) << 8) + octets[1] + 192, False
    if octets[0] == 255:  # noqa: PLR2004
        return 5, int.from_bytes(octets[1:5], "big"), False
    return 1, 1 << (octets[0] & 0x1F), True
