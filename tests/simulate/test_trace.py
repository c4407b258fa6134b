from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.simulate import trace
from router.simulate.trace import Request, TraceInvalid

HEAD = "arrival,model,prompt_tokens,output_tokens\n"


def file(folder: Path, text: str | bytes) -> Path:
    path = folder / "trace.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def problems(folder: Path, text: str | bytes, known: list[str] | None = None) -> list[str]:
    with pytest.raises(TraceInvalid) as caught:
        trace.read(file(folder, text), known)
    return [line.removeprefix(f"{folder}/") for line in caught.value.problems]


def test_a_trace_is_read_in_order_of_arrival_from_second_zero(tmp_path: Path) -> None:
    path = file(tmp_path, HEAD + "12.5,b,20,5\n10,a,10,0\n")
    assert trace.read(path) == [Request(0.0, "a", 10, 0), Request(2.5, "b", 20, 5)]


def test_columns_may_come_in_any_order_with_others_between_and_a_byte_order_mark(tmp_path: Path) -> None:
    text = "\ufeffmodel,user,output_tokens,prompt_tokens,arrival\na,eve,5,10,0\n\n"
    assert trace.read(file(tmp_path, text)) == [Request(0.0, "a", 10, 5)]


def test_an_azure_trace_is_read_as_it_is_published(tmp_path: Path) -> None:
    rows = "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n"
    path = file(tmp_path, "TIMESTAMP,ContextTokens,GeneratedTokens\n" + rows)
    assert trace.read(path) == [Request(0.0, "", 374, 44), Request(4.314579, "", 396, 109)]


def test_only_the_first_requests_are_read_if_so_wished(tmp_path: Path) -> None:
    path = file(tmp_path, HEAD + "0,a,1,1\n1,a,1,1\nnonsense\n")
    assert len(trace.read(path, most=2)) == 2


def test_every_wrong_line_is_named_with_its_column(tmp_path: Path) -> None:
    rows = (
        "0,a,10,5\nsoon,a,10,5\n1,a,0,5\n2,a,10,-1\n3,a,10\n4,z,10,5\n5,a,1e3,5\n6,a,10,99999999\nnan,a,1,1\n"
    )
    found = problems(tmp_path, HEAD + rows, ["a"])
    assert [line.split(": ")[0] for line in found] == [f"trace.csv:{n}" for n in range(3, 11)]
    assert found[0].endswith("arrival: 'soon' is no number of seconds from 0 on")
    assert found[1].endswith("prompt_tokens: '0' is no whole number from 1 to 10000000")
    assert found[3].endswith("output_tokens is missing: 3 of 4 columns are there")
    assert found[4].endswith("model: the registry has no 'z'")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "trace.csv:1: expected the columns arrival,model,prompt_tokens,output_tokens or TIMESTAMP"),
        ("when,who\n1,2\n", "not when,who"),
        (HEAD, "there is no request in it"),
        (HEAD + '0,"a,1,1\n', "this is no CSV"),
        (HEAD.encode() + b"0,\xff,1,1\n", "no text in UTF-8"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,1,1\n", "'yesterday' is no date and time"),
    ],
    ids=["empty", "other-columns", "no-rows", "open-quote", "bytes", "no-date"],
)
def test_a_file_that_is_no_trace_is_refused_in_plain_words(tmp_path: Path, text: str, words: str) -> None:
    assert words in problems(tmp_path, text)[0]


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.csv"):
        with pytest.raises(TraceInvalid, match="cannot be read"):
            trace.read(path)


def test_a_file_full_of_mistakes_tells_only_the_first_ones(tmp_path: Path) -> None:
    assert len(problems(tmp_path, HEAD + "x\n" * 1000)) == trace.MAX_PROBLEMS


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    work = [Request(0.0, "a", 10, 5), Request(1.25, "b,c", 20, 0)]
    trace.write(tmp_path / "t.csv", work)
    assert trace.read(tmp_path / "t.csv") == work


def test_a_stretched_trace_comes_more_slowly() -> None:
    assert trace.stretched([Request(0.0, "a", 1, 1), Request(3.0, "a", 1, 1)], 10)[1].at == 30.0


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_trace_or_refused(tmp_path_factory: pytest.TempPathFactory, rest: bytes) -> None:
    path = file(tmp_path_factory.mktemp("trace"), HEAD.encode() + rest)
    try:
        assert trace.read(path)
    except TraceInvalid as error:
        assert all(line.startswith(str(path)) for line in error.problems)
