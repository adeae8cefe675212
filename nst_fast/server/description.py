"""The API's description as a page: no script, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any


def described(openapi: Mapping[str, Any]) -> str:
    """The HTML of ``/docs``."""
    title = f"{openapi['info']['title']} {openapi['info']['version']}"
    body = "\n".join([*_routes(openapi), "<h2>Objects</h2>", *_objects(openapi["components"]["schemas"])])
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}: the API</title>'
        f'<h1>{escape(title)}</h1><p>As data: <a href="openapi.json">openapi.json</a></p>\n{body}\n</html>'
    )


def _routes(openapi: Mapping[str, Any]) -> Iterator[str]:
    yield "<h2>Requests</h2><dl>"
    for path, methods in openapi["paths"].items():
        for method, facts in methods.items():
            words = "; ".join([*_taken(facts), *_given(facts)])
            yield f"<dt><code>{method.upper()} {escape(path)}</code></dt>"
            yield f"<dd>{escape(facts.get('description', ''))} <small>{escape(words)}</small></dd>"
    yield "</dl>"


def _taken(facts: Mapping[str, Any]) -> list[str]:
    bodies = facts.get("requestBody", {}).get("content", {})
    return [f"takes {_type(body['schema'])}, {kind}" for kind, body in bodies.items()]


def _given(facts: Mapping[str, Any]) -> list[str]:
    good = {status: answer for status, answer in facts["responses"].items() if status < "300"}
    bodies = [(status, *body) for status, answer in good.items() for body in answer.get("content", {}).items()]
    return [f"{status}: {_type(body.get('schema', {})) or kind}" for status, kind, body in bodies]


def _objects(schemas: Mapping[str, Any]) -> Iterator[str]:
    for name, schema in schemas.items():
        yield f'<h3 id="{escape(name)}">{escape(name)}</h3><p>{escape(schema.get("description", ""))}</p><ul>'
        for field, facts in schema.get("properties", {}).items():
            words = f"{_type(facts)} {facts.get('description', '')}"
            yield f"<li><code>{escape(field)}</code>: {escape(words)}</li>"
        yield "</ul>"


def _type(schema: Mapping[str, Any]) -> str:
    """A JSON schema in a few words."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " or ".join(map(_type, schema["anyOf"]))
    if "enum" in schema:
        return " or ".join(map(str, schema["enum"]))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return str(schema.get("type", ""))
