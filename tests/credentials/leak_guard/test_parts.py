"""Parts of credentials: which are secrets by themselves, which aren't, and what is said of it."""

from __future__ import annotations

import base64
import json
import warnings
from typing import Any

import pytest
import yaml
from credential_documents import DOCUMENTS
from cryptography.hazmat.primitives import serialization as forms
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from pipelit_agents import Pipelit
from pipelit_agents.credentials.described import described
from pipelit_agents.credentials.leak_guard.masking import masked
from pipelit_agents.credentials.leak_guard.parts import parts
from pipelit_agents.credentials.leak_guard.patterns import Patterns
from pipelit_agents.credentials.leak_guard.recognition import (
    Level,
    Part,
    Verdict,
    level_of,
    verdict,
)
from pipelit_agents.credentials.leak_guard.search import refuse_leak
from pipelit_agents.errors import CommonSecretWarning, SecretLeakError, ShortSecretWarning

# Where it is stored makes no difference here.
BACKENDS = ("sqlite",)

RAW = bytes(range(1, 33))
ENCODED = base64.b64encode(b"\xff\xfe" + RAW).decode()
SPARE = base64.b64encode(RAW[:31]).decode()
LINES = bytes(range(128, 185)) * 8
UUID = "3f2504e0-4f89-11d3-9a0c-0305e82c3301"
SLASHES = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
UMLAUTS = "pässwörd-lang"
TOTP = "JBSWY3DPEHPK3PXPJBSWY3DP"


def refused(secret: str, value: Any) -> bool:
    """Whether a node that has the secret may not return a value."""
    try:
        refuse_leak({"x": value}, {secret: "service"})
    except SecretLeakError:
        return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize("kind", DOCUMENTS)
def test_the_secrets_in_a_document_are_found(kind: str) -> None:
    """Each form of a credential: its passwords and keys are refused and masked, the rest isn't."""
    secret, leaks, honest = DOCUMENTS[kind]
    for leak in leaks:
        assert refused(secret, leak), leak
        assert not refused(secret, masked(leak, {secret: "service"}))
        if isinstance(leak, str):
            assert refused(secret, f"-- {leak} --".encode()), leak
            assert refused(secret, base64.b64encode(f"me:{leak}".encode()).decode()), leak
            assert refused(secret, json.dumps({"k": leak})), leak
    assert [each for each in honest if refused(secret, each)] == []
    assert refused(secret, secret)
    assert refused(secret, json.dumps({"k": secret}))


