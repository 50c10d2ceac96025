"""The two pages of the server: what is loaded and a place to try it, and the list of its routes. Nothing is loaded
from elsewhere, and a content security policy says so to the browser."""

import base64
import functools
import hashlib
import html
import json
import re
from importlib import resources
from typing import Any

from fastapi import Response

_POLICY = (
    "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@functools.lru_cache(maxsize=1)
def _page() -> str:
    return resources.files("tessera.serve").joinpath("page.html").read_text(encoding="utf-8")


def page() -> Response:
    """The page at `/`."""
    return _html(_page())


def _html(text: str) -> Response:
    """A page that may run what stands in it and nothing else: scripts and styles are known by their digests."""
    digests = {
        kind: " ".join(
            f"'sha256-{base64.b64encode(hashlib.sha256(found.encode()).digest()).decode()}'"
            for found in re.findall(rf"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
        )
        or "'none'"
        for kind in ("script", "style")
    }
    headers = {
        "Content-Security-Policy": f"{_POLICY}; script-src {digests['script']}; style-src {digests['style']}",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
    return Response(text, media_type="text/html; charset=utf-8", headers=headers)


def reference(openapi: dict[str, Any]) -> Response:
    """The routes with the fields of their bodies, out of openapi.json."""
    schemas = openapi.get("components", {}).get("schemas", {})
    parts = []
    for path, ways in openapi["paths"].items():
        for method, operation in ways.items():
            tag = ", ".join(operation.get("tags", []))
            title = f"<h2><code>{method.upper()} {html.escape(path)}</code> <small>{html.escape(tag)}</small></h2>"
            parts.append(f"<section>{title}<p>{html.escape(operation.get('summary', ''))}</p>")
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
            parts.append(f"{_fields(body, schemas) if body else ''}</section>")
    style = re.search(r"<style>(.*?)</style>", _page(), re.DOTALL)
    return _html(
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><title>tessera: routes</title>'
        f"<style>{style[1] if style else ''}</style></head><body><header><h1>Routes</h1>"
        '<p><a href="/">try it</a> · <a href="/openapi.json">openapi.json</a></p></header>'
        f"<main>{''.join(parts)}</main></body></html>"
    )


def _fields(schema: dict[str, Any], schemas: dict[str, Any]) -> str:
    needed = schema.get("required", [])
    rows = []
    for name, field in schema.get("properties", {}).items():
        default = "needed" if name in needed else json.dumps(field.get("default")).replace("null", "")
        note = field.get("description", "")
        is_what = html.escape(f"{_kind(field, schemas)}{default and ', '}{default}")
        rows.append(f"<dt><code>{html.escape(name)}</code> <small>{is_what}</small></dt><dd>{html.escape(note)}</dd>")
    return f"<dl>{''.join(rows)}</dl>"


def _kind(field: dict[str, Any], schemas: dict[str, Any]) -> str:
    """A schema in a few words."""
    if "$ref" in field:
        inner = schemas.get(field["$ref"].rpartition("/")[2], {}).get("properties", {})
        return "{" + ", ".join(inner) + "}"
    if "anyOf" in field:
        return " or ".join(_kind(one, schemas) for one in field["anyOf"] if one.get("type") != "null")
    if "enum" in field:
        return " or ".join(map(str, field["enum"]))
    if field.get("type") == "array":
        return f"list of {_kind(field.get('items', {}), schemas)}"
    return {"string": "text", "integer": "whole number", "boolean": "true or false", "object": "object"}.get(
        str(field.get("type")), "anything"
    )
