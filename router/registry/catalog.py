"""
The live registry: which generation holds now, and what becomes of an edit.

The one rule: an edit that makes things worse is refused and changes nothing, unless it is forced; a start serves what
it can.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import watchfiles

from router.domain.errors import RegistryInvalid
from router.domain.models import FileIdentity, LocalModel
from router.registry import files, fit
from router.registry.document import MAX_BYTES
from router.registry.loader import Registry
from router.telemetry import logger

log = logger("registry")

POLL_SECONDS = 1.0
SETTLE_SECONDS = 0.1
_SETTLE_ROUNDS = 20

_FORCE = "to apply it all the same, run: router reload --force"

Report = Callable[[str, tuple[str, ...]], None]
Pause = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Sight:
    """What one look at the disk shows: the text's digest (None = cannot be read) and the models' files."""

    text: bytes | None
    models: tuple[tuple[str, FileIdentity], ...]


class Catalog:
    """`current` is replaced by one assignment; whoever began with a generation keeps it."""

    def __init__(
        self,
        path: Path,
        load: Callable[[Path], Registry],
        refine: Callable[[Registry], Awaitable[Registry]],
        apply: Callable[[Registry], None],
        report: Report = lambda outcome, lines: None,
        pause: Pause = asyncio.sleep,
    ) -> None:
        """
        `load` runs in a thread and raises RegistryInvalid; `refine` makes footprints exact; `apply` tells the
        house of an edit. `report` is told each outcome: "applied" with warnings, or "refused" with problems.
        """
        self._path = path
        self._load = load
        self._refine = refine
        self._apply = apply
        self._report = report
        self._pause = pause
        self._current: Registry | None = None
        self._seen: Sight | None = None
        self._applied: bytes | None = None
        """The digest of the text behind `current`."""
        self._force = False
        """What the next reading was asked for."""
        self._unsettled: Sight | None = None
        self._files: dict[str, FileIdentity] = {}
        self._running: asyncio.Future[Registry | RegistryInvalid] | None = None
        self._next: asyncio.Future[Registry | RegistryInvalid] | None = None
        self.refused: tuple[str, ...] = ()
        """Problems of the newest edit if it was refused, else nothing."""

    @property
    def current(self) -> Registry:
        """The generation that holds now."""
        if self._current is None:
            raise RuntimeError("the catalog has not started")
        return self._current

    async def start(self) -> Registry:
        """The first load. Raises RegistryInvalid; models with problems are kept, marked."""
        sight = await asyncio.to_thread(self._look)
        loaded = await asyncio.to_thread(self._load, self._path)
        self._watch_files_of(loaded)
        self._settle(sight)
        registry = self._current = fit.judge(await self._refine(loaded))
        self._applied = sight.text
        _warn(registry.warnings)
        return registry

    async def reload(self, force: bool = False) -> Registry:
        """
        Read the file again and apply it. Raises RegistryInvalid and changes nothing when it is refused.

        `force`: as at a start, what can be served is; only what is wrong in the text itself is refused then.
        One reading at a time: who comes during one shares the next, since only that one sees his edit.
        """
        while True:
            self._force = self._force or force
            mine = self._next
            if mine is None:
                mine = self._next = asyncio.get_running_loop().create_future()
                await self._lead(mine)
            else:
                await asyncio.wait({mine})
            if mine.cancelled():  # whoever led the reading went away before its end
                continue
            match mine.result():
                case RegistryInvalid() as error:
                    raise RegistryInvalid(error.problems)
                case registry:
                    return registry

    async def reread(self, model: LocalModel) -> LocalModel | None:
        """
        The model of now, if its file is another one than when `model` was read; None if it is not, or if it is gone.

        For who could not use `model`: the poll may not have seen yet what lies there. Raises RegistryInvalid.
        """
        now = self.current.models.get(model.name)
        if now is None or now.file != model.file:
            return now
        seen = dict(self._seen.models) if self._seen else {}
        if await asyncio.to_thread(files.glance, Path(model.path)) == seen.get(model.path):
            return None
        log.info("a model's file changed; the registry is read again", model=model.name)
        return (await self.reload()).models.get(model.name)

    async def _lead(self, mine: asyncio.Future[Registry | RegistryInvalid]) -> None:
        try:
            while self._running is not None:
                await asyncio.wait({self._running})
            self._running, self._next = mine, None
            force, self._force = self._force, False
            mine.set_result(await self._attempt(force))
        finally:
            mine.cancel()  # no effect on a future that is done
            self._running = None if self._running is mine else self._running
            if self._next is mine:  # whoever else wants it by force says so again
                self._next, self._force = None, False

    async def _attempt(self, force: bool) -> Registry | RegistryInvalid:
        # Looked at before it is read: what changes while we read is seen by the next look.
        sight = await asyncio.to_thread(self._look)
        try:
            registry = await self._read(force, edited=sight.text != self._applied)
        except RegistryInvalid as error:
            self._settle(sight)
            self._refuse(error)
            return error
        same_text = self._seen is not None and self._seen.text == sight.text
        self._settle(sight)
        self._applied = sight.text
        if registry == self._current and same_text and not self.refused:
            return registry
        self._take(registry)
        return registry

    async def _read(self, force: bool, edited: bool) -> Registry:
        loaded = await asyncio.to_thread(self._load, self._path)
        self._watch_files_of(loaded)
        if force:
            return fit.judge(await self._refine(_keep_unlinked(self.current, loaded)))
        _refuse_broken(self.current, loaded)
        if edited:
            _refuse_worse(self.current, loaded)
        refined = await self._refine(_keep_unlinked(self.current, loaded))
        judged = fit.judge(refined)
        _refuse_broken(self.current, judged)
        if edited:
            _refuse_worse(self.current, judged, refined)
        return judged

    def _settle(self, sight: Sight) -> None:
        # The new registry may name files that the look was not about: those are as they were when read.
        known = self._files | dict(sight.models)
        self._seen = Sight(sight.text, tuple((path, known[path]) for path in self._files))

    def _take(self, registry: Registry) -> None:
        before = self.current.warnings
        self._current = registry
        self.refused = ()
        log.info("registry applied", file=str(self._path), models=len(registry.models))
        _warn(line for line in registry.warnings if line not in before)
        self._report("applied", registry.warnings)
        self._apply(registry)

    def _refuse(self, error: RegistryInvalid) -> None:
        self.refused = error.problems
        log.warning("registry edit refused; the one before it serves on", problems=list(error.problems))
        self._report("refused", error.problems)

    # Watching ---------------------------------------------------------------------------------------------

    async def watch(self) -> None:
        """
        Reload when the file or a model's file changes, until cancelled.

        The directory watch is quick, but blind to bind mounts, NFS and links that lead out; the poll is not.
        """
        nudged = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen(nudged), name="registry-directory-watch")
            tasks.create_task(self._tick(nudged), name="registry-poll")
            while True:
                await nudged.wait()
                nudged.clear()
                await self.notice()

    async def notice(self) -> None:
        """Look once, and reload if what is there is new and at rest."""
        sight = await asyncio.to_thread(self._look)
        if self._seen is not None and sight.text != self._seen.text:
            await self._rest(sight)
            await self._reload_quietly()
        elif sight != self._seen and sight == self._unsettled:
            await self._reload_quietly()
        # A model's file that still grows is let grow: it must look the same twice.
        self._unsettled = sight

    async def _rest(self, sight: Sight) -> None:
        """Editors truncate, then write: wait until two looks agree."""
        for _ in range(_SETTLE_ROUNDS):
            await self._pause(SETTLE_SECONDS)
            before, sight = sight, await asyncio.to_thread(self._look)
            if sight.text == before.text:
                return

    async def _reload_quietly(self) -> None:
        try:
            await self.reload()
        except RegistryInvalid:
            return  # said already
        except Exception:
            # Whatever it was, the old generation serves on and the next edit gets its chance.
            self._seen = await asyncio.to_thread(self._look)
            log.exception("registry reload failed; the one before it serves on")

    async def _listen(self, nudged: asyncio.Event) -> None:
        try:
            async for _ in watchfiles.awatch(self._path.absolute().parent, recursive=False, debounce=200):
                nudged.set()
        except Exception as error:
            log.warning("no directory watch; the registry is polled", reason=str(error))

    async def _tick(self, nudged: asyncio.Event) -> None:
        while True:
            await self._pause(POLL_SECONDS)
            nudged.set()

    def _look(self) -> Sight:
        text: bytes | None = None
        with contextlib.suppress(OSError, ValueError):
            if self._path.is_file():
                with self._path.open("rb") as file:
                    text = hashlib.blake2b(file.read(MAX_BYTES + 1), digest_size=16).digest()
        return Sight(text, tuple((path, files.glance(Path(path))) for path in self._files))

    def _watch_files_of(self, loaded: Registry) -> None:
        """Those of a refused edit, too: the missing file may come."""
        held = self._current.models.values() if self._current else ()
        self._files = {model.path: model.file for model in (*held, *loaded.models.values())}


def _refuse_broken(old: Registry, new: Registry) -> None:
    """A model that is new or was changed must work; one that nobody touched may be as broken as it is."""
    broken = [
        new.say(name, model.problem)
        for name, model in new.models.items()
        if model.problem is not None and (name not in old.models or _rewritten(old, new, name))
    ]
    if broken:
        raise RegistryInvalid(broken)


def _refuse_worse(old: Registry, new: Registry, before_fit: Registry | None = None) -> None:
    """
    The edit of one thing (a budget, a pin, a route) must not break a model that nobody touched and that worked.

    Not counted: a file that is another one by now, and with `before_fit` what was known to be broken there.
    """
    worse = [
        new.say(name, f"this edit makes things worse: {model.problem}; {_FORCE}")
        for name, model in new.models.items()
        if model.problem is not None
        and (before := old.models.get(name)) is not None
        and before.problem is None
        and before.file == model.file
        and (before_fit is None or before_fit.models[name].problem is None)
    ]
    if worse:
        raise RegistryInvalid(worse)


def _keep_unlinked(old: Registry, new: Registry) -> Registry:
    """Deleting a model's file does not stop what runs: the model stays as it was, with a note."""
    kept: dict[str, LocalModel] = {}
    notes: list[str] = []
    for name, model in new.models.items():
        before = old.models.get(name)
        kept[name] = model
        if before is None or before.problem is not None or _rewritten(old, new, name):
            continue
        if model.problem is not None and model.file == files.NO_FILE:
            kept[name] = _with_options(before, model)
            notes.append(new.say(name, "its file is gone; what is in memory serves on"))
    return new.with_models(kept, notes) if notes else new


def _with_options(before: LocalModel, now: LocalModel) -> LocalModel:
    """What runs, with the options that need no new process."""
    return msgspec.structs.replace(
        now,
        path=before.path,
        file=before.file,
        card=before.card,
        engine=before.engine,
        placements=before.placements,
        problem=None,
    )


def _rewritten(old: Registry, new: Registry, name: str) -> bool:
    return old.written.get(name) != new.written.get(name)


def _warn(lines: Iterable[str]) -> None:
    for line in lines:
        log.warning("registry warning", at=line)