@pytest.mark.parametrize(
    ("secret", "leak"),
    [
        # What a value encodes.
        (ENCODED, b"\xff\xfe" + RAW),
        (ENCODED, ENCODED.rstrip("=")),
        (ENCODED, base64.urlsafe_b64encode(b"\xff\xfe" + RAW).decode().rstrip("=")),
        (ENCODED, (b"\xff\xfe" + RAW).hex()),
        (ENCODED, repr(b"\xff\xfe" + RAW)),
        (ENCODED, (b"\xff\xfe" + RAW).decode("latin-1")),
        (ENCODED, base64.b64encode(b"user:\xff\xfe" + RAW).decode()),
        (ENCODED, list(b"\xff\xfe" + RAW)),
        (base64.urlsafe_b64encode(RAW).decode().rstrip("="), RAW),
        (base64.b64encode(b"s3cr3t-value-1").decode(), "s3cr3t-value-1"),
        (base64.encodebytes(RAW * 4).decode(), RAW * 4),
        (base64.encodebytes(RAW * 4).decode(), base64.b64encode(RAW * 4).decode()),
        (SPARE, RAW[:31]),
        ("BaspY2U6czNjcjN0LX\nZhbHVlLTE=", base64.b64decode("BaspY2U6czNjcjN0LXZhbHVlLTE=")),
        (RAW.hex(), RAW),
        (RAW.hex(), base64.b64encode(RAW).decode()),
        (RAW.hex(), RAW.hex().upper()),
        (RAW.hex().upper(), RAW.hex()),
        (RAW.hex(), RAW.hex(":")),
        (RAW.hex(":"), RAW.hex().upper()),
        (TOTP, base64.b32decode(TOTP)),
        (TOTP, TOTP.lower()),
        (TOTP.lower(), base64.b32decode(TOTP).hex()),
        (UUID, UUID.upper()),
        (UUID, UUID.replace("-", "")),
        (UUID.replace("-", ""), UUID.upper()),
        (UUID, bytes.fromhex(UUID.replace("-", ""))),
        # How a value is written.
        (SLASHES, json.dumps(SLASHES).replace("/", "\\/")),
        ("pä/ssword-lang", '{"p":"p\\u00e4\\/ssword-lang"}'),
        ("pä/ssword-lang", '{"p":"pä\\/ssword-lang"}'),
        (SLASHES, SLASHES.encode().hex(":")),
        (SLASHES, SLASHES.encode().hex(":").upper()),
        (SLASHES, SLASHES.encode().hex(" ")),
        ('pa"ssword-lang', base64.b64encode(json.dumps({"p": 'pa"ssword-lang'}).encode())),
        ("a<b>&c'd-lang", '{"p":"a\\u003cb\\u003e\\u0026c\'d-lang"}'),
        ("a<b>&c'd-lang", '{"p":"a\\u003cb\\u003e\\u0026c\\u0027d-lang"}'),
        (UMLAUTS, yaml.dump({"p": UMLAUTS})),
        (UMLAUTS, json.dumps(UMLAUTS).replace("e4", "E4").replace("f6", "F6")),
        (UMLAUTS, "p&#228;ssw&#246;rd-lang"),
        ("it's a secret", "PASSWORD 'it''s a secret'"),
        ("it's a secret", "password='it\\'s a secret'"),
        ("s3cr}et;value", "Pwd={s3cr}}et;value}"),
    ],
)
def test_a_secret_is_found_decoded_and_rewritten(secret: str, leak: Any) -> None:
    """What a secret encodes, its other cases, and what writers of other languages make of it."""
    assert refused(secret, leak)
    assert refused(json.dumps({"password": secret}), leak)


@pytest.mark.parametrize(
    ("secret", "leak"),
    [
        ("Cookie: theme=dark; remember=s3cr3t_v4l", "s3cr3t_v4l"),
        (
            "password: |\n  correct horse\n  battery staple\nuser: me",
            "correct horse\nbattery staple",
        ),
        ("password: |\n  correct horse\n  battery staple\nuser: me", "correct horsebattery staple"),
        ("passwords:\n  - correct horse\nuser: me", "correct horse"),
        ('machine h login me password "correct \\"horse\\""', 'correct "horse"'),
        ("environment: {one: Xk29dLmQ7vRt4WpZ81nBcYf3}", "Xk29dLmQ7vRt4WpZ81nBcYf3"),
        ("jdbc:h2:mem:test;USER=sa;PASSWORD=correct horse", "correct horse"),
        ("https://me:first@second/third@example.com/", "first@second/third"),
        ("<login password='a&amp;b-correct horse'/>", "a&b-correct horse"),
        ("<config>\n<password>correct horse</password>\n</config>", "correct horse"),
        ("kind: Secret\nstringData:\n  one: correct horse", "correct horse"),
        ('<add key="password"\n  value="correct horse"/>', "correct horse"),
        # Eight whole lines: only together are they as long as a key may be.
        ("host: example.com\n" + base64.encodebytes(LINES).decode(), LINES),
        (
            "https://example.com/services/ghp_abcdefghijklmnopqrstuvwxyzABCDEF0123",
            "ghp_abcdefghijklmnopqrstuvwxyzABCDEF0123",
        ),
    ],
)
def test_each_rule_of_a_format_finds_something_alone(secret: str, leak: Any) -> None:
    """No other rule finds these values, so a rule that looks superfluous fails here."""
    assert refused(secret, leak)


