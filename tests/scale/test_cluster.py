"""Training and searching on a Ray cluster whose nodes are lost: what comes out is what one machine makes."""

import csv
import functools
import json
import math
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rightfit import cluster as cluster_module
from rightfit import places, working
from rightfit.api import load, train
from rightfit.aside import Interrupted
from rightfit.cluster import connected, nodes_without, refuse_unshared
from rightfit.config import TrainSettings
from rightfit.console import Console
from rightfit.errors import DataError, RightfitError, RunError, UsageError
from rightfit.team import LARGER, Team, refusal, refuse, team_of
from rightfit.training import checkpoints
from rightfit.training.checkpoints import Checkpoints
from rightfit.training.state import Progress
from rightfit.training.workers import Workers
from rightfit.tuning.halving import Task
from rightfit.working import work

rightfit_load = functools.partial(load, backend="onnxruntime")  # in this process, whatever Keras runs on
SETTINGS = [
    "--image-size", "8", "--model", "resnet8", "--weights", "none", "--report", "none", "--precision", "float32",
    "--split", "4:1:1",
]  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory, write_images):
    return write_images(tmp_path_factory.mktemp("data") / "photos", count=48, side=8)


def rightfit(*arguments):
    """A command in its own process, as a person has it: its exit code and what it said."""
    command = [sys.executable, "-m", "rightfit", *map(str, arguments)]
    # After a loss Ray may ask for as many workers as before, and waits so many seconds for the room.
    environment = os.environ | {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "5"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, env=environment)
    return done.returncode, done.stderr


def lost_when(cluster, come, busy):
    """As soon as `come()`, a node on which a process called `busy` is at work is removed; it is in the list then."""
    removed = []

    def at_work(node):
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        return any(busy in " ".join(child.cmdline()) for child in raylet.children())

    def wait():
        while not removed:
            time.sleep(0.05)
            if come() and (found := [node for node in cluster.worker_nodes if at_work(node)]):
                cluster.remove_node(found[0])
                removed.append(found[0])

    threading.Thread(target=wait, daemon=True).start()
    return removed


def rows(path):
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_two_workers_of_which_one_is_lost_end_as_one_that_was_alone_from_the_start(cluster, images, tmp_path):
    cluster.remove_node(next(iter(cluster.worker_nodes)))  # or there would be another in its place
    one, two = tmp_path / "one", tmp_path / "two"
    asked = [
        "train", images, *SETTINGS, "--epochs", "5", "--batch-size", "32", "--learning-rate", "0.01",
        "--warmup-epochs", "2.5",
    ]  # fmt: skip
    code, said = rightfit(*asked, "--backend", "jax", "--output", one)
    assert code == 0, said
    lost = lost_when(cluster, lambda: len(rows(two / "history.csv")) > 1, "RayTrainWorker")
    code, said = rightfit(*asked, "--workers", "1:2", "--ray", cluster.address, "--output", two)
    assert code == 0, said
    assert lost and "2 workers go on from step 0 of epoch 1 " in said and "1 worker goes on from" in said
    mine, theirs = rows(two / "history.csv"), rows(one / "history.csv")
    assert [row["epoch"] for row in mine] == list("12345"), "each epoch once"
    losses = [[float(row["val_loss"]) for row in run] for run in (mine, theirs)]
    assert losses[0][0] == pytest.approx(losses[1][0], abs=1e-4)
    assert losses[0] == pytest.approx(
        losses[1], abs=0.05
    )  # on noise, rounding grows as fast as without workers
    assert not (two / "checkpoints" / "ray").exists()
    code, said = rightfit("resume", two, "--epochs", "6", "--workers", "1", "--ray", cluster.address)
    assert code == 0 and "1 worker goes on from step 0 of epoch 6 " in said, said
    assert [row["epoch"] for row in rows(two / "history.csv")] == list("123456")


def test_an_image_that_is_lost_on_a_worker_ends_in_one_error_that_says_how_to_go_on(
    cluster, write_images, tmp_path
):
    photos, run = write_images(tmp_path / "photos", count=48, side=8), tmp_path / "run"

    def lose():
        while not rows(run / "history.csv"):
            time.sleep(0.05)
        (photos / "blue").rename(tmp_path / "away")

    threading.Thread(target=lose, daemon=True).start()
    code, said = rightfit(
        "train", photos, *SETTINGS, "--cache", "none", "--epochs", "500", "--patience", "500", "--doctor", "off",
        "--workers", "1", "--ray", cluster.address, "--output", run,
    )  # fmt: skip
    assert code == 3, said
    again = f"`rightfit resume {run} --workers 1 --ray {cluster.address}`"
    assert said.splitlines()[-1].endswith(f"put it back, and {again} goes on from where training stood")
    assert list((run / "checkpoints").glob("step-*")) and not (run / "checkpoints" / "ray").exists()


