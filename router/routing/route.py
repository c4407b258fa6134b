"""
A name that a client sent -> what the registry has under it: a local model, an upstream, or a route.

The one rule: pure look-ups in one registry generation; the request keeps what it got here.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable

from router.domain.errors import InvalidRequest, UnknownModel
from router.domain.models import LocalModel
from router.domain.routes import Route
from router.domain.upstreams import Upstream
from router.registry.loader import Registry

LONGEST_NAME = 200
"""Characters. Longer names are not compared with the known ones: difflib is quadratic."""

Target = LocalModel | Upstream | Route
"""What a client may ask for."""
Candidate = LocalModel | Upstream
"""What can answer."""


def resolve(registry: Registry, name: str, knows: Callable[[str], bool] = lambda name: True) -> Target:
    """
    What has this name or alias. Raises UnknownModel with the nearest names, best first.

    What the client does not know (`knows` of a name or alias) is not there, and not near.
    """
    known = registry.aliases.get(name, name)
    found = registry.models.get(known) or registry.routes.get(known) or registry.upstreams.get(known)
    if found is None or not knows(name):
        raise UnknownModel(name[:LONGEST_NAME], _close(registry, name, knows))
    return found


def local(target: Target) -> LocalModel:
    """For what only a model of this machine can do. Raises InvalidRequest for any other target."""
    if isinstance(target, LocalModel):
        return target
    kind = "a route" if isinstance(target, Route) else "a model beyond this machine"
    words = f"{target.name!r} is {kind}: there is nothing to load or unload here."
    raise InvalidRequest(words, "model", names_model=True)


def as_route(target: Target) -> Route:
    """Who may answer for it. A model's own fallbacks make a route of it; an upstream stands alone."""
    match target:
        case Route():
            return target
        case LocalModel():
            candidates = (target.name, *target.fallback)
            return Route(target.name, candidates, target.aliases, target.cloud, target.spill)
        case Upstream():
            return Route(target.name, (target.name,), cloud="fallback")


def candidates(registry: Registry, route: Route) -> tuple[Candidate, ...]:
    """In the operator's order."""
    found = (registry.models.get(name) or registry.upstreams.get(name) for name in route.candidates)
    return tuple(candidate for candidate in found if candidate is not None)


def _close(registry: Registry, name: str, knows: Callable[[str], bool]) -> list[str]:
    known = [*registry.models, *registry.routes, *registry.upstreams, *registry.aliases]
    if len(name) > LONGEST_NAME:
        return []
    lowered = {k.lower(): k for k in known if knows(k)}
    near = difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.5)
    return [lowered[n] for n in near]