KEYS: dict[str, Any] = {
    "rsa": rsa.generate_private_key(65537, 2048),
    "ec": ec.generate_private_key(ec.SECP256R1()),
    # A number that begins with zeros.
    "ec521": ec.derive_private_key(int.from_bytes(bytes(range(100, 160))), ec.SECP521R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
}
PLAIN = forms.NoEncryption()


def _written(key: Any, encoding: forms.Encoding, kind: forms.PrivateFormat) -> bytes:
    return bytes(key.private_bytes(encoding, kind, PLAIN))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_private_key_is_found_in_every_format(kind: str, wrapped: bool) -> None:
    """PEM, DER, the PEM of OpenSSL and OpenSSH, in one line or in other lines."""
    key = KEYS[kind]
    pem = _written(key, forms.Encoding.PEM, forms.PrivateFormat.PKCS8).decode()
    secret = json.dumps({"type": "service", "private_key": pem}) if wrapped else pem
    leaks: list[Any] = [_written(key, forms.Encoding.DER, forms.PrivateFormat.PKCS8)]
    leaks.append(leaks[0].hex())
    if kind != "ed25519":
        old = forms.PrivateFormat.TraditionalOpenSSL
        leaks += [_written(key, each, old) for each in (forms.Encoding.PEM, forms.Encoding.DER)]
    leaks.append(_written(key, forms.Encoding.PEM, forms.PrivateFormat.OpenSSH))
    body = "".join(pem.splitlines()[1:-1])
    leaks += [body, "\n".join(body[at : at + 76] for at in range(0, len(body), 76))]
    for leak in leaks:
        assert refused(secret, leak), leak
    public = key.public_key()
    for encoding in (forms.Encoding.PEM, forms.Encoding.DER):
        honest = public.public_bytes(encoding, forms.PublicFormat.SubjectPublicKeyInfo)
        assert not refused(secret, honest)
        assert not refused(secret, honest.hex())


def test_a_key_of_openssh_is_found_in_other_formats() -> None:
    """A file such as id_ed25519, unlocked: what it holds is found as PKCS8."""
    key = KEYS["ed25519"]
    secret = _written(key, forms.Encoding.PEM, forms.PrivateFormat.OpenSSH).decode()
    assert refused(secret, _written(key, forms.Encoding.PEM, forms.PrivateFormat.PKCS8))
    assert refused(secret, key.private_bytes_raw())
    assert not refused(secret, key.public_key().public_bytes_raw())


def test_a_locked_key_is_found_by_its_lines() -> None:
    """A PEM that needs a passphrase can't be read, and its lines and DER are looked for."""
    locked = forms.BestAvailableEncryption(b"correct horse")
    pem = KEYS["ec"].private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, locked).decode()
    lines = pem.splitlines()
    assert refused(pem, lines[1])
    assert refused(pem, base64.b64decode("".join(lines[1:-1])))
    assert not refused(pem, lines[0])


@pytest.mark.parametrize(
    ("level", "names"),
    [
        (
            Level.SECRET,
            "password Password dbPassword DB_PASSWORD PGPASSWORD passwd pwd passphrase api_key "
            "apiKey API-KEY apikey OPENAI_API_KEY_2 client_secret clientSecret private_key secrets "
            "SecretAccessKey access_token refreshToken AccountKey SharedAccessKey secret_key_base "
            "password_prod signingKey sslpassword _authToken client-key-data recovery_phrase "
            "password_of_user pass smtp_pass DJANGO_SECRET_KEY db_host_password",
        ),
        (Level.LIKELY, "auth token tokens key authorization credentials session sig signature"),
        (
            Level.PUBLIC,
            "auth_method authMethod auth-type auth_provider_x509_cert_url token_uri tokenUri "
            "token_type key_id private_key_id aws_access_key_id secret_name api_key_header "
            "public_key publishable_key sshPublicKey username email host port region password_file "
            "certificate-authority-data fingerprint",
        ),
        (Level.UNKNOWN, "author authority keyspace keyboard compass passenger monkey tokenizer"),
    ],
)
def test_names_are_read_as_words(level: Level, names: str) -> None:
    """In every style; a word within a word says nothing, and the last word says what it is."""
    assert {name: level_of(name) for name in names.split()} == dict.fromkeys(names.split(), level)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["auth", "auth_method", "key", "token", "credentials", "provider"])
