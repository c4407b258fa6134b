"""
A name that a client sent -> the model that answers.

The one rule: pure look-ups in one registry generation; the request keeps the model that it got here.
"""

from __future__ import annotations

import difflib

from router.domain.errors import UnknownModel
from router.domain.models import LocalModel
from router.registry.loader import Registry

LONGEST_NAME = 200
"""Characters. Longer names are not compared with the known ones: difflib is quadratic."""


def resolve(registry: Registry, name: str) -> LocalModel:
    """The model of this name or alias. Raises UnknownModel with the nearest names, best first."""
    model = registry.models.get(registry.aliases.get(name, name))
    if model is None:
        raise UnknownModel(name[:LONGEST_NAME], _close(registry, name))
    return model


def _close(registry: Registry, name: str) -> list[str]:
    known = [*registry.models, *registry.aliases]
    if len(name) > LONGEST_NAME:
        return []
    lowered = {k.lower(): k for k in known}
    near = difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.5)
    return [lowered[n] for n in near]
