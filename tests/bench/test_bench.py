"""The benchmark's own arithmetic, its peers' configuration, and one very short real run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
from dataclasses import asdict, replace
from math import comb
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bench import quick
from bench.__main__ import main as bench_main
from bench.gate import __main__ as gate
from bench.gate import callgrind
from bench.harness import cores, cputime, memory, quietness, scenarios
from bench.harness.cores import Cores
from bench.harness.measure import Measured, Plan, Sample, Target
from bench.harness.process import StartError, running, start
from bench.harness.quietness import Quietness
from bench.loads import LOADS, frames, h2load, idle, wrk
from bench.loads.quantiles import in_microseconds, quantile
from bench.peers import PEERS, Site
from bench.peers.caddy import prefixes
from bench.peers.ours import CHECKED, COMPILED, environment
from bench.report import comparison, goals, results, summary, text
from bench.report.outcome import Closed, OpenModel, Outcome

WRK_OUTPUT = """\
Running 1s test @ http://127.0.0.1:31000/
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   335.39us  134.42us   2.64ms   83.31%
    Req/Sec    80.71k     1.39k   81.64k    90.91%
  88257 requests in 1.10s, 21.55MB read
Requests/sec:  80246.03
Transfer/sec:     19.59MB
RESULT {"requests": 88257, "bytes": 22593792, "duration_us": 1099830, "p50_us": 326, \
"p99_us": 530, "p999_us": 2380, "max_us": 2640, "connect": 0, "read": 1, "write": 0, "status": 2, \
"timeout": 0}
"""


def sample(name: str, *, cpu_us: float | None, requests: int = 10_000, number: int = 0) -> Sample:
    return Sample(
        name=name,
        round=number,
        wrk=replace(wrk.parse(WRK_OUTPUT), requests=requests, seconds=1.0, errors={"status": 0}),
        cpu_seconds=None if cpu_us is None else cpu_us * requests / 1e6,
        wall_seconds=1.0,
        proxy_core_busy=1.0,
        load_core_busy=0.5,
    )


def test_wrk_output_is_read() -> None:
    result = wrk.parse(WRK_OUTPUT)
    assert (result.requests, result.seconds, result.p999_us) == (88257, 1.09983, 2380)
    assert result.error_count == 3


def test_wrk_output_without_result_is_an_error() -> None:
    with pytest.raises(wrk.WrkError, match="unable to connect"):
        wrk.parse("unable to connect to 127.0.0.1:1 Connection refused\n")


def test_missing_wrk_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert quick.main([]) == quick.EXIT_CANNOT_RUN
    assert "apt-get install wrk" in capsys.readouterr().err


def test_users_are_distinct_and_the_same_in_every_run() -> None:
    load = LOADS["users"]
    assert len(set(load.cookies())) == 1000
    assert load.cookies() == load.cookies()


@pytest.mark.parametrize("name", PEERS)
def test_configuration_names_its_ports_and_the_weight(name: str, tmp_path: Path) -> None:
    site = Site(folder=tmp_path, port=18101, stable=18102, canary=18103, weight=10.0)
    peer = PEERS[name]
    text = peer.render_config(site)
    if not text:  # configured by its command line
        assert "18101" in peer.command(site, tmp_path / "config")
        return
    for port in ("18101", "18102"):
        assert port in text
    if not peer.splits:
        return
    assert "18103" in text
    weights = {
        "ours": "weight: 10.0",
        "pure": "weight: 10.0",
        "nginx": "10% canary;",
        "haproxy": "lt 1000 }",
        "envoy": '"weight": 9000',
        "caddy": '"canary_id=19*"',
    }
    assert weights[name] in text
    if name in {"ours", "pure", "envoy", "caddy"}:
        assert isinstance(yaml.safe_load(text), dict)


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize(
    ("name", "plain", "with_tls"),
    [
        ("nginx", "18101 http2", "18101 ssl http2"),
        ("haproxy", "bind 127.0.0.1:18101", "alpn h2"),
        ("envoy", "HttpConnectionManager", '"h2"'),
        ("caddy", '"h2c"', '"h2"'),
        ("nghttpx", "no-tls", "private-key-file"),
    ],
)
def test_peers_take_http2(name: str, plain: str, with_tls: str, tls: bool, tmp_path: Path) -> None:
    site = Site(tmp_path, port=18101, stable=18102, canary=18103, tls=tls, http2=True)
    assert (with_tls if tls else plain) in PEERS[name].render_config(site)


H2LOAD_OUTPUT = """\
finished in 702.26ms, 18452.86 req/s, 4.27MB/s
requests: 12990 total, 13086 started, 12958 done, 12955 succeeded, 6 failed, 3 errored, 2 timeout
status codes: 12955 2xx, 0 3xx, 0 4xx, 3 5xx
traffic: 2.10MB (2203204) total, 328.42KB (336299) headers (space savings 90.16%), 1.27MB data
"""


def test_h2load_output_is_read() -> None:
    figures = h2load.parse(
        H2LOAD_OUTPUT, "1700000000000000\t200\t900\n1700000000000100\t200\t500\n"
    )
    assert figures is not None
    result = wrk.parse(wrk.result_line(figures))
    assert (result.requests, result.bytes, result.seconds) == (12955, 2203204, 0.70226)
    assert (result.p50_us, result.max_us, result.error_count) == (500, 900, 6)
    assert h2load.parse("could not connect", "") is None


def test_h2load_sends_the_paths_in_turn(tmp_path: Path) -> None:
    load = replace(scenarios.H2C, paths=3)
    command = h2load.command("http://127.0.0.1:1", load, 0.5, tmp_path)
    assert {"-c8", "-m16", "-D500ms", f"cookie: {load.cookies()[0]}"} <= set(command)
    targets = (tmp_path / "h2load.txt").read_text().split()
    assert targets == [f"http://127.0.0.1:1/?item={number}" for number in range(3)]


def test_what_is_compiled_is_found_before_the_checkout() -> None:
    compiled = environment(PEERS["ours"])["PYTHONPATH"].split(":")
    assert compiled == [str(COMPILED), *environment(PEERS["pure"])["PYTHONPATH"].split(":")]
    missing = PEERS["ours"].missing()
    assert missing is None or "make compiled" in missing


def test_the_gate_has_a_compiled_copy_of_its_own() -> None:
    peer = replace(scenarios.OURS, build=CHECKED)
    assert environment(peer)["PYTHONPATH"].startswith(f"{CHECKED}:")
    missing = peer.missing()
    assert missing is None or "make checked" in missing


@pytest.mark.parametrize(("weight", "ids"), [(0, 0), (10, 26), (50, 128), (100, 256)])
def test_caddy_prefixes_cover_the_weight(weight: float, ids: int) -> None:
    found = prefixes(weight)
    assert sum(16 if len(prefix) == 1 else 1 for prefix in found) == ids
    assert len(set(found)) == len(found)


def test_row_has_medians_and_spread() -> None:
    row = summary.row([sample("nginx", cpu_us=cpu) for cpu in (10.0, 30.0, 20.0)])
    assert row.cpu_us is not None
    assert asdict(row.cpu_us) == pytest.approx(
        {"median": 20, "low": 10, "high": 30, "surely_from": 10, "surely_to": 30}
    )
    assert row.requests_per_core_second is not None
    assert row.requests_per_core_second.median == pytest.approx(50_000)
    assert row.limited_by == "proxy core"


def test_ratio_is_taken_round_by_round() -> None:
    ours = [sample("ours", cpu_us=20.0), sample("ours", cpu_us=40.0, number=1)]
    envoy = [sample("envoy", cpu_us=40.0), sample("envoy", cpu_us=60.0, number=1)]
    ratio = summary.ratio(ours, envoy)
    assert ratio is not None
    assert asdict(ratio.requests_per_core_second) == pytest.approx(
        {"median": 1.75, "low": 1.5, "high": 2.0, "surely_from": 1.5, "surely_to": 2.0}
    )
    assert summary.ratio(ours[:1], [sample("direct", cpu_us=None)]) is None


def test_goals_name_what_is_missed_or_not_measured() -> None:
    samples = {
        name: [sample(name, cpu_us=cpu)]
        for name, cpu in (("ours", 20.0), ("plain", 90.0), ("envoy", 31.0))
    }
    rows = {name: summary.row(of) for name, of in samples.items()}
    ratios = {
        name: ratio
        for name, of in samples.items()
        if (ratio := summary.ratio(samples["ours"], of)) is not None
    }
    plain, nginx = goals.unmet(rows, ratios)
    assert "4.50 × plain" in plain
    assert "nginx was not measured" in nginx
    assert goals.unmet({}, {}) == ["ours was not measured"]


def test_report_names_errors_missing_peers_and_a_full_load_core() -> None:
    nginx = replace(sample("nginx", cpu_us=10.0), load_core_busy=0.99)
    broken = sample("envoy", cpu_us=40.0)
    broken = replace(broken, wrk=replace(broken.wrk, errors={"status": 7}))
    measured = Measured(
        samples={"nginx": [nginx], "envoy": [broken]},
        missing={"caddy": "caddy is not installed (apt-get install caddy)"},
        versions={"wrk": "4.1.0", "nginx": "1.22.1"},
        canary_shares={"nginx": 0.104},
        upstream="nginx 1.22.1",
    )
    text = comparison.markdown(
        comparison.Report(
            command="python -m bench.quick",
            machine={
                "cpu": "x",
                "cores": "2",
                "kernel": "Linux",
                "tcp": "cubic",
                "python": "3",
            },
            titles={"nginx": "nginx, one worker"},
            plan=Plan(load=LOADS["users"], rounds=1, seconds=1, cores=Cores(proxy=1, load=0)),
            measured=measured,
            quietness=Quietness(0.5, 1.25, 0.031, 0.002),
            rows={name: summary.row(of) for name, of in measured.samples.items()},
            ratios={},
            goals=goals.GOALS,
        )
    )
    assert "| **7** |" in text
    assert "not comparable: envoy (7)" in text
    assert "**Missing: caddy**: caddy is not installed (apt-get install caddy)" in text
    assert "wrk and upstream was full with nginx: their requests/s are a lower bound" in text
    assert "load average 0.50 before and 1.25 after, 3.1% of the cores' time for other" in text


@pytest.mark.parametrize(("rounds", "steady"), [([0.8, 0.75, 0.9], True), ([0.8, 0.6, 0.9], False)])
def test_a_ratio_whose_rounds_disagree_is_not_published(rounds: list[float], steady: bool) -> None:
    found = summary.spread(rounds)
    assert ("0.80" in text.ratio(found)) is steady
    assert (text.ratio(found) == "not published: 0.60–0.90") is not steady


@pytest.mark.parametrize(("count", "left_out"), [(1, 0), (5, 0), (8, 0), (9, 1), (12, 2), (15, 3)])
def test_the_interval_of_a_median_leaves_out_the_outermost_rounds(
    count: int, left_out: int
) -> None:
    found = summary.spread(range(1, count + 1))
    assert (found.low, found.high) == (1, count)
    assert (found.surely_from, found.surely_to) == (1 + left_out, count - left_out)


@given(st.integers(5, 25))
def test_the_interval_of_a_median_is_as_sure_as_it_says_and_no_wider(count: int) -> None:
    left_out = round(summary.spread(range(count)).surely_from)

    def outside(outermost: int) -> float:
        return float(sum(comb(count, at) for at in range(outermost + 1)) / 2 ** (count - 1))

    assert 1 - outside(left_out) >= summary.CONFIDENCE > 1 - outside(left_out + 1)


def test_a_target_is_not_shown_by_rounds_that_disagree() -> None:
    outcome = _outcome()
    outcome.closed["small-32"].samples["ours"] = [_fake("ours", cpu=cpu) for cpu in (10, 20)]
    outcome.closed["small-32"].samples["nginx"] = [_fake("nginx", cpu=13)] * 2
    (verdict,) = [
        one
        for one in goals.verdicts(outcome)
        if one.wanted.startswith("small-32, ours") and "× nginx" in one.wanted
    ]
    assert verdict.met is None
    assert verdict.found == "the rounds differ too much to quote one: 0.65–1.30 ×"
    assert (
        "| the rounds differ too much to quote one: 0.65–1.30 × | not shown |"
        in results.markdown(outcome)
    )


@pytest.mark.parametrize(
    ("ours", "met"), [((5.0, 8.0), True), ((20.0, 40.0), False), ((10.0, 20.0), None)]
)
def test_a_target_is_shown_where_rounds_that_disagree_are_all_on_one_side_of_it(
    ours: tuple[float, float], met: bool | None
) -> None:
    outcome = _outcome()
    outcome.closed["small-32"].samples["ours"] = [_fake("ours", cpu=cpu) for cpu in ours]
    outcome.closed["small-32"].samples["nginx"] = [_fake("nginx", cpu=13)] * 2
    wanted = "small-32, ours, everything on, per core: ≥ 1 × nginx"
    (verdict,) = [one for one in goals.verdicts(outcome) if one.wanted == wanted]
    assert verdict.met is met
    assert "differ too much to quote one" in verdict.found


def test_what_others_did_is_what_the_benchmark_did_not() -> None:
    passed = quietness.ticks("cpu 100 0 60 300 20 0 10 10 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n")
    found = quietness.of_ticks(passed, own=95.0, before=0.1, after=2.0)
    assert (found.others, found.stolen) == pytest.approx((0.15, 0.02))
    assert quietness.of_ticks(passed, own=1000.0, before=0.0, after=0.0).others == 0.0


def test_core_times_are_read() -> None:
    before = cores.read(1, "cpu  9 9 9 9 9 9 9 9 0 0\ncpu1 10 0 10 80 0 0 0 0 0 0\n")
    after = cores.read(1, "cpu1 20 0 20 100 20 5 5 10 0 0\n")
    assert cores.busy_share(before, after) == pytest.approx(0.5)


def test_cpu_time_of_a_tree_counts_children(tmp_path: Path) -> None:
    spin = (
        "import time\nwhile time.process_time() < 0.1: pass\nprint('x', flush=True)\ntime.sleep(60)"
    )
    parent = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    with running() as started:
        one = start(
            "one", [sys.executable, "-c", parent, spin], core=cores.choose().load, folder=tmp_path
        )
        started.append(one)
        one.wait_until(lambda: bool(one.tail()), 10)
        child = cputime.tree(one.pid)[1:]
        assert len(child) == 1
        assert cputime.of_tree(one.pid) >= cputime.of_tree(child[0]) >= 90_000_000
        os.kill(child[0], signal.SIGTERM)


def test_a_process_that_ends_early_is_reported_with_its_words(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such setting')"]
    with running() as started:
        one = start("one", command, core=cores.choose().load, folder=tmp_path)
        started.append(one)
        with pytest.raises(StartError, match=r"one ended with status 1: no such setting"):
            one.wait_until(lambda: False, 10)


STAND_IN = """
# Sends as wrk does, slower, so that this test needs nothing installed.
import http.client, json, sys, time
from urllib.parse import urlsplit

