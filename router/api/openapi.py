"""
The table of routes as an OpenAPI document, for generators and fuzzers.

The one rule: derived, never written by hand twice: paths from the table, bodies from what decodes them and from
the table of fields.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from starlette.responses import Response

from router import __version__
from router.api import dialect, wire
from router.api.field_table import TABLE

_BODIES: dict[str, type[wire.Body]] = {
    "chat": dialect.ChatBody,
    "completions": dialect.CompletionBody,
    "embeddings": dialect.EmbeddingBody,
    "load": wire.Body,
    "unload": wire.UnloadBody,
}
"""The body that the handler of this name decodes."""


def response(table: Mapping[str, Mapping[str, Callable[..., Any]]]) -> Response:
    return Response(wire.encode(document(table)), media_type="application/json")


def document(table: Mapping[str, Mapping[str, Callable[..., Any]]]) -> dict[str, Any]:
    """`table`: path -> method -> handler."""
    _, schemas = msgspec.json.schema_components(
        sorted(set(_BODIES.values()), key=lambda kind: kind.__name__),
        schema_hook=_hook,
        ref_template="#/components/schemas/{name}",
    )
    for endpoint, fields in TABLE.items():
        described = schemas[_BODIES[endpoint].__name__]["properties"]
        for name, field in fields.items():
            described.setdefault(name, {"description": f"{field.effect.value}. {field.note}".strip()})
    paths = {
        re.sub(r"\{(\w+):path\}", r"{\1}", path): {
            method.lower(): _operation(path, handler) for method, handler in methods.items()
        }
        for path, methods in table.items()
    }
    info = {"title": "Router", "version": __version__}
    return {"openapi": "3.1.0", "info": info, "paths": paths, "components": {"schemas": schemas}}


def _operation(path: str, handler: Callable[..., Any]) -> dict[str, Any]:
    summary = (handler.__doc__ or handler.__name__.replace("_", " ")).strip().splitlines()[0]
    found: dict[str, Any] = {
        "summary": summary,
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in re.findall(r"\{(\w+)(?::path)?\}", path)
        ],
        "responses": {"default": {"description": 'The answer, or {"error": {...}}'}},
    }
    if (body := _BODIES.get(handler.__name__)) is not None:
        schema = {"$ref": f"#/components/schemas/{body.__name__}"}
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return found


def _hook(kind: type) -> dict[str, Any]:
    if kind is wire.ModelName:
        return {"type": "string"}
    raise NotImplementedError