@pytest.mark.parametrize(
    "value",
    [
        "password",
        "please",
        "true",
        "oauth2",
        "us-east-1",
        "5432",
        "alice@example.com",
        "https://api.example.com/v1?n=10",
        "alice.smith",
        "gpt-4o-mini",
        "claude-sonnet-4-20250514",
        "meta-llama/Llama-3.1-70B-Instruct",
        "2024-01-01T00:00:00Z",
        "10.0.0.1",
        "client_credentials",
        "application/json",
        "db.internal.example.com",
        "/run/secrets/token",
        "SCRAM-SHA-256",
        "ed25519",
        "arn:aws:iam::123456789012:role/app",
        "v1beta1",
    ],
)
def test_ordinary_values_are_no_secrets(name: str, value: str) -> None:
    """Words, names, models, hosts, dates and addresses, also under a name that could be one."""
    secret = json.dumps({"password": "s3cr3t-value-1", name: value})
    assert not refused(secret, f"It is {value} here.")
    assert refused(secret, "s3cr3t-value-1")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        # Part of honest text: said, and not searched for.
        *[(each, Verdict.COMMON) for each in ("password", "changeit", "postgres", "Swordfish")],
        *[(each, Verdict.COMMON) for each in ("12345678", "87654321", "aaaaaaaa", "change-me")],
        # What only names a secret, or says that there is none.
        *[(each, Verdict.PUBLIC) for each in ("true", "none", "${DB_PASSWORD}", "OPENAI_API_KEY")],
        *[(each, Verdict.PUBLIC) for each in ("/run/secrets/db", "<your-key>", "********", "")],
        *[(each, Verdict.SHORT) for each in ("hunter2", "s3cr3t")],
        # Weak, and still no honest text.
        *[(each, Verdict.SEARCHED) for each in ("password1234", "Spring2024!", "hunter22")],
        ("correct horse battery staple", Verdict.SEARCHED),
        *[(each, Verdict.SEARCHED) for each in ("AIzaabcdefghij", "sk-abcdefgh", "aBcDeFgHij")],
        ("correcthorsebatterystaple", Verdict.SEARCHED),
        *[
            (each, Verdict.SEARCHED)
            for each in ("my-secret-password", "!@#$%^&*", "$ecretPassw0rd")
        ],
        *[(each, Verdict.SEARCHED) for each in ("<x7!pass>", "/aB3dE5fG7hJ9kL1", "P@ss.example")],
    ],
)
def test_a_password_that_is_an_ordinary_word_is_not_searched_for(
    value: str, expected: Verdict
) -> None:
    """A single word or a row of digits would be found in honest text; a weak password wouldn't."""
    assert verdict(Part("password", value, Level.SECRET)) is expected
    assert refused(json.dumps({"password": value}), f"it is {value}.") is (
        expected is Verdict.SEARCHED
    )


@pytest.mark.parametrize(
    "value", ["a1b2-c3d4", "ab12-cd34-ef56-gh78", "zqxwvtrplkmnbgf", "Zx81aBc9QwEr", "p@ss!w0rd"]
)
def test_what_no_words_make_is_a_secret_under_a_name_that_may_be(value: str) -> None:
    """Under `auth` or `token`, whatever is no word, number or name is searched for."""
    assert verdict(Part("auth", value, Level.LIKELY)) is Verdict.SEARCHED


def test_a_whole_secret_is_searched_for_whatever_it_looks_like() -> None:
    """Somebody said that it is a secret: an ordinary word too, from eight characters on."""
    assert refused("password", "please reset my password")
    assert not refused("hunter2", "hunter2")


