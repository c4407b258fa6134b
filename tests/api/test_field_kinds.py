"""What can be said of a field, and how it is written down."""

from __future__ import annotations

from router.api.field_kinds import CHAT, GENERATION, Effect, alias, harmless, honoured, refused


def test_each_word_gives_a_field_of_its_effect() -> None:
    assert honoured("seed", "OLV", 5).effect is Effect.HONOURED
    assert harmless("user", "O", "ada", "a name", CHAT).endpoints == CHAT
    assert alias("n_predict", "L", 2, "max_tokens").note == "max_tokens"
    field = refused("typical_p", "L", 0.5, 1, note="not yet")
    assert (field.effect, field.nothing, field.endpoints) == (Effect.REFUSED, (1,), GENERATION)
