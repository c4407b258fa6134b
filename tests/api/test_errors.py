"""Each error has its row, its envelope and its headers."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from router.api import errors
from router.api.errors import (
    TABLE,
    BadHttp,
    BadKey,
    BodyTooLarge,
    BodyTooSlow,
    ForeignPage,
    HeadTooLarge,
    HeadTooSlow,
    NoSuchPath,
    NotAllowed,
    RateLimited,
    TooManyConnections,
    WrongHost,
    WrongMethod,
)
from router.api.naming import Hidden
from router.domain import errors as domain


def leaves(kind: type[domain.RouterError] = domain.RouterError) -> Iterator[type[domain.RouterError]]:
    children = kind.__subclasses__()
    if not children and kind.__module__.startswith("router."):
        yield kind
    for child in children:
        yield from leaves(child)


def test_every_leaf_of_the_error_tree_has_a_row_of_its_own() -> None:
    # Only what can reach the wire: the rooms' own errors for operators never do.
    ours = {kind for kind in leaves() if kind.__module__ in ("router.domain.errors", "router.api.errors")}
    assert ours - TABLE.keys() == set()
    assert {domain.QueueFull, domain.DoesNotFit, domain.UnknownModel, BadKey} <= ours


CASES = [
    (domain.InvalidRequest("no", "seed"), 400, "invalid_request_error", None, "seed"),
    (domain.UnknownModel("x"), 404, "invalid_request_error", "model_not_found", "model"),
    (domain.ContextOverflow(10, 20), 400, "invalid_request_error", "context_length_exceeded", "messages"),
    (domain.LeaseTimeout("x", 3), 503, "server_error", "model_loading", None),
    (domain.QueueFull("x", 3), 429, "rate_limit_error", "queue_full", None),
    (domain.DoesNotFit("x"), 503, "server_error", "insufficient_vram", None),
    (domain.DoesNotFitNow("x"), 503, "server_error", "insufficient_vram_now", None),
    (domain.LoadFailed("x"), 503, "server_error", "model_load_failed", None),
    (domain.WorkerCrashed("x"), 502, "server_error", "worker_crashed", None),
    (domain.WorkerStopped("x"), 503, "server_error", "worker_stopped", None),
    (domain.ShuttingDown("x"), 503, "server_error", "shutting_down", None),
    (domain.ModelBusy("x", 2), 409, "invalid_request_error", "model_busy", None),
    (domain.UpstreamRefused("x", "big", 422, "bad", "why", "seed"), 422, "bad", "why", "seed"),
    (domain.UpstreamUnavailable("x", "big", "status"), 503, "server_error", "upstream_unavailable", None),
    (domain.OverBudget("x", "big", "day", 9.0), 429, "insufficient_quota", "over_budget", None),
    (domain.SpendUnknown("x", "big"), 503, "server_error", "spend_unknown", None),
    (domain.UpstreamBroken("x", "big"), 502, "server_error", "upstream_broken", None),
    (domain.PolicyRefused("x", "big"), 403, "permission_error", "cloud_forbidden", None),
    (domain.RegistryInvalid(["x"]), 422, "invalid_request_error", "registry_invalid", None),
    (BadKey("x"), 401, "authentication_error", "invalid_api_key", None),
    (NotAllowed("x"), 403, "permission_error", "model_not_allowed", None),
    (WrongHost("x"), 421, "invalid_request_error", "wrong_host", None),
    (ForeignPage("x"), 403, "permission_error", "origin_not_allowed", None),
    (BodyTooLarge("x"), 413, "invalid_request_error", "request_too_large", None),
    (BadHttp("x"), 400, "invalid_request_error", "bad_http", None),
    (HeadTooLarge("x"), 431, "invalid_request_error", "headers_too_large", None),
    (HeadTooSlow("x"), 408, "invalid_request_error", "request_timeout", None),
    (TooManyConnections("x", 1), 503, "server_error", "too_many_connections", None),
    (NoSuchPath("x"), 404, "invalid_request_error", "not_found", None),
    (WrongMethod("GET", "/x", ("POST",)), 405, "invalid_request_error", "method_not_allowed", None),
    (ValueError("secret"), 500, "server_error", "internal_error", None),
]


@pytest.mark.parametrize(("error", "status", "type_", "code", "param"), CASES, ids=lambda v: type(v).__name__)
def test_the_answer_has_its_status_and_all_four_fields(
    error: Exception, status: int, type_: str, code: str | None, param: str | None
) -> None:
    answer = errors.response(error, "r1")
    assert answer.status_code == status
    body = json.loads(bytes(answer.body))["error"]
    assert body.keys() == {"message", "type", "param", "code"}
    assert (body["type"], body["code"], body["param"]) == (type_, code, param)


@pytest.mark.parametrize(
    ("seconds", "header"), [(None, "1"), (0.2, "1"), (2.1, "3"), (120, "120"), (9999, "120")]
)
def test_retry_after_is_whole_seconds_up_to_two_minutes(seconds: float | None, header: str) -> None:
    assert errors.response(domain.QueueFull("x", seconds), "r1").headers["retry-after"] == header


FINAL: tuple[Exception, ...] = (
    domain.DoesNotFit("x"),
    domain.LoadFailed("x"),
    domain.ModelRefused("x"),
    domain.OverBudget("x", "big", "day", 9.0),
    *(domain.UpstreamUnavailable("x", "big", reason) for reason in ("setup", "key", "address")),
)
LATER: tuple[Exception, ...] = (
    domain.QueueFull("x", 3),
    domain.LeaseTimeout("x", 3),
    domain.LoadFailed("x", 3),
    domain.DoesNotFitNow("x", 3),
    domain.Unloaded("x", 1),
    domain.ModelBusy("m", 1),
    domain.WorkerCrashed("x", 1),
    domain.WorkerStopped("x", 1),
    domain.ShuttingDown("x"),
    domain.UpstreamUnavailable("x", "big", "status"),
    domain.SpendUnknown("x", "big"),
    domain.UpstreamBroken("x", "big"),
    RateLimited("x", 3),
    BodyTooSlow("x"),
    HeadTooSlow("x"),
    TooManyConnections("x", 1),
    ValueError("unexpected"),
)
"""With one of each row whose status makes clients try again."""


def test_of_each_row_that_invites_a_retry_it_is_known_whether_one_helps() -> None:
    inviting = {kind for kind, row in TABLE.items() if row.status in (408, 409, 429) or row.status >= 500}
    assert inviting <= {type(error) for error in (*FINAL, *LATER)}


@pytest.mark.parametrize("error", FINAL, ids=lambda e: type(e).__name__)
def test_where_no_retry_helps_it_is_said_in_a_header_and_in_a_stream_in_a_comment(error: Exception) -> None:
    headers = errors.response(error, "r1").headers
    assert (headers["x-should-retry"], "retry-after" in headers) == ("false", False)
    assert errors.event(error, "r1").startswith(b": should-retry=false\n\ndata: ")


@pytest.mark.parametrize("error", LATER, ids=lambda e: type(e).__name__)
def test_where_a_retry_may_help_it_is_not_forbidden(error: Exception) -> None:
    assert "x-should-retry" not in errors.response(error, "r1").headers
    assert errors.event(error, "r1").startswith(b"data: ")


def test_what_can_never_fit_says_that_a_retry_is_pointless() -> None:
    headers = errors.response(domain.DoesNotFit("x"), "r1").headers
    assert headers["x-should-retry"] == "false"
    assert "retry-after" not in headers


def test_an_upstream_that_is_down_says_when_to_come_back_and_a_spent_budget_that_it_is_no_use() -> None:
    down = errors.response(domain.UpstreamUnavailable("x", "big", "rate_limited", 7), "r1").headers
    assert down["retry-after"] == "7"
    spent = errors.response(domain.OverBudget("x", "big", "day", 9.0), "r1").headers
    assert spent["x-should-retry"] == "false"
    assert "retry-after" not in spent


def test_a_wrong_method_names_the_right_ones() -> None:
    assert errors.response(WrongMethod("PUT", "/x", ("GET", "HEAD")), "r1").headers["allow"] == "GET, HEAD"


def test_an_unexpected_error_tells_its_request_and_nothing_of_itself() -> None:
    text = bytes(errors.response(KeyError("/secret"), "r1").body).decode()
    assert "r1" in text
    assert "secret" not in text


@pytest.mark.parametrize("kind", [domain.LoadFailed, domain.WorkerCrashed, domain.WorkerStopped])
def test_what_befell_a_worker_is_for_the_log_and_a_client_gets_the_fact(
    kind: type[domain.RouterError],
) -> None:
    error = kind("The worker m#1 died: exited with code 3; its last words: /srv/m.gguf is cut off")
    text = bytes(errors.response(error, "r1").body).decode()
    assert not any(word in text for word in ("m#1", "exited", "code 3", "words", "/srv"))
    assert "request r1" in text
    assert errors.inside(error) == error.message


def test_what_a_client_can_act_on_is_told_as_it_is_but_for_files() -> None:
    fact = domain.DoesNotFit("m needs 5 GiB and can have 4 GiB at most: /srv/models/m.gguf.")
    text = bytes(errors.response(fact, "r1").body).decode()
    assert "m needs 5 GiB and can have 4 GiB at most: (a file)." in text
    assert errors.inside(fact) is None


def test_names_that_a_client_may_not_read_are_others_in_its_errors() -> None:
    error = domain.QueueFull("3 requests wait for secret.gguf already, not for secret or a/secret.", 3)
    hidden = Hidden({"secret": "pub", "secret.gguf": "pub"})
    text = bytes(errors.response(error, "r1", hidden).body).decode()
    assert "3 requests wait for pub already, not for pub or a/pub." in text


def test_an_error_in_a_stream_has_the_same_envelope() -> None:
    event = errors.event(domain.WorkerCrashed("it died"), "r1")
    assert event.startswith(b"data: ") and event.endswith(b"\n\n")
    assert json.loads(event[6:])["error"]["code"] == "worker_crashed"


def test_only_messages_that_name_models_are_told_with_other_names() -> None:
    def told(error: Exception) -> str | None:
        return errors.envelope(error, "r", Hidden({"chat": "nick"}))["error"]["message"]

    assert told(domain.InvalidRequest("The chat template refused.")) == "The chat template refused."
    assert told(domain.UnknownModel("chat")) == "The model 'chat' does not exist."
    assert told(domain.InvalidRequest("'chat' is not running.", names_model=True)) == "'nick' is not running."
    assert told(domain.QueueFull("Too many wait for chat.")) == "Too many wait for nick."
    assert told(domain.UpstreamBroken("chat fell silent.", "chat")) == "nick fell silent."
