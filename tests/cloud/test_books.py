"""Sums by upstream, caller, day and month."""

from __future__ import annotations

from router.cloud.books import Books, Entry

TODAY = Entry("big", "alice", "2026-11-24", 5)


def test_what_is_spent_counts_for_the_day_and_the_month_of_one_and_of_all() -> None:
    books = Books([TODAY, Entry("big", "bob", "2026-11-23", 7), Entry("other", "bob", "2026-11-24", 100)])
    assert books.spent(("big", None, "2026-11-24")) == 5
    assert books.spent(("big", None, "2026-11")) == 12
    assert books.spent(("big", "bob", "2026-11")) == 7
    assert books.spent(("big", "bob", "2026-11-24")) == 0


def test_a_reservation_counts_until_it_is_released() -> None:
    books = Books()
    books.reserve(TODAY)
    books.reserve(TODAY)
    books.release(TODAY)
    assert books.held(("big", "alice", "2026-11")) == books.reserved(("big", None, "2026-11-24")) == 5
    books.spend(TODAY)
    assert books.held(("big", None, "2026-11-24")) == 10


def test_callers_without_keys_are_one_account() -> None:
    books = Books([Entry("big", "", "2026-11-24", 5)])
    assert books.spent(("big", None, "2026-11")) == books.spent(("big", "", "2026-11")) == 5


def test_earlier_months_are_forgotten() -> None:
    books = Books([TODAY, Entry("big", "", "2026-10-31", 3)])
    books.forget_before("2026-11")
    assert books.spent(("big", None, "2026-10")) == 0
    assert books.spent(("big", None, "2026-11")) == 5
