"""Commands on recorded traffic: ``judge``, ``aa`` and ``plan``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from random import Random

import pytest
from click.testing import CliRunner, Result

from canaryproxy.cli import command_named
from tests.cli.fake import Fake, command


def run(name: str, *arguments: str, text: str | None = None) -> Result:
    return CliRunner().invoke(command_named(name), list(arguments), input=text)


def recording(fails: float, requests: int = 1500, users: int = 300) -> str:
    """Return requests of users of whom a tenth are on the canary, which fails that share."""
    draw = Random(1)
    lines = ["t,user,variant,bad"]
    for at in range(requests):
        user = draw.randrange(users)
        canary = user % 10 == 0
        bad = draw.random() < (fails if canary else 0.01)
        lines.append(f"{at / 10},u{user},{'canary' if canary else 'stable'},{int(bad)}")
    return "\n".join(lines)


def test_judge_by_user_says_how_many_users_were_hurt() -> None:
    found = run("judge", "-", "--users", "--weight", "10", text=recording(1.0))
    assert found.exit_code == 0, found.output
    assert found.output.startswith("verdict: breach\nhighest evidence: ")
    assert "users of the canary had a bad answer" in found.output
    assert "by user" in found.output


def test_judge_by_user_prints_json() -> None:
    found = run("judge", "-", "--users", "--weight", "10", "--json", text=recording(0.01))
    record = json.loads(found.output)
    assert (record["verdict"], record["tripped_at"]) == ("ok", None)
    assert record["users"][0] + record["users"][1] <= 300


def test_judge_of_counts_says_that_counts_have_no_users() -> None:
    text = "t,stable_trials,stable_events,canary_trials,canary_events\n1,90,1,10,0\n"
    found = run("judge", "-", text=text)
    assert found.exit_code == 0
    assert "counts have no users, so requests are taken as independent" in found.output


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--users",), "--users needs --weight"),
        (("--weight", "5"), "need --users"),
        (("--users", "--weight", "5", "--start", "soon"), "start: found 'soon'"),
    ],
)
def test_judge_options_that_do_not_go_together(arguments: tuple[str, ...], text: str) -> None:
    found = run("judge", "-", *arguments, text=recording(0.0))
    assert found.exit_code == 2
    assert text in found.output


def test_judge_takes_rows_before_the_start_as_history() -> None:
    lines = recording(0.0).splitlines()
    before = [f"-{line}".replace("canary", "stable") for line in reversed(lines[2:400])]
    text = "\n".join([lines[0], *before, *lines[2:]])
    found = run("judge", "-", "--users", "--weight", "10", "--start", "0", text=text)
    assert found.output.startswith("verdict: ok"), found.output


def test_aa_judges_virtual_canaries_among_stable_users(tmp_path: Path) -> None:
    (file := tmp_path / "requests.csv").write_text(recording(1.0))
    found = run("aa", str(file), "--weight", "10", "--placebos", "5")
    assert found.exit_code == 0, found.output
    assert "0 of 5 virtual canaries would have tripped" in found.output
    assert "of 268 users" in found.output
    record = json.loads(run("aa", str(file), "--placebos", "3", "--json").output)
    assert (record["tripped"], record["of"]) == (0, 3)


def test_aa_names_the_line_that_it_cannot_read(tmp_path: Path) -> None:
    (file := tmp_path / "requests.csv").write_text("t,user,bad\n1,a,perhaps\n")
    found = run("aa", str(file))
    assert found.exit_code == 2
    assert "line 2, bad: found 'perhaps'" in found.output


async def test_aa_without_a_file_asks_the_running_proxy(fake: Fake, tmp_path: Path) -> None:
    done = await command("aa", folder=tmp_path)
    assert done.status == 1
    assert "no virtual canaries yet" in done.err
    said = "0 of 20 virtual canaries would have tripped; evidence at most 12:1"
    fake.change(placebo={"tripped": 0, "of": 20, "log_evidence": 2.5, "said": said})
    done = await command("aa", folder=tmp_path)
    meaning = (
        "virtual canaries are users of stable, chosen at random: each alarm would be a false one"
    )
    assert (done.status, done.out) == (0, f"{said}\n{meaning}\n")
    fake.change(placebo={"tripped": 3, "of": 20, "log_evidence": 9.5, "said": said})
    assert (
        "no rollback on this traffic can be trusted" in (await command("aa", folder=tmp_path)).out
    )
    done = await command("aa", "--json", folder=tmp_path)
    assert json.loads(done.out)["of"] == 20


def test_plan_asks_for_users(tmp_path: Path) -> None:
    (file := tmp_path / "c.yaml").write_text(
        'variants: {stable: {endpoints: ["http://h:1"]}, canary: {endpoints: ["http://h:2"]}}\n'
        "release: {id: r1, steps: [{weight: 1, bake: 5m}, {weight: 100}]}\n"
    )
    arguments = ("-c", str(file), "--rps", "50", "--error-rate", "0.005")
    found = run("plan", *arguments)
    assert found.exit_code == 0, found.output
    assert "where users ask often, give --users" in found.output
    found = run("plan", *arguments, "--users", "60")
    assert "give --users" not in found.output
    assert "by the guard rail (judge.guard_rails)" in found.output
    assert "it moves 1 user to the canary" in found.output
    assert re.search(r"100% +– +– +– +– +– +–", found.output)
    assert "every user is on the canary: nothing to compare" in found.output
