from __future__ import annotations

import typing

import pytest

from router.domain.news import Freed, News, Progress, Stuck


@pytest.mark.parametrize("value", [Progress(0.5), Freed({"gpu0": 1}), Stuck()], ids=repr)
def test_news_are_values_of_one_union(value: News) -> None:
    assert type(value) in typing.get_args(News)
    assert value == type(value)(**{f: getattr(value, f) for f in value.__struct_fields__})
    for field in value.__struct_fields__:
        with pytest.raises(AttributeError):
            setattr(value, field, None)
