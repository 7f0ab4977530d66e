"""What fails with a secret in its hands shows it in no frame, whichever way it fails."""

from __future__ import annotations

import inspect
import json
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from pipelit_agents import Agent, Keyring, Pipelit, display, otp, redaction
from pipelit_agents._discretion import discreet
from pipelit_agents.cli import app
from pipelit_agents.errors import CredentialNotAllowed

# What is missing or broken here is a file.
BACKENDS = False
PLAIN = "sk-Plain/+8wZq_0123456789-end"


def shown_by(error: BaseException, text: str) -> list[str]:
    """The functions of the package's frames that show a text, as error trackers show variables."""
    found = []
    waiting: list[BaseException | None] = [error]
    seen = set()
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        waiting += [each.__cause__, each.__context__]
        found += [f"text of {each!r}"] if text in str(each) + repr(each) else []
        for frame, _ in traceback.walk_tb(each.__traceback__):
            code = frame.f_code
            if code.co_filename != __file__:
                found += [
                    f"{code.co_name}:{name}"
                    for name, value in frame.f_locals.items()
                    if text in _shown(value)
                ]
    return found


def _shown(value: Any) -> str:
    # As trackers write objects, and as those write them that look into attributes.
    parts = [repr(value)]
    parts += map(repr, getattr(value, "__dict__", {}).values())
    return "".join(parts)


def failing(work: Callable[[], Any]) -> BaseException:
    """What a call raises."""
    try:
        work()
    except Exception as error:
        return error
    raise AssertionError("it didn't fail")


def put(pipelit: Pipelit, value: Any = PLAIN, **changed: Any) -> Any:
    """Put a credential, with some argument changed."""
    given = {"name": "service", "kind": "api", "created_by": "alice", **changed}
    return pipelit.credentials.put(given.pop("name"), value, **given)


@pytest.mark.parametrize("wrap", [str, SecretStr, lambda text: {"token": text, "user": "u"}])
@pytest.mark.parametrize(
    "changed",
    [
        {"name": "NOT A NAME"},
        {"name": 7},
        {"kind": ""},
        {"kind": None},
        {"created_by": ""},
        {"allow": "alice"},
        {"allow": ["NOT A NAME"]},
        {"allow": [7]},
        {"public": {"a": object()}},
        {"public": {"a": float("nan")}},
        {"public": "no fields"},
        {"unknown": 1},
    ],
)
def test_a_put_with_a_bad_argument_shows_no_secret(
    pipelit: Pipelit, wrap: Any, changed: dict[str, Any]
) -> None:
    """Neither the words nor a frame of the error hold the plaintext."""
    assert not shown_by(failing(lambda: put(pipelit, wrap(PLAIN), **changed)), PLAIN)


@pytest.mark.parametrize(
    "value", [{"a": PLAIN, "b": ""}, {"a": PLAIN, "b": 7}, {7: PLAIN}, [PLAIN], PLAIN.encode(), {}]
)
def test_a_put_with_a_bad_value_shows_no_secret(pipelit: Pipelit, value: Any) -> None:
    """Of several fields one may be wrong; the others aren't shown."""
    assert not shown_by(failing(lambda: put(pipelit, value)), PLAIN)


@pytest.fixture
def broken(pipelit: Pipelit, settings: dict[str, Any], tmp_path: Path) -> dict[str, Pipelit]:
    """Pipelits that can't seal: by a wrong key, no key, no tables, no database."""
    put(pipelit, "something that a key has sealed")
    other = {**settings, "encryption_keys": [Keyring.generate_key()]}
    return {
        "a wrong key": Pipelit(**other),
        "no key": Pipelit(**{**settings, "encryption_keys": []}),
        "a bad key": Pipelit(**{**settings, "encryption_keys": [f"{PLAIN}-as-a-key"]}),
        "no tables": Pipelit(**{**other, "database_url": f"sqlite:///{tmp_path}/empty.db"}),
        "no folder": Pipelit(**{**other, "database_url": "sqlite:////proc/no/such.db"}),
        "no server": Pipelit(**{**other, "database_url": f"postgresql://u:{PLAIN}@127.0.0.1:9/d"}),
    }


CASES = ["a wrong key", "no key", "a bad key", "no tables", "no folder", "no server"]


@pytest.mark.parametrize("case", CASES)
async def test_a_put_that_cannot_seal_shows_no_secret(
    broken: dict[str, Pipelit], case: str
) -> None:
    """Without its key, tables or database, sync and async."""
    error = failing(lambda: put(broken[case], SecretStr(PLAIN)))
    assert not shown_by(error, PLAIN)
    with pytest.raises(type(error)) as caught:
        await broken[case].credentials.aput("service", PLAIN, kind="api", created_by="alice")
    # The event loop's own frames have no part in it; pytest's are the caller's.
    assert not shown_by(caught.value, PLAIN)


