"""The pages that the code writes: the command line, events field by field, the API route by route, metrics.

Their words are those of the code (help, descriptions of the typed records), so that nothing is said twice. What a
spec's keys mean is told by hand in ``docs/model-spec.md``; a test holds that it tells of every key and of no other.

    python -m documentation.reference        # make schemas
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

import typer

from ratchet.api.app import document
from ratchet.cli import app
from ratchet.domain.event_schemas import documents
from ratchet.domain.instruments import INSTRUMENTS, Instrument

DOCS = Path(__file__).resolve().parents[1] / "docs"
MADE = "Made from the code by `make schemas`; what is wrong here is to be mended there."
ENDS = """What a command ends with is told under [exit codes](operations.md#exit-codes): 0 done, 1 refused or the
answer is no, 2 no such command or option, 70 a fault of Ratchet's own, 130 interrupted; where one means more, the
command says so. Every command has `--help` with an example, and `--json`: then standard output is JSON and nothing else
(one object per line from `ratchet events follow`). What takes longer than two seconds says on standard error what is
done. `ratchet --install-completion` completes commands and options in your shell."""
EVENTS = """What events are for, the attributes of each, and why one is rejected: [Events](events.md). The same for
machines: a JSON Schema per type, and [`asyncapi.json`](events/asyncapi.json)."""
ROUTES = """How to sign in, who may what, and how events come in: [The API](api.md). The same for machines:
[`openapi.json`](openapi.json)."""
METRICS = """How they are scraped, dashboards and alert rules: [Observability](observability.md). They are read from the
ledger at each scrape; what is not known has no sample."""
Schema = Mapping[str, Any]


def pages() -> dict[str, str]:
    """Each page's text by the name of its file in ``docs``."""
    return {
        "reference-cli.md": commands(typer.main.get_command(app)),
        "reference-events.md": events(documents()),
        "reference-api.md": routes(document()),
        "reference-metrics.md": metrics(INSTRUMENTS.values()),
    }


# -- metrics -----------------------------------------------------------------------------------------------------------


def metrics(instruments: Iterable[Instrument]) -> str:
    """Every metric with its labels and its meaning."""
    rows = [
        f"| `{one.name}` | {one.kind} | {', '.join(f'`{label}`' for label in one.labels)} | {one.help} |"
        for one in instruments
    ]
    head = ["| metric | kind | labels | meaning |", "|---|---|---|---|"]
    return "\n\n".join(["# Metrics", MADE, METRICS, "\n".join([*head, *rows])]) + "\n"


# -- the command line --------------------------------------------------------------------------------------------------


def commands(root: Any) -> str:
    """Every command with its help, arguments and options."""
    parts = [
        "# The command line",
        MADE,
        root.help,
        ENDS,
    ]
    for words, command in walk(root, root.name):
        told = [*map(prose, paragraphs(command.help or "")), usage(words, command)]
        parts += [f"## {words}", *dict.fromkeys(told), *options(command)]
    return "\n\n".join([*parts, ""]).rstrip() + "\n"


def walk(command: Any, words: str) -> Iterator[tuple[str, Any]]:
    """Each command that does something, with the words that call it, groups in order of their names."""
    if command.hidden:
        return
    inner = getattr(command, "commands", None)
    if inner is None or command.invoke_without_command:
        yield words, command
    for name in sorted(inner or ()):
        yield from walk(inner[name], f"{words} {name}")


def usage(words: str, command: Any) -> str:
    """How it is called with what it must be told; options stand in the table."""
    called = [words]
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            shown = parameter.name.upper() + ("..." if repeated(parameter) else "")
            called.append(shown if parameter.required else f"[{shown}]")
        elif parameter.required:
            called.append(f"{parameter.opts[0]} {kind(parameter)}")
    return f"```sh\n{' '.join(called)}\n```"


def options(command: Any) -> list[str]:
    shown = [each for each in command.params if not each.hidden]
    if not shown:
        return []
    return [
        table(
            ("argument, option", "", "default", ""),
            [[names(each), kind(each), default(each), prose(each.help or "")] for each in shown],
        )
    ]


def names(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{parameter.name.upper()}`"
    return ", ".join(f"`{each}`" for each in (*parameter.opts, *parameter.secondary_opts))


def repeated(parameter: Any) -> bool:
    return get_origin(parameter.type_descriptor.annotation) is list


def kind(parameter: Any) -> str:
    if getattr(parameter, "is_flag", False):
        return ""
    annotation = parameter.type_descriptor.annotation
    inner = get_args(annotation)[0] if repeated(parameter) else annotation
    word = {str: "TEXT", int: "INTEGER", float: "NUMBER"}.get(inner, getattr(inner, "__name__", str(inner)).upper())
    return f"{word}, several" if repeated(parameter) and parameter.param_type_name == "option" else word


def default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    value = parameter.default
    return "" if value is None or value is False or value == [] or callable(value) else code(value)


def paragraphs(text: str) -> list[str]:
    return [each.strip() for each in re.split(r"\n\s*\n", text) if each.strip()]


def prose(text: str) -> str:
    """A paragraph of help as Markdown: an example is a block, and names that are no words are code."""
    if text.startswith("ratchet ") and "\n" not in text:
        return f"```sh\n{text}\n```"
    line = " ".join(text.split()).replace("``", "`")
    parts = re.split(r"(`[^`]*`)", line)
    named = re.compile(r"(?<![\w`./-])(--[a-z][a-z-]+|[\w.]*\w__\S*\w>?|<\w+>|[A-Z]+_[A-Z_]+)(?![\w`-])")
    return "".join(each if each.startswith("`") else named.sub(r"`\1`", each) for each in parts)


# -- events and the API ------------------------------------------------------------------------------------------------


def events(found: Mapping[str, Schema]) -> str:
    """Every type of event with the fields of its data and an example."""
    described = found["asyncapi.json"]
    parts = [
        "# Events, field by field",
        MADE,
        EVENTS,
    ]
    for topic, channel in described["channels"].items():
        parts += [f"## Topic {topic}", channel["description"]]
        for name in channel["messages"]:
            schema = found.get(f"{described['components']['messages'][name].get('name')}.json")
            if schema is None or name.endswith("Binary"):
                continue
            data = schema["properties"]["data"]
            subject = lower(schema["properties"]["subject"]["description"])
            parts += [
                f"### {schema['title']}",
                f"{data['description']} Subject: {subject} [JSON Schema](events/{schema['title']}.json)",
                fields(data),
                f"```json\n{json.dumps(schema['examples'][0], ensure_ascii=False, indent=1)}\n```",
            ]
    return "\n\n".join([*parts, ""]).rstrip() + "\n"


def routes(api: Schema) -> str:
    """Every route of the API with its parameters, body and answers, then the shapes they name."""
    parts = [
        "# The API, route by route",
        MADE,
        ROUTES,
        f"All routes lie below `{api['servers'][0]['url']}` of Airflow's address.",
    ]
    for path, verbs in api["paths"].items():
        for verb, route in verbs.items():
            parts += [
                f"## {verb.upper()} {path}",
                f"**{route['summary']}.**",
                *map(prose, paragraphs(route.get("description", ""))),
            ]
            rows = [
                [
                    f"`{each['name']}`",
                    f"{each['in']}, {shape(each['schema'])}",
                    necessity(each),
                    prose(each.get("description", "")),
                ]
                for each in route.get("parameters", ())
            ]
            if rows:
                parts.append(table(("parameter", "", "default", ""), rows))
            if body := route.get("requestBody"):
                told = (f"`{media}` ({shape(each.get('schema', {}))})" for media, each in body["content"].items())
                parts.append(f"Body: {', '.join(told)}.")
            parts.append(answers(route["responses"]))
    parts.append("## Shapes")
    for name, schema in sorted(api["components"]["schemas"].items()):
        parts.append(f"### {name}")
        parts += [prose(schema["description"])] if schema.get("description") else []
        parts += [fields(schema)] if schema.get("properties") else []
    return "\n\n".join([*parts, ""]).rstrip() + "\n"


def answers(responses: Schema) -> str:
    good = [f"{status} ({shape(content(each))})" for status, each in responses.items() if status < "400"]
    bad = [status for status in responses if status >= "400"]
    return f"Answers {', '.join(good)}" + (
        f"; or a [problem document](#problemdocument) with {', '.join(bad)}." if bad else "."
    )


def content(response: Schema) -> Schema:
    return next((each.get("schema", {}) for each in response.get("content", {}).values()), {})


def fields(schema: Schema) -> str:
    needed = set(schema.get("required", ()))
    rows = [
        [f"`{name}`", shape(each), necessity({**each, "required": name in needed}), prose(each.get("description", ""))]
        for name, each in schema["properties"].items()
    ]
    return table(("field", "", "default", ""), rows)


def necessity(each: Schema) -> str:
    if each.get("required"):
        return "required"
    value = each.get("default", each.get("schema", {}).get("default"))
    return "" if value is None else code(value)


def shape(schema: Schema | bool) -> str:
    """The type in words, with its bounds; a shape of its own is a link."""
    if isinstance(schema, bool) or not schema:
        return "anything" if schema or schema == {} else "nothing"
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "const" in schema:
        return code(schema["const"])
    if "enum" in schema:
        return ", ".join(map(code, schema["enum"]))
    if inner := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(map(shape, inner)))
    return plain(schema)


def plain(schema: Schema) -> str:
    """The same of a type that is no reference, choice or constant."""
    extra = schema.get("additionalProperties")
    words = {
        "array": f"list of {shape(schema.get('items', {}))}",
        "object": f"mapping to {shape(extra)}" if isinstance(extra, Mapping) and extra else "mapping",
        "string": "time" if schema.get("format") == "date-time" else "text",
        "integer": "whole number",
        "boolean": "true or false",
    }
    kind_of = schema.get("type", "anything")
    return words.get(kind_of, kind_of) + ("" if schema.get("format") == "date-time" else bounds(schema))


def bounds(schema: Schema) -> str:
    lowest, highest = schema.get("minimum"), schema.get("maximum")
    longest, above = schema.get("maxLength"), schema.get("exclusiveMinimum")
    parts = [f"above {above:g}"] if above is not None else []
    parts += [f"{lowest:g} to {highest:g}"] if lowest is not None and highest is not None else []
    parts += [f"from {lowest:g}"] if lowest is not None and highest is None else []
    parts += [f"at most {longest} characters"] if longest is not None else []
    return "".join(f", {each}" for each in parts)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def code(value: Any) -> str:
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def lower(text: str) -> str:
    return text[:1].lower() + text[1:]


if __name__ == "__main__":
    for name, text in pages().items():
        (DOCS / name).write_text(text)
    print(f"the reference is written to {DOCS}")
