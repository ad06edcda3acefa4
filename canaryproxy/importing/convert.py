"""The kind of a source, and its importer."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from canaryproxy.config.errors import ConfigError, shown
from canaryproxy.importing import argo, envoy, flagger, ingress_nginx, nginx, traefik
from canaryproxy.importing.draft import Draft, finished, merged
from canaryproxy.importing.fields import Field, Place, from_toml, from_yaml, whole
from canaryproxy.importing.nginx_syntax import Directive, ReadFiles, parse
from canaryproxy.importing.shares import SeveralSplits, Wanted

Importer = Callable[[list[Field], Wanted, Draft], None]
KINDS: Final = {
    "nginx": "nginx (split_clients, upstream)",
    "ingress-nginx": "ingress-nginx (canary annotations)",
    "flagger": "Flagger (Canary)",
    "argo": "Argo Rollouts (Rollout)",
    "traefik": "Traefik (weighted services)",
    "envoy": "Envoy (weighted clusters)",
}
"""The kinds of sources, with their names for people."""
_IMPORTERS: Final[dict[str, tuple[Callable[[Field], bool], Importer]]] = {
    "flagger": (flagger.is_one, flagger.convert),
    "argo": (argo.is_one, argo.convert),
    "ingress-nginx": (ingress_nginx.is_one, ingress_nginx.convert),
    "traefik": (traefik.is_one, traefik.convert),
    "envoy": (envoy.is_one, envoy.convert),
}
MOST_SPLITS: Final = 200
"""Splits that become services; each is read by itself."""
_LONGEST: Final = 57
"""Characters of a service's name without its number."""
_TOML = re.compile(r"(?m)^\s*\[{1,2}\s*(?:http|tcp|udp|tls|providers|entryPoints)\b[^\n\]]*\]")


@dataclass(frozen=True, slots=True)
class Imported:
    """A configuration of ours."""

    text: str
    kind: str
    notes: int
    """How many things have no equivalent, or behave differently."""


def convert(
    sources: Sequence[tuple[str, str]],
    read_files: ReadFiles,
    kind: str | None = None,
    wanted: Wanted = Wanted(),  # noqa: B008 - a frozen value
) -> Imported:
    """Return the configuration that files (name and text) of another tool describe.

    Raises ``ConfigError`` with file and line of what cannot be imported.
    """
    source = _read(sources, read_files, kind)
    try:
        draft = source.draft(wanted)
    except SeveralSplits as several:
        if wanted.canary is not None or len(several.names) > MOST_SPLITS:
            raise
        named = zip(several.names, service_names(several.names), strict=True)
        draft = merged([source.draft(Wanted(name), service) for name, service in named])
    return Imported(finished(draft, "import"), source.kind, len(draft.notes))


@dataclass(frozen=True, slots=True)
class _Source:
    """The parsed files, and the tool whose configuration they are."""

    kind: str
    folder: str
    directives: Sequence[Directive] = ()
    documents: Sequence[Field] = ()

    def draft(self, wanted: Wanted, service: str | None = None) -> Draft:
        """Return the draft of one split; ``service`` is its name among several."""
        if service is not None:  # another split may have been read before
            for directive in self.directives:
                directive.forget()
            for document in self.documents:
                document.forget()
        draft = Draft(KINDS[self.kind], self.folder, service=service)
        if self.kind == "nginx":
            nginx.convert(list(self.directives), wanted, draft)
        else:
            _IMPORTERS[self.kind][1](list(self.documents), wanted, draft)
        return draft


def _read(sources: Sequence[tuple[str, str]], read_files: ReadFiles, kind: str | None) -> _Source:
    folder = sources[0][0].rpartition("/")[0]
    folder = f"{folder}/" if folder else ""
    texts = [(name, whole(text.removeprefix("\ufeff"), name)) for name, text in sources]
    if kind is None and any(nginx.is_nginx(text) for _, text in texts):
        kind = "nginx"
    if kind == "nginx":
        directives: list[Directive] = []
        for name, text in texts:
            directives += parse(text, name, read_files)
        if not directives:
            raise _empty(texts[0][0], kind)
        return _Source(kind, folder, directives=directives)
    documents: list[Field] = []
    for name, text in texts:
        is_toml = name.endswith(".toml") or _TOML.search(text) is not None
        documents += from_toml(text, name) if is_toml else from_yaml(text, name)
    if not documents:
        raise _empty(texts[0][0], kind)
    return _Source(kind or _recognised(documents), folder, documents=documents)


def service_names(names: Sequence[str]) -> list[str]:
    """Return names of services for those of splits: small letters, digits and ``-``, each once."""
    found: list[str] = []
    for name in names:
        label = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        label = label.removesuffix("-canary")[:_LONGEST].strip("-") or "service"
        number = 2
        once = label
        while once in found:
            once = f"{label}-{number}"
            number += 1
        found.append(once)
    return found


def _empty(file: str, kind: str | None) -> ConfigError:
    expected = ", ".join(KINDS) if kind is None else kind
    return Place(file, 1, 1).error(f"expected a configuration of {expected}; found an empty file")


def _recognised(documents: list[Field]) -> str:
    found = [kind for kind, (is_one, _) in _IMPORTERS.items() if any(map(is_one, documents))]
    if {"flagger", "argo"} <= {*found}:
        raise documents[0].place.error(
            "found a Canary of Flagger and a Rollout of Argo; choose one with --from flagger or --from argo"
        )
    if found:
        return found[0]
    kinds = ", ".join(KINDS)
    seen = "; ".join(_described(one) for one in documents[:5])
    raise documents[0].place.error(
        f"expected a configuration of {kinds}; found {seen}. --from KIND says which it is"
    )


def _described(document: Field) -> str:
    if not isinstance(document.value, dict):
        return shown(document.value)
    kind = document.get("kind")
    if kind is not None:
        return f"kind {shown(kind.value)}"
    keys = ", ".join(list(document.value)[:5])
    return f"a mapping of {keys}"