async def test_the_async_twin_shows_no_argument(pipelit: Pipelit) -> None:
    """Neither the twin nor the thread keeps what it was called with."""
    with pytest.raises(Exception, match="not a credential name") as caught:
        await pipelit.credentials.aput("NOT A NAME", PLAIN, kind="api", created_by="alice")
    assert not shown_by(caught.value, PLAIN)


def takers() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every public function and method that takes a secret, by its parameters."""
    facade = Pipelit(database_url="sqlite://", encryption_keys=[])
    services = (facade.users, facade.mfa, facade.approvals, facade.credentials, facade.audit)
    classes = [Pipelit, Agent, Keyring, type(facade.keys), *map(type, services)]
    found = [
        (f"{cls.__name__}.{name}", method)
        for cls in classes
        for name, method in inspect.getmembers(cls, inspect.isfunction)
        if name == "__init__" or not name.startswith("_")
        # The twin of a discreet method shows no argument either; see above.
        if not (name.startswith("a") and hasattr(cls, name[1:]))
    ]
    for module in (otp, display, redaction):
        public = {name: getattr(module, name) for name in module.__all__}
        found += [(name, each) for name, each in public.items() if inspect.isfunction(each)]
    for name, function in found:
        for parameter in inspect.signature(function).parameters.values():
            secret = "SecretStr" in str(parameter.annotation)
            if secret or parameter.name in TAKEN:
                yield f"{name}.{parameter.name}", function


# The names of parameters that hold a secret, a code or a key, whatever their type.
TAKEN = {
    "code", "bearer_token", "uri", "enrolled", "secret", "secrets", "key", "keys", "plaintext",
    "encryption_keys", "database_url", "redis_url", "token", "password", "api_key", "value",
}  # fmt: skip
# What takes a ciphertext, or any value to be masked.
NO_SECRET = {
    "Keyring.require_opening.token", "Keyring.reseal.token", "Keyring.renew.token",
    "Keyring.is_newest.token", "Keyring.origin_of.token", "redact.value", "html_of.value",
}  # fmt: skip


def test_each_public_method_that_takes_a_secret_is_discreet() -> None:
    """A code, a key or another secret among the parameters is in no frame of an error."""
    made = dict(takers())
    assert {"Mfa.approve.code", "Agent.verify_peer.code", "qr_code.uri"} < made.keys()
    wrapper = discreet(lambda: None).__code__
    shown = [
        name
        for name, function in made.items()
        if name not in NO_SECRET and function.__code__ is not wrapper
    ]
    assert not shown


@pytest.mark.parametrize("case", CASES)
def test_accounts_and_factors_show_no_secret(broken: dict[str, Pipelit], case: str) -> None:
    """An API key, an enrolment, a code: none is in a frame when the database or key is missing."""
    each = broken[case]
    secret = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
    bad = f"otpauth://bad?secret={secret}"
    uri = f"otpauth://totp/pipelit:agent_x?secret={secret}&issuer=pipelit&algorithm=SHA256"
    for work, text in (
        (lambda: each.users.enroll_peer(uri, name="agent_x", domain="other"), secret),
        (lambda: each.users.enroll_peer(bad, name="agent_x", domain="other"), secret),
        (lambda: each.mfa.confirm("alice", "493017"), "493017"),
        (lambda: each.mfa.verify("alice", "493017"), "493017"),
        (lambda: each.mfa.disable("alice", "493017"), "493017"),
        (lambda: each.mfa.approve("alice", "493017", digest="0" * 64), "493017"),
        (lambda: each.mfa.deny("alice", "493017", digest="0" * 64), "493017"),
        (lambda: each.approvals.deny("x" * 22, "alice", "493017"), "493017"),
        (lambda: each.agent("agent_x").verify_peer("agent_y", "49301712"), "49301712"),
        (lambda: each.mfa.renew_recovery_codes("alice", "493017"), "493017"),
        (lambda: each.approvals.decide("x" * 22, "alice", "493017"), "493017"),
    ):
        assert not shown_by(failing(work), text)
    token = "plit_0123456789abcdef_" + PLAIN
    assert not shown_by(failing(lambda: each.users.authenticate(token)), PLAIN)


def test_keys_are_in_no_frame(pipelit: Pipelit, settings: dict[str, Any]) -> None:
    """A key of `FIELD_ENCRYPTION_KEY` is shown neither where it is given nor where it is used."""
    key = Keyring.generate_key()
    wrong = Pipelit(**{**settings, "encryption_keys": [key]})
    pipelit.credentials.put("service", PLAIN, kind="api", created_by="alice")
    for work in (
        lambda: wrong.credentials.get("service"),
        lambda: wrong.credentials.list(),
        lambda: put(wrong),
        lambda: Pipelit(**{**settings, "encryption_keys": [key, 7]}),
        lambda: Pipelit(**{**settings, "encryption_keys": key}),
        lambda: Pipelit(**{**settings, "encryption_keys": [key], "pool_size": 0}),
        lambda: Pipelit(**{**settings, "encryption_keys": [key, "short"]}).credentials.list(),
        lambda: Keyring(key, "short"),
        lambda: Keyring.parse(f"{key},short"),
        lambda: Keyring(key).unseal("no token", "a"),
    ):
        assert not shown_by(failing(work), key)


def test_a_credential_that_is_not_allowed_is_in_no_frame(
    pipelit: Pipelit, in_a_graph: Callable[[Callable[[], Any]], BaseException]
) -> None:
    """It was opened to be judged, and its refusal shows none of its fields."""
    fields = {"token": PLAIN, "user": "u"}
    put(pipelit, fields, allow=["agent_x"])

    def reveal(name: str) -> None:
        with pipelit.credentials.reveal(name):
            pass

    for name in ("service:token", "service:none", "service"):
        error = in_a_graph(lambda name=name: reveal(name))  # type: ignore[misc]
        assert isinstance(error, CredentialNotAllowed)
        assert not shown_by(error, PLAIN)

    @pipelit.credentials.inject(key="service:token")
    def node(*, key: Any) -> None: ...

    assert not shown_by(in_a_graph(node), PLAIN)


@pytest.fixture
def in_a_graph() -> Callable[[Callable[[], Any]], BaseException]:
    """Call a function where a node is running, and return what it raises."""
    import warnings

    from langchain_core.runnables import RunnableLambda

    def call(work: Callable[[], Any]) -> BaseException:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return failing(lambda: RunnableLambda(lambda _: work()).invoke(1))

    return call


@pytest.mark.parametrize(
    "work",
    [
        lambda secret: otp.totp(secret, -1),
        lambda secret: otp.totp(secret, 1.0, digits=99),
        lambda secret: otp.totp(secret + "!", 1.0),
        lambda secret: otp.ocra(secret.encode(), "no suite", "1"),
        lambda secret: otp.ocra(secret.encode(), "OCRA-1:HOTP-SHA256-8:QH64-T30S", "zz", 1.0),
    ],
)
def test_pure_functions_show_no_secret(work: Callable[[str], Any]) -> None:
    """A bad argument beside a secret is told without it."""
    secret = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
    assert not shown_by(failing(lambda: work(secret)), secret)


def test_commands_show_no_secret(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that no command expects leaves it without what was typed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FIELD_ENCRYPTION_KEY", Keyring.generate_key())
    monkeypatch.setenv("PIPELIT_DATABASE_URL", f"sqlite:///{tmp_path}/a.db")

    def fails(*args: Any, **kwargs: Any) -> None:
        raise AttributeError("unexpected")

    monkeypatch.setattr(json, "dumps", fails)
    Pipelit.from_env().create_schema()
    command = ["credentials", "put", "service", "--kind", "api", "--created-by", "alice"]
    for more in ([], ["--field", "token"]):
        done = CliRunner().invoke(app, [*command, *more], input=PLAIN)
        assert isinstance(done.exception, AttributeError)
        assert not [each for each in shown_by(done.exception, PLAIN) if "invoke" not in each]
        assert PLAIN not in done.output


def test_the_callers_own_frames_stay() -> None:
    """What was raised before, and the frames of the caller, keep their variables."""

    @discreet
    def fails(value: str) -> None:
        raise ValueError("bad") from None

    def before() -> None:
        kept = "of the caller"
        raise KeyError(len(kept))

    try:
        try:
            before()
        except KeyError as error:
            earlier = error
            fails(PLAIN)
    except ValueError as error:
        caught = error
    assert caught.__context__ is earlier
    assert not shown_by(caught, PLAIN)
    frames = [frame for frame, _ in traceback.walk_tb(earlier.__traceback__)]
    assert frames[-1].f_locals["kept"] == "of the caller"


def test_a_function_that_succeeds_is_as_it_was(pipelit: Pipelit) -> None:
    """Name, signature and result are the function's own; its twin works."""
    info = put(pipelit)
    assert info.masked == "…-end"
    assert list(inspect.signature(Pipelit.__init__).parameters)[:2] == ["self", "database_url"]
    assert otp.totp.__name__ == "totp"