def test_a_search_that_is_killed_goes_on_and_one_whose_node_is_lost_takes_every_trial_to_its_end(
    cluster, images, tmp_path, process
):
    place = tmp_path / "searched"
    journal = place / "search" / "journal.jsonl"

    def reached():
        return journal.exists() and '"rung"' in journal.read_text(encoding="utf-8")

    space = tmp_path / "space.yaml"
    space.write_text(
        "learning_rate: {low: 0.01, high: 0.1, log: true}\nimage_size: [8, 12]\n", encoding="utf-8"
    )
    asked = [
        "tune", images, *SETTINGS, "--epochs", "2", "--trials", "8", "--batch-size", "32",
        "--backend", "tensorflow", "--ray", cluster.address, "--output", place, "--space", space,
    ]  # fmt: skip
    killed = subprocess.Popen(process.command(*asked), env=process.environment(), stderr=subprocess.DEVNULL)
    while not reached() and killed.poll() is None:
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    before = journal.read_text(encoding="utf-8")
    lost = lost_when(
        cluster,
        lambda: journal.read_text(encoding="utf-8").count('"rung"') > before.count('"rung"'),
        "_called",
    )
    code, said = rightfit("resume", place, "--ray", cluster.address, "--trials", "4")
    assert code == 0, said
    assert lost and "a search goes on" in said
    after = journal.read_text(encoding="utf-8")
    assert after.startswith(before)
    events = [json.loads(line) for line in after.splitlines()]
    begun = [event["trial"] for event in events if event["event"] == "trial"]
    assert begun == [0, 1, 2, 3] and not [event for event in events if event["event"] == "failed"]
    done = [(event["trial"], event["seed"], event["epochs"]) for event in events if event["event"] == "rung"]
    assert len(set(done)) == len(done) and {trial for trial, seed, _ in done if seed == 0} == {0, 1, 2, 3}
    assert sum(seed > 0 for _, seed, _ in done) == 6, "three finalists, two more seeds each"
    chosen = json.loads((place / "search" / "tuning.json").read_text())["settings"]
    assert rightfit_load(place).image_size == (int(chosen["image_size"]),) * 2


# What is asked for ----------------------------------------------------------------------------------


def test_what_cannot_be_shared_is_said(tmp_path):
    assert team_of(None, None, work) is None
    assert team_of("2:4", "auto", work) == Team(2, 4, "auto", work)
    assert str(team_of("2:4", None, work)) == "2:4" and str(team_of(3, None, work)) == "3"
    for workers in ("none", "0", "4:2", "2:", "-1"):
        with pytest.raises(UsageError, match="--workers"):
            team_of(workers, None, work)
    with pytest.raises(UsageError, match="--workers N"):
        team_of(None, "auto", work)
    settings = TrainSettings(data="", backend="jax", batch_size=32)
    team_of(2, None, work).check(settings, "a.png")
    with pytest.raises(UsageError, match="as many as divide it, or begin a run with --batch-size 33"):
        team_of(3, None, work).check(settings, "a.png")
    with pytest.raises(UsageError, match="train on JAX"):
        team_of(2, None, work).check(settings.model_copy(update={"backend": "torch"}), "a.png")
    with pytest.raises(UsageError, match="data in memory"):
        team_of(2, None, work).check(settings, "array:0")


@given(st.integers(1, 2_000), st.integers(1, 5), st.integers(0, 3))
def test_a_batch_is_dealt_out_evenly_to_every_number_of_workers(size, fewest, more):
    team = Team(fewest, fewest + more, "auto", work)
    counts = range(fewest, fewest + more + 1)
    if more and math.lcm(*counts) > LARGER * size:
        with pytest.raises(UsageError, match=f"ask for fewer numbers, such as {fewest + more}"):
            team.batch_for(size)
        return
    found = team.batch_for(size)
    assert found >= size and all(found % count == 0 for count in counts)
    if math.lcm(*counts) > size:
        few = (
            "too few for so many workers"
            if fewest + more > size
            else "images at least; ask for fewer numbers"
        )
        with pytest.raises(UsageError, match=few):
            team.batch_for(size, most=size)
        return
    within = team.batch_for(size, most=size)
    assert all(within % count == 0 for count in counts) and 0 < within <= size


