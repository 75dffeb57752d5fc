"""Damaged files, full disks and double starts: noticed, and the result is the same.

Commands::

    survival_damage.py                            # all of it, 20 minutes
    survival_damage.py finished --how deleted     # a part

The run is that of ``survival.py``. In a finished run, a file of every kind of stored
folder is truncated, has a bit flipped or is deleted, in turn, and so are the files that
a run writes but never reads. The same command must name every stored file, move its
folder aside, recompute it and end in the same bits. The next cases are checkpoints of a
group under way, the cache of compiled programs, a disk (in memory, mounted for this
test) that is read-only or full at one of four points of the run, and the same command
started twice at once.

Results: ``experiments/results/survival_damage.json``
"""

import argparse
import pathlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable

from survival import (
    RUN,
    Case,
    begun,
    compare,
    end,
    stored,
    uninterrupted,
    wait_until,
)

from unlearn_jax.pipeline.store.folders import Workdir, find_manifest

DAMAGE: dict[str, Callable[[bytes], bytes] | None] = {
    "truncated": lambda data: data[: len(data) // 2],
    "a bit flipped": lambda data: flip(data, len(data) // 2, 0),
    "deleted": None,
}


def flip(data: bytes, place: int, bit: int) -> bytes:
    """Return the data with one bit of one byte changed."""
    return data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]


def damage(file: pathlib.Path, how: str) -> None:
    """Damage a file in one of the ways of ``DAMAGE``."""
    if (change := DAMAGE[how]) is None:
        file.unlink()
    else:
        file.write_bytes(change(file.read_bytes()))


def damage_finished(
    case: Case,
    whole: pathlib.Path,
    expected: dict[str, bytes],
    kinds: Iterable[str] = tuple(DAMAGE),
) -> None:
    """Damage a file of every stored folder in turn; each must be named and rebuilt."""
    patterns = (
        "banks/originals-*/items-*",
        "banks/references-*/items-*",
        "banks/retrained-*/items-*",
        "run/attack-*/items-*",
        "run/unlearn-amun-*/items-*",
    )
    stored = [sorted(files_of(min(whole.glob(pattern)))) for pattern in patterns]
    others = [
        file
        for file in sorted((whole / "run").iterdir())
        if file.is_file() and not file.name.startswith(".")
    ]
    for how in kinds:
        for turn in range(max(map(len, stored))):
            folder = case.root / "damaged"
            shutil.copytree(whole, folder)
            files = [
                folder / files[turn].relative_to(whole)
                for files in stored
                if turn < len(files)
            ]
            written = [
                folder / file.relative_to(whole)
                for file in others
                if turn == (file.name == Workdir.MARK)
            ]
            for file in files + written:
                damage(file, how)
            spoiled = [file.read_bytes() if file.exists() else b"" for file in written]
            output = case.finish(folder)
            compare(folder, expected, left=True)
            for file in files:
                named = "/".join(file.parts[-3:])
                if (
                    f"{named} is missing, truncated or changed" not in output
                    or not set_aside(file)
                ):
                    raise SystemExit(f"{file}, {how}: not noticed:\n{output}")
                print(
                    f"ok  {how:14} {kind_of(file, folder):36} named, set aside,"
                    " recomputed",
                    flush=True,
                )
            for file, before in zip(written, spoiled, strict=True):
                # The bytes after the first ones may hold times
                first = (whole / file.relative_to(folder)).read_bytes()[:4]
                if file.read_bytes() == before or file.read_bytes()[:4] != first:
                    raise SystemExit(f"{file}, {how}: not rewritten")
                print(
                    f"ok  {how:14} {kind_of(file, folder):36} never read, rewritten",
                    flush=True,
                )
            shutil.rmtree(folder)


def set_aside(file: pathlib.Path) -> bool:
    """Return whether a file's folder was moved aside, and a sound one replaces it."""
    piece = next(path for path in file.parents if path.name.startswith("items-"))
    aside = piece.with_name(f"damaged-{piece.name}-0")
    return aside.is_dir() and find_manifest(piece) is not None


def kind_of(file: pathlib.Path, folder: pathlib.Path) -> str:
    """Return a file's path without numbers and keys."""
    return re.sub(r"-?[0-9a-f]{8,}|-\d+|\d+/", "", str(file.relative_to(folder)))


def damage_checkpoints(
    case: Case, expected: dict[str, bytes], kinds: Iterable[str] = tuple(DAMAGE)
) -> None:
    """Damage checkpoints: training resumes from the one before, or restarts."""
    under_way = case.root / "under way"
    # A kill after the last epoch of a group finds no checkpoint: start again
    while len(steps_of(under_way)) < 2:
        shutil.rmtree(under_way, ignore_errors=True)
        processes = case.start(under_way)
        wait_until(lambda: len(steps_of(under_way)) > 1, processes)
        processes[0].kill()
        processes[0].communicate()
    names = sorted(
        {
            file.relative_to(steps_of(under_way)[-1])
            for file in files_of(steps_of(under_way)[-1])
        }
    )
    cells = [([-1], name, how) for name in names for how in kinds]
    cells += [
        (list(range(len(steps_of(under_way)))), name, "truncated")
        for name in names
        if name.name == "manifest.json"
    ]
    for which, name, how in cells:
        folder = case.root / "damaged"
        shutil.copytree(under_way, folder)
        steps = steps_of(folder)
        for step in which:
            damage(steps[step] / name, how)
        output = case.finish(folder)
        compare(folder, expected, left=True)
        named = f"checkpoint {steps[-1]} is truncated or changed" in output
        what = f"checkpoint: {name} of the {'newest' if len(which) == 1 else 'all'}"
        if not named:
            raise SystemExit(f"{what}, {how}: not noticed:\n{output}")
        print(f"ok  {how:14} {what:36} named, set aside, same result", flush=True)
        shutil.rmtree(folder)


def steps_of(folder: pathlib.Path) -> list[pathlib.Path]:
    """Return the finished checkpoints of the group under way, oldest first."""
    steps = [
        step for step in folder.glob("banks/*/unfinished-*/*") if step.name.isdecimal()
    ]
    return sorted(steps, key=lambda step: int(step.name))


def files_of(folder: pathlib.Path) -> list[pathlib.Path]:
    """Return all files below a folder."""
    return [file for file in folder.rglob("*") if file.is_file()]


def damage_cache(
    case: Case, expected: dict[str, bytes], kinds: Iterable[str] = tuple(DAMAGE)
) -> None:
    """Damage all compiled programs of the cache: they are compiled again."""
    for how in kinds:
        untouched = case.root / "kept"
        shutil.copytree(case.root / "cache", untouched)
        for file in files_of(case.root / "cache"):
            damage(file, how)
        output = case.finish(case.root / "damaged")
        compare(case.root / "damaged", expected)
        named = "named" if "unlearn-jax: warning" in output else "silently"
        print(
            f"ok  {how:14} {'all compiled programs':36} {named} recompiled",
            flush=True,
        )
        for folder in (case.root / "damaged", case.root / "cache"):
            shutil.rmtree(folder)
        untouched.rename(case.root / "cache")


def refused(case: Case, folder: pathlib.Path, status: int, message: str) -> None:
    """Run the command, which must end with a status and one line with a message."""
    (process,) = case.start(folder)
    _, output = process.communicate()
    if process.returncode != status or message not in output or output.count("\n") != 1:
        raise SystemExit(
            f"status {process.returncode}, not {status} with {message!r}:\n{output}"
        )


def damage_disks(case: Case, whole: pathlib.Path, expected: dict[str, bytes]) -> None:
    """Fill the disk at several points of the run, and make it read-only.

    Each time the run must end with one line. With space on the disk, the same command
    must then end in the same result.
    """
    size = sum(
        -(-file.stat().st_size // 4096) * 4 for file in files_of(whole)
    ) + 4 * len(list(whole.rglob("*")))
    for share in (0.15, 0.3, 0.45, 0.6):
        disk = case.root / "disk"
        disk.mkdir()
        options = f"size={int(share * size)}k"
        if subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)],
            capture_output=True,
        ).returncode:
            print("--  disks: not tried, nothing can be mounted here")
            return
        try:
            refused(case, disk, 1, "No space left on device: '")
            done = len(list(disk.rglob("manifest.json")))
            compare_finished(disk, expected)
            subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
            if "unlearn-jax: warning" in case.finish(disk):
                raise SystemExit("a warning after a full disk")
            compare(disk, expected)
            print(
                f"ok  full disk with {done:2} folders finished: one line, none lost;"
                " with space, the same result",
                flush=True,
            )
            if share == 0.6:
                subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
                refused(case, disk, 2, "cannot be written")
                print("ok  read-only disk: one line, nothing changed", flush=True)
        finally:
            subprocess.run(["umount", "-l", str(disk)], check=True)
        disk.rmdir()


