"""Extraction as ranks, forked by `extracting`, and under the launcher: kills lose nothing."""

import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from extract_world import make_world, options_of, same_store, using

from llava_sea.errors import UserError
from llava_sea.labels.extract import extract_labels
from tests.worlds import kill_tree


def done(options):
    return len(list(Path(options.output_dir).glob("shard-*.json")))


def said(options):
    """The errors of a world's ranks."""
    return Path(options.data_path + ".errors").read_text()


def end(*ranks):
    """Wait for processes; their exit codes."""
    for rank in ranks:
        rank.join(600)
    return [rank.exitcode for rank in ranks]


def test_two_ranks_equal_one(world, extracting):
    world = using(world, sea_center="corpus", sign_sample=7)
    whole = using(world, output_dir=world.output_dir + "-1")
    assert end(*extracting(whole)) == [0]
    assert end(*extracting(world, count=2)) == [0, 0]
    assert same_store(whole.output_dir, world.output_dir)
    stamps = {p: p.stat().st_mtime_ns for p in Path(world.output_dir).iterdir()}
    assert end(*extracting(world, count=2)) == [0, 0]  # nothing to do
    assert stamps == {p: p.stat().st_mtime_ns for p in Path(world.output_dir).iterdir()}


def test_an_error_before_mining_ends_all_ranks_and_each_says_it(world, extracting):
    Path(world.words).write_text("word\tcount\tpos\n")
    assert end(*extracting(world, count=2)) == [2, 2]
    assert said(world).count("word list is empty") == 2
    assert not Path(world.output_dir).exists()


def test_a_bad_image_ends_all_ranks_with_its_error_and_the_next_run_resumes(tmp_path, extracting):
    make_world(tmp_path, count=400)
    options = using(options_of(tmp_path), shard_size=2, batch_size=1)
    bad = Path(options.image_folder) / "sub" / "301.png"
    whole = bad.read_bytes()
    bad.unlink()
    assert end(*extracting(options, count=2)) == [2, 2]  # no launcher ends the first
    assert f"error: record 'r301': {bad}" in said(options)
    assert 0 < done(options) < 200
    bad.write_bytes(whole)
    assert end(*extracting(options, count=2)) == [0, 0]
    alone = using(options, output_dir=options.output_dir + "-1")
    assert same_store(options.output_dir, extract_labels(alone))


@pytest.mark.parametrize("hosts", [False, True], ids=["here", "elsewhere"])
def test_the_others_take_over_what_a_killed_rank_held(tmp_path, extracting, hosts):
    make_world(tmp_path, count=100)
    options = using(options_of(tmp_path), shard_size=10, batch_size=1, sea_caption_share=0.5)
    first, second = extracting(options, count=2, hosts=hosts)
    claims = Path(options.output_dir) / "work" / "claims"
    while not (claims / "shard-00005").exists() and second.is_alive():
        time.sleep(0.001)
    second.kill()
    assert end(first, second) == [0, -signal.SIGKILL]
    alone = using(options, output_dir=options.output_dir + "-1")
    assert same_store(options.output_dir, extract_labels(alone))


def test_an_extraction_of_other_labels_is_refused_and_the_first_goes_on(tmp_path, extracting):
    make_world(tmp_path, count=200)
    options = using(options_of(tmp_path), shard_size=2, batch_size=1)
    ranks = extracting(options, count=2)
    while not done(options) and ranks[0].is_alive():
        time.sleep(0.005)
    with pytest.raises(UserError, match="made with top_n = 5, this run has 3"):
        extract_labels(using(options, sea_top_n=3))
    assert end(*ranks) == [0, 0]


def test_ranks_leave_when_their_launcher_is_killed_and_one_process_resumes(tmp_path, extracting):
    make_world(tmp_path, count=200)
    options = using(options_of(tmp_path), shard_size=2, batch_size=1)
    launcher = subprocess.Popen(["sleep", "600"])
    ranks = extracting(options, count=2, launcher=launcher.pid)
    while not done(options) and ranks[0].is_alive():
        time.sleep(0.005)
    launcher.kill()  # and not reaped: it stays as a zombie
    assert end(*ranks) == [1, 1]
    launcher.wait()
    assert 0 < done(options) < 100
    assert end(*extracting(options)) == [0]
    whole = using(options, output_dir=str(tmp_path / "whole"))
    assert end(*extracting(whole)) == [0]
    assert same_store(options.output_dir, whole.output_dir)


def test_kill_at_any_moment_and_finish_equals_an_unbroken_run(tmp_path, extracting):
    make_world(tmp_path, count=60)
    options, rng, stopped_at = using(options_of(tmp_path), shard_size=2), random.Random(0), []
    for kill in range(8):
        (rank,) = extracting(options)
        if kill % 3 == 0:  # while it starts: model, words, checks
            time.sleep(rng.uniform(0.01, 0.15))
        else:  # some shards later, and anywhere within a shard
            target = done(options) + rng.randint(1, 4)
            while done(options) < target and rank.is_alive():
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.01))
        rank.kill()
        if end(rank) == [-signal.SIGKILL]:
            stopped_at.append(done(options))
    # How many kills come before the end depends on the machine; enough must hit the middle.
    assert len({n for n in stopped_at if 0 < n < 30}) >= 4, stopped_at
    assert end(*extracting(options)) == [0]
    whole = using(options, output_dir=options.output_dir + "-whole")
    assert end(*extracting(whole)) == [0]
    assert same_store(options.output_dir, whole.output_dir)


@pytest.mark.slow
@pytest.mark.deepspeed
def test_a_killed_rank_under_the_launcher_stops_the_run_and_the_same_command_resumes(tmp_path):
    make_world(tmp_path, count=200)
    options = using(options_of(tmp_path), shard_size=2, batch_size=1)
    flags = [f"--{k}={v}" for k, v in dataclasses.asdict(options).items() if v is not None]
    flags.remove("--local_rank=-1")
    command = [sys.executable, "-m", "llava_sea.train.launch", "--num_gpus", "2"]
    command += ["--master_port", "29731", "--module", "llava_sea.labels.extract", *flags]
    env = os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    while not done(options) and run.poll() is None:
        time.sleep(0.05)
    ranks = [
        p
        for p in psutil.Process(run.pid).children(recursive=True)
        if any("labels.extract" in part for part in p.cmdline()) and not p.children()
    ]
    assert len(ranks) == 2
    ranks[1].kill()
    said = run.communicate()[1]
    assert run.returncode and "finished shards" in said.splitlines()[-1]
    assert not any(rank.is_running() for rank in ranks)
    subprocess.run(command, env=env, check=True)
    whole = extract_labels(using(options, output_dir=str(tmp_path / "whole")))
    assert same_store(options.output_dir, whole)


@pytest.mark.slow
@pytest.mark.deepspeed
def test_nodes_label_as_one_does_and_the_rest_goes_on_when_one_is_killed(tmp_path, nodes):
    make_world(tmp_path, count=400)
    options = using(options_of(tmp_path), shard_size=2, batch_size=1, sea_caption_share=0.5)
    flags = [f"--{k}={v}" for k, v in dataclasses.asdict(options).items() if v is not None]
    flags.remove("--local_rank=-1")
    first, second = nodes("--module", "llava_sea.labels.extract", *flags)
    while not done(options):
        assert first.process.poll() is None, first.log.read_text()[-3000:]
        time.sleep(0.01)
    kill_tree(second.process.pid)
    assert done(options) < 200
    assert first.process.wait(300) == 0, first.log.read_text()[-3000:]
    alone = using(options, output_dir=options.output_dir + "-1")
    assert same_store(options.output_dir, extract_labels(alone))
