"""The configuration while the proxy runs: compared, applied as far as can be, and never by half."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic

import pytest

from canaryproxy import config
from canaryproxy.config import Config, ConfigError
from canaryproxy.control.reload import NEEDS_RESTART, Change, Reloader, Stale, differences, live
from canaryproxy.release.rollout import Refused

BASE = """
variants: {stable: {endpoints: ["http://127.0.0.1:1"]}, canary: {endpoints: ["http://127.0.0.1:2"]}}
"""


def parse(text: str) -> Config:
    return config.parse(BASE + text, file="f")


@pytest.mark.parametrize(
    ("old", "new", "paths"),
    [
        ("", "", []),
        ("", "limits: {idle_timeout: 1s}", ["limits.idle_timeout"]),
        ("split: {weight: 1}", "split: {weight: 2}", ["split.weight"]),
        ("", "split: {sticky: {cookie: a, set: false}}", ["split.sticky.cookie", "split.sticky.set"]),
        (
            "release: {id: a, steps: [{weight: 1}, {weight: 100}]}",
            "release: {id: a, steps: [{weight: 2}, {weight: 100}]}",
            ["release.steps[0].weight"],
        ),
        (
            "release: {id: a, steps: [{weight: 1}]}",
            "release: {id: b, steps: [{weight: 1}, {weight: 9}]}",
            ["release.id", "release.steps"],
        ),
        ("", "release: {id: a, steps: [{weight: 1}]}", ["release"]),
        (
            "judge: {outcomes: {a: {when: {status: 404}}}}",
            "judge: {outcomes: {b: {when: {status: 404}}}}",
            ["judge.outcomes.a", "judge.outcomes.b"],
        ),
        ("", "access_log: {}", ["access_log"]),
    ],
)  # fmt: skip
def test_differences_are_paths_of_the_file(old: str, new: str, paths: list[str]) -> None:
    assert list(differences(parse(old), parse(new))) == paths
    assert sorted(differences(parse(new), parse(old))) == sorted(paths)


def test_what_needs_a_restart_stays() -> None:
    running = parse("listen: 127.0.0.1:1000\nworkers: 1")
    wanted = parse("listen: 127.0.0.1:2000\nworkers: 2\nlimits: {idle_timeout: 1s}\nstate: other")
    kept = live(running, wanted)
    assert differences(running, kept) == ("limits.idle_timeout",)
    assert {path.partition(".")[0].partition("[")[0] for path in differences(kept, wanted)} <= set(
        NEEDS_RESTART
    )


class World:
    """A reloader of a file that the test writes."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        if not path.exists():
            path.write_text(BASE + text)
        self.applied: list[Config] = []
        self.notes: list[tuple[str, str]] = []
        self.refuses: str | None = None
        self.now = 1000.0
        self.reloader = Reloader(
            path,
            parse(text),
            self.check,
            self.applied.append,
            lambda what, cause, _figures: self.notes.append((what, cause)),
            lambda: self.now,
        )

    def check(self, _wanted: Config) -> None:
        if self.refuses is not None:
            raise Refused(self.refuses)

    def write(self, text: str) -> None:
        self.path.write_text(BASE + text)


def test_a_reload_applies_what_changed_and_says_so(tmp_path: Path) -> None:
    world = World(tmp_path / "c.yaml", "split: {weight: 1}")
    assert world.reloader.reload() == Change((), ())
    assert (world.applied, world.notes) == ([], [])
    world.write("split: {weight: 7}\nworkers: 3")
    world.now = 2000.0
    assert world.reloader.reload() == Change(("split.weight",), ("workers",))
    assert [made.split.weight for made in world.applied] == [7]
    assert (world.applied[0].workers, world.reloader.running.workers) == (1, 1)
    assert world.reloader.restart_needed == ("workers",)
    assert world.reloader.loaded_at == 2000.0
    assert world.notes == [("reload", "split.weight; a restart is needed for workers")]
    world.write("split: {weight: 7}")
    assert world.reloader.reload() == Change((), ())
    assert not world.reloader.restart_needed
    assert len(world.applied) == 1


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("split: {weight: 700}", "c.yaml:3:17: split.weight"),
        ("split: {wait: 7}", "split.wait"),
        ("split: [", "c.yaml"),
    ],
)
def test_an_invalid_file_changes_nothing(tmp_path: Path, text: str, why: str) -> None:
    world = World(tmp_path / "c.yaml", "split: {weight: 1}")
    world.write(text)
    with pytest.raises(ConfigError):
        world.reloader.reload()
    world.reloader.try_reload()
    assert why in (world.reloader.error or "")
    assert world.applied == []
    assert [what for what, _ in world.notes] == ["reload_failed"]  # once, however often it is read
    world.write("split: {weight: 1}")
    world.reloader.try_reload()
    assert world.reloader.error is None
    assert [what for what, _ in world.notes] == ["reload_failed", "reload"]


def test_why_a_file_is_refused_shows_no_secret(tmp_path: Path) -> None:
    world = World(tmp_path / "c.yaml", "")
    world.write("notify: [{webhook: 'hooks.example/T0/secret'}]")
    world.reloader.try_reload()
    assert "notify[0].webhook" in (world.reloader.error or "")
    assert "secret" not in (world.reloader.error or "")


def test_a_file_that_cannot_be_read_changes_nothing(tmp_path: Path) -> None:
    world = World(tmp_path / "c.yaml", "")
    (tmp_path / "c.yaml").unlink()
    with pytest.raises(OSError, match="No such file"):
        world.reloader.reload()
    assert "No such file" in (world.reloader.error or "")
    world.path.write_bytes(b"\xff\xfe")
    world.reloader.try_reload()
    assert "UTF-8" in (world.reloader.error or "")
    assert world.applied == []


