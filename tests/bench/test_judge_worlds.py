"""The judge in worlds with users: the quick part of ``bench.judge``, and what worlds must be."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.judge import __main__ as bench
from bench.judge import enemy
from bench.judge.ablation import ROWS_THAT_SHOW
from bench.judge.parts import PARTS, Part, without
from bench.judge.rows import ROWS, Wanted
from canaryproxy.judging import rounds
from canaryproxy.judging.settings import JudgeSettings
from tests.simulation import others
from tests.simulation.enemies import ENEMIES
from tests.simulation.judges import ERRORS, ROUTES, SLOW, Run, course
from tests.simulation.whole import pack
from tests.simulation.worlds import Harm, World, mixed, zipf

np = pytest.importorskip("numpy")


def test_every_promise_of_the_quick_part_holds(capsys: pytest.CaptureFixture[str]) -> None:
    status = bench.main(["--quick"])
    printed = capsys.readouterr().out
    assert status == 0, printed
    assert printed.count("| ok |") == sum(row.quick > 0 for row in ROWS)


def test_rows_have_names_of_their_own() -> None:
    names = {row.name for row in ROWS}
    assert len(names) == len(ROWS)
    assert names.issuperset(ROWS_THAT_SHOW)


def test_published_results_have_every_row_and_keep_every_promise() -> None:
    published = (bench.FOLDER / "RESULTS.md").read_text()
    for row in ROWS:
        assert f"| {row.name} | {row.wanted} | rolled back " in published, row.name
    assert "| NOT |" not in published


def test_enemy_prints_what_becomes_of_a_broken_canary(capsys: pytest.CaptureFixture[str]) -> None:
    enemy.main(["--only", "one of two endpoints fails", "--releases", "1"])
    *_, line = capsys.readouterr().out.splitlines()
    assert line.startswith("| one of two endpoints fails | rolled back at 5% | `errors` | ")


def test_enemy_that_is_empty_is_rolled_back_and_promoted_where_every_metric_is_off() -> None:
    by_name = {one.name: one for one in ENEMIES}
    assert len(by_name) == len(ENEMIES)
    empty = by_name["empty, and quicker"]
    seen = enemy.play(empty, 1)
    assert (seen.end, seen.weight, seen.why) == ("rolled back", 5.0, "`empty`")
    off = JudgeSettings(
        errors=None, latency=None, throughput=None, classes=None, content=None, connections=None,
        guard_rails=None, placebos=0,
    )  # fmt: skip
    seen = enemy.play(replace(empty, settings=off, bake=10.0, rate=400.0), 1)
    assert (seen.end, seen.why) == ("promoted", "")
    assert seen.hurt > 100


def test_documentation_has_every_enemy() -> None:
    published = (bench.FOLDER.parents[1] / "docs" / "judge.md").read_text()
    for one in ENEMIES:
        assert f"| {one.name} | " in published, one.name


def test_limits_of_simulated_tests_are_those_of_the_judge() -> None:
    """All metrics and all routes of all steps together spend no more than α; errors most of it."""
    limits = {metric: metric.judged()[1].log_limit for metric in (ERRORS, SLOW, ROUTES)}
    later = ERRORS.judged(first_step=False)[1].log_limit
    assert limits[ERRORS] < limits[SLOW] < limits[ROUTES]
    of_errors = np.exp(-limits[ERRORS]) + 3 * np.exp(-later)
    assert of_errors < 0.001 * 0.3
    assert SLOW.judged(late=0.02)[0].margin == pytest.approx(0.03)
    assert SLOW.judged(late=0.05)[0].margin == pytest.approx(0.025)


@pytest.mark.skipif(not str(rounds.__file__).endswith(".py"), reason="compiled constants are fixed")
@pytest.mark.parametrize("part", [part for part in PARTS if part != "history"])
def test_a_part_that_is_taken_out_changes_the_evidence_and_then_is_back(part: Part) -> None:
    world = World(25.0, 500, 0.02, harm=Harm(0.08, after=30.0), rate=60.0)
    release = world.run(np.random.default_rng(8), 70.0)
    whole = course(release, ERRORS)
    with without(part):
        assert course(release, ERRORS) != whole
    assert course(release, ERRORS) == whole


@pytest.mark.parametrize(
    "world",
    [
        World(25.0, 300, tail=1.5, bots=5, retries=3.0),
        World(25.0, 300, whale=0.1, keyless=0.5, swing=0.9),
        World(25.0, 300, outages=True, accounts=0.1, routes=zipf(4), before=5.0),
    ],
)
def test_healthy_histories_do_not_depend_on_the_weight(world: World) -> None:
    """What users meet is drawn before sides are: only who is on the canary may change."""
    one = world.run(np.random.default_rng(3), 30.0)
    two = World(**{**vars(world), "weight": 60.0}).run(np.random.default_rng(3), 30.0)
    assert (one.t == two.t).all()
    assert (one.bad == two.bad).all()
    assert (one.position == two.position).all()
    assert two.canary.sum() > one.canary.sum()


def test_harm_is_done_to_the_canary_alone_from_its_moment_on() -> None:
    harmed = World(25.0, 500, harm=Harm(1.0, after=10.0, until=20.0)).run(
        np.random.default_rng(4), 30.0
    )
    plain = World(25.0, 500).run(np.random.default_rng(4), 30.0)
    changed = harmed.bad != plain.bad
    assert changed.any()
    assert harmed.canary[changed].all()
    assert ((harmed.t[changed] >= 10.0) & (harmed.t[changed] < 20.0)).all()
    assert harmed.broken_at == 10.0
    requests, users = harmed.hurt_until(150)
    assert 0 < users <= requests


def test_counts_are_those_of_the_requests() -> None:
    release = World(10.0, 500, 0.1).run(np.random.default_rng(5), 20.0)
    n_s, e_s, n_c, e_c = (int(cell.sum()) for cell in release.counts())
    step = release.t >= 0
    assert n_s + n_c == step.sum()
    assert e_s + e_c == release.bad[step].sum()
    assert n_c == release.canary[step].sum()
    assert not release.canary[~step].any()


def test_shares_of_routes_and_mixed_rates_are_what_they_say() -> None:
    assert zipf(32)[-1] == pytest.approx(0.0077, abs=1e-4)
    assert sum(zipf(32)) == pytest.approx(1.0)
    assert mixed(0.05, 0.03) * 0.97 + 0.03 == pytest.approx(0.05)


def test_records_are_packed_as_the_judge_reads_them() -> None:
    from canaryproxy.judging.metrics import unpack

    release = World(10.0, 50, 0.5, rate=5.0, routes=(1.0, 1.0)).run(np.random.default_rng(6), 5.0)
    found = list(unpack(pack(release, "errors").ravel().tolist()))
    assert [one.position for one in found] == release.position.tolist()
    assert [one.variant for one in found] == release.canary.astype(int).tolist()
    assert [one.status for one in found] == np.where(release.bad, 500, 200).tolist()
    late = list(unpack(pack(release, "slow").ravel().tolist()))
    assert all(one.first_byte is not None for one in late)
    assert [(one.first_byte or 0.0) > 1.0 for one in late] == release.bad.tolist()


def test_request_counting_trips_on_a_whale_and_the_reduction_to_users_does_not() -> None:
    """That is why the judge was rebuilt: errors were reduced to users, slow answers were not."""
    rng = np.random.default_rng(7)
    releases = [World(50.0, 500, whale=0.1).run(rng, 30.0) for _ in range(6)]
    tripped = [others.request_counting(one, 0.01, reduce=False) for one in releases]
    assert any(tick is not None for tick in tripped)
    assert all(others.request_counting(one, 0.01, reduce=True) is None for one in releases)


def test_a_promise_is_measured_against_its_runs() -> None:
    caught = [Run(tick=at, requests=at, users=at, seconds=at / 10) for at in (3, 4, 5)]
    assert Wanted(caught=1.0, requests=4).measure(caught)[1]
    assert not Wanted(requests=3).measure(caught)[1]
    assert Wanted(requests=3).measure(caught, slack=1.5)[1]
    assert not Wanted(rolled=1).measure(caught)[1]
    assert not Wanted(caught=1.0).measure([*caught, Run()])[1]
    assert not Wanted(kept_back=True).measure([*caught, Run()])[1]
    assert Wanted(kept_back=True).measure([*caught, Run(worse=True)])[1]
    assert str(Wanted(rolled=1, held=0.05)) == "rolled back ≤ 1, held ≤ 5%"
    assert not Wanted().measure([Run(placebos=(3, 100))])[1]
