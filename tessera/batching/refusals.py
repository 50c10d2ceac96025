"""HTTP errors: what the server refuses, and how each API that it speaks writes that down.

    raise Refused("invalid", "inputs is empty; give a text")

The shapes are those of OpenAI, of text-embeddings-inference and of Cohere and Jina, so that their clients raise the
errors that they raise elsewhere. None says more than the client told itself: no path, no traceback.
"""

import json
from dataclasses import dataclass
from typing import Any, Literal

Shape = Literal["openai", "tei", "rerank"]
Kind = Literal[
    "invalid", "empty", "too_long", "too_many", "too_large", "unknown_model", "wrong_model", "unauthorized", "media",
    "not_found", "method", "overloaded", "slow", "timeout", "unready", "failed",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Written:
    """One kind of refusal in each API: status, and the word that programs look at."""

    openai: tuple[int, str, str]  # status, type, code
    tei: tuple[int, str]  # status, error_type


_REQUEST, _SERVER = "invalid_request_error", "server_error"
_WRITTEN: dict[str, _Written] = {
    "invalid": _Written((400, _REQUEST, "invalid_value"), (422, "Validation")),
    "empty": _Written((400, _REQUEST, "invalid_value"), (400, "Empty")),
    "too_long": _Written((400, _REQUEST, "context_length_exceeded"), (422, "Validation")),
    "too_many": _Written((400, _REQUEST, "array_above_max_length"), (422, "Validation")),
    "too_large": _Written((413, _REQUEST, "request_too_large"), (413, "Validation")),
    "unknown_model": _Written((404, _REQUEST, "model_not_found"), (404, "Validation")),
    "wrong_model": _Written((400, _REQUEST, "wrong_model"), (424, "Backend")),
    "unauthorized": _Written((401, _REQUEST, "invalid_api_key"), (401, "Unauthorized")),
    "media": _Written((415, _REQUEST, "unsupported_media_type"), (415, "Validation")),
    "not_found": _Written((404, _REQUEST, "unknown_url"), (404, "Validation")),
    "method": _Written((405, _REQUEST, "method_not_allowed"), (405, "Validation")),
    "overloaded": _Written((429, "rate_limit_error", "rate_limit_exceeded"), (429, "Overloaded")),
    "slow": _Written((408, _REQUEST, "request_timeout"), (408, "Validation")),
    "timeout": _Written((503, _SERVER, "timeout"), (503, "Overloaded")),
    "unready": _Written((503, _SERVER, "not_ready"), (503, "Unhealthy")),
    "failed": _Written((500, _SERVER, "internal_error"), (500, "Backend")),
}


class Refused(Exception):
    """A request that is not answered as asked, and why.

    param        the field of the request that is meant
    retry_after  seconds after which it is worth another try
    """

    def __init__(self, kind: Kind, message: str, *, param: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.kind, self.message, self.param, self.retry_after = kind, message, param, retry_after

    def status(self, shape: Shape) -> int:
        """Of the answer."""
        written = _WRITTEN[self.kind]
        return written.tei[0] if shape == "tei" else written.openai[0]

    def body(self, shape: Shape) -> bytes:
        """JSON, as the API has it."""
        written, said = _WRITTEN[self.kind], self.message
        found: dict[str, Any]
        if shape == "tei":
            found = {"error": said, "error_type": written.tei[1]}
        elif shape == "rerank":  # Cohere looks for message, Jina for detail
            found = {"message": said, "detail": said, "code": written.openai[2]}
        else:
            _, kind, code = written.openai
            found = {"error": {"message": said, "type": kind, "param": self.param, "code": code}}
        return json.dumps(found, ensure_ascii=False).encode()

    def headers(self) -> dict[str, str]:
        """Beside the content type."""
        found = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return found | ({"WWW-Authenticate": "Bearer"} if self.kind == "unauthorized" else {})
