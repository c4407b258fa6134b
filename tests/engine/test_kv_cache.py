from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from router.engine.kv_cache import KvCache


def tokens(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8).astype(np.int32)


def used(cache: KvCache, text: str) -> int:
    """A prompt that came and went; returns its slot."""
    slot, cached = cache.take(tokens(text))
    slot.length = cached
    slot.append(tokens(text)[cached:])
    cache.release(slot)
    return slot.index


def test_a_prompt_that_goes_on_gets_the_slot_of_its_beginning():
    cache = KvCache(slots=3, context=100)
    first = used(cache, "once upon a time")
    used(cache, "quite another thing")
    slot, cached = cache.take(tokens("once upon a time there was"))
    assert (slot.index, cached) == (first, len("once upon a time"))


def test_the_last_token_of_a_prompt_is_always_computed():
    cache = KvCache(slots=1, context=100)
    used(cache, "hello")
    _, cached = cache.take(tokens("hello"))
    assert cached == 4


def test_a_stranger_gets_an_empty_slot_before_a_used_one():
    cache = KvCache(slots=2, context=100)
    first = used(cache, "hello")
    slot, cached = cache.take(tokens("bye"))
    assert slot.index != first
    assert cached == 0


def test_without_an_empty_slot_a_stranger_gets_the_one_unused_for_longest():
    cache = KvCache(slots=2, context=100)
    oldest = used(cache, "aaaa")
    used(cache, "bbbb")
    slot, _ = cache.take(tokens("cccc"))
    assert slot.index == oldest


def holding(*lengths: int) -> KvCache:
    """A slot for each length, used in that order."""
    cache = KvCache(len(lengths), context=2000)
    for slot, length in zip(cache.slots, lengths, strict=True):
        slot.append(np.full(length, 7, np.int32))
        cache.release(slot)
    return cache


def test_strangers_gather_beside_each_other():
    cache = holding(10, 10, 10, 10, 10, 10)
    cache.slots[3].busy = True
    places = [cache.take(tokens("stranger"))[0].index for _ in range(5)]
    assert places == [2, 1, 0, 4, 5]  # of two neighbours the one unused for longer


def test_an_empty_slot_further_off_is_no_better_than_a_neighbour_that_holds_little():
    cache = holding(0, 0, 0, 10, 0)
    cache.slots[4].busy = True
    assert cache.take(tokens("stranger"))[0].index == 3


def test_a_long_conversation_is_not_lost_for_a_place_in_the_row():
    cache = holding(10, 900, 900, 900)
    cache.slots[2].busy = True
    assert cache.take(tokens("stranger"))[0].index == 0


def test_a_beginning_that_is_there_goes_before_a_place_in_the_row():
    cache = holding(10, 10, 10, 400)
    cache.slots[0].busy = True
    slot, cached = cache.take(np.full(300, 7, np.int32))
    assert (slot.index, cached) == (3, 299)


def test_a_shared_greeting_does_not_cost_somebody_their_long_conversation():
    cache = KvCache(slots=2, context=1000)
    long = used(cache, "system: be kind. " + "x" * 500)
    slot, _ = cache.take(tokens("system: be kind. something else"))
    assert slot.index != long


def test_an_answer_asked_for_again_rewinds_its_own_slot():
    cache = KvCache(slots=2, context=1000)
    first = used(cache, "q" * 300 + "a" * 400)
    slot, cached = cache.take(tokens("q" * 300 + "?"))
    assert (slot.index, cached) == (first, 300)


def test_a_busy_slot_is_not_given_away():
    cache = KvCache(slots=1, context=100)
    slot, _ = cache.take(tokens("a"))
    assert cache.take(tokens("a")) is None
    assert cache.busy == 1
    cache.release(slot)
    assert cache.take(tokens("a")) is not None


def test_cells_count_what_free_slots_still_hold():
    cache = KvCache(slots=2, context=100)
    used(cache, "hello")
    used(cache, "bye")
    assert cache.cells_used == 8


@given(st.lists(st.text("ab", min_size=1, max_size=8), min_size=1, max_size=20))
def test_what_is_found_in_a_slot_is_really_the_beginning_of_the_prompt(prompts):
    cache = KvCache(slots=2, context=20)
    for prompt in prompts:
        slot, cached = cache.take(tokens(prompt))
        assert cached < len(prompt)
        assert slot.tokens[:cached].tolist() == tokens(prompt)[:cached].tolist()
        slot.length = cached
        slot.append(tokens(prompt)[cached:])
        cache.release(slot)


def test_what_another_tenant_left_is_worth_nothing():
    cache = KvCache(slots=1, context=100)
    prompt = tokens("a secret question")
    slot, _ = cache.take(prompt, "one")
    slot.append(prompt)
    cache.release(slot)
    slot, cached = cache.take(prompt, "two")
    assert (slot.index, cached) == (0, 0)


def test_a_slot_of_ones_own_is_found_beside_equal_ones_of_others():
    cache = KvCache(slots=3, context=100)
    prompt = tokens("a common question")
    for tenant in ("one", "two", "three"):
        slot, _ = cache.take(prompt, tenant)
        slot.append(prompt)
        cache.release(slot)
    slot, cached = cache.take(prompt, "two")
    assert (slot.index, cached) == (1, len(prompt) - 1)
