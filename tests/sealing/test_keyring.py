"""The keyring: which values it decrypts, which it refuses, and that keys are never shown."""

from __future__ import annotations

import base64
import copy
import pickle

import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from pipelit_agents import Keyring, Sealed
from pipelit_agents.errors import ConfigurationError, UnsealError

SHARED = Keyring(Keyring.generate_key())
purposes = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(st.binary(max_size=300), purposes)
def test_what_was_sealed_opens_for_its_place(data: bytes, purpose: str) -> None:
    """Any bytes come back for any purpose."""
    assert SHARED.unseal(SHARED.seal(data, purpose), purpose) == data


@given(st.text(st.characters(exclude_categories=["Cs"])), purposes, purposes)
def test_another_purpose_does_not_open(text: str, one: str, other: str) -> None:
    """A token is decrypted for its own purpose and for no other."""
    token = SHARED.seal(text, one)
    if one == other:
        assert SHARED.unseal(token, other) == text.encode()
    else:
        with pytest.raises(UnsealError):
            SHARED.unseal(token, other)


@given(st.text(max_size=200))
def test_what_is_no_token_does_not_open(text: str) -> None:
    """Any text that isn't a token is an UnsealError, and nothing else."""
    with pytest.raises(UnsealError):
        SHARED.unseal(text, "credential:openai")


@given(st.data())
def test_a_changed_token_does_not_open(data: st.DataObject) -> None:
    """A token with one changed byte is refused."""
    raw = bytearray(base64.urlsafe_b64decode(SHARED.seal("value", "purpose")))
    position = data.draw(st.integers(0, len(raw) - 1))
    raw[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(UnsealError):
        SHARED.unseal(base64.urlsafe_b64encode(raw).decode(), "purpose")


def test_a_plain_fernet_token_of_the_same_key_does_not_open() -> None:
    """A token that another program made under the same key has no purpose, and is refused."""
    key = Keyring.generate_key()
    with pytest.raises(UnsealError):
        Keyring(key).unseal(Fernet(key).encrypt(b"value").decode(), "")


@pytest.mark.parametrize("token", [None, 7, b"\xff", "", "ключ", "\ud800"])
def test_nonsense_does_not_open(token: object) -> None:
    """What a column may hold by accident is an UnsealError."""
    with pytest.raises(UnsealError):
        SHARED.unseal(token, "purpose")  # type: ignore[arg-type]


def test_every_refusal_has_the_same_words() -> None:
    """A wrong key, a wrong purpose and damage have the same error."""
    words = set()
    for keyring, token, purpose in (
        (Keyring(Keyring.generate_key()), SHARED.seal("v", "p"), "p"),
        (SHARED, SHARED.seal("v", "p"), "q"),
        (SHARED, "damaged", "p"),
    ):
        with pytest.raises(UnsealError) as caught:
            keyring.unseal(token, purpose)
        words.add(str(caught.value))
        assert caught.value.__cause__ is None
    assert len(words) == 1


def test_keys_can_be_replaced_while_values_stay() -> None:
    """With a new key in front, old values are decrypted, and new ones are under the new key."""
    old, new = Keyring.generate_key(), Keyring.generate_key()
    token = Keyring(old).seal("value", "purpose")
    both = Keyring.parse(f"{new},{old}")
    assert both.unseal(token, "purpose") == b"value"
    assert Keyring(new).unseal(both.seal("value", "purpose"), "purpose") == b"value"
    with pytest.raises(UnsealError):
        Keyring(new).unseal(token, "purpose")


def test_spaces_and_empty_entries_of_the_setting_are_passed_over() -> None:
    """A setting as people type it is read."""
    key = Keyring.generate_key()
    assert repr(Keyring.parse(f" {key} ,, {Keyring.generate_key()}\n")) == "Keyring(2 keys)"


def test_a_key_that_is_repeated_is_one_key() -> None:
    """Also in another spelling: the last digit of base64 has two bits that don't count."""
    key, other = (base64.urlsafe_b64encode(bytes([each]) * 32).decode() for each in (1, 2))
    spelling = key[:-2] + chr(ord(key[-2]) + 1) + "="
    assert base64.urlsafe_b64decode(spelling) == base64.urlsafe_b64decode(key)
    keys = Keyring(key, spelling, other, key)
    assert keys.has_the_keys_of(Keyring(key, other))
    assert len(keys) == len({*keys.origins}) == len({*keys.macs("label")}) == 2
    assert keys.derive("label").has_the_keys_of(Keyring(key, other).derive("label"))
    assert keys.fingerprint(1) == Keyring(other).fingerprint()


@pytest.mark.parametrize("setting", ["", "  ", ",", " , "])
def test_no_key_names_the_setting_and_the_command(setting: str) -> None:
    """Without a key the message says which setting, and how to make one."""
    with pytest.raises(ConfigurationError, match="FIELD_ENCRYPTION_KEY") as caught:
        Keyring.parse(setting)
    assert "Keyring.generate_key()" in str(caught.value)
    assert "pipelit-agents init" in str(caught.value)


@pytest.mark.parametrize(
    "bad",
    [
        "short",
        "A" * 44,
        "A" * 43,
        "!" * 43 + "=",
        "é" * 43 + "=",
        base64.urlsafe_b64encode(b"1" * 31).decode(),
        base64.urlsafe_b64encode(b"1" * 33).decode(),
    ],
)
def test_a_bad_key_is_named_by_its_position_only(bad: str) -> None:
    """The message tells which of the keys is bad, and never shows it."""
    with pytest.raises(ConfigurationError, match=r"key 2 of 2 in FIELD_ENCRYPTION_KEY") as caught:
        Keyring(Keyring.generate_key(), bad)
    assert bad not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_made_key_is_a_key_of_its_own() -> None:
    """What ``generate_key`` returns is a key, and another one each time."""
    keys = {Keyring.generate_key() for _ in range(3)}
    assert repr(Keyring(*keys)) == "Keyring(3 keys)"


def test_a_keyring_shows_and_gives_away_nothing() -> None:
    """A keyring has no key in its repr, and is neither pickled nor copied."""
    key = Keyring.generate_key()
    keyring = Keyring(key)
    assert repr(keyring) == "Keyring(1 key)"
    assert not hasattr(keyring, "__dict__")
    for way in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="holds the keys"):
            way(keyring)