def test_what_a_common_word_is_encoded_to_is_not_decoded() -> None:
    """Base64 of a word is looked for as it is written, and doesn't make the word a secret."""
    secret = base64.b64encode(b"administrator").decode()
    assert refused(secret, secret)
    assert not refused(secret, "ask the administrator")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PASSWORD_HASHERS", "argon2,bcrypt_sha256"),
        ("AUTH_PASSWORD_VALIDATORS", "length8min,x2common_5"),
        ("SESSION_ENGINE", "redis4backend.x86_64"),
    ],
)
def test_a_setting_about_secrets_is_none(name: str, value: str) -> None:
    """What hashes, checks or keeps passwords is the name of a program."""
    secret = f"{name}={value}\nAPI_KEY=tR7pX2qLm9Zk4VbN8wYc\n"
    assert not refused(secret, value)
    assert refused(secret, "tR7pX2qLm9Zk4VbN8wYc")


def test_a_document_in_a_document_in_a_document(pipelit: Pipelit) -> None:
    """A password in a URL in JSON in base64 in a header is found."""
    inner = json.dumps({"databases": [{"dsn": "postgres://u:s3cr3t-value-1@h/db"}]})
    secret = json.dumps({"blob": base64.b64encode(json.dumps({"x": inner}).encode()).decode()})
    assert refused(secret, "s3cr3t-value-1")


@pytest.mark.slow
@pytest.mark.parametrize(
    "document",
    [
        "[" * 20_000,
        '{"a":' * 10_000,
        "a=b&" * 5_000,
        "=" * 20_000,
        "a;=" * 5_000,
        "x://a:" + "@" * 20_000,
        'a="' * 5_000,
        "-----BEGIN PRIVATE KEY-----\n" * 1000,
        " " * 20_000 + "=y",
        "\n".join(f"KEY_{n}=value{n}xY9zQ1w" for n in range(500)),
    ],
    ids=lambda text: text[:12].strip(),
)
def test_no_document_takes_long(document: str) -> None:
    """The largest and strangest documents are taken apart in a number of steps like their size."""
    assert len(list(parts(document))) < 5000
    assert Patterns({document: "service"}).in_text(f"x {document} y")


@pytest.mark.slow
@pytest.mark.parametrize("kind", DOCUMENTS)
def test_whatever_is_masked_is_searched_for(kind: str) -> None:
    """The search looks for less than there are forms, and finds each of them."""
    patterns = Patterns({DOCUMENTS[kind][0]: "service"})
    assert [form for form in patterns.forms if not patterns.in_bytes(form)] == []
    assert [text for text in patterns.texts if not patterns.in_text(text)] == []
    assert not patterns.in_text(patterns.mask("\n".join(patterns.texts)))


def test_decoded_forms_do_not_explode() -> None:
    """An ordinary key is looked for in a dozen forms, one that encodes bytes in two dozen."""
    assert len(Patterns({"sk-proj-aB3dE5fG7hJ9kL1mN3pQ5rS7tU9vW1xY3zA5": "a"}).forms) <= 15
    assert len(Patterns({RAW.hex(): "a"}).forms) <= 30
    assert len(Patterns({ENCODED: "a"}).forms) <= 36


@pytest.mark.parametrize(
    "url",
    [
        "https://registry.example.com:8443/@scope/package",
        "https://example.com/@alice",
        "http://[::1]:8080/@alice",
        "https://example.com/?email=alice@example.com",
        "postgresql://db.example.com:5432/app",
    ],
)
def test_a_port_is_no_password(url: str) -> None:
    """An at sign after the host makes no userinfo of what is before it."""
    found = described({"value": url})
    assert (found.searched, found.short, found.common) == (("value",), (), ())


