import pytest

from training.records import RecordError, read_records


def test_the_fields_asked_for_come_in_their_order_with_the_line_that_each_row_starts_on():
    lines = ["id,text,mood\n", '1,"two\n', 'lines",good\n', "2,one,bad\n"]
    assert list(read_records(".csv", lines, ["mood", "text"])) == [(2, ("good", "two\nlines")), (4, ("bad", "one"))]


@pytest.mark.parametrize(
    "rest",
    [
        ["d,good\n", "e,bad\n"],  # the quote takes in all that follows
        ["d,good\n", 'e,"bad"\n'],  # or it ends where the next one stands
    ],
)
def test_a_quote_left_open_is_an_error_on_its_own_line(rest: list[str]):
    table = read_records(".csv", ["text,mood\n", "a,good\n", 'c,"bad\n', *rest], ["text", "mood"])
    assert next(table) == (2, ("a", "good"))
    with pytest.raises(RecordError, match=r"line 3 is not CSV, .*is a quote left open"):
        next(table)


def test_what_json_holds_as_nothing_is_an_empty_text_and_a_list_is_no_text():
    lines = ['{"text": null}\n', '{"text": NaN}\n', '{"text": 2.5}\n', '{"text": ["a", "b"]}\n']
    table = read_records(".jsonl", lines, ["text"])
    assert [next(table) for _ in range(3)] == [(1, ("",)), (2, ("",)), (3, ("2.5",))]
    with pytest.raises(RecordError, match=r"line 4: column 'text' holds .*, expected a text or a number"):
        next(table)


def test_a_row_cut_short_is_passed_over_unless_the_reading_is_strict():
    lines = ["id\ttext\n", "1\n", "2\ttwo\tmore\n"]
    assert list(read_records(".tsv", lines, ["text"])) == [(3, ("two",))]
    with pytest.raises(RecordError, match="line 2: 1 columns, expected 2"):
        list(read_records(".tsv", lines, ["text"], strict=True))


def test_a_character_written_as_two_surrogates_is_read_and_half_of_one_is_not():
    table = read_records(".jsonl", ['{"text": "\\ud83d\\ude00"}\n', '{"text": "\\ud83d"}\n'], ["text"])
    assert next(table) == (1, ("\U0001f600",))
    with pytest.raises(RecordError, match=r"line 2: column 'text' holds '\\ud83d', half of a character"):
        next(table)


def test_a_column_that_stands_there_twice_is_refused_where_it_is_asked_for():
    lines = ["text,mood,mood\n", "a,good,bad\n"]
    assert list(read_records(".csv", lines, ["text"])) == [(2, ("a",))]
    with pytest.raises(RecordError, match="line 1: several columns are named 'mood'"):
        list(read_records(".csv", lines, ["text", "mood"]))


def test_a_key_that_stands_twice_in_an_object_is_refused():
    table = read_records(".jsonl", ['{"text": "a", "mood": {"text": "b"}}\n', '{"text": "a", "text": "b"}\n'], ["text"])
    assert next(table) == (1, ("a",))
    with pytest.raises(RecordError, match="line 2 is not JSON: several keys are named 'text'"):
        next(table)
