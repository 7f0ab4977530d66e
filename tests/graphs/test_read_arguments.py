"""What people approve is what the tool's function receives, whatever its schema does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID, uuid4

import pytest
from langchain_core.tools import InjectedToolArg, StructuredTool, tool
from paying import People, asked, calling, node_of, run, told
from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    RootModel,
    SecretStr,
    ValidationError,
    field_serializer,
    model_validator,
)
from pydantic.v1 import BaseModel as OldModel

from pipelit_agents import Approvers
from pipelit_agents.errors import ConfigurationError, PayloadError
from pipelit_agents.graphs.call_arguments import exact_arguments
from pipelit_agents.tools import approved_tool

BACKENDS = False


class Aliased(BaseModel):
    """An amount with two names."""

    model_config = ConfigDict(populate_by_name=True)
    amount: int = Field(alias="amt")


class Nested(BaseModel):
    """An amount with two names in a part."""

    pay: Aliased
    more: list[Aliased] = []


class Marked(Aliased):
    """A part with an id that is another one at each reading."""

    id: UUID = Field(default_factory=uuid4)


class Generating(BaseModel):
    """A part that can't be displayed as it is read."""

    pay: Marked


class Chosen(BaseModel):
    """An amount with two names of the same rank."""

    amount: int = Field(validation_alias=AliasChoices("sum", "amount"))


class Lower(BaseModel):
    """A name that is converted."""

    model_config = ConfigDict(str_strip_whitespace=True, str_to_lower=True)
    to: str