def test_put_says_which_parts_are_searched_for(pipelit: Pipelit) -> None:
    """By the names of fields, never a value; `get` and `list` say the same."""
    value = json.dumps(
        {
            "host": "db.example.com",
            "password": "s3cr3t-value-1",
            "nested": {"api_key": "Zx81aBc9QwErTy12", "pin": "1a2b"},
            "secrets": {"s3cr3t-name-9x": "0ther-secret"},
        }
    )
    with pytest.warns(ShortSecretWarning, match=r"\(nested\.pin\)"):
        made = pipelit.credentials.put("db", value, kind="database", created_by="alice")
    assert made.searched == ("value", "password", "nested.api_key", "secrets.*")
    assert made.unsearched == ("nested.pin", "host")
    assert pipelit.credentials.get("db") == made
    assert pipelit.credentials.list() == [made]
    for each in ("s3cr3t", "Zx81", "0ther", "1a2b"):
        assert each not in repr(made)


def test_put_says_it_of_each_field(pipelit: Pipelit) -> None:
    """The parts of several secrets have the names of their fields before their own."""
    value = {"dsn": "postgres://svc:s3cr3t-value-1@db.example.com/app", "token": "Zx81aBc9QwErTy12"}
    made = pipelit.credentials.put("db", value, kind="database", created_by="alice")
    assert made.searched == ("dsn", "dsn.password", "token")
    assert made.unsearched == ()


def test_put_warns_of_a_common_part(pipelit: Pipelit) -> None:
    """A password of one ordinary word can't be searched for, and that is said at once."""
    dsn = "postgres://postgres:postgres@localhost/app"
    with pytest.warns(CommonSecretWarning, match=r"ordinary word or number \(password\).*not"):
        made = pipelit.credentials.put("db", dsn, kind="database", created_by="alice")
    assert (made.searched, made.unsearched) == (("value",), ("password", "user"))


def test_put_warns_of_a_common_whole(pipelit: Pipelit) -> None:
    """As a whole it is searched for, so that honest text is refused: said as well."""
    with pytest.warns(CommonSecretWarning, match="ordinary text that contains it is refused"):
        made = pipelit.credentials.put("db", "swordfish", kind="database", created_by="alice")
    assert (made.searched, made.unsearched) == (("value",), ())


def test_put_of_an_ordinary_secret_warns_of_nothing(pipelit: Pipelit) -> None:
    """Keys, documents and passphrases that can be searched for."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for secret in ("sk-0123456789abcdef", "correct horse battery staple", DOCUMENTS["aws"][0]):
            pipelit.credentials.put("x", secret, kind="x", created_by="alice")


def test_a_newline_does_not_make_a_secret_long_enough(pipelit: Pipelit) -> None:
    """Of "hunter2" and a newline nobody uses the newline: it is too short."""
    with pytest.warns(ShortSecretWarning):
        made = pipelit.credentials.put("x", "hunter2\n", kind="x", created_by="alice")
    assert made.unsearched == ("value",)


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_no_name_shows_a_value(kind: str) -> None:
    """What is said of a document holds none of its secrets."""
    secret, leaks, _ = DOCUMENTS[kind]
    said = repr(described({"value": secret}))
    for leak in leaks:
        assert repr(leak)[1:-1] not in said


@pytest.mark.timeout(60)
@pytest.mark.parametrize("blank", ["\n", " \n", "\r\n"])
def test_many_empty_lines_do_not_hang(blank: str) -> None:
    """A member of the desk may store them, and other requests of its process go on."""
    secret = f"one-line-9f8e7d{blank * 40_000}another-line-1a2b3c"
    assert described({"value": secret}).searched


@pytest.mark.parametrize("start", ["", "\n", "x\n", " \t", "# a\r\n \x0c"])
@pytest.mark.parametrize("blank", [" ", "\t", "\n", "\n  "])
def test_a_password_of_netrc_is_found_wherever_its_line_begins(start: str, blank: str) -> None:
    """Blanks and empty lines before it make no difference, nor does a break between its words."""
    text = f"{start}machine host{blank}login me{blank}password Xk9-q2Lm-77vb\n"
    assert "Xk9-q2Lm-77vb" in {part.value for part in parts(text)}
