"""Credentials in paths and URLs: hidden wherever one is shown or stored, so that none reaches a log or a page.

Hidden are who logs in (`https://user:password@...`) and the values of a query (`?X-Amz-Signature=...`, `?sig=...`).
"""

import re

HIDDEN = "***"

# The name of a container stands before the @ of Azure's URLs, and is no secret.
_LOGIN = re.compile(r"(?<=://)(?!\*\*\*@)[^/?#\s'\"<>@\[:]*:(?:(?!\d*[/?#\s])[^\s'\"<>]*|[^/?#\s'\"<>]*)@")
_TOKEN = re.compile(r"(?i)(\b(?:https?|s?ftp|git|hf|s3a?|gs|gcs)://)(?!\*\*\*@)[^/?#\s'\"<>@]+@")
_URL_QUERY = re.compile(r"(\w+)(://[^\s?#'\"<>]*[?#])([^\s'\"<>]*)")
_URL = re.compile(r"(?i)\b(https?|s?ftp|git|hf|s3a?|gs|gcs|az|abfss?|memory):/(?!/)")  # as a path has one slash
_PLAIN = re.compile(r"(?i)^(download|raw|rev|revision|version|versionid|ref|format|inline|blob|dl)=[\w.-]{1,40}$")


def redact(text: str) -> str:
    """The text, with *** for each credential in each URL in it."""
    text = _URL.sub(r"\1://", text)
    if "://" not in text:
        return text
    text = _LOGIN.sub(f"{HIDDEN}@", text)
    text = _TOKEN.sub(rf"\1{HIDDEN}@", text)
    return _URL_QUERY.sub(_without_values, text)


def _without_values(found: re.Match[str]) -> str:
    scheme, path, query = found.groups()
    if not scheme.lower().startswith("http") and "=" not in query:
        return found[0]  # a glob
    return f"{scheme}{path}{_query(query)}"


def _query(query: str) -> str:
    """Names stay, values go; what has no name is a value."""
    parts = re.split("([&#?;,)])", query)
    return "".join(part if _PLAIN.match(part) else _hidden(part) for part in parts)


def _hidden(part: str) -> str:
    name, equals, value = part.partition("=")
    return f"{name}={HIDDEN}" if equals and value else HIDDEN if len(part) > 1 and not equals else part


def is_url(path: object) -> bool:
    """Whether a path is meant as a URL, though a `Path` of it has one slash only."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)) is not None


def is_redacted(path: str) -> bool:
    """Whether a path lacks a credential that was given with it."""
    return "://" in path and re.search(r"(?:://|[=?#&])\*\*\*", path) is not None
