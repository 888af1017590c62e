"""PARAMS: parameters as a person types them, `max_pixels_values=[50176, 100352] pages=20`."""

from __future__ import annotations

import re
from typing import Any

import yaml

from ocrlab.commands.parameters import ParameterError

_NAME = re.compile(r"(?:^|(?<=[\s;,]))([^\W\d]\w*)\s*=(?!=)")
_QUOTED = re.compile(r"""(?:^|(?<=[=\s\[{,:]))(?:"(?:\\.|[^"\\])*"|'(?:''|[^'])*')""")
_OPEN_QUOTE = re.compile(r"""(?:^|(?<=[=\s\[{,:]))["']""")
_BRACKETS = re.compile(r"\[[^\[\]{}]*\]|\{[^\[\]{}]*\}")


class Yaml(yaml.SafeLoader):
    """YAML 1.2's plain values: `1e-4` is a number; `no`, `010`, `12:30` and `2026-01-01` stay text."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (PyYAML's own way)


for _tag, _pattern, _first in (
    ("null", r"null|Null|NULL|~|", [*"nN~", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", [*"-+0123456789"]),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+|[-+]?\.inf|\.nan",
        [*"-+.0123456789"],
    ),
):
    Yaml.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def parse_overrides(text: str) -> dict[str, Any]:
    """Return the parameters in a text like `pages=20 max_pixels_values=[50176, 100352]; prompt='Read: all'`.

    The rule: every `name=` outside quotes and brackets begins a parameter; what follows, up to the next one, is its
    value in YAML, less a closing `;` or `,`. White space, `;`, `,` and new lines therefore all separate. Text that
    holds `name=`, ` #`, brackets or `: ` needs quotes.

    Raises:
        ParameterError: the text does not have this form; the message says where.
    """
    masked = _mask(text)
    names = list(_NAME.finditer(masked))
    before = text[: names[0].start()] if names else text
    if before.strip(" \t\r\n;,"):
        raise ParameterError(
            f"PARAMS: {before.strip()!r} is no `name=value`; write e.g. pages=20 max_pixels_values=[50176]"
        )
    found: dict[str, Any] = {}
    stops = [following.start() for following in names[1:]] + [len(text)]
    for match, stop in zip(names, stops, strict=False):
        if match[1] in found:
            raise ParameterError(f"PARAMS: {match[1]} is given twice")
        found[match[1]] = _value(match[1], text[match.end() : stop], masked[match.end() : stop])
    return found


def _mask(text: str) -> str:
    """Return the text, as long, with quoted and bracketed parts blanked out."""
    masked = _QUOTED.sub(lambda m: "_" * len(m[0]), text)
    if quote := _OPEN_QUOTE.search(masked):
        raise ParameterError(f"PARAMS: the quote before {text[quote.end() : quote.end() + 20]!r} is not closed")
    while (shorter := _BRACKETS.sub(lambda m: "_" * len(m[0]), masked)) != masked:
        masked = shorter
    if left := re.search(r"[\[\]{}]", masked):
        raise ParameterError(f"PARAMS: {left[0]!r} before {text[left.end() : left.end() + 20]!r} has no partner; "
                             "close it, or quote the text")  # fmt: skip
    return masked


def _value(name: str, text: str, masked: str) -> Any:
    text = text.strip().rstrip(";,").rstrip()
    if not text:
        raise ParameterError(f"PARAMS: {name}= has no value; write {name}=null for none, {name}='' for empty text")
    if " #" in masked:
        raise ParameterError(f"PARAMS: {name}={text}: YAML would drop what follows ' #'; quote the text")
    try:
        return yaml.load(text, Loader=Yaml)  # a SafeLoader
    except yaml.YAMLError as error:
        raise ParameterError(f"PARAMS: {name}={text} is no YAML value; quote it if it is text") from error
