"""The one door that HTML goes through on its way into the site: what is not on these lists is shown as text."""

from __future__ import annotations

import re

import bs4
from bleach.css_sanitizer import CSSSanitizer
from bleach.sanitizer import Cleaner

_TAGS = """
    a abbr b blockquote br caption code col colgroup dd del details div dl dt em figcaption figure h1 h2 h3 h4 h5 h6
    hr i img ins kbd li mark ol p pre q s samp small span strong sub summary sup table tbody td tfoot th thead tr u
    ul var
    """
# What stands inside these is no text for a reader.
_NOISE = """
    script style noscript template iframe object embed applet svg math textarea select title head link meta base form
    """
_ANYWHERE = frozenset({"class", "id", "title", "style"})
_OF_TAG = {
    "td": {"colspan", "rowspan"}, "th": {"colspan", "rowspan", "scope"}, "ol": {"start"}, "details": {"open"},
    "img": {"alt", "width", "height", "loading"},
}  # fmt: skip
_LINK = re.compile(r"(?:https?://|mailto:|#|[\w.-]+\.html(?:$|#))[^\s]*", re.IGNORECASE)
_IMAGE = re.compile(r"figures/[\w.%-]+|data:image/(?:png|jpeg|gif|svg\+xml);base64,[A-Za-z0-9+/=\s]+")
_STYLE = re.compile(r"""(?:[\w\s:;#%.,'"-]|rgba?\([\d\s,.%]+\))*""")
# Nothing that positions, layers or fetches.
_STYLES = """
    background background-color border border-bottom border-color border-top color font-family font-size font-style
    font-weight height letter-spacing line-height max-width min-width padding text-align text-decoration
    vertical-align white-space width
    """


def sanitise(markup: str) -> str:
    """Return HTML of known-good tags, attributes, links and styles; other tags become visible text, scripts vanish.

    Images may come from `figures/` and from `data:` only. Never MathML or SVG: they are where sanitisers are fooled
    (CVE-2020-6816, CVE-2021-23980), so maths joins afterwards.
    """
    soup = bs4.BeautifulSoup(markup, "html.parser")
    for element in soup.find_all(_NOISE.split()):
        element.decompose()
    for image in soup.find_all("img"):
        if not _IMAGE.fullmatch(str(image.get("src", ""))):
            image.replace_with(str(image.get("alt", "")))
        elif "alt" not in image.attrs:
            image["alt"] = ""  # a reader for the blind would read out the file's name
    cleaner = Cleaner(
        tags=_TAGS.split(), attributes=_allowed, protocols=["http", "https", "mailto", "data"], strip=False,
        css_sanitizer=CSSSanitizer(allowed_css_properties=_STYLES.split()),
    )  # fmt: skip
    return cleaner.clean(str(soup))


def _allowed(tag: str, name: str, value: str) -> bool:
    if (tag, name) == ("a", "href"):
        return bool(_LINK.fullmatch(value.strip()))
    if (tag, name) == ("img", "src"):
        return bool(_IMAGE.fullmatch(value.strip()))
    if name == "style":
        return bool(_STYLE.fullmatch(value))
    return name in _ANYWHERE or name in _OF_TAG.get(tag, ())
