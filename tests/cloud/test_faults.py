"""What went wrong at an upstream, in our words."""

from __future__ import annotations

import json

import pytest

from router.cloud import faults
from router.cloud.addresses import AddressRefused, NoAddress
from router.domain.errors import UpstreamRefused, UpstreamUnavailable


def refusal(
    status: int, body: object = None, headers: dict[str, str] | None = None, key: str | None = None
) -> object:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return faults.of_status("big", status, headers or {}, raw, key, now=0.0)


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (301, "setup"),
        (307, "setup"),
        (401, "setup"),
        (402, "setup"),
        (403, "setup"),
        (404, "setup"),
        (408, "status"),
        (425, "status"),
        (429, "rate_limited"),
        (500, "status"),
        (503, "status"),
        (504, "timeout"),
        (524, "timeout"),
        (529, "status"),
        (600, "status"),
    ],
)
def test_what_is_not_the_requests_fault_is_for_the_next_candidate(status: int, reason: str) -> None:
    error = refusal(status)
    assert isinstance(error, UpstreamUnavailable)
    assert (error.upstream, error.reason) == ("big", reason)
    assert "big" in error.message


@pytest.mark.parametrize("status", [400, 413, 415, 422, 451])
def test_what_is_the_requests_fault_is_relayed(status: int) -> None:
    error = refusal(status, {"error": {"message": "bad seed", "type": "t", "code": 7, "param": "seed"}})
    assert isinstance(error, UpstreamRefused)
    assert (error.status, error.message, error.type, error.code, error.param) == (
        status,
        "bad seed",
        "t",
        "7",
        "seed",
    )


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"\xff", b"[1]", b'"x"', b"[" * 10_000, b'{"error": {"message": {}}}']
)
def test_a_refusal_without_words_gets_plain_ones(body: bytes) -> None:
    error = refusal(400, body)
    assert isinstance(error, UpstreamRefused)
    assert (error.message, error.type) == ("big refused the request (400).", "invalid_request_error")


@pytest.mark.parametrize("body", [{"error": "no"}, {"message": "no"}, {"error": {"message": "no"}}])
def test_words_are_found_where_servers_put_them(body: object) -> None:
    error = refusal(400, body)
    assert isinstance(error, UpstreamRefused)
    assert error.message == "no"


def test_words_of_others_are_one_short_printable_line_without_our_key() -> None:
    assert (
        faults.clean("a\n\x1b[31mb\u202e sk-canary " + "x" * 5000, "sk-canary")[:20] == "a [31mb [key] xxxxxx"
    )
    assert len(faults.clean("x" * 5000, None)) == faults.MAX_WORDS
    error = refusal(
        400, {"error": {"message": "sk-canary", "code": "sk-canary", "type": "sk-canary"}}, key="sk-canary"
    )
    assert isinstance(error, UpstreamRefused)
    assert "canary" not in f"{error.message} {error.code} {error.type} {error.param}"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after": "Thu, 01 Jan 1970 00:01:00 GMT"}, 60.0),
        ({"retry-after": "-5"}, 0.0),
        ({"retry-after": "1e9"}, 86_400.0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({}, None),
    ],
)
def test_retry_after_is_read_in_all_its_forms(headers: dict[str, str], seconds: float | None) -> None:
    error = refusal(429, headers=headers)
    assert isinstance(error, UpstreamUnavailable)
    assert error.retry_after == seconds


@pytest.mark.parametrize("told", [{"message": "overloaded"}, "overloaded"])
def test_an_error_with_a_good_status_is_one_all_the_same(told: object) -> None:
    error = faults.of_error_object("big", told, None)
    assert (error.message, error.reason) == ("big failed: overloaded", "status")


def test_a_failure_keeps_its_cause() -> None:
    with pytest.raises(UpstreamUnavailable, match=r"big was slow\.") as caught:
        with faults.named("big", lambda: "was slow"):
            raise TimeoutError
    assert isinstance(caught.value.__cause__, TimeoutError)


def test_a_fault_of_ours_is_not_blamed_on_the_upstream() -> None:
    with pytest.raises(KeyError):
        with faults.named("big", lambda: ""):
            raise KeyError("ours")


@pytest.mark.parametrize(
    ("error", "reason", "inside"),
    [
        (AddressRefused("box.internal is a public address"), "address", "box.internal"),
        (NoAddress("the name box.internal cannot be looked up"), "connect", "box.internal"),
        (OSError(2, "No such file", "/etc/box/ca.pem"), "tls", "ca_file"),
    ],
)
def test_hosts_certificates_and_files_are_for_the_operator(
    error: Exception, reason: str, inside: str
) -> None:
    with pytest.raises(UpstreamUnavailable) as caught, faults.named("big", lambda: ""):
        raise error
    assert caught.value.reason == reason
    assert inside not in caught.value.message
    assert inside in caught.value.__notes__[0]
