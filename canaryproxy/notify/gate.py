"""Gates: who is asked before a step is left. Whatever is not a yes in time is a no."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping, Sequence
from time import time
from typing import Any, NamedTuple

from canaryproxy.config import Gate
from canaryproxy.notify import message, signature
from canaryproxy.notify.outgoing import Client, Unanswered, shown


class Answer(NamedTuple):
    """What the gates said."""

    passed: bool
    cause: str
    """Which gate answered what, in plain words."""


class Gates:
    """The gates of a release. ``clock`` gives seconds since the epoch for the signature."""

    def __init__(self, gates: Sequence[Gate], clock: Callable[[], float] = time) -> None:
        self._gates = tuple((gate, signature.Secret(gate)) for gate in gates)
        self._clock = clock

    async def ask(self, question: Mapping[str, Any]) -> Answer:
        """Ask every gate at once: passed if each answers 2xx within its timeout.

        Never raises, but for cancellation; takes no longer than the longest timeout. Without gates there is
        nobody to refuse.
        """
        if not self._gates:
            return Answer(True, "no gate is configured")
        body = message.encode(question)
        ident = f"msg_{uuid.uuid4().hex}"
        async with Client() as client:
            answers = await asyncio.gather(
                *(self._ask(client, gate, secret, ident, body) for gate, secret in self._gates),
                return_exceptions=True,
            )
        # What is not foreseen is a no as well; its words might hold a secret, its kind does not.
        said = [
            answer
            if isinstance(answer, Answer)
            else Answer(False, f"{shown(gate.webhook)} cannot be asked ({type(answer).__name__})")
            for (gate, _), answer in zip(self._gates, answers, strict=True)
        ]
        passed = all(answer.passed for answer in said)
        causes = (answer.cause for answer in said if answer.passed is passed)
        return Answer(passed, "; ".join(causes))

    async def _ask(
        self, client: Client, gate: Gate, secret: signature.Secret, ident: str, body: bytes
    ) -> Answer:
        name = shown(gate.webhook)
        try:
            async with asyncio.timeout(gate.timeout):
                keys = await client.in_thread(f"key of {gate.webhook}", secret.keys)
                headers = signature.headers(keys, ident, int(self._clock()), body)
                headers["X-Canaryproxy-Event"] = "gate"
                reply = await client.post(gate.webhook, body, headers, gate.timeout, excerpt=True)
        except signature.SecretError as error:
            return Answer(False, f"{name} was not asked: {error}")
        except Unanswered as error:
            return Answer(False, f"{name} {error}")
        except TimeoutError:
            return Answer(False, f"{name} did not answer within {gate.timeout:g} s")
        return Answer(reply.ok, f"{name} {reply}")
