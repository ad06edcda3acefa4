"""The reading half of PyYAML; its writing half and its C extension are imported when something uses them."""

from __future__ import annotations

from canaryproxy.deferred import defer

defer("yaml")

from yaml.composer import Composer, ComposerError  # noqa: E402
from yaml.error import Mark, MarkedYAMLError  # noqa: E402
from yaml.loader import SafeLoader  # noqa: E402
from yaml.nodes import MappingNode, Node, ScalarNode  # noqa: E402
from yaml.reader import ReaderError  # noqa: E402
from yaml.resolver import Resolver  # noqa: E402

__all__ = (
    "Composer",
    "ComposerError",
    "MappingNode",
    "Mark",
    "MarkedYAMLError",
    "Node",
    "ReaderError",
    "Resolver",
    "SafeLoader",
    "ScalarNode",
)
