"""What pydantic found, as one `InvalidJob` that says for each field what would be right."""

from __future__ import annotations

import difflib
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from tasks.errors import InvalidJob

_MOST_SHOWN: Final = 80
_SECRET_FIELDS: Final = frozenset({"env", "secrets", "signature"})
"""Their values are not repeated in messages, which end in logs."""

_UNION_BRANCHES: Final = frozenset({"str", "float", "constrained-float", "Optimizer"})
"""pydantic names the branch of a union that it tried; that is no part of the place."""

_PHRASES: Final = {
    "missing": "is missing",
    "string_type": "is no text",
    "int_type": "is no whole number",
    "float_type": "is no number",
    "finite_number": "is no finite number",
    "bool_type": "is neither true nor false",
    "dict_type": "is no object",
    "model_type": "is no object",
    "tuple_type": "is no list",
    "too_short": "has too few items",
    "too_long": "has too many items",
    "string_pattern_mismatch": "is not of the right form",
    "enum": "is not one of the choices",
}


def shown(value: object) -> str:
    """``value`` as it stands in a message: short."""
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 1] + "…"


def invalid_job(error: ValidationError, model: type[BaseModel]) -> InvalidJob:
    """The error for a job: a line for each place that is wrong, each place once."""
    lines: dict[str, str] = {}
    for detail in error.errors(include_url=False):
        place = _place(detail)
        lines.setdefault(place, _line(place, detail, model))
    # what is wrong inside explains what is wrong with the whole (a list's length, a union)
    told = [
        line
        for place, line in lines.items()
        if not (place and any(other.startswith((f"{place}.", f"{place}[")) for other in lines))
    ]
    return InvalidJob("the job is wrong:\n" + "\n".join(f"  {line}" for line in told))


def _place(detail: ErrorDetails) -> str:
    """``model_definition.layers[0].type``; '' for the job as a whole."""
    place = ""
    for part in detail["loc"]:
        if isinstance(part, int):
            place += f"[{part}]"
        elif not place:
            place = part
        elif part not in _UNION_BRANCHES and "[" not in part:
            place += f".{part}"
    return place


def _line(place: str, detail: ErrorDetails, model: type[BaseModel]) -> str:
    field = str(detail["loc"][0]) if detail["loc"] else ""
    if not field:
        return "\n  ".join(str(detail.get("ctx", {}).get("error", detail["msg"])).split("\n"))
    if detail["type"] == "extra_forbidden":
        return _unknown(place, detail, model)
    wrong = _PHRASES.get(detail["type"]) or detail["msg"].removeprefix("Value error, ")
    wrong = wrong.replace("Input should be", "must be", 1)
    quoted = detail["type"] != "missing" and field not in _SECRET_FIELDS
    got = f" (got {shown(detail['input'])})" if quoted else ""
    right = model.model_fields[field].description if field in model.model_fields else ""
    return f"{place}: {wrong}{got}" + (f"; right: {right}" if right else "")


def _unknown(place: str, detail: ErrorDetails, model: type[BaseModel]) -> str:
    allowed: list[str]
    if len(detail["loc"]) == 1:
        allowed = sorted(model.model_fields)
    else:
        allowed = _nested_fields(model, str(detail["loc"][0]))
    near = difflib.get_close_matches(str(detail["loc"][-1]), allowed, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{place}: unknown field; {hint}allowed: {', '.join(allowed)}"


def _nested_fields(model: type[BaseModel], field: str) -> list[str]:
    annotation: Any = model.model_fields[field].annotation
    for part in getattr(annotation, "__args__", (annotation,)):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return sorted(part.model_fields)
    return []
