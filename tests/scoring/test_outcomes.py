import random

import pytest

from ocrlab.scoring.outcomes import STATUSES, Loop, find_loop, judge

PROSE = random.Random(1).choices(range(1000), k=300)


def test_the_statuses_are_those_of_the_house():
    assert STATUSES == (
        "ok",
        "empty",
        "truncated",
        "loop",
        "invalid",
        "oom",
        "unsupported",
        "timeout",
        "crashed",
        "error",
    )


@pytest.mark.parametrize("period", [1, 2, 3, 7, 16, 63, 64])
def test_a_loop_at_the_cap_is_found_with_its_period(period):
    unit = [2000 + i for i in range(period)]
    repeats = max(4, -(-16 // period))  # 4 at least, and 16 tokens
    assert find_loop(PROSE + unit * repeats, "length") == Loop(period, period * repeats)
    assert find_loop(PROSE + unit * 3, "length") is None


def test_the_cap_may_fall_within_a_repeat():
    # 5 whole units of 4 tokens and 2 tokens of the next: 22 tokens, 5 whole repeats.
    found = find_loop([*PROSE, *[1, 2, 3, 4] * 5, 1, 2], "length")
    assert found == Loop(4, 22)
    assert found.repeats == 5


def test_the_shortest_period_is_named():
    # 7 7 8 eight times is also a loop of 6 and of 12 tokens.
    assert find_loop([7, 7, 8] * 8, "length") == Loop(3, 24)


def test_a_period_above_64_is_not_looked_for():
    assert find_loop(list(range(65)) * 5, "length") is None


def test_a_repeat_that_ended_before_the_end_is_no_loop():
    assert find_loop([9] * 100 + PROSE, "length") is None
    assert find_loop([9] * 100 + PROSE[:1], "length") is None


@pytest.mark.parametrize("count", [4, 8, 15])
def test_a_short_output_of_one_token_is_a_loop_at_the_cap_but_a_short_run_in_text_is_not(count):
    assert find_loop([0] * count, "length") == Loop(1, count)
    assert find_loop(PROSE + [0] * count, "length") is None


@pytest.mark.parametrize("count", [0, 1, 3])
def test_too_little_to_repeat(count):
    assert find_loop([0] * count, "length") is None


@pytest.mark.parametrize(
    "line",
    [
        "Total ............ 12",
        "Total ............",
        "0000000",
        "-" * 80,
        "=" * 132,
        "- " * 66,
        "| --- " * 12 + "|",
        "0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0",
        "10.00\n" * 30,
        "ха" * 20,
    ],
)
def test_print_that_repeats_is_no_loop_where_the_model_ended_by_itself(line):
    # One token a character, as in the embedded reader: the hardest case.
    assert find_loop([ord(c) for c in line], "eos") is None
    assert find_loop(PROSE + [ord(c) for c in line], "eos") is None


@pytest.mark.parametrize(("period", "least"), [(1, 200), (2, 100), (3, 67), (4, 65), (10, 65), (64, 65)])
def test_a_very_long_loop_is_one_even_where_the_model_ended_by_itself(period, least):
    # 65 repeats and 200 tokens, whichever is more.
    unit = list(range(2000, 2000 + period))
    assert find_loop(PROSE + unit * least, "eos") == Loop(period, period * least)
    assert find_loop(PROSE + unit * (least - 1), "eos") is None


def test_random_text_is_no_loop():
    rng = random.Random(2)
    for _ in range(50):
        tokens = [rng.randrange(60) for _ in range(512)]
        assert find_loop(tokens, "length") is None
        assert find_loop(tokens, "eos") is None


def test_an_unknown_stop_reason_is_refused():
    with pytest.raises(ValueError, match=r"'stop'.*eos, length"):
        find_loop([1], "stop")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "tokens", "stop_reason", "finite", "status"),
    [
        ("Net 5 kg", PROSE[:8], "eos", True, "ok"),
        ("......", [5] * 6, "eos", True, "ok"),
        ("", [], "eos", True, "empty"),
        (" \n", [1, 2], "eos", True, "empty"),
        ("Net 5", PROSE, "length", True, "truncated"),
        ("", PROSE, "length", True, "truncated"),
        ("ab" * 50, [1, 2] * 50, "length", True, "loop"),
        ("", [1] * 50, "length", True, "loop"),
        ("Net 5 kg", PROSE[:8], "eos", False, "invalid"),
        ("!!!!", [0] * 512, "length", False, "invalid"),
        ("", [], "eos", False, "invalid"),
    ],
)
def test_the_first_status_that_holds(text, tokens, stop_reason, finite, status):
    found, reason = judge(text, tokens, stop_reason, finite)
    assert found == status
    assert found in STATUSES
    assert (reason == "") == (status == "ok")


def test_reasons_name_numbers_and_remedies():
    assert judge("x", PROSE, "length", True)[1] == "the cap ended it after 300 tokens; raise max_new_tokens"
    assert judge("x", PROSE + [7, 8, 9] * 10, "length", True)[1] == (
        "the last 30 of 330 tokens repeat 3 (10 times); try repetition_penalty or no_repeat_ngram_size"
    )
    assert "after 2 tokens" in judge("", [1, 2], "eos", True)[1]
    assert "float32" in judge("x", [1], "eos", False)[1]


def test_one_token_from_first_to_last_is_named_as_the_trace_of_nan():
    assert "all 64 tokens are the same, which is what NaN logits leave" in judge("!" * 64, [0] * 64, "length", True)[1]
    assert "NaN" not in judge("Net" + "!" * 64, [5, *[0] * 64], "length", True)[1]