def test_nodes_on_which_a_folder_is_not_are_named_before_a_worker_begins(cluster, tmp_path, monkeypatch):
    with connected(cluster.address, Console(quiet=True)):
        (tmp_path / ".seen-by-a-process-that-was-killed").touch()
        refuse_unshared(tmp_path)
        assert list(tmp_path.iterdir()) == []
        assert len(nodes_without(tmp_path / "none")) == len(cluster.list_all_nodes())
        monkeypatch.setattr(cluster_module, "WAIT", 0.01)
        lacking = [["10.0.0.7", "10.0.0.8"]] * (cluster_module.LOOKS - 1)
        looks = iter([*lacking, [], *lacking, ["10.0.0.8"]])
        monkeypatch.setattr(cluster_module, "nodes_without", lambda path: next(looks))
        refuse_unshared(tmp_path)  # a disk that shows a file late is shared
        with pytest.raises(UsageError, match=r"is not there on 10.0.0.8; .* on a disk that all nodes share"):
            refuse_unshared(tmp_path)


@pytest.mark.parametrize(
    ("says", "mode", "message"),
    [
        ("UNAUTHENTICATED: InvalidAuthToken", "", "asks for a token; RAY_AUTH_MODE=token sends it"),
        (
            "UNAUTHENTICATED: InvalidAuthToken",
            "token",
            "no token, or not the cluster's, is in ~/.ray/auth_token",
        ),
        (
            "it is ill " + 100 * "and ill ",
            "",
            r"no cluster answers \(it is ill [and il]+ \.\.\.\); `ray start",
        ),
    ],
)
def test_a_cluster_that_does_not_let_in_says_why(monkeypatch, says, mode, message):
    monkeypatch.setattr(cluster_module, "PROBE", f"raise SystemExit({says!r})")
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    with pytest.raises(UsageError, match=message), connected("auto", Console(quiet=True)):
        pass


def test_no_cluster_here_is_no_mistake(monkeypatch):
    monkeypatch.setattr(
        cluster_module, "PROBE", "raise SystemExit('Could not find any running Ray instance')"
    )
    assert not cluster_module._answers("auto")


def test_workers_that_a_cluster_cannot_hold_are_refused_before_anything_is_written(
    cluster, images, tmp_path, monkeypatch, capsys
):
    asked = {"output": tmp_path / "run", "ray": cluster.address, "backend": "jax"}
    with connected(cluster.address, Console(quiet=True)):
        monkeypatch.setattr(cluster_module, "is_own", lambda: True)
        with pytest.raises(
            UsageError, match="9 workers are asked for, and there is room for 3: a worker takes"
        ):
            train(images, workers=9, **asked)
        assert not (tmp_path / "run").exists()
        monkeypatch.setattr(cluster_module, "is_own", lambda: False)
        with Team(9, 9, cluster.address, work).connected(Console()):
            assert "room for 3; training waits for the cluster to grow" in capsys.readouterr().err


def test_what_loses_its_process_is_sent_again_and_not_for_ever(cluster, tmp_path, monkeypatch):
    """Ray's own tries have no end where memory is short."""
    monkeypatch.setattr(places, "LOST", 2)

    def called(place, what, task, *chosen):
        path = Path(place) / f"{task.trial}"
        with path.open("a") as file:
            file.write("begun ")
        if task.trial == 0 or path.read_text().count("begun") < 3:
            if task.trial == 2:  # as a node that goes sends SIGTERM first
                raise Interrupted("stopped in epoch 2")
            os.kill(os.getpid(), signal.SIGKILL)
        return {"loss": 0.5}

    monkeypatch.setattr(places, "_called", called)
    with connected(cluster.address, Console(quiet=True)):
        nodes = places.Nodes(tmp_path, "jax", Console(quiet=True))
        for trial in range(3):
            nodes.begin(Task(trial, 0, 2), {}, 2)
        done = {task.trial: found for task, found in (nodes.next_done() for _ in range(3))}
    assert "its process was lost 3 times" in done[0]["failed"]
    assert done[1]["loss"] == done[2]["loss"] == 0.5
    assert [(tmp_path / name).read_text().split() for name in "012"] == 3 * [3 * ["begun"]]


