"""The slots of the shared memory, and the services that have them.

A service keeps its slot as long as it is configured: over reloads, over restarts of the control process and
over hot restarts, as the published configuration says where it is. The slot of a service that is gone goes to
another one only when every worker has taken a configuration without it, and has nothing in flight there; it
is cleared then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from canaryproxy.config.text import count
from canaryproxy.measure.shared_memory import MOST_SERVICES, Block, Configured
from canaryproxy.release.rollout import Refused


class Slots:
    """The slots of a block; ``in_force`` is the configuration that is published there, if there is one."""

    def __init__(self, block: Block, in_force: Configured | None) -> None:
        self._block = block
        self._by_name: dict[str, int] = {}
        self._left: dict[int, int] = {}
        """Slots that may hold what is left of a service, and a configuration without that service."""
        if in_force is not None:
            self._by_name = {name: place.slot for name, place in in_force.services.items()}
            free = set(range(MOST_SERVICES)).difference(self._by_name.values())
            self._left = dict.fromkeys(free, in_force.generation)

    @property
    def by_name(self) -> Mapping[str, int]:
        """The slot of each service."""
        return self._by_name

    def plan(self, names: Iterable[str]) -> dict[str, int]:
        """Return a slot for each of these services. Raises ``Refused`` if there are too few for now."""
        wanted = list(names)
        found = {name: self._by_name[name] for name in wanted if name in self._by_name}
        free = iter(self._free())
        for name in wanted:
            if name in found:
                continue
            slot = next(free, None)
            if slot is None:
                raise Refused(
                    f"services.{name}: there is room for {count(MOST_SERVICES)} services, and some that were"
                    " removed still have requests in flight; reload again when they have ended"
                )
            found[name] = slot
        return {name: found[name] for name in wanted}

    def _free(self) -> Iterable[int]:
        taken = set(self._by_name.values())
        for slot in range(MOST_SERVICES):
            if slot not in taken and (
                slot not in self._left or self._block.may_be_reused(slot, self._left[slot])
            ):
                yield slot

    def take(self, names: Iterable[str]) -> dict[str, int]:
        """Give these services slots, and no others; return those that have lost theirs.

        ``published`` is to follow. Raises ``Refused`` as ``plan`` does, and then nothing has changed.
        """
        before, self._by_name = self._by_name, self.plan(names)
        for name, slot in self._by_name.items():
            if before.get(name) != slot and self._left.pop(slot, None) is not None:
                self._block.clear(slot)
        return {name: slot for name, slot in before.items() if name not in self._by_name}

    def published(self, lost: Mapping[str, int], generation: int) -> None:
        """Take note that a configuration without the services ``lost`` is in force."""
        self._left.update(dict.fromkeys(lost.values(), generation))
