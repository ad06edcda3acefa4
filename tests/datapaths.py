"""A data path with one service, in this process alone."""

from __future__ import annotations

import asyncio

from canaryproxy.config import Config
from canaryproxy.control.settings import first_table
from canaryproxy.measure import counters
from canaryproxy.measure.shared_memory import ServiceCells, TableCell
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
    table = TableCell()
    table.publish(first_table(config))
    service = Service(
        "default", config, counters.slots(list(config.judge.outcomes), {}), cells, table
    )
    made = DataPath(config, [service], loop or asyncio.get_running_loop(), cells.worker, log)
    return made, made.services["default"]
