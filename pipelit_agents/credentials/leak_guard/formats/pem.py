"""Read the private keys of PEM files."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from pipelit_agents.credentials.leak_guard.formats.values import MAX_LINES, MIN_LINE
from pipelit_agents.credentials.leak_guard.recognition import Level, Part

__all__ = ["of_pem"]

_PEM: Final = re.compile(
    r"-----BEGIN ([A-Z0-9 ]*PRIVATE KEY[A-Z ]*)-----(.*?)-----END \1-----", re.DOTALL
)


def of_pem(text: str, path: str) -> Iterator[Part]:
    """Yield the lines of private keys, their DER, and the number that all formats contain."""
    private, taken = False, 0
    for line in map(str.strip, text.splitlines()):
        if line.startswith("-----"):
            private, taken = "PRIVATE" in line and "BEGIN" in line, 0
        elif private and taken < MAX_LINES and len(line) >= MIN_LINE and ": " not in line:
            taken += 1
            yield Part(path, line, Level.CERTAIN, encodes=False)
    for found in _PEM.finditer(text) if "-----END " in text else ():
        body = "".join(line for line in found[2].splitlines() if ":" not in line)
        der = b""
        with suppress(ValueError):
            der = base64.b64decode("".join(body.split()), validate=True)
        # Some formats omit leading zeros of a number.
        number = _private_number(found[0], found[1], der).lstrip(b"\0")
        # A line of base64 holds 48 bytes, so its end breaks at most one of the two halves.
        for raw in filter(None, (der, number[:16], number[16:32])):
            yield Part(path, raw, Level.CERTAIN)


def _private_number(pem: str, kind: str, der: bytes) -> bytes:
    """Return the private number of a key, in the bytes that all of its formats contain."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    if "ENCRYPTED" in kind or "Proc-Type" in pem:
        return b""
    key: object = None
    with suppress(ValueError, TypeError, UnsupportedAlgorithm):
        if kind.startswith("OPENSSH"):
            key = serialization.load_ssh_private_key(pem.encode(), None)
        else:
            key = serialization.load_der_private_key(der, None, unsafe_skip_rsa_key_validation=True)
    if isinstance(key, rsa.RSAPrivateKey):
        number = key.private_numbers().d
        return number.to_bytes((number.bit_length() + 7) // 8)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.private_numbers().private_value.to_bytes((key.key_size + 7) // 8)
    return bytes(key.private_bytes_raw()) if hasattr(key, "private_bytes_raw") else b""
