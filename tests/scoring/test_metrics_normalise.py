import random
import subprocess
import sys
import unicodedata

import pytest

from ocrlab.scoring.metrics import PROFILES, graphemes, normalise

COMPOSED, DECOMPOSED = "\u00e9", "e\u0301"  # é
SHORT_I, SHORT_I_DECOMPOSED = "\u0439", "\u0438\u0306"  # й
FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"  # three people joined by ZWJ: one glyph
ALPHABET = [*"abйЁ 19.,%-—+$\n\t", "\r\n", "\u00a0", "ﬁ", "½", "ß", "ſ", "İ", "\u0345", "\u0301", "`", "…", "Ω"]


def random_text(seed: int) -> str:
    rng = random.Random(seed)
    return "".join(rng.choice(ALPHABET) for _ in range(rng.randrange(40)))


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize(("one", "other"), [(COMPOSED, DECOMPOSED), (SHORT_I, SHORT_I_DECOMPOSED)])
def test_composed_and_decomposed_are_the_same_text(profile, one, other):
    assert one != other
    assert normalise(one, profile) == normalise(other, profile)


@pytest.mark.parametrize(
    ("text", "strict", "layout", "loose"),
    [
        ("a\r\nb\rc\n\n", "a\nb\nc", "a b c", "a b c"),
        ("  Net \t 5\u00a0kg ", "  Net \t 5\u00a0kg ", "Net 5 kg", "net 5 kg"),
        ("Power: 220-240 V", "Power: 220-240 V", "Power: 220-240 V", "power 220 240 v"),
        ("ﬁne ½", "ﬁne ½", "ﬁne ½", "fine 1⁄2"),
        ("docu-\nment, два-\nдцать", "docu-\nment, два-\nдцать", "document, двадцать", "document двадцать"),
        ("A-\nB 1990-\n1995, a -\nb", "A-\nB 1990-\n1995, a -\nb", "A- B 1990- 1995, a - b", "a b 1990 1995 a b"),
        ("STRASSE Straße", "STRASSE Straße", "STRASSE Straße", "strasse strasse"),
        ("«Ёж» — 1.5 + $2", "«Ёж» — 1.5 + $2", "«Ёж» — 1.5 + $2", "ёж 1 5 + $2"),
        (" \n ", " \n ", "", ""),
        ("…!", "…!", "…!", ""),
    ],
)
def test_profiles_on_examples(text, strict, layout, loose):
    assert normalise(text, "strict") == strict
    assert normalise(text, "layout") == layout
    assert normalise(text, "loose") == loose


def test_the_loose_profile_keeps_numbers_and_letters_apart():
    assert normalise("1.5", "loose") != normalise("15", "loose")
    assert normalise("ёлка", "loose") != normalise("елка", "loose")


@pytest.mark.parametrize("profile", PROFILES)
def test_normalising_twice_changes_nothing(profile):
    for seed in range(300):
        once = normalise(random_text(seed), profile)
        assert normalise(once, profile) == once, f"seed {seed}"
        assert unicodedata.is_normalized("NFKC" if profile == "loose" else "NFC", once), f"seed {seed}"


def test_an_unknown_profile_is_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"'exact'.*strict, layout, loose"):
        normalise("a", "exact")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("", []),
        ("abc", ["a", "b", "c"]),
        (f"x{DECOMPOSED}y", ["x", DECOMPOSED, "y"]),
        (SHORT_I_DECOMPOSED, [SHORT_I_DECOMPOSED]),
        (f"a{FAMILY}b", ["a", FAMILY, "b"]),
        ("\U0001f1f7\U0001f1fa\U0001f1e9\U0001f1ea", ["\U0001f1f7\U0001f1fa", "\U0001f1e9\U0001f1ea"]),  # two flags
    ],
)
def test_graphemes_are_what_a_reader_sees(text, units):
    assert graphemes(text) == units


def test_the_room_loads_no_heavy_library():
    code = "import sys, ocrlab.scoring; print(*sorted({'torch', 'transformers', 'pandas', 'jiwer'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
