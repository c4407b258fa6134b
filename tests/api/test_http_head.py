from __future__ import annotations

import h11
import pytest

from router.api.http_head import MAX_HEAD, Parser

LINE = b"GET / HTTP/1.1\r\nhost: localhost\r\n"
POST = b"POST / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n"


def read(data: bytes) -> list[h11.Event]:
    parser = Parser(h11.SERVER, MAX_HEAD)
    parser.receive_data(data)
    events = []
    while (event := parser.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
        events.append(event)
    return events


@pytest.mark.parametrize(
    "head",
    [
        POST + b"content-length: 3\r\n",
        POST.replace(b"1.1", b"1.0"),
        POST.replace(b"chunked", b"gzip, chunked"),
        LINE + b"content-length: 1\r\ncontent-length: 2\r\n",
        LINE + b"content-length: +1\r\n",
        LINE + b"content-length : 1\r\n",
        LINE + b"x: a\rtransfer-encoding: chunked\r\n",
        LINE + b"x: a\x00\r\n",
        LINE.replace(b"GET /", b"GET http://user@localhost/"),
        LINE.replace(b"GET /", b"GET http:///v1/models"),
    ],
)
def test_what_two_readers_could_read_in_two_ways_is_refused(head: bytes) -> None:
    with pytest.raises(h11.RemoteProtocolError):
        read(head + b"\r\n")


def test_a_head_and_trailers_are_bounded_even_if_they_come_in_one_piece() -> None:
    big = b"x: " + b"a" * 70_000 + b"\r\n\r\n"
    for data in (LINE + big, POST + b"\r\n0\r\n" + big, b"GET /" + b"a" * 70_000 + LINE[5:] + b"\r\n"):
        with pytest.raises(h11.RemoteProtocolError) as refused:
            read(data)
        assert refused.value.error_status_hint == 431
    assert read(LINE + b"x: " + b"a" * 60_000 + b"\r\n\r\n")


@pytest.mark.parametrize(
    ("target", "seen", "host"),
    [
        (b"http://Box:8080/v1/models?a=b", b"/v1/models?a=b", b"Box:8080"),
        (b"HTTPS://box", b"/", b"box"),
        (b"http://box?x", b"/?x", b"box"),
        (b"/http://box/x", b"/http://box/x", b"localhost"),
        (b"ftp://box/x", b"ftp://box/x", b"localhost"),
    ],
)
def test_a_target_that_names_its_host_is_served_as_that_host(target: bytes, seen: bytes, host: bytes) -> None:
    request = read(LINE.replace(b"/ HTTP", target + b" HTTP") + b"\r\n")[0]
    assert isinstance(request, h11.Request)
    assert (request.target, dict(request.headers)[b"host"]) == (seen, host)
