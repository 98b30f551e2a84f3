"""The scripts of the action for users, run as a workflow runs them."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
EXAMPLE = ROOT / "examples" / "digits.mlpackage"
SAMPLES = ROOT / "examples" / "digits_test.npz"


class Run:
    """What a step of a workflow left: its exit code, what it printed, its table, its outputs."""

    def __init__(self, folder: Path, **inputs: str):
        self.table_file, outputs, self.summary_file = folder / "table.md", folder / "outputs", folder / "summary.md"
        given = {
            "model": str(EXAMPLE),
            "output": str(folder / "small.mlpackage"),
            "table": str(self.table_file),
        } | inputs
        done = subprocess.run(
            [sys.executable, ROOT / "action" / "compress.py", *(f"--{name}={value}" for name, value in given.items())],
            env=os.environ | {"GITHUB_OUTPUT": str(outputs), "GITHUB_STEP_SUMMARY": str(self.summary_file)},
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )
        self.code, self.printed, self.errors = done.returncode, done.stdout, done.stderr
        self.table = self.table_file.read_text(encoding="utf-8") if self.table_file.exists() else ""
        lines = outputs.read_text().splitlines() if outputs.exists() else []
        self.outputs = dict(line.split("=", 1) for line in lines)


def bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_it_compresses_verifies_and_writes_a_table(tmp_path: Path) -> None:
    run = Run(tmp_path, **{"data": str(SAMPLES), "min-snr": "20", "max-size": "200 kB"})
    assert run.code == 0, run.printed + run.errors
    assert int(run.outputs["size"]) == bytes_in(tmp_path / "small.mlpackage") < 200_000
    assert float(run.outputs["ratio"]) == pytest.approx(bytes_in(EXAMPLE) / int(run.outputs["size"]), abs=1e-3)
    assert run.outputs["table"] == str(run.table_file)
    assert "| reported of devices |  | `lut4-per-tensor` (wrong on ane, cpu) |" in run.table
    log = json.loads(Path(run.outputs["sarif"]).read_text(encoding="utf-8"))
    assert len(log["runs"][0]["results"]) == 4
    assert "✅ good" in run.table and "4 of 10" in run.table
    assert "SNR 26.88 dB" in run.table and "| compared on |  | 360 samples |" in run.table
    assert run.summary_file.read_text(encoding="utf-8").strip() == run.table.strip()


def test_what_is_too_large_fails_with_a_table(tmp_path: Path) -> None:
    run = Run(tmp_path, **{"verify": "false", "command": "quantize --dtype int8", "max-size": "100 kB"})
    assert run.code == 1
    assert "❌" in run.table and "but 100.00 kB are allowed" in run.table
    assert "reported of devices" not in run.table and Path(run.outputs["sarif"]).is_file()
    assert "::error title=corepress::" in run.printed


def test_a_size_that_is_none_is_told_in_one_sentence(tmp_path: Path) -> None:
    run = Run(tmp_path, **{"verify": "false", "max-size": "foo"})
    assert run.code == 2 and "Traceback" not in run.errors and "is not a size" in run.errors


@pytest.mark.slow
def test_answers_that_are_too_far_apart_fail(tmp_path: Path) -> None:
    run = Run(tmp_path, **{"command": "palettize --nbits 1", "data": str(SAMPLES), "min-snr": "20"})
    assert run.code == 1
    assert "❌" in run.table and "below 20 dB" in run.table


def test_a_command_that_fails_is_told_with_its_exit_code(tmp_path: Path) -> None:
    run = Run(tmp_path, model=str(tmp_path / "missing.mlpackage"), verify="false")
    assert run.code == 3
    assert "failed" in run.table and "missing.mlpackage" in run.table
    run = Run(tmp_path, command="palettize --nbits 5", verify="false")
    assert run.code == 2 and "nbits" in run.table


class Forge(http.server.BaseHTTPRequestHandler):
    """The part of GitHub's interface that comments, with pages of comments."""

    comments: list[dict[str, Any]]
    allowed: bool
    asked: list[str]

    def do_GET(self) -> None:
        size, page = (int(part.split("=")[1]) for part in self.path.split("?")[1].split("&"))
        self.reply(self.comments[(page - 1) * size : page * size])

    def do_POST(self) -> None:
        self.comments.append({"id": 1000 + len(self.comments), "body": self.body()})
        self.reply(self.comments[-1])

    def do_PATCH(self) -> None:
        (comment,) = (comment for comment in self.comments if comment["id"] == int(self.path.rsplit("/", 1)[1]))
        comment["body"] = self.body()
        self.reply(comment)

    def body(self) -> str:
        return str(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["body"])

    def reply(self, answer: Any) -> None:
        self.asked.append(f"{self.command} {self.path.partition('?')[0]}")
        assert self.headers["Authorization"] == "Bearer secret"
        self.send_response(200 if self.allowed or self.command == "GET" else 403)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def forge() -> Iterator[tuple[type[Forge], str]]:
    others = [{"id": number, "body": "looks good"} for number in range(150)]
    kind = type("OneForge", (Forge,), {"comments": others, "allowed": True, "asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield kind, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def comment(table: Path, address: str, about: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "action" / "comment.py", f"--table={table}", f"--about={about}", "--number=7"],
        env=os.environ | {"GITHUB_TOKEN": "secret", "GITHUB_REPOSITORY": "me/app", "GITHUB_API_URL": address},
        capture_output=True,
        text=True,
        check=False,
    )


def test_there_is_one_comment_for_each_model(tmp_path: Path, forge: tuple[type[Forge], str]) -> None:
    kind, address = forge
    table = tmp_path / "table.md"
    for text, about in (("first", "a.mlpackage"), ("other", "b--c.mlpackage"), ("second ✅", "a.mlpackage")):
        table.write_text(text, encoding="utf-8")
        done = comment(table, address, about)
        assert done.returncode == 0, done.stderr
    ours = [comment["body"].split("\n", 1)[1] for comment in kind.comments[150:]]
    assert ours == ["second ✅", "other"]
    assert kind.asked[-1] == "PATCH /repos/me/app/issues/comments/1150"


def test_a_token_that_may_not_comment_is_a_warning(tmp_path: Path, forge: tuple[type[Forge], str]) -> None:
    kind, address = forge
    kind.allowed = False
    (tmp_path / "table.md").write_text("text")
    done = comment(tmp_path / "table.md", address, "a.mlpackage")
    assert done.returncode == 0 and "::warning title=corepress::The token may not comment" in done.stdout


def test_the_action_hands_each_input_to_a_script_through_the_environment() -> None:
    """Never into the text of a shell command, where a name from a pull request would be run."""
    action = yaml.safe_load((ROOT / "action" / "action.yml").read_text(encoding="utf-8"))
    for step in action["runs"]["steps"]:
        assert "${{" not in step["run"]
    handed = str(
        [step.get("env") for step in action["runs"]["steps"]] + [step.get("if") for step in action["runs"]["steps"]]
    )
    assert all(f"inputs.{name} " in handed for name in action["inputs"])
