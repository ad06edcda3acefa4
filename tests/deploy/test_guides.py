"""What the guides in docs/ name is there: commands, flags, keys, files, targets, ports, images."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from canaryproxy import config
from canaryproxy.cli import ALIASES, COMMANDS, command_named
from canaryproxy.config import advice
from canaryproxy.importing import KINDS, convert
from tests.deploy.dockerfile import ROOT, stages

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
GUIDES = [
    DOCS / name
    for name in ("deploy.md", "first-release.md", "playbook.md", "migrating.md", "operations.md")
]


def by_name(page: Path) -> str:
    return page.name


def blocks(page: Path, language: str) -> list[str]:
    """The blocks of a language, without the indent of a list."""
    found = re.findall(
        rf"^( *)```{language}\n(.*?)^\1```$", page.read_text(), re.MULTILINE | re.DOTALL
    )
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


def commands(page: Path) -> Iterator[list[str]]:
    """Every use of canaryproxy in a page, in blocks and in running text, as words."""
    text = page.read_text()
    spoken = re.findall(r"`((?:\.venv/bin/)?canaryproxy [^`]+)`", text)
    lines = re.sub(r"\\\n\s*", " ", "\n".join(blocks(page, "sh"))).splitlines()
    for line in [*lines, *(" ".join(one.split()) for one in spoken)]:
        found = re.search(r"(?:^|[\s/(])canaryproxy ([a-z].*)$", line)
        if not found or (
            re.match(r"docker|kubectl|make|cp|sed", line.strip()) and ("exec" not in line)
        ):
            continue
        rest = re.split(r" (?:\|\||&&|[|>]) ?", found[1].replace(" || {", ""))[0]
        yield shlex.split(rest.rstrip(";:,."), comments=True)


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_every_command_and_option_exists(page: Path) -> None:
    for words in commands(page):
        if words[0] == "canaryproxy":  # docker exec NAME canaryproxy COMMAND
            words = words[1:]
        if words[0] not in COMMANDS and words[0] not in ALIASES:
            assert words[0] in ("COMMAND", "check/run"), f"canaryproxy {' '.join(words)}"
            continue
        command = command_named(ALIASES.get(words[0], words[0]))
        options = {
            name: option
            for option in command.params
            if isinstance(option, click.Option)
            for name in option.opts
        }
        for word in words[1:]:
            if word.startswith("-") and len(word) > 1:
                name = word.partition("=")[0]
                assert name in options or name == "--help", f"canaryproxy {' '.join(words)}"


def is_ours(value: Any) -> bool:
    return isinstance(value, dict) and "variants" in value


@pytest.mark.parametrize("page", GUIDES, ids=by_name)
def test_every_configuration_of_ours_is_valid(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STABLE_HOST", "CANARY_HOST", "RELEASE_ID"):
        monkeypatch.setenv(name, name.lower().replace("_", "-"))
    for text in blocks(page, "yaml"):
        values = list(yaml.safe_load_all(text))
        assert all(isinstance(value, dict) for value in values)
        if any(map(is_ours, values)):
            found = config.parse(text, file=page.name)
            if page.name != "first-release.md":
                assert not config.warnings(found)


def tool_sections() -> list[str]:
    about, *sections = (DOCS / "migrating.md").read_text().split("\n## ")[1:]
    assert about.startswith("Import\n")
    assert len(sections) == 6
    return sections


def test_each_tool_is_shown_beside_ours() -> None:
    for section in tool_sections():
        configurations = re.findall(r"^```(\w+)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
        assert len(configurations) == 2, section.partition("\n")[0]
        assert (
            not is_ours(yaml.safe_load(configurations[0][1]))
            if (configurations[0][0] == "yaml" and "---" not in configurations[0][1])
            else True
        )
        assert is_ours(yaml.safe_load(configurations[1][1]))


SAME = {
    "nginx": {"listen", "variants", "split"},
    "ingress-nginx": {"variants", "split"},
    "envoy": {"listen", "variants", "split"},
    "traefik": {"variants", "split"},
    "argo": {"variants"},
    "flagger": {"variants"},
}
"""What the page says by hand as the import does; a plan by hand is a better one."""


def test_each_tool_is_imported_as_the_page_says() -> None:
    kinds = set()
    for section in tool_sections():
        (_, theirs), (_, ours) = re.findall(
            r"^```(\w+)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL
        )
        done = convert([("ingress.yaml", theirs)], lambda _: [])
        kinds.add(done.kind)
        found, said = config.parse(done.text, file="import"), config.parse(ours, file="page")
        for key in SAME[done.kind]:
            assert getattr(found, key) == getattr(said, key), (done.kind, key)
        assert (found.release is None) == (said.release is None)
        if "prints:" in section:
            assert done.text == ours
        if done.kind == "argo":
            assert found.release is not None
            assert said.release is not None
            assert found.release.steps == said.release.steps
            assert found.judge.guard_rails == said.judge.guard_rails
        if done.kind == "flagger":
            assert found.release is not None
            assert said.release is not None
            assert found.release.gates == said.release.gates
    assert kinds == set(KINDS) == set(SAME)


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
def test_nginx_takes_its_configuration(tmp_path: Path) -> None:
    (text,) = blocks(DOCS / "migrating.md", "nginx")
    path = tmp_path / "nginx.conf"
    path.write_text(
        f"pid {tmp_path}/pid; error_log {tmp_path}/error.log;\nevents {{}}\n"
        f"http {{ access_log off; {text} }}\n"
    )
    done = subprocess.run(
        ["nginx", "-t", "-c", path, "-p", tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_envoy_takes_its_configuration(tmp_path: Path) -> None:
    envoy = Path(sys.executable).with_name("envoy")
    if not envoy.exists():
        pytest.skip("envoy is not installed")
    (text,) = [one for one in blocks(DOCS / "migrating.md", "yaml") if "weighted_clusters" in one]
    (tmp_path / "envoy.yaml").write_text(text)
    done = subprocess.run(
        [envoy, "--mode", "validate", "-c", tmp_path / "envoy.yaml", "-l", "error"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_every_file_and_target_that_is_named_exists(page: Path) -> None:
    text = page.read_text()
    for name in re.findall(
        r"(?<![\w./-])((?:config|docs|bench|canaryproxy|tests)/[a-z_][\w./-]*)", text
    ):
        path = name.rstrip(".,:")
        assert "RESULTS" in name or any(
            (folder / path).exists() for folder in (ROOT, ROOT / "canaryproxy", ROOT / "tests")
        ), f"{page.name}: {name}"
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([a-z-]+)[^`]*`", text):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page.name}: make {target}"


KEYS = re.compile(
    r"`((?:admin|split|release|judge|rescue|mirror|limits|forwarded|reload|access_log|trace)"
    r"\.[a-z_]+(?:\.[a-z_]+)*)`"
)


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_every_key_that_is_named_exists(page: Path) -> None:
    schema = config.schema()

    def below(node: dict[str, Any], name: str) -> list[dict[str, Any]]:
        found = []
        for one in (node, *node.get("anyOf", ()), *node.get("oneOf", ())):
            if "$ref" in one:
                one = schema["$defs"][one["$ref"].rpartition("/")[2]]
            if one.get("type") == "array":
                found += below(one["items"], name)
            if name in one.get("properties", {}):
                found.append(one["properties"][name])
        return found

    for key in KEYS.findall(page.read_text()):
        nodes = [schema]
        for name in key.split("."):
            nodes = [child for node in nodes for child in below(node, name)]
            assert nodes, f"{page.name}: {key}"


def test_the_image_that_deploy_describes() -> None:
    text = (DOCS / "deploy.md").read_text()
    final = stages()[1]
    values = {line.name: line.value for line in final}
    assert f"| user | {values['USER']}," in text
    assert f"`{values['WORKDIR']}`, the working folder" in text
    assert f"| ports | {' and '.join(values['EXPOSE'].split())} " in text
    default = config.parse("variants: {stable: {endpoints: [http://a:1]}}", file="x")
    assert f"`limits.drain_timeout` ({default.limits.drain_timeout:g}s)" in text
    mounted = re.findall(r"--volume \S+:(/\S+?)(?::ro)?(?= |$)", text)
    assert mounted == ["/etc/canaryproxy/canaryproxy.yaml", values["WORKDIR"]]


def test_the_playbook_says_what_check_warns_of() -> None:
    text = " ".join((DOCS / "playbook.md").read_text().split())
    assert f"`check` warns of a first weight above {advice.BIG_FIRST_STEP:g}%" in text
    assert advice.SHORT_BAKE == 5 * 60
    assert "`check` warns of less than five minutes" in text


def test_the_readme_leads_to_every_page() -> None:
    found: set[Path] = set()
    ahead = [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page in found or not page.is_file():
            continue
        found.add(page)
        links = re.findall(r"\]\(([^)#:]+\.md)[)#]", page.read_text())
        ahead += [(page.parent / link).resolve() for link in links]
    assert set(DOCS.glob("*.md")) <= found
