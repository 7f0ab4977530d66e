"""The file that declares accounts, API keys and credentials, in YAML."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Hashable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from pipelit_agents._words import has_secret_form, quoted
from pipelit_agents.accounts.lookup import require_purpose
from pipelit_agents.errors import ConfigurationError, PipelitError, WritableFileWarning
from pipelit_agents.operations.folders import others_can_write
from pipelit_agents.protocol.usernames import require_new_username

__all__ = [
    "AccountsFile",
    "DeclaredAgent",
    "DeclaredCredential",
    "DeclaredKey",
    "DeclaredPerson",
    "SecretSource",
    "path_of",
    "read_accounts_file",
    "require_path",
]

# Bytes.
_MAX_FILE_SIZE: Final = 2**20
_LIFETIME: Final = re.compile(r"([0-9]{1,5})([smhd])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_KEY_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,99}")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,148}")
_MAX_PATH_LENGTH: Final = 4096
_FORM_OF_A_KEY: Final = "has the form of a key or a code, and isn't repeated here: "
# What pydantic says in words of its own, and what is said here.
_WORDS: Final = {
    "literal_error": "must be operator or member",
    "missing": "is missing",
    "model_type": "must be a mapping of fields",
    "dict_type": "must be a mapping",
    "list_type": "must be a list",
    "string_type": "must be text: put it in quotes",
    "bool_type": "must be true or false",
    "time_delta_type": "must be a duration, such as 90d or 12h",
    "datetime_type": "must be a time with a time zone, such as 2027-01-31T00:00:00Z",
}


def _username(name: str) -> str:
    try:
        return require_new_username(name, argument="name")
    except PipelitError as error:
        # The message begins with the argument; here the path in the file says where it is.
        raise ValueError(re.sub(r"^name (?=['(])", "", str(error))) from None


def _purpose(purpose: str) -> str:
    try:
        return require_purpose(purpose)
    except ValueError as error:
        raise ValueError(str(error).removeprefix("purpose ")) from None


def _key_name(name: str) -> str:
    if not _KEY_NAME.fullmatch(name):
        raise ValueError(
            "the name of a key is also the name of its file: use 1 to 100 of the characters "
            "a-z 0-9 _ . - and begin with a letter or digit"
        )
    if has_secret_form(name):
        raise ValueError(f"{_FORM_OF_A_KEY}choose another name for the key")
    return name


def _variable(name: str) -> str:
    if not _VARIABLE.fullmatch(name):
        raise ValueError(
            "must be the name of a variable of the environment: letters, digits and _ only, and "
            "not the secret. The name isn't repeated here, because it may be a secret"
        )
    if has_secret_form(name):
        raise ValueError(
            f"{_FORM_OF_A_KEY}name the variable of the environment that has the secret"
        )
    return name


def _file_path(path: str) -> str:
    if not path.isprintable() or not 0 < len(path) <= _MAX_PATH_LENGTH:
        raise ValueError(f"must be a path of 1 to {_MAX_PATH_LENGTH} printable characters")
    if has_secret_form(path) or has_secret_form(Path(path).name):
        raise ValueError(f"{_FORM_OF_A_KEY}name a path, not the secret")
    return path


def _lifetime(value: object) -> object:
    if value is None:
        return value
    found = _LIFETIME.fullmatch(value) if isinstance(value, str) else None
    if found is None or int(found[1]) == 0:
        raise ValueError(_WORDS["time_delta_type"])
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def _moment(value: object) -> object:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(_WORDS["datetime_type"]) from None
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError(_WORDS["datetime_type"])
        try:
            return value.astimezone(UTC)
        except OverflowError:
            raise ValueError("must be a time of the years 1 to 9999 in UTC") from None
    return value


def _empty(value: object) -> object:
    # `laptop:` alone is a key without options.
    return {} if value is None else value


Username = Annotated[str, AfterValidator(_username)]
KeyName = Annotated[str, AfterValidator(_key_name)]
VariableName = Annotated[str, AfterValidator(_variable)]
FilePath = Annotated[str, AfterValidator(_file_path)]


class _Declared(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid", strict=True, frozen=True, hide_input_in_errors=True
    )


class DeclaredKey(_Declared):
    """An API key.

    Attributes:
        expires_in: How long a new key is valid.
        expires_at: The time from which it isn't accepted.
    """

    expires_in: Annotated[timedelta | None, BeforeValidator(_lifetime)] = None
    expires_at: Annotated[datetime | None, BeforeValidator(_moment)] = None

    @model_validator(mode="after")
    def _one_expiry(self) -> Self:
        if self.expires_in is not None and self.expires_at is not None:
            raise ValueError("use expires_in or expires_at, not both")
        return self


DeclaredKeys = Annotated[
    dict[KeyName, Annotated[DeclaredKey, BeforeValidator(_empty)]], BeforeValidator(_empty)
]


class DeclaredPerson(_Declared):
    """A person.

    Attributes:
        role: The person's role; by default that of a new one, and the role isn't changed.
        keys: The person's API keys by name.
    """

    role: Literal["operator", "member"] | None = None
    keys: DeclaredKeys = Field(default_factory=dict)


class DeclaredAgent(_Declared):
    """An agent.

    Attributes:
        owner: The person or agent that it belongs to.
        purpose: What it is for.
        may_create_agents: Whether it may create agents; by default as for a new one.
        provisioning_uri: Whether its TOTP secret is written to a file.
        keys: Its API keys by name.
    """

    owner: Username
    purpose: Annotated[str, AfterValidator(_purpose)]
    may_create_agents: bool | None = None
    provisioning_uri: bool = False
    keys: DeclaredKeys = Field(default_factory=dict)


class SecretSource(_Declared):
    """Where a secret comes from; never the secret.

    Attributes:
        file: A file. Its last line break isn't part of the secret.
        env: An environment variable.
    """

    file: FilePath | None = None
    env: VariableName | None = None

    @model_validator(mode="before")
    @classmethod
    def _no_secret(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            raise ValueError(  # noqa: TRY004 - pydantic reports no TypeError
                "a secret isn't written in this file: name its source, as {file: PATH} or "
                "{env: VARIABLE}"
            )
        return value

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.file is None) == (self.env is None):
            raise ValueError("name one source: {file: PATH} or {env: VARIABLE}")
        return self


class DeclaredCredential(_Declared):
    """A credential.

    Attributes:
        kind: A label, such as ``llm``.
        created_by: Who stores it, for the audit.
        value: The source of its secret.
        fields: The sources of its secrets by name, if there are several.
        public: Its fields that aren't secret.
        allow: The only accounts that may open it; by default any.
    """

    kind: str
    created_by: str
    value: SecretSource | None = None
    fields: dict[str, SecretSource] = Field(default_factory=dict)
    public: dict[str, JsonValue] = Field(default_factory=dict)
    allow: list[Username] | None = None

    @model_validator(mode="after")
    def _value_or_fields(self) -> Self:
        if (self.value is None) == (not self.fields):
            raise ValueError("use either value or fields")
        return self


class AccountsFile(_Declared):
    """What a file declares.

    Attributes:
        secrets: The folder of new API keys and URIs.
        people: The people by name.
        agents: The agents by name.
        credentials: The credentials by name.
    """

    secrets: FilePath | None = None
    people: dict[Username, Annotated[DeclaredPerson, BeforeValidator(_empty)]] = Field(
        default_factory=dict
    )
    agents: dict[Username, DeclaredAgent] = Field(default_factory=dict)
    credentials: dict[str, DeclaredCredential] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        both = sorted(self.people.keys() & self.agents.keys())
        if both:
            raise ValueError(f"{both[0]!r} is under people and under agents: choose one")
        people = any(each.keys for each in self.people.values())
        agents = any(each.keys or each.provisioning_uri for each in self.agents.values())
        if self.secrets is None and (people or agents):
            raise ValueError("secrets is missing: name the folder for the files of new API keys")
        return self

    def agents_by_owner(self) -> list[tuple[str, DeclaredAgent]]:
        """Return the agents so that each owner comes before what it owns.

        Raises:
            ConfigurationError: Agents own each other in a circle.
        """
        ordered: dict[str, DeclaredAgent] = {}
        for name in self.agents:
            # From an agent up to the first owner that is ordered already, or isn't declared here.
            above: dict[str, DeclaredAgent] = {}
            while name in self.agents and name not in ordered:
                if name in above:
                    raise ConfigurationError(
                        f"{path_of('agents', name, 'owner')}: these agents own each other: "
                        f"{', '.join(above):.300}"
                    )
                above[name] = self.agents[name]
                name = above[name].owner
            ordered.update(reversed(above.items()))
        return list(ordered.items())


class _Loader(yaml.SafeLoader):
    """Refuse what makes a file mean something else than it seems to."""

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.get_mark()
            raise yaml.constructor.ConstructorError(
                None, None, "aliases (*name) aren't supported", mark
            )
        # What a tag makes of a value fails in many ways, and some errors repeat the value.
        event = self.current_event
        if getattr(event, "tag", None) is not None:
            raise yaml.constructor.ConstructorError(
                None, None, "tags (!name) aren't supported", event.start_mark
            )
        node: yaml.Node | None = super().compose_node(parent, index)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            # What looks like a number or a time, and isn't one.
            raise yaml.constructor.ConstructorError(
                None, None, "this value can't be read: put it in quotes", node.start_mark
            ) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[object] = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if not isinstance(name, str):
                raise yaml.constructor.ConstructorError(
                    None, None, "this name isn't text: put it in quotes", key.start_mark
                )
            if name in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, "this name is there twice", key.start_mark
                )
            seen.add(name)
        return super().construct_mapping(node, deep)


def require_path(path: object) -> Path:
    """Return the path of a file.

    Raises:
        TypeError: It isn't one.
    """
    if not isinstance(path, str | Path):
        raise TypeError(f"path must be the path of a YAML file, not {type(path).__name__}")
    return Path(path)


def read_accounts_file(path: Path) -> AccountsFile:
    """Read the file that declares accounts.

    Raises:
        ConfigurationError: It can't be read, isn't YAML, or declares what can't be. The message
            names the path within the file, and repeats no value.
    """
    try:
        with path.open("rb") as file:
            state = os.fstat(file.fileno())
            content = file.read(_MAX_FILE_SIZE + 1)
    except OSError as error:
        raise ConfigurationError(f"{path}: can't be read ({error.strerror})") from None
    if os.name == "posix" and (others_can_write(state) or state.st_uid not in {0, os.geteuid()}):
        warnings.warn(
            f"{path}: other accounts can write to it, and so decide who has which rights: "
            "chown it to your account and chmod 600 it",
            WritableFileWarning,
            stacklevel=2,
        )
    if len(content) > _MAX_FILE_SIZE:
        raise ConfigurationError(f"{path}: is larger than 1 MB")
    return _parsed(path, content)


def _parsed(path: Path, content: bytes) -> AccountsFile:
    problem = ""
    try:
        # The loader is a subclass of SafeLoader.
        document = yaml.load(content, Loader=_Loader)  # noqa: S506
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        problem = f"{line}{_unquoted(error.problem or 'is not YAML')}"
    except RecursionError:
        problem = "is nested too deeply"
    except (yaml.YAMLError, ValueError):
        problem = "is not YAML"
    if problem:
        raise ConfigurationError(f"{path}: {problem}")
    try:
        return AccountsFile.model_validate(_empty(document))
    except ValidationError as error:
        found = [
            ": ".join(filter(None, (_path(each["loc"]), _said(each))))
            for each in error.errors(include_url=False, include_context=False)
        ]
    raise ConfigurationError(f"{path}: {'; '.join(found)}")


def _unquoted(problem: str) -> str:
    # The parser may quote a piece of the file.
    return re.sub(r"'.*'|\".*\"", "…", problem, flags=re.DOTALL)


def _path(location: tuple[int | str, ...]) -> str:
    # The message about a name that can't be one repeats the name, if it may be repeated.
    if location[-1:] == ("[key]",):
        location = location[:-2]
    return path_of(*(each for each in location if each != "[key]"))


def path_of(*location: int | str) -> str:
    """Return a path within the file for a message, with ``…`` for a name that may be a secret."""
    return ".".join(
        each if re.fullmatch(r"[\w.-]{1,149}", each) and repr(each) == quoted(each) else "…"
        for each in map(str, location)
    )


def _said(error: ErrorDetails) -> str:
    kind, message = error["type"], error["msg"]
    if kind == "extra_forbidden":
        fields = ", ".join(_model_at(error["loc"][:-1]).model_fields)
        return f"there is no such field; there are {fields}"
    if kind in ("string_type", "bool_type") and error["input"] is None:
        return _WORDS["missing"]
    return _WORDS.get(kind, message.removeprefix("Value error, "))


def _model_at(location: tuple[int | str, ...]) -> type[_Declared]:
    match location:
        case ("people" | "agents", _, "keys", _):
            return DeclaredKey
        case ("people", _):
            return DeclaredPerson
        case ("agents", _):
            return DeclaredAgent
        case ("credentials", _):
            return DeclaredCredential
        case ("credentials", _, "value") | ("credentials", _, "fields", _):
            return SecretSource
    return AccountsFile
