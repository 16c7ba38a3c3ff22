"""`reefd schema`: the JSON Schemas of the files that people write (floor 9).

That of runbooks says everything the text can say. Those of settings and scenarios are derived from the models that read the files: keys,
kinds of values, words; literals of settings with their units.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from daemon.runbook.schema import DRAFT, runbook_schema
from daemon.runbook.shapes import TEXT, Schema, key, literal, mapping
from daemon.settings import Settings
from daemon.simulation.scenario import Scenario

# What the settings' readers of literals take, by the name of the reader.
_READERS: dict[str, Schema] = {
    "_duration": {"description": "a duration, for example 2s, 5m or 1h", **literal("s", params=False)},
    "_ratio": {"description": "a ratio, for example 5bps or 0.1%", **literal("ratio", params=False)},
    "_usd": {"description": "an amount of USD, for example 100_000 USD", **literal("USD", params=False)},
    "_web_address": {"type": "string", "pattern": "^https?://"},
    "_secret": {"description": "env:NAME or file:PATH; a secret is named, never written", "type": "string", "pattern": "^(env|file):."},
}


_DROPPED = {"default", "title", "format", "ge", "gt", "le", "lt"}  # bounds of numbers that the file writes as text


class _AsWritten(GenerateJsonSchema):
    """Schemas of what stands in the file, before a reader has turned it into a number."""

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> JsonSchemaValue:
        """What a reader takes: its own literal where it is known, any scalar where the model wants a number, else what the model says."""
        name = getattr(schema["function"]["function"], "__name__", "")
        if name in _READERS:
            return dict(_READERS[name])
        inner = super().function_before_schema(schema)
        built = schema["schema"]["type"] in ("model", "model-fields", "tuple", "list", "dict")
        return inner if built else dict(TEXT)

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        """A section's keys; none is required where the section fills in what is left out, as a named model of a route does."""
        made = super().model_schema(schema)
        validators = schema["cls"].__pydantic_decorators__.model_validators
        if any(found.info.mode == "before" and name != "_written" for name, found in validators.items()):
            made.pop("required", None)
        return made

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        """Without the default: it is a number of ns or a fraction, which nobody writes."""
        return self.generate_inner(schema["schema"])


def _of_model(model: type[BaseModel], title: str) -> Schema:
    made: dict[str, Any] = model.model_json_schema(schema_generator=_AsWritten, mode="validation")
    return {"$schema": DRAFT, **_loosened(made), "title": title}


def _loosened(schema: Any, *, place: str = "") -> Any:
    """The same with what YAML may also say: a text that looks like a number, and a key without a value, which counts as not written."""
    if isinstance(schema, list):
        return [_loosened(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if place in ("properties", "$defs"):
        made = {name: _loosened(inner) for name, inner in schema.items()}
        return made if place == "$defs" else {name: {"anyOf": [inner, {"type": "null"}]} for name, inner in made.items()}
    loose = {name: _loosened(inner, place=name) for name, inner in schema.items() if name not in _DROPPED}
    if loose.get("type") == "string" and not {"enum", "const", "pattern"} & loose.keys():
        loose |= TEXT
    if loose.get("type") == "object" and isinstance(loose.get("additionalProperties"), dict):
        loose["additionalProperties"] = {"anyOf": [loose["additionalProperties"], {"type": "null"}]}
    return loose


def _limits() -> Schema:
    usd = literal("USD", params=False)
    runs = {"type": "string", "pattern": r"^\d[\d_]*/day$"}
    account = {"turnover_per_hour": key("Sizes changed and money moved in a rolling hour, in USD.", usd, "500_000 USD")}
    house = {
        "turnover_per_day": key("Sizes changed and money moved in a rolling 24 h, in USD.", usd, "5_000_000 USD"),
        "runs": key("Runs started in a rolling 24 h.", runs, "500/day"),
    }
    body = mapping({"account": key("Of each margin account.", mapping(account)), "house": key("Of everything together.", mapping(house))})
    return {"$schema": DRAFT, "title": "reefd house limits", **body}


SCHEMAS: dict[str, Callable[[], Schema]] = {
    "runbook": runbook_schema,
    "settings": lambda: _of_model(Settings, "reefd settings"),
    "limits": _limits,
    "scenario": lambda: _of_model(Scenario, "reefd scenario"),
}


def schema(what: str) -> int:
    """Print the JSON Schema of a kind of file; 0."""
    sys.stdout.write(json.dumps(SCHEMAS[what](), indent=1, ensure_ascii=False) + "\n")
    return 0
