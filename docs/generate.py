"""Writes the pages of docs/reference/ from the code: `make docs`; `python docs/generate.py --check` only says which are out of date.

Each page is a function from the code to text. `tests/test_docs.py` generates them anew and compares. The tables of docs/signals.md stand in
a page that people write; they are compared with the catalogue there.
"""

from __future__ import annotations

import ast
import asyncio
import dataclasses
import importlib.util
import inspect
import json
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import typer

from daemon import cli
from daemon.engine import events, records
from daemon.language.catalogue import CATALOGUE, SETS
from daemon.language.parse import parse
from daemon.language.typing import OVERS, SCALARS, WINDOW_MIN_OBSERVATIONS, WINDOWS, Scope, check
from daemon.runbook.schema import runbook_schema
from daemon.service.logging import fact
from daemon.units import show_duration
from daemon.world.entities import Kind

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs/reference"
NOTE = "<!-- Written by docs/generate.py from the code; `make docs` writes it anew. -->\n"


def cell(text: object) -> str:
    """Text that may stand in a table."""
    return " ".join(str(text).split()).replace("|", "\\|")


def table(head: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    """A table of Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(cell(item) for item in row) + " |" for row in rows)]) + "\n"


def code(text: object) -> str:
    """Text as code, empty when there is none."""
    return f"`{text}`" if str(text) else ""


# --- signals ------------------------------------------------------------------------------------------------------------------------
def signal_rows(kind: Kind) -> list[str]:
    """The rows of docs/signals.md of one scope."""
    rows = []
    for signal in CATALOGUE.values():
        if signal.kind is kind and not signal.internal:
            name = f"{signal.name}({', '.join(signal.arguments)})" if signal.arguments else signal.name
            bound = show_duration(signal.max_age_ns / 1e9) if signal.role == "observed" else ""
            derivation = code(signal.derivation)
            rows.append(f"| `{name}` | {signal.unit} | {signal.role} | {bound} | {signal.meaning} | {derivation} |")
    return rows


# --- functions ----------------------------------------------------------------------------------------------------------------------
# name -> (call, example in a position's runbook, what it gives)
FUNCTIONS: dict[str, tuple[str, str, str]] = {
    "abs": ("abs(x)", "abs(notional)", "x without its sign"),
    "sign": ("sign(x)", "sign(size)", "-1, 0 or 1"),
    "sqrt": ("sqrt(x)", "sqrt(leverage)", "the root of a plain number; UNKNOWN below 0"),
    "least": ("least(x, y, ...)", "least(equity, 25_000 USD)", "the smallest; UNKNOWN when one of them is"),
    "greatest": ("greatest(x, y, ...)", "greatest(equity, 0 USD)", "the largest; UNKNOWN when one of them is"),
    "clamp": ("clamp(x, low, high)", "clamp(drawdown, 5%, 25%)", "x, no lower than low and no higher than high"),
    "mean": ("mean(x, d)", "mean(funding_rate, 8h)", "the mean of the observations in the last d"),
    "std": ("std(x, d)", "std(mid_price, 1h)", "their standard deviation"),
    "zscore": ("zscore(x, d)", "zscore(funding_rate, 7d)", "how many standard deviations the latest lies from their mean"),
    "min": ("min(x, d)", "min(mid_price, 1h)", "the smallest of them"),
    "max": ("max(x, d)", "max(equity, 7d)", "the largest of them"),
    "sum": ("sum(x, d)", "sum(funding_rate, 24h)", "their sum: every observation once, however often it is polled"),
    "count": ("count(x, d)", "count(funding_rate, 24h)", "how many observations of x there are in the last d"),
    "change": ("change(x, d)", "change(mid_price, 5m)", "x now less x at d ago"),
    "pct_change": ("pct_change(x, d)", "pct_change(mid_price, 5m)", "the same as a ratio of x at d ago"),
    "ewma": ("ewma(x, halflife)", "ewma(funding_rate, 8h)", "the mean that forgets half in every halflife"),
    "quantile": ("quantile(x, rank, d)", "quantile(funding_rate, 99%, 7d)", "the value below which rank of them lie"),
    "share": ("share(condition, d)", "share(funding_rate > 0%/h, 24h)", "the share of the observations for which it was TRUE"),
    "slope": ("slope(x, d)", "slope(drawdown, 1h)", "their trend: how much x changes a unit of time, least squares"),
    "age": ("age(x)", "age(oracle_price)", "time since the reading; infinite without one; never UNKNOWN"),
    "known": ("known(x)", "known(oracle_price)", "TRUE when x is not UNKNOWN; never UNKNOWN itself"),
    "signal": ("signal(entity, x)", 'signal("dydx:BTC-USD", mid_price)', "a signal of an entity that is named"),
    "median_over": ("median_over(set, x)", "median_over(peers, last_price)", "the median of those that are known"),
    "sum_over": ("sum_over(set, x)", "sum_over(positions, notional)", "the sum over the members; UNKNOWN when one of them is"),
    "min_over": ("min_over(set, x)", "min_over(positions, liquidation_distance)", "the smallest of those that are known"),
    "max_over": ("max_over(set, x)", "max_over(positions, funding_paid)", "the largest of those that are known"),
    "mean_over": ("mean_over(set, x)", "mean_over(positions, funding_paid)", "the mean of those that are known"),
    "count_over": (
        "count_over(set, condition)", "count_over(positions, funding_paid > 0%/h)",
        "for how many members the condition is TRUE; of a value: for how many it is known",
    ),
}  # fmt: skip


def functions() -> str:
    """The functions of expressions, each with an example that is checked here."""
    sections = [
        ("Plain", SCALARS, ""),
        (
            "Windows", WINDOWS,
            "Over the observations in `(t-d, t]`. UNKNOWN until the first one is as old as the window; "
            + ", ".join(f"`{name}` needs {least} of them" for name, least in WINDOW_MIN_OBSERVATIONS.items()) + ".",
        ),
        ("Knowing", ("age", "known"), ""),
        ("Elsewhere", ("signal", *OVERS), "Sets are " + ", ".join(code(name) for name in SETS) + ", as far as the scope reaches them."),
    ]  # fmt: skip
    made = [
        "# Functions of expressions\n", NOTE,
        "Operators, literals and three-valued logic: [runbooks](../runbooks.md#expressions). What may be read: [signals](../signals.md).",
        "The unit is that of the example, which stands in a runbook of `scope: position`.\n",
    ]  # fmt: skip
    for title, names, says in sections:
        rows = []
        for name in names:
            call, example, meaning = FUNCTIONS[name]
            typed = check(parse(example), example, Scope(kind=Kind.POSITION))
            rows.append((code(call), code(example), typed.unit, meaning))
        made += [f"## {title}\n", *([says + "\n"] if says else []), table(("call", "example", "its unit", "what it is"), rows)]
    return "\n".join(made)


# --- keys and actions ---------------------------------------------------------------------------------------------------------------
def resolved(schema: Any, root: Any) -> Any:
    """The schema behind a reference."""
    while "$ref" in schema:
        schema = {**root["$defs"][schema["$ref"].rpartition("/")[2]], **{k: v for k, v in schema.items() if k != "$ref"}}
    return schema


def kind_of(schema: Any, root: Any) -> str:
    """What may stand at a key, in a few words."""
    schema = resolved(schema, root)
    if "const" in schema:
        return code(schema["const"])
    if "enum" in schema:
        words = dict.fromkeys(str(word).lower() if isinstance(word, bool) else str(word) for word in schema["enum"])
        return " ".join(code(word) for word in words)
    if schema.get("type") == "array":
        inner = resolved(schema["items"], root)
        return "list of steps" if "oneOf" in inner and "id" in inner.get("properties", {}) else f"list of {several(kind_of(inner, root))}"
    if schema.get("type") == "object" or "anyOf" in schema:
        return "mapping" if schema.get("type") == "object" else "literal or mapping"
    return str(schema.get("$comment", "text"))


def several(kind: str) -> str:
    """The plural of a kind of value; words that may stand there are named as they are."""
    return kind if kind.startswith("`") else f"{kind}s"


def example_of(schema: Any) -> str:
    """The first example of a key as YAML in one line."""
    examples = schema.get("examples", [])
    return code(flow(examples[0])) if examples else ""


def flow(value: Any) -> str:
    """A value as YAML in one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(flow(item) for item in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    return f'"{text}"' if re.search(r"[{}\[\],#]|: |^$", text) else text


def key_table(schema: Any, root: Any) -> str:
    """The keys of a mapping."""
    required = set(schema.get("required", ()))
    rows = []
    for name, inner in schema["properties"].items():
        shown = resolved(inner, root)
        says = str(shown.get("description", ""))
        rows.append((code(name), "required" if name in required else "", kind_of(inner, root), example_of(shown), says))
    return table(("key", "", "value", "example", "meaning"), rows)


def mappings(schema: Any, root: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Every mapping below a schema whose keys are few and known, with its place."""
    schema = resolved(schema, root)
    if schema.get("type") == "array":
        yield from mappings(schema["items"], root, f"{place}[]")
        return
    for option in schema.get("anyOf", ()):
        yield from mappings(option, root, place)
    if "properties" in schema and "patternProperties" not in schema:
        if place:
            yield place, schema
        for name, inner in schema["properties"].items():
            if name in ("mocks", "steps", "on_clear"):
                continue
            yield from mappings(inner, root, f"{place}.{name}" if place else name)
    elif isinstance(schema.get("additionalProperties"), dict):
        yield from mappings(schema["additionalProperties"], root, f"{place}.*")


def keys() -> str:
    """The keys of runbooks, all but those of steps."""
    root: Any = runbook_schema()
    made = [
        "# Keys of a runbook\n", NOTE,
        "What they do together, with examples: [runbooks](../runbooks.md). Steps: [actions](actions.md). The same for editors:",
        "[`config/schema/runbook.json`](../../config/schema/runbook.json).\n", key_table(root, root),
    ]  # fmt: skip
    for place, schema in mappings(root, root, ""):
        made += [f"## `{place}`\n", key_table(schema, root)]
    made += ["## `tests[].mocks.*`\n", key_table(root["$defs"]["mock"], root)]
    given = root["$defs"]["given"]["properties"]
    names = [name for name, inner in given.items() if "$ref" not in inner]
    special = {"type": "object", "properties": {name: given[name] for name in names}}
    made += [
        "## `tests[].given`\n",
        "Every [signal](../signals.md), in its unit, and these; `series` takes signals only.\n", key_table(special, root),
        "## `tests[].given.routes[]`\n", key_table(given["routes"]["items"], root),
    ]  # fmt: skip
    return "\n".join(made)


def actions() -> str:
    """Steps and their actions."""
    root: Any = runbook_schema()
    step = root["$defs"]["step"]
    names = [option["required"][0] for option in step["oneOf"]]
    around = {**step, "properties": {name: inner for name, inner in step["properties"].items() if name not in names}}
    made = [
        "# Steps and actions\n", NOTE,
        "A step of `steps:` or `on_clear:` has an `id`, exactly one action, and what may gate, confirm and follow it. Rules and reasons:",
        "[runbooks](../runbooks.md#steps).\n", "## Around an action\n", key_table(around, root),
    ]  # fmt: skip
    for name in ("approval", "retry", "verify"):
        made += [f"### `{name}`\n", key_table(step["properties"][name], root)]
    made.append("## Actions\n")
    for name in names:
        inner = step["properties"][name]
        example = f"- id: {name.replace('_', '-')}\n  {name}: {flow(inner['examples'][0])}"
        made += [f"### `{name}`\n", inner["description"] + "\n", f"```yaml\n{example}\n```\n", key_table(inner, root)]
    return "\n".join(made)


# --- commands -----------------------------------------------------------------------------------------------------------------------
def commands() -> str:
    """Every verb with its options, examples and exit codes."""
    made = ["# Commands\n", NOTE, "`reefd COMMAND --help` says the same on a terminal.\n"]
    for name, command in verbs(typer.main.get_command(cli.app), ""):
        made += [f"## `reefd {name}`\n", help_of(command.help or ""), ""]
        rows = []
        for parameter in command.params:
            if parameter.name == "help":
                continue
            written = " ".join([*getattr(parameter, "opts", ()), *getattr(parameter, "secondary_opts", ())])
            if parameter.param_type_name == "argument":
                written = parameter.metavar or str(parameter.name).upper()
            elif parameter.metavar:
                written += f" {parameter.metavar}"
            default = parameter.default if not callable(parameter.default) else None
            shown = "" if default in (None, False) or parameter.required else code(getattr(default, "value", default))
            shown = "required" if parameter.required else shown
            rows.append((code(written), shown, words_of(parameter), getattr(parameter, "help", "") or ""))
        if rows:
            made.append(table(("argument or option", "default", "words", "meaning"), rows))
    return "\n".join(made)


def words_of(parameter: Any) -> str:
    """The words that an option takes."""
    kind = getattr(parameter, "bare_type", None)
    return " ".join(code(word.value) for word in kind) if isinstance(kind, type) and issubclass(kind, Enum) else ""


def verbs(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Every command of a group by its whole name."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from verbs(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


def help_of(text: str) -> str:
    """A help text as Markdown: its examples as a block."""
    made: list[str] = []
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        lines = paragraph.replace("\b", "").strip("\n").split("\n")
        if lines[0].strip().startswith("Example:"):
            plain = [line.strip().removeprefix("Example:").strip() for line in lines]
            made.append("```sh\n" + "\n".join(line if line.startswith("reefd ") else f"    {line}" for line in plain) + "\n```")
        else:
            made.append(" ".join(line.strip() for line in lines))
    return "\n\n".join(made)


# --- the journal's entries ------------------------------------------------------------------------------------------------------------
def entries() -> str:
    """Events and records by type, with the name of their log line and their fields."""
    made = [
        "# Events and records\n", NOTE,
        "What the [journal](../journal.md) holds, and what the log shows: each record is one line, named as below. `at` is int ns UTC,",
        "in a log line ISO-8601. A record says why the engine decided, an event what it was told.\n",
    ]  # fmt: skip
    for title, module, union in (("Events", events, events.Event), ("Records", records, records.Record)):
        made.append(f"## {title}\n")
        for kind in union.__args__:
            says = inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0].replace("\n", " ")
            named = f", in the log `{fact(kind.__name__)}`" if module is records else ""
            fields = ", ".join(f"`{f.name}`: {cell(f.type)}" for f in dataclasses.fields(kind))
            made.append(f"### {kind.__name__}{named}\n\n{says}\n\n{fields}\n")
    return "\n".join(made)


LOG_LEVELS = ("debug", "info", "warning", "error")


def logged() -> dict[str, tuple[str, list[str], str]]:
    """Every event that the daemon logs by itself: level, fields, file."""
    found: dict[str, tuple[str, list[str], str]] = {}
    for path in sorted((ROOT / "daemon").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or node.func.attr not in LOG_LEVELS:
                continue
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str) and re.fullmatch(r"[a-z_]+\.[a-z_]+", first.value):
                fields = [keyword.arg for keyword in node.keywords if keyword.arg]
                level, known, where = found.get(first.value, (node.func.attr, [], path.relative_to(ROOT).as_posix()))
                found[first.value] = (level, [*known, *(name for name in fields if name not in known)], where)
    return found


def log_events() -> str:
    """The log lines that are no records."""
    found = sorted(logged().items())
    rows = [(code(name), level, ", ".join(code(field) for field in fields), code(where)) for name, (level, fields, where) in found]
    return "\n".join(
        [
            "# Log events\n", NOTE,
            "One line a fact, `room.past_tense_fact`, JSON on stdout (`log: {format: json}`). Each [record](entries.md#records) is a",
            "line of level info under its own name; these are the others. error: a person must act; warning: degraded, but handled.",
            "What to do: [operations](../operations.md#degraded-and-how-it-shows).\n", table(("event", "level", "fields", "said by"), rows),
        ]
    )  # fmt: skip


# --- the HTTP API -----------------------------------------------------------------------------------------------------------------------
def api_document() -> Any:
    """The OpenAPI document that the daemon serves, None where this version has no surface."""
    if importlib.util.find_spec("daemon.web.surface") is None:
        return None
    import httpx

    from daemon.web.door import Doorkeeper
    from daemon.web.surface import make_surface
    from daemon.web.tokens import TokenFile

    async def fetch() -> Any:
        with tempfile.TemporaryDirectory() as folder:
            guard = Doorkeeper(tokens=TokenFile(Path(folder) / "tokens.yaml"), open_reading=True)
            nobody: Any = None  # a description of the API asks the desk for nothing
            transport = httpx.ASGITransport(app=make_surface(nobody, guard=guard), client=("127.0.0.1", 50_000))
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8470") as client:
                return (await client.get("/api/v1/openapi.json")).json()

    return asyncio.run(fetch())


def shape_of(schema: Any) -> str:
    """A type of the API in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(shape_of(option) for option in schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return " ".join(code(word) for word in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {shape_of(schema.get('items', {}))}"
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"mapping to {shape_of(schema['additionalProperties'])}"
    return str(schema.get("type", "any"))


def api(document: Any) -> str:
    """Paths and shapes of the HTTP API."""
    made = ["# HTTP API\n", NOTE, document["info"].get("description", "") + "\n", "The same for programs: `GET /api/v1/openapi.json`.\n"]
    answered = Counter(
        (status, answer.get("description", ""))
        for methods in document["paths"].values()
        for operation in methods.values()
        for status, answer in operation.get("responses", {}).items()
    )
    often = sum(len(methods) for methods in document["paths"].values()) // 2
    common = {status: says for (status, says), times in answered.items() if times > often and not status.startswith("2")}
    made += ["## Answers that any path may give\n", "The body is a [Failure](#failure); what a path answers besides stands with it.\n"]
    made += [table(("answer", "meaning"), sorted(common.items())), "## Paths\n"]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            made.append(f"### {method.upper()} {path}\n")
            made.append("\n\n".join(dict.fromkeys(filter(None, (operation.get("summary", ""), operation.get("description", ""))))) + "\n")
            rows = [
                (code(p["name"]), p["in"], "required" if p.get("required") else "", shape_of(p.get("schema", {})), p.get("description", ""))
                for p in operation.get("parameters", ())
            ]
            for kind, content in operation.get("requestBody", {}).get("content", {}).items():
                rows.append(("body", kind, "required", shape_of(content.get("schema", {})), ""))
            if rows:
                made.append(table(("parameter", "in", "", "type", "meaning"), rows))
            answers = [
                (status, answer.get("description", ""), " ".join(shape_of(c.get("schema", {})) for c in answer.get("content", {}).values()))
                for status, answer in operation.get("responses", {}).items()
                if common.get(status) != answer.get("description")
            ]
            made.append(table(("answer", "meaning", "body"), answers))
    made.append("## Shapes\n")
    for name, schema in sorted(document.get("components", {}).get("schemas", {}).items()):
        made.append(f"### {name}\n\n{' '.join(schema.get('description', '').split())}\n")
        rows = [(code(key), shape_of(inner), inner.get("description", "")) for key, inner in schema.get("properties", {}).items()]
        made.append(table(("field", "type", "meaning"), rows) if rows else shape_of(schema) + "\n")
    return "\n".join(made)


# --- all ------------------------------------------------------------------------------------------------------------------------------
PAGE: dict[str, Callable[[], str]] = {
    "functions.md": functions, "keys.md": keys, "actions.md": actions, "commands.md": commands, "entries.md": entries,
    "log-events.md": log_events,
}  # fmt: skip


def pages() -> dict[str, str]:
    """Every page by its file name."""
    made = {name: page() for name, page in PAGE.items()}
    document = api_document()
    if document is not None:
        made["api.md"] = api(json.loads(json.dumps(document)))
    return {name: re.sub(r"\n{3,}", "\n\n", text).rstrip("\n") + "\n" for name, text in made.items()}


def main() -> int:
    """Write what changed; with --check write nothing and exit 1 when something would."""
    made = {PAGES / name: text for name, text in pages().items()}
    stale = [(path, text) for path, text in made.items() if not path.exists() or path.read_text("utf-8") != text]
    for path, text in stale:
        if "--check" not in sys.argv:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        sys.stdout.write(f"{path.relative_to(ROOT)}\n")
    return int("--check" in sys.argv and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
