"""Commands against an admin server on a real socket; as processes where a terminal or a signal decides."""

from __future__ import annotations

import asyncio
import getpass
import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from canaryproxy.cli import COMMANDS, SECTIONS, command_named, main, target
from canaryproxy.cli.common import Ended
from canaryproxy.client.text import clean
from tests.cli.fake import (
    Fake,
    command,
    document,
    environment,
    finished,
    line,
    spawn,
    until_followed,
)

ME = getpass.getuser()
HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m[bold red]x[/]\u202egnp\r\nfake: line"

TRIPPED = {
    "state": "tripped", "weight": 0.0,
    "circuit": {"state": "open", "cause": "errors", "trips": 1, "since": 5.0, "drill": False},
}  # fmt: skip
OPERATIONS: list[tuple[list[str], dict[str, Any], str, dict[str, Any], str, bool]] = [
    (["start"], {"state": "aborted"}, "start", {}, "Start cart-2.4: it begins with step 1 of 5, 1%", True),
    (["pause", "--reason", "holidays"], {}, "pause", {"reason": "holidays"}, "Pause cart-2.4: no", False),
    (["resume"], {"ready": True}, "resume", {}, "Resume cart-2.4: 20% of users (about 40 of 200", True),
    (["promote"], {}, "promote", {}, "Promote cart-2.4: 95% of users (about 190 of 200 seen", True),
    (["abort"], {}, "abort", {}, "Abort cart-2.4: 5% of users (about 10 of 200 seen", False),
    (["reset"], TRIPPED, "reset", {}, "Reset cart-2.4: 5% of users (about 10 of 200 seen", True),
    (["trip"], {}, "trip", {}, "Trip cart-2.4: 5% of users", False),
    (["rollback", "looks", "wrong"], {}, "trip", {"cause": "looks wrong"}, "Trip cart-2.4", False),
    (["trip", "looks", "wrong"], {}, "trip", {"cause": "looks wrong"}, "Trip cart-2.4", False),
    (
        ["accept", "errors", "GET", "/old", "--reason", "removed"], {},
        "accept", {"metric": "errors GET /old", "reason": "removed"},
        "Accept errors GET /old: it no longer holds or trips for the rest of the release.", True,
    ),
    (["weight", "10"], {}, "weight", {"weight": 10.0}, "cart-2.4: 5% of users (about 10 of 200", True),
    (["weight", "0.25%"], {}, "weight", {"weight": 0.25}, "next request (5% to 0.25%)", True),
    (["drill", "--yes"], {}, "drill", {}, "5% of users (about 10 of 200 seen in the last minutes) go", True),
]  # fmt: skip
"""What is typed, in which release, what is sent, what is said, and whether it depends on what was seen."""


@pytest.mark.parametrize(("arguments", "changed", "name", "body", "says", "careful"), OPERATIONS)
async def test_a_change_looks_first_and_says_who(
    fake: Fake,
    tmp_path: Path,
    arguments: list[str],
    changed: dict[str, Any],
    name: str,
    body: dict[str, Any],
    says: str,
    careful: bool,
) -> None:
    fake.document = document(**changed)
    done = await command(*arguments, folder=tmp_path)
    assert (done.status, done.err) == (0, "")
    first, *_, last = done.out.splitlines()
    assert says in first
    assert last.startswith(("Done: cart-2.4 is ", "Done: the canary received its last request"))
    (sent,) = fake.changes
    where = ("PUT", "/v1/weight") if name == "weight" else ("POST", f"/v1/release/{name}")
    assert (sent.method, sent.path, sent.body) == (*where, {"by": ME, **body})
    assert sent.headers.get("If-Match") == ('"b3f2-0"' if careful else None)
    assert "Authorization" not in sent.headers


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("start", {}),
        ("pause", {"state": "paused"}),
        ("abort", {"state": "aborted", "weight": 0.0}),
        ("promote", {"state": "promoted", "weight": 100.0}),
        ("trip", TRIPPED),
    ],
)
async def test_what_is_done_already_is_no_failure_and_says_so(
    fake: Fake, tmp_path: Path, name: str, changed: dict[str, Any]
) -> None:
    fake.document = document(**changed)
    done = await command(name, folder=tmp_path)
    assert (done.status, done.err, fake.changes) == (0, "", [])
    assert done.out.startswith("Nothing to do: cart-2.4 is ")
    assert done.out.endswith(" already.\n")
    found = json.loads((await command(name, "--json", folder=tmp_path)).out)
    assert (found["act"], found["done"], found["preview"]["already"]) == (name, False, True)


async def test_a_promoted_release_does_not_start_again(fake: Fake, tmp_path: Path) -> None:
    fake.document = document(state="promoted", weight=100.0)
    fake.refusal = (409, {"detail": "give release.id a new value, then reload"})
    done = await command("start", folder=tmp_path)
    assert (done.status, done.out) == (1, "")
    assert "give release.id a new value" in done.err


