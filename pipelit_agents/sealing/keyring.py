"""The keyring: encrypts values under ``FIELD_ENCRYPTION_KEY``, each for one purpose.

An encrypted value is a Fernet token. It contains the SHA-256 of its *purpose*
(``user:alice:totp``) and the plaintext. A token that was copied to where another purpose is
expected can't be decrypted.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterator
from typing import Final

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from pipelit_agents._discretion import discreet
from pipelit_agents.errors import ConfigurationError, UnsealError

__all__ = ["Keyring", "Sealed"]

KEY_SETTING: Final = "FIELD_ENCRYPTION_KEY"
MAKE_A_KEY: Final = (
    'python -c "from pipelit_agents import Keyring; print(Keyring.generate_key())"'
    " (or: pipelit-agents init)"
)
# SHA-256 of keys that documentation prints: the Fernet specification's, and Apache Airflow's.
_PUBLISHED: Final = frozenset(
    {
        "3990442a9e73e2e289f7c0c4f1c9dc85d3d54268f208748631ecb46b1ef9f3df",
        "5ca278330d08b9ce5bb4e0c8755263873be3b92f5db329c5562d445b3e022232",
        "cbeb362f1fa69a6691db592f4529cf6bea1ce089eb132a3350c9081279ff8f34",
    }
)
# Fewer distinct bytes than these occur in one of 10^17 random keys.
_FEWEST_BYTES: Final = 16
_KEY_LENGTH: Final = 44
_MARK: Final = b"plit1"
_ORIGIN: Final = b"pipelit-agents/name"
# A Fernet token: version, time and initialization vector; blocks of the cipher; HMAC-SHA256.
_TOKEN_HEAD: Final = 25
_TOKEN_BLOCK: Final = 16
_TOKEN_TAG: Final = 32
_HEAD: Final = len(_MARK) + hashlib.sha256().digest_size


class Keyring:
    """The Fernet keys of ``FIELD_ENCRYPTION_KEY``, newest first.

    The first key encrypts and all of them decrypt, so a key can be replaced while the system runs.

    Args:
        keys: Fernet keys (32 bytes, URL-safe base64), newest first. A repeated key counts once.

    Raises:
        ConfigurationError: There is no key, or one of them isn't a Fernet key. The key itself is
            never in the message.
    """

    __slots__ = ("_fernet", "_keys", "_newest", "_origins")

    @discreet
    def __init__(self, *keys: str) -> None:
        for position, each in enumerate(keys, 1):
            if not isinstance(each, str):
                raise ConfigurationError(
                    f"key {position} is {type(each).__name__}, not text: pass each key as an "
                    "argument, Keyring(*keys), and bytes as key.decode()"
                )
        cleaned = [key.strip() for key in keys if key.strip()]
        if not cleaned:
            raise ConfigurationError(
                f"{KEY_SETTING} is not set, so nothing can be encrypted or decrypted. Set it to "
                f"the key of your database, or restore .env; for a new database: {MAKE_A_KEY}"
            )
        raw = []
        for position, key in enumerate(cleaned, 1):
            try:
                raw.append(base64.b64decode(key.encode("ascii"), altchars=b"-_", validate=True))
            except (binascii.Error, UnicodeEncodeError):
                raw.append(b"")
            if len(raw[-1]) != 32:
                raise ConfigurationError(
                    f"key {position} of {len(cleaned)} in {KEY_SETTING} is not a Fernet key "
                    f"(32 bytes in URL-safe base64, 44 characters{_what_it_is(key)}). Correct "
                    "it where it is set, in the environment or in .env. If it never was a key, "
                    f"remove it there, and make one with: {MAKE_A_KEY}"
                )
        # A repeated key is one key: each key has one place and one tag.
        self._keys = tuple(dict.fromkeys(raw))
        # A digest of each key, or of the key that it is derived from.
        self._origins = tuple(hmac.digest(key, _ORIGIN, "sha256") for key in self._keys)
        fernets = [Fernet(key) for key in cleaned]
        self._newest = fernets[0]
        self._fernet = MultiFernet(fernets)

    @classmethod
    @discreet
    def parse(cls, setting: str) -> Keyring:
        """Read keys as the setting has them: separated by commas or white space, newest first.

        Raises:
            ConfigurationError: As for the constructor.
        """
        return cls(*re.split(r"[,\s]+", setting))

    @staticmethod
    def generate_key() -> str:
        """Generate a Fernet key from the system's random source."""
        return Fernet.generate_key().decode("ascii")

    @discreet
    def seal(self, plaintext: str | bytes, purpose: str) -> str:
        """Encrypt a value for one purpose, under the newest key.

        Args:
            plaintext: The value; text is encoded as UTF-8.
            purpose: What the value is for, for example ``user:alice:totp``. It is needed to decrypt
                the value.

        Returns:
            A Fernet token, ASCII.
        """
        data = plaintext.encode() if isinstance(plaintext, str) else plaintext
        return self._fernet.encrypt(_head(purpose) + data).decode("ascii")

    @discreet
    def unseal(self, token: str, purpose: str) -> bytes:
        """Decrypt a value that was encrypted for this purpose.

        Raises:
            UnsealError: It can't be decrypted. The error doesn't say why.
        """
        content = self._decrypted(token)
        if not hmac.compare_digest(content[:_HEAD], _head(purpose)):
            raise UnsealError
        return content[_HEAD:]

    def require_opening(self, token: str) -> None:
        """Make sure that a value was encrypted under one of the keys, for any purpose.

        Raises:
            UnsealError: It wasn't.
        """
        self._decrypted(token)

    def _decrypted(self, token: str) -> bytes:
        try:
            return self._fernet.decrypt(token)
        except (InvalidToken, TypeError, ValueError):
            raise UnsealError from None

    def reseal(self, token: str, purpose: str) -> str:
        """Encrypt a value again, under the newest key, for the same purpose.

        Raises:
            UnsealError: It can't be decrypted for this purpose.
        """
        return self.seal(self.unseal(token, purpose), purpose)

    def renew(self, token: str) -> str:
        """Encrypt a value again, under the newest key, whatever its purpose is.

        Raises:
            UnsealError: No key decrypts it.
        """
        try:
            return self._fernet.rotate(token).decode("ascii")
        except (InvalidToken, TypeError, ValueError):
            raise UnsealError from None

    def is_newest(self, token: str) -> bool:
        """Return whether a value was encrypted under the newest key."""
        try:
            self._newest.decrypt(token)
        except (InvalidToken, TypeError, ValueError):
            return False
        return True

    def fingerprint(self, position: int = 0) -> str:
        """Return a name for a key: 12 hexadecimal digits that reveal nothing about it.

        Args:
            position: Which key, 0 for the newest.
        """
        return hmac.digest(self._keys[position], _ORIGIN, "sha256").hex()[:12]

    def weak(self) -> list[str]:
        """Name the keys that aren't random, by their position, and say why."""
        found = []
        for position, key in enumerate(self._keys, 1):
            if hashlib.sha256(key).hexdigest() in _PUBLISHED:
                found.append(f"key {position} is printed in documentation")
            elif all(0x20 <= byte < 0x7F for byte in key):
                found.append(f"key {position} is text")
            elif len(set(key)) < _FEWEST_BYTES:
                found.append(f"key {position} repeats itself")
        return found

    def has_the_keys_of(self, other: Keyring) -> bool:
        """Return whether another keyring has the same keys, in the same order."""
        return self._keys == other._keys

    def ask_again(self) -> None:
        """Read the keys again, if they come from a function."""

    def reread(self) -> bool:
        """Read the keys again because they don't fit; return whether there are other keys now.

        Keys that don't come from a function never change. A function isn't called at each time.
        """
        return False

    def snapshot(self) -> Keyring:
        """Return a keyring of the current keys, which doesn't change when they do."""
        return self

    @property
    def origins(self) -> tuple[bytes, ...]:
        """A digest of each key, newest first; a derived key has the digest of its parent."""
        return self._origins

    def shares_a_key(self, other: Keyring) -> bool:
        """Return whether another keyring has one of these keys too, or one derived from it."""
        return not {*self._origins}.isdisjoint(other._origins)

    def origin_of(self, token: str) -> bytes | None:
        """Return the origin of the key that encrypted a value; None if it is none of these."""
        for key, origin in zip(self._keys, self._origins, strict=True):
            try:
                Fernet(base64.urlsafe_b64encode(key)).decrypt(token)
            except (InvalidToken, TypeError, ValueError):
                continue
            return origin
        return None

    def origin_within(self, content: bytes) -> tuple[bytes, int] | None:
        """Find a token at the beginning of bytes, whatever follows it.

        A token doesn't say how long it is, so each possible length is tried. The time that this
        takes grows with the number of bytes.

        Args:
            content: The bytes of a token and what follows, decoded from base64.

        Returns:
            The origin of its key, and how many bytes the token has; None where there is no token
            under one of these keys.
        """
        for key, origin in zip(self._keys, self._origins, strict=True):
            # The first half of a Fernet key signs.
            tag = hmac.new(key[:16], content[:_TOKEN_HEAD], "sha256")
            for end in range(
                _TOKEN_HEAD + _TOKEN_BLOCK, len(content) - _TOKEN_TAG + 1, _TOKEN_BLOCK
            ):
                tag.update(content[end - _TOKEN_BLOCK : end])
                if hmac.compare_digest(tag.copy().digest(), content[end : end + _TOKEN_TAG]):
                    return origin, end + _TOKEN_TAG
        return None

    def is_in(self, content: bytes) -> bool:
        """Return whether bytes contain one of the keys as text; used to find copies of a key."""
        written = (base64.urlsafe_b64encode(key).rstrip(b"=") for key in self._keys)
        return any(each in content for each in written)

    def __len__(self) -> int:
        return len(self._keys)

    def mac(self, label: str, *parts: bytes) -> str:
        """Return an HMAC-SHA256 under a key that is derived from the newest key for the label.

        Args:
            label: What the tag is for; tags of different labels never compare equal.
            parts: The fields under the tag, each with its length.

        Returns:
            64 lowercase hexadecimal digits.
        """
        return next(self.macs(label, *parts))

    def macs(self, label: str, *parts: bytes) -> Iterator[str]:
        """Yield the tag under each key, newest first, to verify tags from before a rotation.

        Compare in constant time.
        """
        data = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
        for key in self._keys:
            derived = hmac.digest(key, b"pipelit-agents/derive\0" + label.encode(), "sha256")
            yield hmac.digest(derived, data, "sha256").hex()

    def derive(self, label: str) -> Keyring:
        """Return a keyring whose keys are derived from these (HMAC-SHA256), in the same order.

        Neither keyring decrypts values of the other.

        Args:
            label: What the derived keys are for.
        """
        derived = (
            hmac.digest(key, b"pipelit-agents/keyring\0" + label.encode(), "sha256")
            for key in self._keys
        )
        made = Keyring(*(base64.urlsafe_b64encode(key).decode("ascii") for key in derived))
        made._origins = self._origins
        return made

    def __repr__(self) -> str:
        return f"Keyring({len(self._keys)} key{'s' if len(self._keys) > 1 else ''})"

    def __reduce__(self) -> str:
        raise TypeError("a Keyring is not pickled: it holds the keys; build it where it is needed")


