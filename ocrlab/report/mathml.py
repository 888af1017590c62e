"""LaTeX maths as MathML, which browsers draw without a script."""

from __future__ import annotations

import html
import re
from xml.etree.ElementTree import Element, tostring

from latex2mathml.converter import Converter

_ELEMENTS = """
    math mrow mi mn mo ms mtext mspace msup msub msubsup mfrac msqrt mroot mover munder munderover mmultiscripts
    mprescripts none mtable mtr mtd mstyle mpadded mphantom menclose
    """
_ATTRIBUTES = """
    display displaystyle scriptlevel mathvariant mathsize mathcolor mathbackground stretchy fence form separator
    largeop movablelimits symmetric accent accentunder minsize maxsize lspace rspace width height depth voffset
    linethickness notation columnalign columnspacing columnlines rowspacing rowlines frame open close
    """
_VALUE = re.compile(r"[\w\s.%#+-]*")


def to_mathml(latex: str, display: str = "inline") -> str:
    """Return LaTeX maths as a `math` element; as `code` with the source where it cannot be converted.

    latex2mathml's own `convert` ends with an unescape, so that `\\text{<script>…}` would come out as markup. Here its
    tree is filtered by element and attribute and written out with escapes.
    """
    try:
        tree = Converter(display=display).convert_to_element(latex)
        _clean(tree)
        return tostring(tree, encoding="unicode")
    except Exception:  # it raises a dozen unrelated types on malformed input; one formula must not cost the page
        return f"<code>{html.escape(latex)}</code>"


def _clean(element: Element) -> None:
    if element.tag not in _ELEMENTS.split():
        element.tag = "mrow"
    for name, value in list(element.attrib.items()):
        if name not in _ATTRIBUTES.split() or not isinstance(value, str) or not _VALUE.fullmatch(value):
            del element.attrib[name]
    # The converter writes symbols as character references.
    element.text = html.unescape(element.text) if element.text else None
    element.tail = html.unescape(element.tail) if element.tail else None
    for child in element:
        _clean(child)
