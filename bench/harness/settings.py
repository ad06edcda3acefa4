"""What the full benchmark is to run."""

from __future__ import annotations

from dataclasses import dataclass

from bench.harness.cores import Cores
from bench.harness.measure import Plan
from bench.loads import Load
from bench.report import goals


@dataclass(frozen=True, slots=True)
class Settings:
    """What to run: peers and loads by name, rounds, seconds a sample, idle connections."""

    peers: tuple[str, ...]
    loads: frozenset[str]
    rounds: int
    seconds: float
    idle: int
    cores: Cores
    weight: float = 10.0

    def plan(self, load: Load) -> Plan:
        return Plan(
            load=load,
            rounds=self.rounds,
            seconds=self.seconds,
            cores=self.cores,
            weight=self.weight,
            more=goals.close(load.name) & {*self.peers},
        )
