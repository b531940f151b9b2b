"""The alphabet of byte-level BPE: 256 printable characters, one per byte.

Printable Latin-1 bytes stand for themselves, the others for the characters from U+0100 on, in
order (GPT-2, "Language Models are Unsupervised Multitask Learners", 2019).
"""

_PRINTABLE = frozenset((*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)))


def _byte_of_char() -> dict[str, int]:
    table = {chr(byte): byte for byte in sorted(_PRINTABLE)}
    others = (byte for byte in range(256) if byte not in _PRINTABLE)
    return table | {chr(0x100 + place): byte for place, byte in enumerate(others)}


BYTE_OF_CHAR = _byte_of_char()


def token_to_bytes(token: str) -> bytes:
    """The bytes a token of the vocabulary stands for.

    A token with a character outside the alphabet, which added tokens may have, stands for itself.
    """
    try:
        return bytes([BYTE_OF_CHAR[char] for char in token])
    except KeyError:
        return token.encode("utf-8")
