"""The operator's rules as values."""

from __future__ import annotations

from router.domain.routes import Route
from tests.local import local_model


def test_what_says_nothing_never_leaves_this_machine() -> None:
    assert Route("r", ("a",)).cloud == "never"
    assert local_model("a", "/a").cloud == "never"
    assert local_model("a", "/a").fallback == ()


def test_where_requests_may_go_forces_no_new_process() -> None:
    assert (
        local_model("a", "/a", cloud="fallback", fallback=("b",)).fingerprint
        == local_model("a", "/a").fingerprint
    )