async def test_what_came_meanwhile_by_itself_is_no_failure(fake: Fake, tmp_path: Path) -> None:
    """Somebody else trips between the look and the act."""
    fake.refusal = (409, {"detail": "the circuit is already open"})
    fake.on_refusal = lambda: fake.change(**TRIPPED)
    done = await command("trip", folder=tmp_path)
    assert (done.status, done.err) == (0, "")
    assert "Nothing to do: cart-2.4 is tripped" in done.out


@pytest.mark.parametrize("arguments", [["promote"], ["weight", "2"], ["drill", "--yes"], ["trip"]])
async def test_json_is_the_preview_and_the_release_after(
    fake: Fake, tmp_path: Path, arguments: list[str]
) -> None:
    done = await command(*arguments, "--json", folder=tmp_path)
    assert (done.status, done.err) == (0, "")
    found = json.loads(done.out)
    assert (found["act"], found["done"], found["preview"]["before"]) == (arguments[0], True, 5.0)
    assert found["release"]["release"] == "cart-2.4"


async def test_a_drill_needs_yes_without_a_terminal(fake: Fake, tmp_path: Path) -> None:
    done = await command("drill", folder=tmp_path)
    assert (done.status, done.out) == (2, "")
    assert "--yes" in done.err
    assert fake.requests == []


async def test_a_drill_tells_its_figures(fake: Fake, tmp_path: Path) -> None:
    done = await command("drill", "--yes", folder=tmp_path)
    assert "13 ms after the trip (2 requests after the trip)" in done.out


async def test_a_reload_that_begins_no_release_says_so(fake: Fake, tmp_path: Path) -> None:
    fake.document = document(state="promoted", weight=100.0)
    done = await command("reload", folder=tmp_path)
    assert done.status == 0
    assert "Note: cart-2.4 is promoted, all users on the canary. It ended" in done.out
    assert "give release.id a new value and reload again" in done.out
    done = await command("reload", "--json", folder=tmp_path)
    assert json.loads(done.out)["changed"] == ["limits.idle_timeout"]
    assert "Note: cart-2.4 is promoted" in done.err


async def test_a_reload_names_what_changed(fake: Fake, tmp_path: Path) -> None:
    done = await command("reload", folder=tmp_path)
    assert done.status == 0
    assert "Done: changed limits.idle_timeout.\nRestart needed to apply listen: run" in done.out
    assert fake.changes[0].headers["If-Match"] == '"c-1"'


@pytest.mark.parametrize(
    ("status", "detail", "says"),
    [
        (401, "a change needs the token", "an admin token is needed. Pass it with --token-file FILE"),
        (403, "read-only", "read-only"),
        (409, "cannot resume while the release is tripped", "cannot resume while"),
        (412, "the release has changed", "now cart-2.4 is running at 5% (step 2 of 5). Nothing was"),
        (421, "Host not served", "to admin.hosts"),
        (507, "the weight is 5, but not on the disk: No space left", "but not on the disk: No space"),
    ],
)  # fmt: skip
async def test_a_refusal_is_one_line(
    fake: Fake, tmp_path: Path, status: int, detail: str, says: str
) -> None:
    fake.refusal = (status, {"detail": detail})
    done = await command("resume", folder=tmp_path)
    assert done.status == 1
    (said,) = done.err.splitlines()
    assert said.startswith("canaryproxy: ")
    assert says in said
    assert "Done" not in done.out


async def test_what_is_not_allowed_is_not_announced(fake: Fake, tmp_path: Path) -> None:
    fake.document = document(**TRIPPED)
    fake.refusal = (409, {"detail": "no"})
    done = await command("promote", folder=tmp_path)
    assert (done.status, done.out, done.err) == (1, "", "canaryproxy: no\n")


async def test_an_invalid_configuration_is_told_by_line(fake: Fake, tmp_path: Path) -> None:
    errors = [
        {"path": "split.weight", "line": 3, "column": 9, "message": f"too much {HOSTILE}"},
        {"path": "listen", "line": 1, "column": 1, "message": "no address"},
    ]
    fake.refusal = (422, {"detail": "c.yaml:3:9: too much (and 1 more)", "errors": errors})
    done = await command("reload", folder=tmp_path)
    assert done.status == 1
    assert "3:9: split.weight: too much" in done.err
    assert "1:1: listen: no address" in done.err
    assert len(done.err.splitlines()) == 3
    harmless(done.err)


