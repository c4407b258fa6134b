from __future__ import annotations

from router.api.tenants import tenant
from router.registry.loader import Key

ONE = Key("one", "a" * 64, ("*",))
TWO = Key("two", "b" * 64, ("*",))


def test_without_a_key_all_are_one():
    assert tenant(None) == ""


def test_each_key_is_a_tenant_of_its_own_and_its_id_tells_nothing_of_it():
    ids = {tenant(ONE), tenant(TWO)}
    assert len(ids) == 2
    assert tenant(ONE) == tenant(Key("renamed", "A" * 64, ()))
    assert not any(word in id for id in ids for word in ("one", "two", ONE.sha256[:8], TWO.sha256[:8]))


def test_a_client_can_divide_its_own_and_reach_nobody_elses():
    said = [tenant(ONE, [word]) for word in (b"a", b"b")]
    assert len({*said, tenant(ONE), tenant(TWO), tenant(TWO, [b"a"]), tenant(None, [b"a"])}) == 6
    assert tenant(TWO, [tenant(ONE).encode()]) != tenant(ONE)
