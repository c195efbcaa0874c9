from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rsp_robot.errors import UserError
from rsp_robot.experiments.suite import cluster
from rsp_robot.experiments.suite.run import run_protocol
from rsp_robot.files import read_json, read_jsonl


def scores(folder: Path) -> dict[str, Any]:
    found = folder.glob("policy/*/*/*/score.json")
    return {str(path.relative_to(folder)): read_json(path)["curve"] for path in found}


def test_without_ray_the_line_to_install_it(material: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'rsp-robot\[cluster\]'"):
        run_protocol(material.PROTOCOL, material.command(tmp_path, cluster="ray"))
    assert not (tmp_path / "suite").exists()


def test_a_job_whose_needs_failed_is_not_begun(tmp_path: Path) -> None:
    report = cluster.do_job(
        str(tmp_path), "policy/a", [], {}, {"job": "demonstrations/b", "seconds": 1.0, "error": "it fell over"}
    )
    assert report == {"job": "policy/a", "seconds": 0.0, "error": "not begun, as demonstrations/b failed"}


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without cores and two nodes with one core each."""
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes.workers = [nodes.add_node(num_cpus=1) for _ in range(2)]
    nodes.wait_for_nodes()
    ray.init(address=nodes.address, log_to_driver=False, logging_level="error")
    yield nodes
    ray.shutdown()
    nodes.shutdown()


@pytest.mark.slow
def test_a_node_that_is_lost_costs_only_what_it_had_not_finished(material: Any, tmp_path: Path, two_nodes: Any) -> None:
    protocol = replace(material.PROTOCOL, epochs=10, evaluate_every=5, episodes=10).narrowed(seeds=6)
    suite = tmp_path / "suite"
    stamps: dict[str, int] = {}

    def lose_a_node() -> None:
        """Once a policy is done, and each node is in the middle of another."""
        while not scores(suite) or sum(1 for _ in suite.glob("policy/*/*/*/evaluation.jsonl")) < 3:
            time.sleep(0.02)
        stamps.update({str(path): path.stat().st_mtime_ns for path in suite.glob("policy/*/*/*/score.json")})
        two_nodes.remove_node(two_nodes.workers[0], allow_graceful=False)

    thread = threading.Thread(target=lose_a_node)
    thread.start()
    run_protocol(protocol, material.command(tmp_path, "none", cluster="ray", cpus_per_job=1))
    thread.join()
    assert stamps
    assert {path: Path(path).stat().st_mtime_ns for path in stamps} == stamps, "what was done is not done again"
    run_protocol(protocol, material.command(tmp_path, "none", out=tmp_path / "alone"))
    assert len(scores(suite)) == 6 and scores(suite) == scores(tmp_path / "alone")
    for path in suite.glob("policy/*/*/*/evaluation.jsonl"):
        keys = [(row["policy"], row["episode"]) for row in read_jsonl(path)]
        assert len(keys) == len(set(keys)) == 20


@pytest.mark.slow
def test_a_job_that_fails_is_told_in_one_line(material: Any, tmp_path: Path, two_nodes: Any) -> None:
    protocol = replace(material.PROTOCOL, cameras=("top",)).narrowed(seeds=1)
    with pytest.raises(
        UserError, match="policy/vit/toy-reach/seed-0: .*embeddings/vit/toy-reach failed|no camera 'top'"
    ):
        run_protocol(protocol, material.command(tmp_path, "vit=random:vit-nano/8@16", cluster="ray", cpus_per_job=1))