def test_a_search_whose_nodes_are_gone_says_that_it_waits(cluster, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(places, "LOOK", 0.2)
    monkeypatch.setattr(places, "_called", lambda place, what, task, *chosen: {"loss": 0.5})
    with connected(cluster.address, Console(quiet=True)):
        nodes = places.Nodes(tmp_path, "jax", Console())
        gone = [{"CPU": 0.0}]
        monkeypatch.setattr(cluster_module, "_nodes", lambda: gone)
        assert nodes.count == 1, "one waits for room"
        nodes.begin(Task(0, 0, 2), {}, 2)
        (reference,) = nodes._going
        waiting = iter([([], [reference])] * 3)
        import ray

        true = ray.wait
        monkeypatch.setattr(ray, "wait", lambda *asked, **how: next(waiting, None) or true(*asked, **how))
        assert nodes.next_done()[1]["loss"] == 0.5
    assert capsys.readouterr().err.count("no node of the cluster has room for a trial") == 1


def test_places_are_those_of_a_worker_s_size(monkeypatch):
    monkeypatch.setattr(cluster_module, "_nodes", lambda: [{"CPU": 8, "GPU": 2}, {"CPU": 3}, {}])
    assert [cluster_module.places(*size) for size in ((4, 1), (4, 0), (2, 0), (1, 2), (9, 0))] == [
        2,
        2,
        5,
        1,
        0,
    ]


class Pair(Workers):
    """Two workers that are threads of this process."""

    def __init__(self, number, count, exchange):
        super().__init__(number, count)
        object.__setattr__(self, "exchange", exchange)

    def gathered(self, mine, images):
        return self.exchange(self.number, mine)


class Exchange:
    def __init__(self):
        self.told, self.both, self.first = [None, None], threading.Barrier(2, timeout=60), threading.Event()

    def __call__(self, number, mine):
        self.told[number] = mine
        self.both.wait()
        found = np.concatenate(self.told)
        self.both.wait()
        self.first.set()
        return found


@pytest.mark.parametrize(
    ("seen", "comes", "said"),
    [
        ((2, 1), True, None),
        ((2, 0), True, None),
        ((2, 1), False, "workers see different checkpoints"),
        ((0, 0), False, "none of its checkpoints is whole"),
    ],
)
def test_workers_begin_at_one_checkpoint_though_a_disk_shows_it_late(
    seen, comes, said, tmp_path, monkeypatch
):
    monkeypatch.setattr(checkpoints, "LOOKS", 500 if comes else 3)
    monkeypatch.setattr(checkpoints, "WAIT", 0.01)
    for folder, steps in zip(("first", "second"), seen, strict=True):
        (tmp_path / folder).mkdir()
        made = Checkpoints(tmp_path / folder, Console(quiet=True))
        for step in range(1, steps + 1):
            made.save(Progress(step=step), {"kernel": np.ones(3, np.float32)}, step)
        made.wait()
    exchange = Exchange()

    def begun(number, folder):
        pair = Pair(number, 2, exchange)
        own = Checkpoints(tmp_path / folder, Console(quiet=True), pair)
        return working.same_start(tmp_path / folder, own).progress.step

    with ThreadPoolExecutor(2) as pool:
        steps = [pool.submit(begun, number, folder) for number, folder in enumerate(("first", "second"))]
        assert exchange.first.wait(60)
        if comes:
            for path in sorted((tmp_path / "first/checkpoints").glob("step-*")):
                shutil.copy(path, tmp_path / "second/checkpoints")
            assert [step.result() for step in steps] == [2, 2]
        for step in [] if comes else steps:
            with pytest.raises(RunError, match=said):
                step.result()


def test_what_a_worker_goes_on_from_is_what_was_compared(tmp_path, monkeypatch):
    """The last look is compared, too, and none comes after it."""
    monkeypatch.setattr(checkpoints, "LOOKS", 3)
    monkeypatch.setattr(checkpoints, "WAIT", 0.01)
    own, compared = Checkpoints(tmp_path, Console(quiet=True)), []
    monkeypatch.setattr(own, "_is_everywhere", lambda found: compared.append(found) or found != "another")
    looks = iter([None, None, "another", "one too many"])
    assert own.looked_together(lambda: next(looks), empty=False) == ("another", False)
    assert compared == [None, None, "another"]
    looks = iter(["another", "same"])
    assert own.looked_together(lambda: next(looks)) == ("same", True)


def test_the_same_name_is_not_the_same_checkpoint(tmp_path, monkeypatch):
    """`resume --epochs` writes the last one anew, under its name."""
    monkeypatch.setattr(checkpoints, "LOOKS", 2)
    monkeypatch.setattr(checkpoints, "WAIT", 0.01)
    exchange = Exchange()

    def begun(number):
        (tmp_path / str(number)).mkdir()
        pair = Pair(number, 2, exchange)
        own = Checkpoints(tmp_path / str(number), Console(quiet=True), pair)
        own.save(Progress(step=1, epochs=number), {"kernel": np.ones(3, np.float32)}, 1)
        own.wait()
        return working.same_start(tmp_path / str(number), own)

    with ThreadPoolExecutor(2) as pool:
        for step in [pool.submit(begun, number) for number in (0, 1)]:
            with pytest.raises(RunError, match="different checkpoints"):
                step.result()


def test_an_error_of_a_worker_reaches_who_began_the_training(tmp_path):
    path = tmp_path / "refusal.json"
    assert refusal(path) is None
    refuse(path, DataError("images were changed"))
    assert isinstance(refusal(path), DataError)
    assert str(refusal(path)) == f"on {platform.node()}: images were changed"
    refuse(path, ZeroDivisionError("by zero"))
    assert type(refusal(path)) is RightfitError and "ZeroDivisionError: by zero" in str(refusal(path))