class Cents(BaseModel):
    """Another name, which only a validator knows."""

    amount: int

    @model_validator(mode="before")
    @classmethod
    def convert(cls, sent: Any) -> Any:
        """Take the cents, if there are some."""
        return {"amount": sent["cents"] // 100} if "cents" in sent else sent


class Masked(BaseModel):
    """A class that displays something else."""

    to: str

    @field_serializer("to")
    def mask(self, _: str) -> str:
        """Hide it."""
        return "bob"


@dataclass
class Account:
    """A dataclass."""

    owner: str


class Typed(BaseModel):
    """Values of many types."""

    model_config = ConfigDict(extra="allow")
    on: date
    amount: Decimal
    kind: Literal["a", "b"] = "a"
    tags: set[str] = set()
    account: Account | None = None
    flag: bool | int = 1


class Names(RootModel[list[str]]):
    """A part that is a list."""


class Money(BaseModel):
    """A part that can be sent as text."""

    amount: int
    currency: str

    @model_validator(mode="before")
    @classmethod
    def split(cls, sent: Any) -> Any:
        """Take the text apart."""
        if not isinstance(sent, str):
            return sent
        return dict(zip(("amount", "currency"), sent.split(), strict=True))


class Parts(BaseModel):
    """Parts of other forms."""

    names: Names = Names([])
    by_year: dict[int, int] = {}
    pair: tuple[int, Money] | None = None


class Secret(BaseModel):
    """A value that a class hides."""

    key: SecretStr
    amount: int


class Deep(BaseModel):
    """A value that is read from a part of another argument."""

    amount: int = Field(validation_alias=AliasPath("pay", "amount"))


class Looked:
    """An object without a written form."""


class Lookup(BaseModel):
    """An argument that a validator looks up, and one beside it."""

    model_config = ConfigDict(arbitrary_types_allowed=True, populate_by_name=True)
    account: Annotated[Looked, BeforeValidator(lambda _: Looked())] = Field(alias="acc")
    amount: int = Field(alias="amt")
    other: Looked = Field(default=Looked())


def exact(schema: type[BaseModel], sent: dict[str, Any]) -> Any:
    """Return what people approve, of which the function receives exactly the same."""
    received: list[dict[str, Any]] = []

    def act(**values: Any) -> str:
        received.append(values)
        return "done"

    made = StructuredTool.from_function(act, name="act", description="Act.", args_schema=schema)
    found = exact_arguments(made, sent)
    assert found.passed == found.shown
    made.run(dict(sent))
    made.run(dict(found.passed))
    before, after = received
    assert before.keys() == after.keys()
    return found.shown


@pytest.mark.parametrize(
    ("schema", "sent", "shown"),
    [
        (Aliased, {"amount": 1, "amt": 900}, {"amt": 900}),
        (Aliased, {"amount": 900}, {"amt": 900}),
        (Nested, {"pay": {"amount": 1, "amt": 900}}, {"pay": {"amt": 900}, "more": []}),
        (
            Nested,
            {"pay": {"amt": 1}, "more": [{"amount": "1", "amt": "900", "to": "bob"}]},
            {"pay": {"amt": 1}, "more": [{"amt": 900}]},
        ),
        (Chosen, {"amount": 1, "sum": 900}, {"sum": 900}),
        (Lower, {"to": " MALLORY\u2003"}, {"to": "mallory"}),
        (Cents, {"amount": 1, "cents": 90_000}, {"amount": 900}),
        (Masked, {"to": "mallory"}, {"to": "mallory"}),
        (Lower, {"to": "bob", "amount": 1, "approved by": "the CFO"}, {"to": "bob"}),
        (
            Typed,
            {"on": 1_764_374_400, "amount": "+9_00.50", "tags": ["b", "a"], "more": [1]},
            {
                "on": "2025-11-29",
                "amount": "900.50",
                "kind": "a",
                "tags": ["a", "b"],
                "account": None,
                "flag": 1,
                "more": [1],
            },
        ),
        (Typed, {"on": "2025-11-29", "amount": 1, "account": {"owner": "eve"}, "flag": True}, None),
        (
            Parts,
            {"names": ["a"], "by_year": {"2025": 1, "02025": 900}, "pair": ["1", "90 EUR"]},
            {
                "names": ["a"],
                "by_year": {"2025": 900},
                "pair": [1, {"amount": 90, "currency": "EUR"}],
            },
        ),
        (Secret, {"key": "k", "amount": "1"}, {"key": "k", "amount": 1}),
        (Generating, {"pay": {"amt": 900}}, {"pay": {"amt": 900}}),
        (Lookup, {"account": "eve", "amount": 1, "amt": "900"}, {"account": "eve", "amt": 900}),
    ],
)
def test_people_see_what_the_function_receives(
    schema: type[BaseModel], sent: dict[str, Any], shown: dict[str, Any] | None
) -> None:
    """Under one name, in the form that it is used in, and nothing that is ignored."""
    found = exact(schema, sent)
    if shown is None:
        shown = {**sent, "amount": "1", "kind": "a", "tags": []}
    assert found == shown
    assert [type(found[name]) for name in shown] == [type(each) for each in shown.values()]
    # Another run of the task has the same.
    assert exact(schema, found) == found


@pytest.mark.parametrize(
    ("schema", "sent", "words"),
    [
        (Generating, {"pay": {"amount": 1, "amt": 900}}, "pay has parts that the tool ignores"),
        (Generating, {"pay": {"amt": 900, "to": "bob"}}, "pay has parts that the tool ignores"),
        (Lookup, {"account": "bob", "acc": "eve", "amt": 1}, "sent as acc and as account"),
        (Deep, {"pay": {"amount": 900}}, "from other arguments than its schema names"),
    ],
)
def test_what_cannot_be_displayed_is_refused(
    schema: type[BaseModel], sent: dict[str, Any], words: str
) -> None:
    """The model reads what it has to send."""
    made = StructuredTool.from_function(print, name="act", description="", args_schema=schema)
    with pytest.raises(PayloadError, match=words):
        exact_arguments(made, sent)


def pay(received: list[Any], **options: Any) -> StructuredTool:
    """Return a tool whose amount has two names."""

    def send_money(amount: int) -> str:
        received.append(amount)
        return "paid"

    return StructuredTool.from_function(
        send_money, description="Pay.", args_schema=Aliased, **options
    )


def is_large(sent: Mapping[str, Any]) -> bool:
    """Return whether an amount needs an approval."""
    amount = sent.get("amt")
    return isinstance(amount, int) and amount > 50


@pytest.mark.parametrize("sent", [{"amount": 900}, {"amt": "9_00"}, {"amt": 900.0}])
def test_a_model_cannot_get_around_when(people: People, sent: dict[str, Any]) -> None:
    """The rule's functions decide by what the tool's function receives."""
    received: list[Any] = []
    rule = Approvers(["alice"], when=is_large)
    graph = node_of(approved_tool(people.pipelit, pay(received), rule))
    (question,) = asked(run(graph, {"messages": [calling(sent)]}))
    assert (question["arguments"], received) == ({"amt": 900}, [])
    people.approve()
    run(graph, None)
    assert received == [900]


@pytest.mark.parametrize(
    ("handles", "words"), [(False, "amt: Field required"), (True, "its arguments are invalid")]
)
def test_nobody_is_asked_about_an_invalid_call(people: People, handles: bool, words: str) -> None:
    """The tool would refuse it, and the model reads why."""
    received: list[Any] = []
    made = pay(received, handle_validation_error=handles)
    graph = node_of(approved_tool(people.pipelit, made, Approvers(["alice"])))
    (refusal,) = told(run(graph, {"messages": [calling({"to": "bob"})]}))
    assert words in refusal
    assert people.open() == []
    with pytest.raises(ValidationError):
        exact_arguments(made, {})


def test_hidden_values_are_not_read_for_display(people: People) -> None:
    """Validators get them; a hidden value that comes later isn't missed."""

    def limited(schema: Any) -> Any:
        class Limited(schema):  # type: ignore[misc]
            @model_validator(mode="after")
            def check(self) -> Any:
                if self.limit is not None and self.amount > self.limit:
                    raise ValueError("too much")
                return self

        return Limited

    @tool
    def send_money(amount: int, limit: Annotated[int, InjectedToolArg]) -> str:
        """Pay."""
        return "paid"

    made = send_money.model_copy(update={"args_schema": limited(send_money.args_schema)})
    assert exact_arguments(made, {"amount": "7"}).shown == {"amount": 7}
    found = exact_arguments(made, {"amount": 7, "limit": 8})
    assert (found.shown, found.passed) == ({"amount": 7}, {"amount": 7, "limit": 8})
    with pytest.raises(ValidationError, match="too much"):
        exact_arguments(made, {"amount": 9, "limit": 8})


@pytest.mark.parametrize("extra", ["allow", "forbid", "ignore"])
def test_hidden_values_that_the_schema_does_not_name_are_not_read(extra: Any) -> None:
    """A schema that was written by hand needn't have them."""

    class Payment(BaseModel):
        model_config = ConfigDict(extra=extra)
        amount: int

    def send_money(amount: int, account: Annotated[object, InjectedToolArg]) -> str:
        return "paid"

    made = StructuredTool.from_function(send_money, description="Pay.", args_schema=Payment)
    account = object()
    found = exact_arguments(made, {"amount": "7", "account": account})
    assert (found.shown, found.passed) == ({"amount": 7}, {"amount": 7, "account": account})


def test_an_old_schema_is_an_error(people: People) -> None:
    """What such a schema reads can't be known here."""
    act: Callable[..., str] = str
    made = StructuredTool.from_function(
        act, name="act", description="", args_schema=type("Old", (OldModel,), {})
    )
    with pytest.raises(ConfigurationError, match=r"has to be a pydantic\.BaseModel"):
        approved_tool(people.pipelit, made, Approvers(["alice"]))
