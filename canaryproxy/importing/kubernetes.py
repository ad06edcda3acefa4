"""Objects of Kubernetes: their names, and the addresses of Services."""

from __future__ import annotations

from collections.abc import Sequence

from canaryproxy.importing.draft import Draft
from canaryproxy.importing.fields import Field, Place


def is_kind(document: Field, kind: str, *groups: str) -> bool:
    """Tell whether a document is an object of this kind and one of these API groups."""
    if not isinstance(document.value, dict) or "kind" not in document.value:
        return False
    version = document.value.get("apiVersion")
    group = str(version.value).partition("/")[0] if version is not None else ""
    return document.value["kind"].value == kind and (not groups or group in groups)


def name_of(document: Field) -> str:
    """Return the name of an object."""
    return document.need("metadata", "name").text()


def namespace_of(document: Field) -> str:
    """Return the namespace of an object; empty if it has none."""
    found = document.get("metadata", "namespace")
    return "" if found is None else found.text()


def take_metadata(document: Field) -> None:
    """Count as read what says nothing about a split."""
    document.take("apiVersion", "kind", "status")
    metadata = document.get("metadata")
    if metadata is not None:
        metadata.take(*(key for key in metadata.value if key != "annotations"))


def cluster_names(service: str, namespace: str) -> list[str]:
    """Return the names by which clients in the cluster ask for a Service."""
    ends = ("", f".{namespace}", f".{namespace}.svc.cluster.local") if namespace else ("",)
    return [f"{service}{end}" for end in ends]


def endpoint(
    service: str,
    namespace: str,
    port: Field | int | None,
    documents: Sequence[Field],
    draft: Draft,
    place: Place,
    scheme: str = "http",
) -> str:
    """Return the URL of a Service; its port is a number, or is looked up in the Service."""
    host = f"{service}.{namespace}" if namespace else service
    number = port if isinstance(port, int) else _number(service, port, documents)
    if number is None:
        number = 443 if scheme in ("https", "h2") else 80
        what = "the port" if port is None or isinstance(port, int) else f"the port {port.text()}"
        draft.no_equivalent(
            place,
            f"{what} of the Service {service}",
            "the Service is not in this input",
            f"check the port {number}, or pass the Service, too",
        )
    return f"{scheme}://{host}:{number}"


def _number(service: str, port: Field | None, documents: Sequence[Field]) -> int | None:
    if port is not None and port.text().isdigit():
        return int(port.text())
    for one in documents:
        if is_kind(one, "Service") and name_of(one) == service:
            ports = one.need("spec").items("ports")
            for entry in ports:
                named = entry.get("name")
                if port is None or (named is not None and named.text() == port.text()):
                    return int(entry.need("port").number(1, 65535))
    return None


def others(documents: Sequence[Field], read: Sequence[Field], draft: Draft) -> None:
    """Note the objects that nothing has read."""
    for one in documents:
        if any(one is other for other in read) or is_kind(one, "Service"):
            continue
        kind = one.get("kind")
        if kind is None:
            what = "a document without a kind"
        else:
            name = one.get("metadata", "name")
            what = f"{kind.text()} {name.text() if name else ''}".strip()
        draft.not_used(
            one.place, what, "it says nothing about the split", "keep it where it is, or remove it"
        )