def test_tags_of_other_labels_and_other_splits_differ() -> None:
    """A tag depends on its label, on where its parts begin and end, and on the key."""
    tags = [
        SHARED.mac("one", b"ab", b"c"),
        SHARED.mac("two", b"ab", b"c"),
        SHARED.mac("one", b"a", b"bc"),
        SHARED.mac("one", b"abc"),
        SHARED.mac("one", b"ab", b"c", b""),
        Keyring(Keyring.generate_key()).mac("one", b"ab", b"c"),
    ]
    assert len(set(tags)) == len(tags)
    assert SHARED.mac("one", b"ab", b"c") == tags[0]


def test_a_sealed_value_shows_nothing() -> None:
    """Neither repr, str nor format of a Sealed show ciphertext or plaintext."""
    sealed = Sealed(SHARED.seal("value", "purpose"), "purpose")
    assert {repr(sealed), str(sealed), f"{sealed}"} == {"Sealed(****)"}
    assert sealed.unseal(SHARED) == "value"


def test_a_sealed_value_that_is_no_text_does_not_open_as_text() -> None:
    """Bytes that aren't UTF-8 are an UnsealError, without the bytes."""
    sealed = Sealed(SHARED.seal(b"\xff\xfe", "purpose"), "purpose")
    with pytest.raises(UnsealError) as caught:
        sealed.unseal(SHARED)
    assert caught.value.__cause__ is None


def test_a_tag_of_before_a_rotation_is_among_those_of_after(key: str) -> None:
    """`macs` gives the tag under each key, newest first; labels and parts keep them apart."""
    newest = Keyring.generate_key()
    old, both = Keyring(key), Keyring(newest, key)
    assert list(both.macs("x", b"a")) == [Keyring(newest).mac("x", b"a"), old.mac("x", b"a")]
    assert (
        len({old.mac("x", b"a"), old.mac("y", b"a"), old.mac("x", b"a", b""), both.mac("x")}) == 4
    )