async def test_what_the_release_refuses_changes_nothing(tmp_path: Path) -> None:
    world = World(tmp_path / "c.yaml", "split: {weight: 1}")
    world.refuses = "the release is on step 3"
    world.write("split: {weight: 2}")
    with pytest.raises(Refused):
        world.reloader.reload()
    before = world.path.read_text()
    with pytest.raises(Refused):
        await world.reloader.put(BASE + "split: {weight: 3}")
    assert world.path.read_text() == before
    assert world.applied == []


async def test_put_writes_the_file_and_keeps_its_mode_and_its_link(tmp_path: Path) -> None:
    real = tmp_path / "real.yaml"
    link = tmp_path / "c.yaml"
    real.write_text(BASE + "split: {weight: 1}")
    real.chmod(0o640)
    link.symlink_to(real)
    world = World(link, "split: {weight: 1}")
    text = BASE + "split: {weight: 2}"
    etag = world.reloader.etag
    assert (await world.reloader.put(text, dry_run=True)).changed == ("split.weight",)
    assert world.applied == []
    assert (await world.reloader.put(text, if_match=lambda mark: mark == etag)).changed == (
        "split.weight",
    )
    assert real.read_text() == text
    assert real.stat().st_mode & 0o777 == 0o640
    assert link.is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["c.yaml", "real.yaml"]  # noqa: PTH208
    with pytest.raises(Stale):
        await world.reloader.put(text, if_match=lambda mark: mark == etag)
    with pytest.raises(ConfigError):
        await world.reloader.put("split: 5")


async def test_put_does_not_overwrite_an_edit_that_was_not_loaded(tmp_path: Path) -> None:
    world = World(tmp_path / "c.yaml", "split: {weight: 1}")
    world.write("split: {weight: 7}")
    with pytest.raises(Stale, match="has been edited since it was read; reload it first"):
        await world.reloader.put(BASE + "split: {weight: 2}")
    assert "weight: 7" in world.path.read_text()
    assert world.applied == []


async def test_put_cannot_show_the_environment_of_the_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RELEASE_ID", "cart-1")
    monkeypatch.setenv("SECRET", "hush")
    there = "release: {id: '${RELEASE_ID}', steps: [{weight: 1}]}\n"
    world = World(tmp_path / "c.yaml", there)
    assert (await world.reloader.put(BASE + there + "split: {weight: 2}")).changed
    for text in (
        there.replace("RELEASE_ID", "SECRET"),
        there + "notify: [{webhook: 'http://127.0.0.1:1/${RELEASE_ID}'}]",
    ):
        with pytest.raises(Refused, match="is not in the present file") as caught:
            await world.reloader.put(BASE + text, dry_run=True)
        assert "hush" not in str(caught.value)


async def test_two_who_put_on_what_both_saw_do_not_overwrite_each_other(tmp_path: Path) -> None:
    world = World(tmp_path / "c.yaml", "split: {weight: 1}")
    etag = world.reloader.etag
    results = await asyncio.gather(
        *(
            world.reloader.put(f"{BASE}split: {{weight: {weight}}}", if_match=lambda m: m == etag)
            for weight in (2, 3, 4)
        ),
        return_exceptions=True,
    )
    assert sorted(type(result).__name__ for result in results) == ["Change", "Stale", "Stale"]
    assert len(world.applied) == 1


async def test_put_where_nothing_can_be_written_applies_nothing(tmp_path: Path) -> None:
    world = World(tmp_path / "c.yaml", "split: {weight: 1}")
    (tmp_path / f".c.yaml.{os.getpid()}.tmp").mkdir()  # what is written beside cannot be
    with pytest.raises(OSError):  # noqa: PT011 - the text is the system's
        await world.reloader.put(BASE + "split: {weight: 2}")
    assert world.applied == []
    assert "weight: 1" in world.path.read_text()


@asynccontextmanager
async def watched(world: World) -> AsyncIterator[None]:
    task = asyncio.create_task(world.reloader.watch())
    try:
        yield
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], object]) -> None:
    end = monotonic() + 20
    while not condition():
        assert monotonic() < end
        await asyncio.sleep(0.02)


WATCH = "reload: {watch: true}\n"


async def test_a_watched_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    world = World(tmp_path / "c.yaml", WATCH)
    async with watched(world):
        world.write(WATCH + "split: {weight: 2}")
        await until(lambda: world.applied)
        beside = tmp_path / "c.new"
        beside.write_text(BASE + WATCH + "split: {weight: 3}")
        beside.replace(world.path)  # as editors do
        await until(lambda: len(world.applied) == 2)
        world.write(WATCH + "split: {weight: ")
        await until(lambda: world.reloader.error)
        world.path.unlink()
        await until(lambda: "No such file" in (world.reloader.error or ""))
        world.write(WATCH + "split: {weight: 3}")
        await until(lambda: world.reloader.error is None)
    assert [made.split.weight for made in world.applied] == [2, 3]


async def test_a_config_map_is_read_again_when_its_links_are_swapped(tmp_path: Path) -> None:
    def version(name: str, text: str) -> None:
        (tmp_path / name).mkdir()
        (tmp_path / name / "c.yaml").write_text(BASE + text)

    version("..1", WATCH)
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "c.yaml").symlink_to("..data/c.yaml")
    world = World(tmp_path / "c.yaml", WATCH)
    async with watched(world):
        for number in (2, 3):
            version(f"..{number}", f"{WATCH}split: {{weight: {number}}}")
            (tmp_path / "..tmp").symlink_to(f"..{number}")
            (tmp_path / "..tmp").rename(tmp_path / "..data")
            await until(lambda: len(world.applied) == number - 1)  # noqa: B023
    assert [made.split.weight for made in world.applied] == [2, 3]