async def test_without_a_proxy_commands_say_how_to_start_one(tmp_path: Path) -> None:
    for arguments in (["status"], ["weight", "5"], ["wait", "--for", "promoted"], ["history"]):
        done = await command(*arguments, folder=tmp_path)
        assert (done.status, done.out) == (3, "")
        assert done.err.startswith(
            "canaryproxy: no proxy answers on ./run/admin.sock (No such file"
        )
        assert "canaryproxy run -c" in done.err
        assert "--admin" in done.err
        assert len(done.err.splitlines()) == 1


def test_no_command_is_a_question_for_help() -> None:
    done = CliRunner().invoke(main, "", prog_name="canaryproxy")
    assert done.exit_code == 2
    assert "Safety:" in done.output


async def test_output_that_cannot_be_written_is_told_in_one_line(
    fake: Fake, tmp_path: Path
) -> None:
    done = await finished(
        await asyncio.create_subprocess_exec(
            "sh", "-c", '"$1" -m canaryproxy status --json > /dev/full', "sh", sys.executable,
            cwd=tmp_path, env=environment(),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )
    )  # fmt: skip
    assert (done.status, len(fake.requests)) == (1, 1)
    assert done.err == "canaryproxy: cannot write the output: No space left on device\n"


async def test_a_document_of_another_version_is_shown(fake: Fake, tmp_path: Path) -> None:
    done = await command("status", "--admin", str(fake.path), folder=tmp_path)
    assert done.status == 0
    fake.document = {"state": "running"}
    assert (await command("status", folder=tmp_path)).status == 0  # a document of another version


async def test_where_the_proxy_is(fake: Fake, tmp_path: Path) -> None:
    """--admin, then CANARYPROXY_ADMIN, then the configuration, then ./run/admin.sock."""
    other = tmp_path / "other"
    other.mkdir()
    config = other / "c.yaml"
    config.write_text(
        f"admin: {{socket: {fake.path}}}\nvariants: {{stable: {{endpoints: ['http://h:1']}}}}\n"
    )
    path, nowhere = str(fake.path), str(tmp_path / "nowhere")
    reached = [
        (["--admin", path], {"CANARYPROXY_ADMIN": nowhere}),
        ([], {"CANARYPROXY_ADMIN": path, "CANARYPROXY_CONFIG": "missing"}),
        (["-c", str(config)], {}),
        ([], {"CANARYPROXY_CONFIG": str(config)}),
    ]
    for arguments, variables in reached:
        done = await command("status", *arguments, folder=other, **variables)
        assert done.status == 0, done.err
    assert (await command("status", folder=other)).status == 3
    done = await command("status", "-c", "missing", folder=other)
    assert done.status == 2
    assert "cannot read missing" in done.err


_PERCENT = "expected a percentage from 0 to 100, such as 5 or 0.25 (see canaryproxy weight --help)"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--bogus", "No such option '--bogus' (see canaryproxy --help)"),
        ("bogus", "No such command 'bogus' (see canaryproxy --help)"),
        ("run", "name the configuration file: canaryproxy run -c FILE"),
        ("check --", "name the configuration file: canaryproxy check -c FILE"),
        ("check /etc/hostname", "the file goes after -c: canaryproxy check -c /etc/hostname"),
        ("check indent.yaml", "the file goes after -c: canaryproxy check -c indent.yaml"),
        ("run --log-format json c.yml", "the file goes after -c: canaryproxy run -c c.yml"),
        ("weight 101", _PERCENT),
        ("weight 0.001", _PERCENT),
        ("weight nan", _PERCENT),
        ("weight", "Missing argument 'PERCENT' (see canaryproxy weight --help)"),
        ("wait --for step=0", "or step=N (see canaryproxy wait --help)"),
        ("wait --for nirvana", "expected promoted, tripped, aborted, paused, ready, ended, or step=N"),
        ("wait --for promoted --timeout 30", "such as 250ms, 5s, 5m, 1h or 30d"),
        ("wait", "Missing option '--for'"),
        ("history -n 0", "0 is not in the range"),
        ("completion tcsh", "'tcsh' is not one of 'bash', 'zsh', 'fish'"),
        ("completion", "Choose from: bash, zsh, fish (see canaryproxy completion --help)"),
    ],
)  # fmt: skip
def test_a_mistyped_command_is_told_in_one_line(arguments: str, says: str) -> None:
    done = CliRunner().invoke(main, arguments, prog_name="canaryproxy")
    assert (done.exit_code, done.stdout) == (2, "")
    (said,) = done.stderr.splitlines()
    assert said.startswith("canaryproxy: ")
    assert says in said


