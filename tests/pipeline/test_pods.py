"""The pod benchmark, tiny: on forced devices of one process and of two."""

import pathlib
import socket
import subprocess
import sys

import pytest
from PIL import Image

SCRIPT = pathlib.Path(__file__).parents[2] / "experiments" / "benchmarks" / "pods.py"
TINY = [
    "--model",
    "mlp",
    "--per-device",
    "1",
    "--batch",
    "8",
    "--steps",
    "1",
    "--repeats",
    "2",
]


def start(out, *flags):
    command = [sys.executable, str(SCRIPT), "--out", str(out), *flags]
    return subprocess.Popen(
        command,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=SCRIPT.parents[2],
    )


def finish(*processes):
    said = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), said
    return [out for out, _ in said]


def rows(said):
    """``{devices: efficiency}`` of the printed table."""
    lines = [line.split() for line in said.partition("efficiency")[2].splitlines()]
    return {
        int(line[0]): float(line[4]) for line in lines if line and line[0].isdigit()
    }


def test_a_dry_run_prints_its_steps_and_writes_nothing(tmp_path):
    (said,) = finish(start(tmp_path / "out", "--force-devices", "8", "--dry-run"))
    assert "host 0 of 1: 8 local devices (cpu)" in said
    assert "would train 4 x resnet on each of 1, 2, 4, 8 devices" in said
    assert not (tmp_path / "out").exists()


BATCH = SCRIPT.parents[1] / "pod.sbatch"


@pytest.mark.parametrize(
    ("status", "restarts", "is_requeued"), [(0, 0, False), (1, 0, True), (1, 5, False)]
)
def test_a_batch_job_is_queued_again_five_times(
    status, restarts, is_requeued, tmp_path
):
    for name, last in (("srun", f"exit {status}"), ("scontrol", "exit 0")):
        file = tmp_path / name
        file.write_text(f'#!/bin/bash\necho "{name} $*" >> {tmp_path}/log\n{last}\n')
        file.chmod(0o755)
    env = {
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "SLURM_JOB_ID": "7",
        "SLURM_RESTART_COUNT": f"{restarts}",
        "SHARED": "/far",
    }
    command = ["bash", str(BATCH), "digits", "--replicas.group=4"]
    subprocess.run(command, env=env, check=False)
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[0] == (
        "srun --kill-on-bad-exit=1 unlearn-jax run digits --workdir /far/runs/digits"
        " --data.path /far/data --distributed --replicas.group=4"
    )
    assert lines[1:] == (["scontrol requeue 7"] if is_requeued else [])


@pytest.mark.slow
def test_eight_devices_of_one_process(tmp_path):
    (said,) = finish(start(tmp_path, "--force-devices", "8", *TINY))
    assert list(rows(said)) == [1, 2, 4, 8]
    assert rows(said)[1] == 1
    with Image.open(tmp_path / "pods.png") as drawn:
        assert drawn.size == (600, 420)


@pytest.mark.slow
def test_two_processes_of_two_devices(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    (tmp_path / "host-1.json").write_text(
        '{"1": [9e9], "2": [9e9]}'
    )  # of an earlier run
    flags = [
        "--force-devices",
        "2",
        *TINY,
        f"--coordinator={address}",
        "--num-processes=2",
    ]
    first, second = finish(
        *(start(tmp_path, *flags, f"--process-id={number}") for number in range(2))
    )
    assert "2 hosts, mlp" in first
    assert list(rows(first)) == [2, 4]
    assert max(rows(first).values()) < 3, "the numbers of an earlier run are not used"
    assert "efficiency" not in second
    assert (tmp_path / "pods.png").is_file()
