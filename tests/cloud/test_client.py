"""The cloud as the rooms above see it."""

from __future__ import annotations

import pytest

from router.cloud.calls import CloudCall
from router.cloud.client import Cloud
from router.domain.errors import PolicyRefused, UpstreamUnavailable
from router.domain.upstreams import Upstream

NOBODY = Upstream("nobody", "http://127.0.0.1:9/v1", "m", allow_private=True)


async def test_what_may_not_leave_is_refused_before_a_connection_is_tried() -> None:
    async with Cloud() as cloud:
        with pytest.raises(PolicyRefused, match="may not leave"):
            async with cloud.open(NOBODY, CloudCall("chat/completions", {}, private=True)):
                raise AssertionError("opened")


async def test_nobody_there_is_unavailable() -> None:
    async with Cloud() as cloud:
        with pytest.raises(UpstreamUnavailable) as caught:
            async with cloud.open(NOBODY, CloudCall("chat/completions", {})):
                raise AssertionError("opened")
    assert (caught.value.upstream, caught.value.reason) == ("nobody", "connect")
