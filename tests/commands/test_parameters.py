from pathlib import Path

import pytest

from ocrlab.commands.parameters import CommandError, check, parse_overrides, read_parameters
from tests.notebooks import cell, write

CELL = """
# max_pixels = 3 is only a remark
max_pixels_values = [50176, 100352]  # area = width * height
pages: int | None = None  # None = all
model_id = "tiny"
temperature = 1.0
sizes = [1.0, 2.0]
do_sample = False
limit = None
mixed = [1, None]
empty = []
extra = {"a": 1}
dtype: "Literal['float32', 'bfloat16']" = "float32"
"""


@pytest.fixture
def parameters_notebook(tmp_path):
    return lambda source: write(tmp_path / "04-pixels.ipynb", "# Pixels?", cell(source, "parameters"))


def test_reads_names_defaults_and_annotations(parameters_notebook):
    found = read_parameters(parameters_notebook(CELL))
    assert list(found) == ["max_pixels_values", "pages", "model_id", "temperature", "sizes", "do_sample", "limit",
                           "mixed", "empty", "extra", "dtype"]  # fmt: skip
    assert found["max_pixels_values"].default == [50176, 100352]
    assert (found["pages"].default, found["pages"].wanted) == (None, "int | None")
    assert found["mixed"].wanted == "list[int | None]"


@pytest.mark.parametrize(
    "given",
    [
        {"max_pixels_values": [1]}, {"max_pixels_values": []}, {"pages": 3}, {"pages": None}, {"model_id": "Qwen/x"},
        {"temperature": 0.5}, {"do_sample": True}, {"limit": 3}, {"limit": "a"}, {"limit": 0.5}, {"limit": True},
        {"mixed": [None, 2]}, {"empty": ["anything"]}, {"extra": {"b": [1]}}, {"dtype": "bfloat16"}, {},
    ],
)  # fmt: skip
def test_accepts(parameters_notebook, given):
    assert check(parameters_notebook(CELL), given) == given


def test_an_int_stands_for_a_float_and_becomes_one(parameters_notebook):
    checked = check(parameters_notebook(CELL), {"temperature": 1, "sizes": [1, 2.5]})
    assert [type(v) for v in (checked["temperature"], *checked["sizes"])] == [float, float, float]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"max_pixels_values": 50176}, "list[int]"), ({"max_pixels_values": ["50176"]}, "list[int]"),
        ({"max_pixels_values": [1.5]}, "list[int]"), ({"max_pixels_values": [True]}, "list[int]"),
        ({"pages": "20"}, "int | None"), ({"pages": True}, "int | None"), ({"pages": 2.0}, "int | None"),
        ({"model_id": 3}, "str"), ({"model_id": None}, "str"), ({"temperature": "hot"}, "float"),
        ({"temperature": True}, "float"), ({"do_sample": 1}, "bool"), ({"do_sample": "yes"}, "bool"),
        ({"limit": [1]}, "None | bool | int | float | str"), ({"mixed": ["a"]}, "list[int | None]"),
        ({"extra": {1: "a"}}, "dict"), ({"dtype": "float8"}, "Literal['float32', 'bfloat16']"),
    ],
)  # fmt: skip
def test_refuses_mistyped_values_by_name(parameters_notebook, given, wanted):
    with pytest.raises(CommandError) as caught:
        check(parameters_notebook(CELL), given)
    (name, value), message = next(iter(given.items())), str(caught.value)
    assert message.startswith(f"04-pixels.ipynb: {name} = {value!r} was given; wanted {wanted}, such as its default")


def test_suggests_the_closest_name(parameters_notebook):
    with pytest.raises(CommandError, match=r"04-pixels.ipynb has no parameter 'max_pixel_values'; did you mean "
                                             r"max_pixels_values\?"):  # fmt: skip
        check(parameters_notebook(CELL), {"max_pixel_values": [1]})
    with pytest.raises(CommandError, match=r"no parameter 'zzz'\. There is: max_pixels_values, pages"):
        check(parameters_notebook(CELL), {"zzz": 1})


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("a = 2 * 1024", "written out, not: a = 2 \\* 1024"), ("a = list(range(3))", "written out, not: a = list"),
        ("a = (1, 2)", "written out, not: a"), ("a = {1, 2}", "written out, not: a"), ("a = 1j", "written out, not: a"),
        ("a: int = 2 * 3", "written out, not: a"), ("a: list = (1,)", "written out, not: a"),
        ("import os", "only `name = literal` lines.* not: import os"), ("a = b = 1", "only `name = literal`"),
        ("a, b = 1, 2", "only `name = literal`"), ("a: int", "only `name = literal`"), ("a += 1", "only `name"),
        ("a = [1", "not Python"), ("%matplotlib inline", "not Python"), ("a = 1\na = 2", "sets a twice"),
        ("a: int = 'x'", "a = 'x' was given; wanted int"), ("a: torch.dtype = None", "annotated torch.dtype"),
        ("a: ().__class__ = None", r"annotated \(\).__class__"),
    ],
)  # fmt: skip
def test_refuses_other_parameters_cells(parameters_notebook, source, message):
    with pytest.raises(CommandError, match=message) as caught:
        read_parameters(parameters_notebook(source))
    assert "04-pixels.ipynb" in str(caught.value)


