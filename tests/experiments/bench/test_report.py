from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console

from rsp_robot.backbones import vit
from rsp_robot.errors import UserError
from rsp_robot.experiments.bench import report
from rsp_robot.experiments.bench.flops import Flops
from rsp_robot.experiments.bench.formulations import FULL, PLAIN, Formulation
from rsp_robot.experiments.bench.pretrain import Measured, PretrainBench, Row
from rsp_robot.experiments.bench.report import print_measured, to_json
from rsp_robot.experiments.usage import parse_options
from rsp_robot.experiments.verbs.bench import BenchCommand, run_bench

CPU = torch.device("cpu")
MEASURED = Measured(
    (
        Row(FULL, Formulation(bf16=True), 8, (0.5, 0.4, 0.6), 100 * 2**20, 1.0),
        Row("prior decoded every step", Formulation(bf16=True), 8, (0.8, 0.8, 0.8), 101 * 2**20, 1.0),
        Row(PLAIN, Formulation(), 4, (1.0, 1.0, 1.0), 200 * 2**20, 1.0),
    ),
    8,
    Flops(50_000_000_000, 150_000_000_000),
    {"bf16": 4e12, "fp32": 2e12},
)


def printed(measured: Measured, bench: PretrainBench, width: int = 80) -> list[str]:
    out = StringIO()
    print_measured(measured, bench, CPU, Console(file=out, width=width))
    return out.getvalue().splitlines()


def test_the_table_fits_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "cpu_name", lambda: "Abacus 9000")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(report.os, "cpu_count", lambda: 3)
    lines = printed(MEASURED, PretrainBench())
    assert lines[0].startswith("Abacus 9000, 2 of 3 cores, torch ")
    assert lines[1] == "matmul peak: 4 TFLOP/s in bf16, 2 in fp32"
    assert lines[2] == "RSP, vit-small/16 at 224 px, 8 pairs per step, 150 GFLOP per pair"
    assert lines[3] == "full setting: 16 pairs/s, 500 ms/step, 2.4 TFLOP/s, 60% of the bf16 peak, 100 MiB"
    rows = [line.split() for line in lines[5:9]]
    assert rows[0] == ["pairs/s", "±%", "x", "full", "x", "plain", "of", "peak", "MiB"]
    assert rows[1] == ["full", "setting", "16", "20", "1.00", "2.00", "60%", "100"]
    assert rows[2][-6:] == ["10", "0", "0.62", "1.25", "38%", "101"]
    assert rows[3][-6:] == ["8", "0", "0.50", "1.00", "60%", "200"]
    assert "…" not in "".join(lines)
    assert lines[-1] == "The full setting is 2.00 times as fast as the plain formulation."


def test_notes_say_what_the_numbers_do_not() -> None:
    text = "\n".join(printed(MEASURED, PretrainBench()))
    assert "torch.compile is no part of the full setting on a CPU" in text
    assert "plain formulation: memory for 4 pairs at a time only, accumulated to 8" in text
    assert "no bf16 arithmetic" not in text
    assert "left out (--no-compile)" in "\n".join(printed(MEASURED, PretrainBench(compile=False)))
    old = Measured(MEASURED.rows[::-1], 8, MEASURED.flops, MEASURED.peaks)
    assert "no bf16 arithmetic" in "\n".join(printed(old, PretrainBench()))


def test_json_holds_every_number() -> None:
    stored = json.loads(json.dumps(to_json(MEASURED, PretrainBench(out=Path("x.json")), CPU)))
    assert stored["speed_up_over_plain"] == 2
    assert stored["matmul_peak_tflops"] == {"bf16": 4, "fp32": 2}
    assert stored["gflop_per_pair"] == {"forward": 50, "total": 150}
    assert [row["seconds_per_step"] for row in stored["rows"]] == [[0.5, 0.4, 0.6], 3 * [0.8], 3 * [1.0]]
    assert stored["rows"][1]["relative_to_full"] == pytest.approx(0.625)
    assert stored["rows"][1]["relative_to_plain"] == pytest.approx(1.25)
    assert stored["rows"][0]["share_of_peak"] == pytest.approx(0.6)
    assert stored["rows"][2]["formulation"]["bf16"] is False and stored["rows"][2]["peak_memory_mib"] == 200
    assert stored["settings"]["arch"] == "vit-small" and stored["machine"] and stored["versions"]["torch"]


def test_a_processor_without_a_name(tmp_path: Path) -> None:
    named = tmp_path / "cpuinfo"
    named.write_text("processor\t: 0\nmodel name\t: Abacus: 9000\n")
    assert report.cpu_name(named) == "Abacus: 9000"
    assert report.cpu_name(tmp_path / "missing")


def test_the_verb_prints_and_saves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(vit.VARIANTS, "vit-toy", {"width": 16, "depth": 1, "heads": 2})
    out = tmp_path / "bench.json"
    words = "pretrain --arch vit-toy --image-size 16 --patch-size 8 --decoder-width 16 --decoder-depth 1 --device cpu"
    words += f" --decoder-heads 2 --batch 2 --rounds 1 --no-compile --only fused_optimiser bf16 --out {out}"
    command = parse_options(BenchCommand, words.split(), "rsp-robot bench", "")
    assert run_bench(command) == out
    stored = json.loads(out.read_text())
    assert [row["name"] for row in stored["rows"]][::3] == [FULL, PLAIN]
    assert f"{stored['speed_up_over_plain']:.2f} times as fast" in capsys.readouterr().out.splitlines()[-1]


def test_what_to_bench_has_to_be_said() -> None:
    with pytest.raises(UserError, match="pretrain"):
        parse_options(BenchCommand, [], "rsp-robot bench", "")
    with pytest.raises(UserError, match="pretrain"):
        parse_options(BenchCommand, ["bc"], "rsp-robot bench", "")
