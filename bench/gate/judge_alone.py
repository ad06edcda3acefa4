"""A server that only judges what ``records.Recorder`` sends: ``python -m bench.gate.judge_alone PORT``.

It listens when it has learnt from stable and judged the first records of a step, so that what is sent to it
costs what a record costs in the middle of one.
"""

from __future__ import annotations

import socket
import sys
from array import array

from bench.gate.records import (
    A_TICK,
    DONE,
    EPOCH,
    LENGTH_BYTES,
    NAMES,
    SERVED,
    TINY,
    WEIGHT,
    Traffic,
)
from bench.harness.ports import HOST
from canaryproxy.judging.judge import Judge
from canaryproxy.judging.settings import BusinessRule, JudgeSettings, OutcomeRule
from canaryproxy.judging.verdict import Sample

_LEARNT = 1500
_JUDGED = 2700
"""Records of stable before the step, and records of the step before it listens."""
_TICK_SECONDS = 0.1


class Release:
    """A release whose judge gets a tick of records at a time."""

    def __init__(self) -> None:
        settings = JudgeSettings(
            steps=(float(WEIGHT),),
            warmup=0.0,
            business=BusinessRule(slot=SERVED.bit_length() - 1, outcome="served"),
            outcomes=(OutcomeRule("tiny", slot=TINY.bit_length() - 1),),
        )
        self._judge = Judge(settings)
        self._now = 0.0
        traffic = Traffic()
        for count, weight in ((_LEARNT, 0), (_JUDGED, WEIGHT)):
            for _ in range(count // A_TICK):
                self.take(traffic.words(A_TICK, weight), weight)

    def take(self, words: array[int], weight: int = WEIGHT) -> None:
        """Judge the records of a tick, given by their words."""
        self._now += _TICK_SECONDS
        raw = {"requests": (0, 0)}
        self._judge.observe(self._now, Sample(raw, raw, words, weight * 100, EPOCH, NAMES))


def serve(port: int) -> None:
    """Judge what comes over one connection after the other, until the process is ended."""
    release = Release()
    with socket.create_server((HOST, port)) as listener:
        while True:
            connection, _ = listener.accept()
            with connection, connection.makefile("rb") as reader:
                while head := reader.read(LENGTH_BYTES):
                    words = array("Q", reader.read(int.from_bytes(head, "little")))
                    release.take(words)
                    connection.sendall(DONE)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
