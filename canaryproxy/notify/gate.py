"""Promotion gates: webhooks that must respond 2xx in time before a step begins."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping, Sequence
from time import time
from typing import Any, NamedTuple

from canaryproxy.config import Gate
from canaryproxy.config.json_text import encode
from canaryproxy.config.secrets import SecretError, SecretSource
from canaryproxy.notify import signature
from canaryproxy.notify.outgoing import Client, NoResponse, shown


class GateResult(NamedTuple):
    """The result of asking every gate."""

    passed: bool
    cause: str
    """Each gate's response in plain words."""


class Gates:
    """The gates of a release. ``clock`` returns seconds since the epoch for the signature."""

    def __init__(self, gates: Sequence[Gate], clock: Callable[[], float] = time) -> None:
        self._gates = tuple(
            (gate, SecretSource(gate.secret_env, gate.secret_file)) for gate in gates
        )
        self._clock = clock

    async def ask(self, question: Mapping[str, Any]) -> GateResult:
        """Ask every gate at once; passed if each responds 2xx within its timeout, or if there is none.

        Raises nothing but ``CancelledError``, and takes no longer than the longest timeout.
        """
        if not self._gates:
            return GateResult(True, "no gate is configured")
        body = encode(question)
        message_id = f"msg_{uuid.uuid4().hex}"
        async with Client() as client:
            results = await asyncio.gather(
                *(
                    self._ask(client, gate, secret, message_id, body)
                    for gate, secret in self._gates
                ),
                return_exceptions=True,
            )
        # An unforeseen exception is a refusal. Its text may contain a secret, its type does not.
        known = [
            result
            if isinstance(result, GateResult)
            else GateResult(
                False, f"{shown(gate.webhook)} could not be asked ({type(result).__name__})"
            )
            for (gate, _), result in zip(self._gates, results, strict=True)
        ]
        passed = all(result.passed for result in known)
        causes = (result.cause for result in known if result.passed is passed)
        return GateResult(passed, "; ".join(causes))

    async def _ask(
        self, client: Client, gate: Gate, secret: SecretSource, message_id: str, body: bytes
    ) -> GateResult:
        name = shown(gate.webhook)
        try:
            async with asyncio.timeout(gate.timeout):
                keys = await client.in_thread(
                    f"key of {gate.webhook}", signature.webhook_keys, secret
                )
                headers = signature.headers(keys, message_id, int(self._clock()), body)
                headers["X-Canaryproxy-Event"] = "gate"
                response = await client.post(
                    gate.webhook, body, headers, gate.timeout, excerpt=True
                )
        except SecretError as error:
            return GateResult(False, f"{name} was not asked: {error}")
        except NoResponse as error:
            return GateResult(False, f"{name} {error}")
        except TimeoutError:
            return GateResult(False, f"{name} did not respond within {gate.timeout:g} s")
        return GateResult(response.ok, f"{name} {response}")