def compare_finished(folder: pathlib.Path, expected: dict[str, bytes]) -> None:
    """Stop unless a stopped run's finished folders equal those of the whole run."""
    for manifest in folder.rglob("items-*/manifest.json"):
        for name, value in stored(manifest.parent).items():
            name = str((manifest.parent / name).relative_to(folder))
            if value != expected[name]:
                raise SystemExit(f"{name} differs from that of the uninterrupted run")


def two_at_once(case: Case, expected: dict[str, bytes]) -> None:
    """Start the command while it runs: the second refuses, the first continues."""
    folder = case.root / "twice"
    processes = case.start(folder)
    wait_until(lambda: begun(folder), processes)
    refused(case, folder, 2, "another run is at work")
    end(processes)
    compare(folder, expected)
    print(
        "ok  two runs in one folder: the second is refused with one line, the first"
        " ends in the same result",
        flush=True,
    )


def main() -> None:
    """Damage and compare the parts that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "what",
        nargs="*",
        help="parts: finished, checkpoints, cache, disks, twice; all by default",
    )
    parser.add_argument(
        "--how",
        nargs="*",
        choices=tuple(DAMAGE),
        default=tuple(DAMAGE),
        help="ways to damage a file; all by default",
    )
    options = parser.parse_args()
    if unknown := set(options.what) - {
        "finished",
        "checkpoints",
        "cache",
        "disks",
        "twice",
    }:
        parser.error(f"unknown {', '.join(unknown)}")
    with tempfile.TemporaryDirectory() as name:
        case, _, expected = uninterrupted(Case(pathlib.Path(name), RUN))
        whole = case.root / "whole"
        parts: dict[str, Callable[[], None]] = {
            "finished": lambda: damage_finished(case, whole, expected, options.how),
            "checkpoints": lambda: damage_checkpoints(case, expected, options.how),
            "cache": lambda: damage_cache(case, expected, options.how),
            "disks": lambda: damage_disks(case, whole, expected),
            "twice": lambda: two_at_once(case, expected),
        }
        for part in options.what or parts:
            parts[part]()


if __name__ == "__main__":
    main()