if sys.argv[1] == "-v":
    sys.exit("wrk 4.1.0 [epoll]")
url = urlsplit(next(word for word in sys.argv if word.startswith("http://")))
connection = http.client.HTTPConnection(url.hostname, url.port, timeout=60)
result = dict.fromkeys(("p50_us", "p99_us", "p999_us", "max_us"), 1)
result |= dict.fromkeys(("connect", "read", "write", "status", "timeout", "bytes", "requests"), 0)
begin = time.monotonic()
while time.monotonic() - begin < 1:
    connection.request("GET", "/")
    answer = connection.getresponse()
    result["bytes"] += len(answer.read())
    result["status"] += answer.status != 200
    result["requests"] += 1
result["duration_us"] = 1_000_000
print("RESULT", json.dumps(result))
"""


def test_short_real_run_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in = tmp_path / "bin" / "wrk"
    stand_in.parent.mkdir()
    stand_in.write_text(f"#!{sys.executable}\n{STAND_IN}")
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", str(stand_in.parent), prepend=os.pathsep)
    tmp_path = tmp_path / "run"
    tmp_path.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    file = tmp_path / "out.json"
    arguments = ["--only", "plain", "--rounds", "1", "--seconds", "1", "--json", str(file)]
    assert quick.main([*arguments, "--require"]) == quick.EXIT_GOAL
    printed = capsys.readouterr()
    assert "ours was not measured" in printed.err
    assert "| plain |" in printed.out
    found = json.loads(file.read_text())
    assert found["missing"] == {}
    plain, direct = found["peers"]["plain"], found["peers"]["direct"]
    assert plain["errors"] == direct["errors"] == 0
    assert plain["requests"] > 0
    assert direct["requests"] > 0
    assert plain["cpu_us"]["median"] > 1
    assert direct["cpu_us"] is None
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]
    left = [folder for folder in Path("/proc").glob("[0-9]*") if _is_inside(folder, tmp_path)]
    assert not left, "still running"


def _is_inside(process: Path, folder: Path) -> bool:
    try:
        return str((process / "cwd").readlink()).startswith(str(folder))
    except OSError:
        return False


def _fake(name: str, *, cpu: float, requests: int = 10_000, p50: float = 100.0) -> Sample:
    one = sample(name, cpu_us=cpu, requests=requests)
    return replace(one, wrk=replace(one.wrk, p50_us=p50))


def test_quantiles_are_those_of_the_sorted_samples() -> None:
    assert quantile(range(1, 1001), 0.999) == 999
    assert quantile([7], 0.5) == 7
    found = in_microseconds([3000, 1000, 2000])
    assert found == {"p50_us": 2.0, "p99_us": 3.0, "p999_us": 3.0, "max_us": 3.0}


@given(st.lists(st.binary(max_size=125), max_size=5), st.integers(1, 40))
def test_echo_gives_payloads_back_however_they_are_cut(payloads: list[bytes], size: int) -> None:
    stream = b"".join(frames.frame(payload, b"\x01\x02\xfe\xff") for payload in payloads)
    echo = frames.Echo()
    parts = [stream[at : at + size] for at in range(0, len(stream), size)]
    replies = b"".join(echo.feed(part) for part in parts)
    assert replies == b"".join(frames.frame(payload) for payload in payloads)


def test_resident_memory_is_read() -> None:
    assert memory.resident("Name:\tx\nVmRSS:\t    2048 kB\n") == 2 * 1024 * 1024
    assert memory.resident("Name:\tkthreadd\n") == 0


def test_held_connections_are_counted() -> None:
    assert idle.parse('READY {"open": 9, "failed": 1}\nCLOSED 2') == idle.Counted(9, 1, 2)
    with pytest.raises(ValueError, match="not held"):
        idle.parse('READY {"open": 9, "failed": 1}')


def test_totals_of_callgrind() -> None:
    assert callgrind.totals("events: Ir\nfn=(0)\n0 5\ntotals: 258877267\n") == 258877267
    with pytest.raises(callgrind.CallgrindError):
        callgrind.totals("events: Ir\n")


def _gate(ours: float, stack: str = "a") -> gate.Measured:
    return gate.Measured("instructions", stack, {"x": gate.Cost(ours=ours, plain=400.0)})


@pytest.mark.parametrize(("ours", "fails"), [(100.0, False), (102.9, False), (103.1, True)])
def test_gate_fails_above_three_percent(ours: float, fails: bool) -> None:
    (found,) = gate.compare(_gate(ours), gate.updated({}, _gate(100.0)))
    assert found.fails is fails
    assert "instructions a request" in str(found)


def test_gate_compares_ratios_on_another_stack_and_needs_a_baseline() -> None:
    baseline = gate.updated({}, _gate(100.0))
    (found,) = gate.compare(_gate(100.0, stack="b"), baseline)
    assert found.before == 0.25
    assert "plain aiohttp" in found.what
    for ours, fails in ((109.0, False), (111.0, True)):
        (found,) = gate.compare(_gate(ours, stack="b"), baseline)
        assert found.fails is fails
    with pytest.raises(gate.NoBaselineError, match="--update"):
        gate.compare(_gate(100.0), {})


def _outcome() -> Outcome:
    outcome = Outcome(
        command="python -m bench",
        commit="abc",
        machine=dict.fromkeys(("cpu", "cores", "memory", "kernel", "tcp", "python"), "x"),
        rounds=1,
        seconds=1.0,
        weight=10.0,
        proxy_core=1,
        load_core=0,
        began="now",
    )
    samples = {
        "ours": [_fake("ours", cpu=20)],
        "nginx": [_fake("nginx", cpu=13)],
        "envoy": [_fake("envoy", cpu=39)],
    }
    broken = samples["envoy"][0]
    samples["envoy"] = [replace(broken, wrk=replace(broken.wrk, errors={"status": 3}))]
    outcome.closed["small-32"] = Closed(
        scenarios.SMALL, samples, {"caddy": "caddy is not installed"}, "nginx"
    )
    outcome.open_model["latency-half"] = OpenModel(
        scenarios.HALF,
        {"ours": 20_000.0},
        frozenset({"ours"}),
        {"ours": [_fake("ours", cpu=20, p50=190.0)]},
        {"ours": [_fake("direct", cpu=1, p50=60.0)]},
        {},
    )
    return outcome


def test_results_say_what_failed_and_what_is_missing() -> None:
    outcome = _outcome()
    page = results.markdown(outcome)
    assert "small-32: envoy: 3 errors" in page
    assert "**3: failed**" in page
    assert "caddy: caddy is not installed" in page
    assert "Fewer than 5 rounds" in page
    assert "20,000 ²" in page
    json.dumps(results.as_json(outcome))


def test_summary_has_targets_and_medians_and_no_samples() -> None:
    summed_up = results.summary_json(_outcome())
    small = summed_up["medians"]["small-32"]
    assert small["envoy"]["requests_per_second"] > 0
    assert len(summed_up["targets"]) == len(goals.verdicts(_outcome()))
    assert "samples" not in json.dumps(summed_up)


def test_targets_are_met_missed_or_not_measured() -> None:
    by_wish = {one.wanted: one for one in goals.verdicts(_outcome())}
    small = "small-32, ours, everything on, per core: ≥ "
    assert by_wish[f"{small}1 × nginx"].met is False
    assert by_wish[f"{small}2 × envoy"].met is None  # it had errors
    assert by_wish[f"{small}3 × caddy"].met is None
    assert by_wish["added p50 at half load: ≤ 120 µs"].met is False
    assert by_wish["added p99 at half load: ≤ 1 × that of nginx"].met is None


@pytest.mark.parametrize(
    ("ours", "busy", "met"), [(190.0, 0.5, True), (200.0, 0.5, False), (190.0, 0.96, None)]
)
def test_latency_is_compared_where_the_load_generator_keeps_up(
    ours: float, busy: float, met: bool | None
) -> None:
    outcome = _outcome()
    half = outcome.open_model["latency-half"]
    for name, p99 in (("ours", ours), ("nginx", 190.0)):
        made = replace(_fake(name, cpu=20), load_core_busy=busy)
        half.proxied[name] = [replace(made, wrk=replace(made.wrk, p99_us=p99))]
        half.direct[name] = [replace(made, wrk=replace(made.wrk, p99_us=10.0))]
    by_wish = {one.wanted: one for one in goals.verdicts(outcome)}
    assert by_wish["added p99 at half load: ≤ 1 × that of nginx"].met is met


@pytest.mark.parametrize(
    ("ours", "met"),
    [([100, 110, 90], True), ([300, 310, 290], False), ([100, 190, 250], None)],
)
def test_latency_is_compared_turn_by_turn_and_only_told_where_it_is_sure(
    ours: list[float], met: bool | None
) -> None:
    outcome = _outcome()
    half = outcome.open_model["latency-half"]
    for name, quantiles in (("ours", ours), ("nginx", [200.0, 1.0, 200.0, 200.0])):
        numbers = [0, 2, 3] if name == "ours" else range(4)
        half.proxied[name] = [
            replace(one, round=number, wrk=replace(one.wrk, p99_us=p99))
            for number, p99 in zip(numbers, quantiles, strict=True)
            for one in (_fake(name, cpu=20),)
        ]
        direct = _fake("direct", cpu=1)
        half.direct[name] = [
            replace(direct, wrk=replace(direct.wrk, p99_us=10.0)) for _ in quantiles
        ]
    by_wish = {one.wanted: one for one in goals.verdicts(outcome)}
    assert by_wish["added p99 at half load: ≤ 1 × that of nginx"].met is met


def test_short_full_run_with_the_plain_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if shutil.which("wrk") is None:
        pytest.skip(wrk.HINT)
    # The open model sends whether or not answers come: a rate that a starved machine can serve.
    monkeypatch.setattr(scenarios, "SAME", replace(scenarios.SAME, rate=20.0))
    page = tmp_path / "R.md"
    words = ["--only", "plain", "--rounds", "1", "--seconds", "0.8", "--idle", "50"]
    loads = "small-32,upload,chunked,latency-same,idle"
    assert bench_main([*words, "--load", loads, "--output", str(page)]) == 0
    found = json.loads((tmp_path / "out" / "R.json").read_text())
    assert found["failures"] == []
    assert found["closed"]["upload"]["rows"]["plain"]["requests"] > 0
    assert found["open_model"]["latency-same"]["rates"] == {"plain": 20}
    assert found["idle"]["samples"]["plain"][0]["opened"] == 50
    assert "## idle" in page.read_text()
    summed_up = json.loads((tmp_path / "summary.json").read_text())
    assert summed_up["medians"]["upload"]["plain"]["requests_per_second"] > 0


def test_short_run_of_http2_with_nginx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for program in ("wrk", "h2load", "nginx"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    page = tmp_path / "R.md"
    words = ["--only", "nginx", "--rounds", "1", "--seconds", "0.3"]
    assert bench_main([*words, "--load", "h2c", "--output", str(page)]) == 0
    found = json.loads((tmp_path / "out" / "R.json").read_text())
    assert found["failures"] == []
    assert found["closed"]["h2c"]["rows"]["nginx"]["requests"] > 0


def test_those_that_a_target_compares_closely_are_measured_three_times_in_a_round() -> None:
    targets = [Target(name, 1, None) for name in ("ours", "plain", "nginx")]
    plan = Plan(
        scenarios.SMALL,
        rounds=2,
        seconds=1.0,
        cores=Cores(1, 0),
        more=goals.close("small-32") & {"ours", "plain", "nginx"},
    )
    turns = [(number, [one.name for one in of_turn]) for number, of_turn in plan.turns(targets)]
    assert turns == [
        (0, ["ours", "plain", "nginx"]),
        (1, ["nginx", "ours"]),
        (2, ["ours", "nginx"]),
        (3, ["ours", "plain", "nginx"]),
        (4, ["ours", "nginx"]),
        (5, ["nginx", "ours"]),
    ]
    assert len([*replace(plan, more=frozenset()).turns(targets)]) == 2


def test_ratio_compares_the_rounds_that_both_have() -> None:
    ours = [sample("ours", cpu_us=cpu, number=at) for at, cpu in enumerate((10, 20, 40))]
    peer = [sample("nginx", cpu_us=20, number=at) for at in (0, 2)]
    found = summary.ratio(ours, peer)
    assert found is not None
    assert (found.requests_per_core_second.low, found.requests_per_core_second.high) == (0.5, 2.0)
