"""What all pages of a site share: templates, one style sheet, one small script that only its own hash lets run."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from pygments.formatters import HtmlFormatter

HERE = Path(__file__).parent
STYLE = "style.css"


def templates() -> Environment:
    """Return the environment of the site's templates: autoescaped, with the script, its hash and our filters."""
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    # Inline and pinned: a policy that allowed script files from disk would allow every file on that disk.
    script = (HERE / "site.js").read_text(encoding="utf-8")
    environment.globals["script"] = Markup(script)  # our own file
    environment.globals["script_hash"] = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment.filters |= {"duration": duration, "amount": amount, "label": label, "clock": clock}
    return environment


def write_style(folder: Path) -> None:
    """Write the style sheet, with the colours of code in both themes, as `style.css` beside the pages."""
    light, dark = (HtmlFormatter(style=style).get_style_defs(".highlight") for style in ("friendly", "github-dark"))
    css = (HERE / "site.css").read_text(encoding="utf-8")
    css += f"{light}\n@media screen and (prefers-color-scheme: dark) {{\n{dark}\n}}\n"
    (folder / STYLE).write_text(css, encoding="utf-8", newline="\n")


def duration(seconds: Any) -> str:
    """Return seconds for reading, such as `1 min 32 s`; empty for what is no number."""
    if not isinstance(seconds, int | float):
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds // 60:.0f} min {seconds % 60:.0f} s" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def clock(time: Any) -> str:
    """Return an ISO time less its seconds: `2026-11-23 13:31 +00:00`."""
    return re.sub(r"^(.{10})T(\d\d:\d\d)(?::[\d.]+)?", r"\1 \2 ", str(time))


def amount(value: Any, name: str) -> str:
    """Return a value for reading, bytes as GiB by its name."""
    if str(name).endswith("_bytes") and isinstance(value, int | float):
        return f"{value / 2**30:.1f} GiB"
    return "none" if value is None else str(value)


def label(name: Any) -> str:
    """Return a column's name in plain words."""
    return str(name).removesuffix("_bytes").replace("_", " ")
