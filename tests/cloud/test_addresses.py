"""Where an upstream really is."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from router.cloud.addresses import Addresses, AddressRefused, NoAddress, is_public


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "192.0.2.1",
        "::1",
        "::",
        "fe80::1%eth0",
        "fd00::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::",
        "2001:db8::1",
        "nonsense",
        "",
    ],
)
def test_an_address_that_is_not_routed_on_the_internet_is_private_however_it_is_written(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"])
def test_what_the_internet_routes_is_public(address: str) -> None:
    assert is_public(address)


class Names:
    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


async def test_a_mixed_answer_leaves_only_what_may_be_used() -> None:
    names = Names(["10.0.0.1", "8.8.8.8"])
    assert await Addresses(names).of("x.test", 443, private=False) == ("8.8.8.8",)
    assert await Addresses(names).of("x.test", 443, private=True) == ("10.0.0.1", "8.8.8.8")
    assert await Addresses(names).of("x.test", 80, private=True, public=False) == ("10.0.0.1",)


async def test_a_name_that_leads_inside_is_refused() -> None:
    with pytest.raises(AddressRefused, match="not public"):
        await Addresses(Names(["127.0.0.1"])).of("x.test", 443, private=False)


async def test_a_number_is_not_looked_up_and_judged_all_the_same() -> None:
    names = Names([])
    with pytest.raises(AddressRefused):
        await Addresses(names).of("127.0.0.1", 443, private=False)
    assert await Addresses(names).of("[::1]", 443, private=True) == ("::1",)
    assert names.asked == 0


async def test_an_answer_is_kept_for_a_minute_and_judged_each_time() -> None:
    now = 0.0
    names = Names(["8.8.8.8"], ["127.0.0.1"])
    addresses = Addresses(names, clock=lambda: now)
    assert await addresses.of("x.test", 443, private=False) == ("8.8.8.8",)
    now = 59.0
    assert await addresses.of("x.test", 443, private=False) == ("8.8.8.8",)
    now = 60.0
    with pytest.raises(AddressRefused):
        await addresses.of("x.test", 443, private=False)
    assert names.asked == 2


async def test_a_name_that_nobody_knows_is_told_so() -> None:
    async def unknown(host: str, port: int) -> Sequence[str]:
        raise OSError("no such name")

    with pytest.raises(NoAddress, match=r"x\.test cannot be looked up"):
        await Addresses(unknown).of("x.test", 443, private=False)
    with pytest.raises(NoAddress, match="has no address"):
        await Addresses(Names([])).of("x.test", 443, private=False)


async def test_the_system_knows_localhost() -> None:
    assert "127.0.0.1" in await Addresses().of("localhost", 80, private=True)