class Sealed:
    """A ciphertext and its purpose. It is decrypted on request, and its ``repr`` shows nothing.

    Args:
        token: The Fernet token as stored.
        purpose: What it was encrypted for.
    """

    __slots__ = ("_purpose", "_token")

    def __init__(self, token: str, purpose: str) -> None:
        self._token = token
        self._purpose = purpose

    @property
    def token(self) -> str:
        """The ciphertext, as stored."""
        return self._token

    @property
    def purpose(self) -> str:
        """What the ciphertext was encrypted for."""
        return self._purpose

    def unseal(self, keyring: Keyring) -> str:
        """Decrypt the value.

        Raises:
            UnsealError: It can't be decrypted. The error doesn't say why.
        """
        try:
            return keyring.unseal(self._token, self._purpose).decode()
        except UnicodeDecodeError:
            raise UnsealError from None

    def __repr__(self) -> str:
        return "Sealed(****)"

    __str__ = __repr__


def _what_it_is(key: str) -> str:
    """Say why a text isn't a key, if that can be said without repeating any of it."""
    if key[:1] in "'\"" or key[-1:] in "'\"":
        return ": this has quotes around it, which belong to the shell or to .env; remove them"
    if re.fullmatch(r"[A-Za-z0-9_-]{43}", key):
        return ": this lacks the = at its end"
    if re.fullmatch(r"[0-9A-Fa-f]{64}", key):
        return ": this is hexadecimal"
    return f": this has {len(key)}" if len(key) != _KEY_LENGTH else ""


def _head(purpose: str) -> bytes:
    return _MARK + hashlib.sha256(purpose.encode()).digest()
