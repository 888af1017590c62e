"""The command that makes a notebook's figures again, safe to paste whatever its parameters hold."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

_NAME = re.compile(r"\w[\w.+-]{0,99}")
_HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
_PLAIN = re.compile(r"[A-Za-z_/.][\w/.-]*")
_TAKEN = {"null", "true", "false", "~"}
# What a shell or make would act on inside double quotes.
_ACTIVE = re.compile(r'["$`\\!]')


def again(notebook: str, run: str, profile: Any, parameters: Mapping[str, Any]) -> str:
    """Return the command that runs a notebook again with these parameters in a run, or "" where none can be given.

    It is `make reproduce …`; where a value holds what make or a shell would act on, the same through Python, quoted.
    None is given for names that are no names, or values with control characters: they come from elsewhere.
    """
    if not (_NAME.fullmatch(notebook) and _NAME.fullmatch(run)):
        return ""
    given = {name: value for name, value in parameters.items() if _NAME.fullmatch(str(name))}
    model = given.get("model_id")
    words = {"ONLY": notebook, "RUN": run}
    if profile in ("smoke", "cpu", "gpu"):
        words["PROFILE"] = str(profile)
    if isinstance(model, str) and _HUB_ID.fullmatch(model):
        words["MODEL"] = given.pop("model_id")  # a Hub id as MODEL= may be downloaded
    if given:
        words["PARAMS"] = "; ".join(f"{name}={_written(value)}" for name, value in given.items())
    if not all(text.isprintable() for text in words.values()):
        return ""
    if any(_ACTIVE.search(text) for text in words.values()):
        flags = " ".join(f"--{name.lower()} {shlex.quote(text)}" for name, text in words.items())
        return f"python -m ocrlab reproduce {flags}"
    quoted = (f'{name}="{text}"' if name == "PARAMS" else f"{name}={text}" for name, text in words.items())
    return f"make reproduce {' '.join(quoted)}"


def _written(value: Any) -> str:
    """Return a parameter's value as PARAMS= takes it: YAML's flow style."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_written, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_written(k)}: {_written(v)}" for k, v in value.items()) + "}"
    if isinstance(value, str) and not (_PLAIN.fullmatch(value) and value.lower() not in _TAKEN):
        return "'" + value.replace("'", "''") + "'"
    return str(value)
