"""The operator's rules as values."""

from __future__ import annotations

from router.domain.models import LocalModel
from router.domain.routes import Route


def test_what_says_nothing_never_leaves_this_machine() -> None:
    assert Route("r", ("a",)).cloud == "never"
    assert LocalModel("a", "/a").cloud == "never"
    assert LocalModel("a", "/a").fallback == ()


def test_where_requests_may_go_forces_no_new_process() -> None:
    assert (
        LocalModel("a", "/a", cloud="fallback", fallback=("b",)).fingerprint
        == LocalModel("a", "/a").fingerprint
    )
