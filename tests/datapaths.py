"""Data paths in this process alone: with one service, or with all services of a configuration."""

from __future__ import annotations

import asyncio

from canaryproxy.config import Config
from canaryproxy.control.settings import first_table
from canaryproxy.measure import counters
from canaryproxy.measure.shared_memory import OutCell, ServiceCells, TableCell, WorkerCells
from canaryproxy.proxy.access_log import AccessLog
from canaryproxy.proxy.datapath import DataPath
from canaryproxy.proxy.service_path import Service, ServicePath


def data_path(
    config: Config,
    cells: ServiceCells,
    loop: asyncio.AbstractEventLoop | None = None,
    log: AccessLog | None = None,
) -> tuple[DataPath, ServicePath]:
    """Return a data path by a configuration of one service, and that service."""
    made = Services(config, cells.worker, loop, log, alone=cells)
    return made.datapath, made.datapath.services["default"]


class Services:
    """A data path and the cells of its services, which a reload keeps."""

    def __init__(
        self,
        config: Config,
        worker: WorkerCells | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
        log: AccessLog | None = None,
        alone: ServiceCells | None = None,
    ) -> None:
        self.worker = worker or WorkerCells()
        self._made: dict[str, Service] = {}
        self._alone = alone
        self._slots = 0
        services = self._services(config)
        loop = loop or asyncio.get_running_loop()
        self.datapath = DataPath(config, services, loop, self.worker, log)

    def reconfigure(self, config: Config) -> None:
        """Serve by another configuration; what a service that comes back counted is another one's."""
        self.datapath.reconfigure(config, self._services(config))

    def __getitem__(self, name: str) -> ServicePath:
        return self.datapath.services[name]

    def _services(self, config: Config) -> list[Service]:
        before, self._made = self._made, {}
        for name, one in config.by_service().items():
            known = before.get(name)
            outcomes = counters.slots(list(one.judge.outcomes), {})
            if known is None:
                cells = self._alone or ServiceCells(None, self.worker, self._slots)
                self._slots += 1
                cells.hold()
                table, outs = TableCell(), OutCell()
                table.publish(first_table(one))
            else:
                cells, table, outs = known.cells, known.table, known.outs
            place = config.services.get(name)
            self._made[name] = Service(name, one, place, outcomes, cells, table, outs)
        return list(self._made.values())
