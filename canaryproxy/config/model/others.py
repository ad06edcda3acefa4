"""``variants.others``: each version beside the canary as the canary of a service of its own.

Its users are a range of all users, drawn by a hash of their own, and the version is released and judged among
them alone. So no version takes users from another, and what one does to its users leaves the comparison of
the others as it is. All of them share the chance of a false alarm (``judge.alpha``) evenly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING

from canaryproxy.config.errors import Path, closest, shown
from canaryproxy.config.model.judge import Judge
from canaryproxy.config.model.resilience import Mirror
from canaryproxy.config.model.section import Mistake
from canaryproxy.config.model.service import Service
from canaryproxy.config.model.split import Split
from canaryproxy.config.model.variants import OtherVariant, Variants
from canaryproxy.config.service_names import other_name

if TYPE_CHECKING:
    from canaryproxy.config.model.config import Config


def with_others(services: Mapping[str, Config]) -> dict[str, Config]:
    """Return the configurations of services, followed by one for each of their versions beside the canary."""
    found: dict[str, Config] = {}
    others: dict[str, Config] = {}
    for name, config in services.items():
        found[name] = _divided(name, config) if config.variants.others else config
        others.update(_others(name, config))
    return {**found, **others}


def mistakes(config: Config) -> Iterator[Mistake]:
    """Yield what does not fit versions beside the canary, in a whole file."""
    for (at, split), (of, variants) in _used_together(config):
        others = () if variants is None else tuple(variants.others)
        if others and split.admit == "new_sessions":
            message = (
                "new_sessions is for stable and canary alone: remove variants.others, or admit all"
            )
            yield Mistake(message, (*at, "admit"))
        if others and split.follow is not None:
            message = (
                "a service that follows a front has the front's versions: remove variants.others"
            )
            yield Mistake(message, (*at, "follow"))
        names = ("stable", "canary", *others)
        for number, rule in enumerate(split.match):
            if rule.variant not in names:
                message = f"expected {_one_of(names, rule.variant)}, found {shown(rule.variant)}"
                because_of: Path = (*of, "others", rule.variant)
                yield Mistake(message, (*at, "match", number, "variant"), (because_of,))


def _one_of(names: tuple[str, ...], found: str) -> str:
    listed = f"{', '.join(names[:-1])} or {names[-1]}"
    close = closest(found, names)
    return f"{'one of ' if len(names) > 2 else ''}{listed}" + (
        f" (did you mean {close}?)" if close else ""
    )


def _used_together(
    config: Config,
) -> Iterator[tuple[tuple[Path, Split], tuple[Path, Variants | None]]]:
    """Yield the split and the versions of each service, with their paths."""
    top: Path = ()
    for name, service in config.services.items() or ((None, Service()),):
        own: Path = ("services", name) if name is not None else ()
        yield (
            (
                (*(top if service.split is None else own), "split"),
                service.split or config.split,
            ),
            (
                (*(top if service.variants is None else own), "variants"),
                service.variants or config.variants_,
            ),
        )


def _divided(name: str, config: Config) -> Config:
    """Return the configuration of a service as one of several versions of it."""
    return config.named(name, {"judge": _judge(config), "split": _split(config, {})})


def _judge(config: Config) -> Judge:
    versions = 1 + len(config.variants.others)
    return config.judge.model_copy(update={"alpha": config.judge.alpha / versions})


def _split(config: Config, update: Mapping[str, object]) -> Split:
    """Return the split with other values; caches may keep nothing, as users are divided at all weights."""
    keeps = {"cacheable": "private"} if config.split.cacheable == "auto" else {}
    return config.split.model_copy(update={**keeps, **update})


def _others(service: str, config: Config) -> Iterator[tuple[str, Config]]:
    folder = PurePath(config.state).parent
    if folder.name != "services":
        folder /= "services"
    for version, one in config.variants.others.items():
        name = other_name(service, version)
        yield name, config.derived(name, folder, _sections(config, one))


def _sections(config: Config, one: OtherVariant) -> dict[str, object]:
    """Return the sections in which a version beside the canary differs from its service.

    Its service sets the cookies and applies the match rules.
    """
    sticky = config.split.sticky.model_copy(update={"set_": False})
    split = {"weight": one.weight, "match": (), "salt": None, "sticky": sticky}
    return {
        "variants_": Variants.model_construct(stable=config.variants.stable, canary=one, others={}),
        "split": _split(config, split),
        "release": one.release,
        "judge": _judge(config),
        "mirror": Mirror(),
    }
