"""``canaryproxy import``: files, standard input, includes, and what goes where."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from canaryproxy import config
from canaryproxy.cli import main
from canaryproxy.cli.import_ import KINDS
from canaryproxy.importing import KINDS as KNOWN
from tests.importing.cases import CASES, SOURCES, expected

INCLUDING = next(one for one in CASES if one.file == "nginx-include/nginx.conf")


def test_the_command_knows_every_kind() -> None:
    assert set(KINDS) == set(KNOWN)


def test_file_with_includes_is_printed_and_notes_are_counted() -> None:
    done = CliRunner().invoke(main, ["import", str(SOURCES / INCLUDING.file)])
    assert done.exit_code == 0
    assert done.stdout == expected(INCLUDING).read_text()
    notes = done.stdout.count("# no equivalent:") + done.stdout.count("# differs:")
    assert f"canaryproxy: {notes} things have no equivalent" in done.stderr


@pytest.mark.parametrize("arguments", [["import"], ["import", "-"], ["import", "--from", "envoy"]])
def test_standard_input_is_read(arguments: list[str]) -> None:
    text = (SOURCES / "envoy-fraction.yaml").read_text()
    done = CliRunner().invoke(main, arguments, input=text)
    assert done.exit_code == 0
    assert "# stdin:26: " in done.stdout or "# stdin:27: " in done.stdout
    assert config.parse(done.stdout, file="import").split.weight == 30


def test_several_files_are_one_input(tmp_path: Path) -> None:
    main_text, _, rest = (SOURCES / "ingress-weight.yaml").read_text().partition("---\n")
    (tmp_path / "main.yaml").write_text(main_text)
    (tmp_path / "canary.yaml").write_text(rest)
    files = [str(tmp_path / name) for name in ("main.yaml", "canary.yaml")]
    done = CliRunner().invoke(main, ["import", *files])
    assert done.exit_code == 0
    assert "# canary.yaml:8: canary-weight 25 of 1000" in done.stdout
    assert "# main.yaml:7: proxy-connect-timeout" in done.stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"kind: Deployment\n", "x.conf:1:1: expected a configuration of nginx"),
        (b"include gone.conf;\n", "x.conf:1:1: cannot include 'gone.conf': No such file"),
        (b"include x.conf;\n", "includes itself"),
        (b"\xff\xfe", "is not UTF-8 text (byte 0)"),
    ],
)
def test_error_is_one_line_and_exit_status_2(tmp_path: Path, text: bytes, message: str) -> None:
    file = tmp_path / "x.conf"
    file.write_bytes(text)
    done = CliRunner().invoke(main, ["import", str(file)])
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_pattern_may_mean_no_file(tmp_path: Path) -> None:
    text = (SOURCES / "nginx-weights.conf").read_text()
    (tmp_path / "nginx.conf").write_text(f"include modules/*.conf;\n{text}")
    assert CliRunner().invoke(main, ["import", str(tmp_path / "nginx.conf")]).exit_code == 0


def test_missing_file_is_said() -> None:
    done = CliRunner().invoke(main, ["import", "/nonexistent/nginx.conf"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "cannot read /nonexistent/nginx.conf: No such file or directory" in done.stderr
