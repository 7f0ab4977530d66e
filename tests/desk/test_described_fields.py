"""The description of the API says what each operation and each field is."""

from __future__ import annotations

from fastapi import FastAPI


def test_each_operation_is_described(desk_app: FastAPI) -> None:
    """With a short summary of its own, and a sentence or more."""
    operations = [
        operation
        for methods in desk_app.openapi()["paths"].values()
        for operation in methods.values()
    ]
    assert all(each["description"].endswith((".", "…")) for each in operations)
    summaries = [each["summary"] for each in operations]
    assert len(set(summaries)) == len(summaries)


def test_each_field_is_described(desk_app: FastAPI) -> None:
    """Of requests and of answers."""
    schemas = desk_app.openapi()["components"]["schemas"]
    bare = [
        f"{name}.{field}"
        for name, schema in schemas.items()
        for field, described in schema.get("properties", {}).items()
        if "description" not in described
    ]
    assert bare == []


def test_no_request_takes_fields_that_nobody_reads(desk_app: FastAPI) -> None:
    """A misspelt field is refused, not ignored."""
    document = desk_app.openapi()
    schemas = document["components"]["schemas"]
    taken = {
        name
        for name in schemas
        for methods in document["paths"].values()
        for operation in methods.values()
        if f"'#/components/schemas/{name}'" in str(operation.get("requestBody", ""))
    }
    open_ones = [name for name in taken if schemas[name].get("additionalProperties") is not False]
    assert open_ones == []
