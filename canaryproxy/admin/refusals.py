"""Problems of the admin API for changes that the proxy refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from canaryproxy.admin.problem import Problem
from canaryproxy.config import ConfigError
from canaryproxy.config.errors import dotted
from canaryproxy.control.service import Stale, Unavailable, Unsaved
from canaryproxy.release import rollout


@contextmanager
def refusals(etag: Callable[[], str], *, of_config: bool = False) -> Iterator[None]:
    """Turn the exceptions of a change into problems; ``etag`` returns the present version.

    ``of_config``: the change is one of the configuration file.
    """
    try:
        yield
    except rollout.Refused as error:
        raise Problem(409, str(error)) from None
    except Stale as error:
        raise Problem(412, str(error), headers={"ETag": f'"{etag()}"'}) from None
    except Unavailable as error:
        raise Problem(503, str(error), headers={"Retry-After": "1"}) from None
    except Unsaved as error:
        raise Problem(507, str(error)) from None
    except ConfigError as error:
        raise _invalid_config(error) from None
    except OSError as error:
        if not of_config:
            raise
        raise Problem(409, f"cannot read or write the configuration file: {error}") from None


def _invalid_config(error: ConfigError) -> Problem:
    errors = [
        {
            "path": dotted(one.path),
            "line": one.line,
            "column": one.column,
            "message": one.message,
        }
        for one in error.problems
    ]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return Problem(422, f"{error.problems[0]}{more}", errors=errors)