def test_a_notebook_without_a_parameters_cell_has_none(tmp_path):
    file = write(tmp_path / "a.ipynb", "# A?", cell("x = 1"))
    assert read_parameters(file) == {}
    with pytest.raises(CommandError, match="no parameter 'x'"):
        check(file, {"x": 1})


@pytest.mark.parametrize("content", ["", "[1]", '{"nbformat": 4}', "not json", "\xff"])
def test_names_a_file_that_is_no_notebook(tmp_path, content):
    file = Path(tmp_path / "broken.ipynb")
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(CommandError, match=r"broken\.ipynb: cannot be read as a notebook"):
        read_parameters(file)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", {}), ("  ;, ", {}),
        ("max_pixels_values=[50176, 100352] pages=20", {"max_pixels_values": [50176, 100352], "pages": 20}),
        ("a=1;b=2", {"a": 1, "b": 2}), ("a=1, b=2", {"a": 1, "b": 2}), ("a=1\nb = 2\n", {"a": 1, "b": 2}),
        ("a = [1,\n 2]; b={x: 1, y: [2, 3]}", {"a": [1, 2], "b": {"x": 1, "y": [2, 3]}}),
        ("prompt=Read the page, please. pages=3", {"prompt": "Read the page, please.", "pages": 3}),
        ("prompt='a=1; b=2' c=3", {"prompt": "a=1; b=2", "c": 3}),
        ('p="say \\"x=1\\"" q=2', {"p": 'say "x=1"', "q": 2}),
        ("p='it''s y=1' q=2", {"p": "it's y=1", "q": 2}), ("p=don't stop q=2", {"p": "don't stop", "q": 2}),
        ("p=['a, b=1', \"c]\"] q=2", {"p": ["a, b=1", "c]"], "q": 2}),
        ("a=null b=true c=~ d=''", {"a": None, "b": True, "c": None, "d": ""}),
        ("a=1e-4 b=1.5 c=-2 d=.5 e=2.", {"a": 1e-4, "b": 1.5, "c": -2, "d": 0.5, "e": 2.0}),
        ("a=no b=010 c=12:30 d=2026-01-01 e=1_000 f=0x10 g=on",
         {"a": "no", "b": "010", "c": "12:30", "d": "2026-01-01", "e": "1_000", "f": "0x10", "g": "on"}),
        ("a='x #1' b=[1, 'c=2 #3', {d: [e=4, ]}] f=5", {"a": "x #1", "b": [1, "c=2 #3", {"d": ["e=4"]}], "f": 5}),
        ("model_id=Qwen/Qwen2-VL-2B-Instruct", {"model_id": "Qwen/Qwen2-VL-2B-Instruct"}),
        ("подсказка=Прочитай текст", {"подсказка": "Прочитай текст"}),
    ],
)  # fmt: skip
def test_overrides(text, values):
    parsed = parse_overrides(text)
    assert parsed == values
    assert [type(v) for v in parsed.values()] == [type(v) for v in values.values()]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pages", "'pages' is no `name=value`"), ("20 pages=3", "'20' is no"), ("pages=", "pages= has no value"),
        ("a= b=2", "a= has no value"), ("a=1 a=2", "a is given twice"), ("a=[1, 2", r"a=\[1, 2 is no YAML value"),
        ("a=[1]]", "no YAML value"), ("a='x", "close its quotes"), ('a=["x]', "close its quotes and brackets"),
        ("a=x #1", "would drop"), ("a=x #1 b=2", "would drop"), ("a=@x", "no YAML value"), ("a=[1 b=2]: {", "no YAML"),
        ("a=!!python/name:os.x", "no YAML"),
        ("a=x: y: z", "no YAML value"), ("a==1", "is no `name=value`"),
    ],
)  # fmt: skip
def test_malformed_overrides_say_where(text, message):
    with pytest.raises(CommandError, match=message):
        parse_overrides(text)