async def test_a_token_goes_to_http_only(tmp_path: Path, fake: Fake) -> None:
    done = await command("pause", folder=tmp_path, CANARYPROXY_TOKEN="secret-secret-secret")
    assert done.status == 0
    assert "Authorization" not in fake.changes[0].headers
    done = await command("pause", "--token-file", "missing", folder=tmp_path)
    assert done.status == 2


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("secret-secret-secret\n", "secret-secret-secret"),
        ("ann secret-secret-secret\n", "secret-secret-secret"),
        ("ann secret-secret-secret\nben other-secret-of-ben\n", "several tokens: put yours alone"),
        ("ann secret secret-secret\n", "invalid token"),
    ],
)
def test_a_token_may_stand_beside_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, sent: str
) -> None:
    file = tmp_path / "token"
    file.write_text(text)
    with suppress(Ended):
        assert target._target("http://127.0.0.1:9", None, file).token == sent
        return
    assert sent in capsys.readouterr().err


async def test_history_shows_the_newest_records_without_control_characters(
    fake: Fake, tmp_path: Path
) -> None:
    fake.record("started", "by ann")
    fake.record("tripped", HOSTILE)
    done = await command("history", "-n", "1", folder=tmp_path)
    assert done.status == 0
    (said,) = done.out.splitlines()
    assert "tripped" in said
    assert clean(HOSTILE) in said
    harmless(done.out)
    done = await command("history", "--json", folder=tmp_path)
    assert [json.loads(one) for one in done.out.splitlines()] == fake.records
    assert done.out.isascii()


async def test_history_goes_on(fake: Fake, tmp_path: Path) -> None:
    fake.record("started", "by ann")
    process = await spawn("history", "--follow", folder=tmp_path)
    await line(process, "by ann")
    await until_followed(fake)
    fake.record("paused", "by bob")
    await line(process, "by bob")
    process.send_signal(signal.SIGINT)
    done = await finished(process)
    assert (done.status, done.err) == (0, "")


async def test_nothing_steers_the_terminal(fake: Fake, tmp_path: Path) -> None:
    """Whatever texts come: no control character reaches the output, and no markup is obeyed."""
    fake.document = {**_hostile(document()), "state": "running"}
    fake.record(HOSTILE, HOSTILE)
    fake.refusal = (409, {"detail": HOSTILE})
    for arguments in (["status"], ["history"], ["resume"], ["reload"]):
        done = await command(*arguments, folder=tmp_path)
        harmless(done.out)
        harmless(done.err)
    assert "[bold red]x[/]" in (await command("status", folder=tmp_path)).out
    done = await command("status", "--json", folder=tmp_path)
    assert json.loads(done.out)["circuit"]["cause"] == HOSTILE
    assert done.out.rstrip("\n").isprintable()


def _hostile(value: Any) -> Any:
    """Replace every text."""
    if isinstance(value, dict):
        return {key: _hostile(one) for key, one in value.items()} | (
            {"cause": HOSTILE, "state": "open"} if "trips" in value else {}
        )
    if isinstance(value, list):
        return [_hostile(one) for one in value] or [HOSTILE]
    return HOSTILE if isinstance(value, str) or value is None else value


def harmless(text: str) -> None:
    assert all(one.isprintable() for one in text.replace("\n", "")), ascii(text)
    assert "fake: line" not in text.splitlines()


async def test_a_plain_terminal_gets_plain_characters(fake: Fake, tmp_path: Path) -> None:
    done = await command("status", folder=tmp_path)
    assert "▶ 5%" in done.out
    for variables in ({"LANG": "C"}, {"LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii"}):
        done = await command("status", folder=tmp_path, **variables)
        assert done.status == 0, done.err
        assert done.out.isascii()
        assert "> 5%" in done.out


def test_every_command_has_an_example_and_the_help_has_every_command() -> None:
    runner = CliRunner()
    whole = runner.invoke(main, ["--help"]).output
    for name in COMMANDS:
        assert f"\n  {name}" in whole
        assert "Example" in runner.invoke(main, [name, "--help"]).output, name
    for title in ("Run:", "Observe:", "Release:", "Safety:", "Exit status:"):
        assert title in whole


def test_the_overview_has_the_first_sentence_of_each_commands_help() -> None:
    for commands in SECTIONS.values():
        for path, summary in commands.items():
            name = path.partition(".")[2]
            assert command_named(name).get_short_help_str(100) == summary


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_the_shell(shell: str) -> None:
    done = CliRunner().invoke(main, ["completion", shell])
    assert done.exit_code == 0
    assert "_CANARYPROXY_COMPLETE" in done.output
    found = CliRunner().invoke(
        main,
        prog_name="canaryproxy",
        env={
            "_CANARYPROXY_COMPLETE": "bash_complete",
            "COMP_WORDS": "canaryproxy st",
            "COMP_CWORD": "1",
            "PATH": os.environ["PATH"],
        },
    )
    assert "plain,status" in found.output
    assert "plain,start" in found.output


async def test_an_upgrade_over_http_reaches_no_proxy(tmp_path: Path) -> None:
    done = await command("upgrade", "--admin", "http://127.0.0.1:1", folder=tmp_path)
    assert done.status == 3
    assert "use --admin PATH" in done.err
