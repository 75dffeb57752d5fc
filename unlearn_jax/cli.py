"""``unlearn-jax``: run an experiment, list what there is, check the installation, prepare a data set."""

import contextlib
import errno
import io
import itertools
import os
import pathlib
import re
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any

USAGE = """usage: unlearn-jax run PRESET --workdir DIR [--dry-run] [--field.sub=value ...]
       unlearn-jax audit --logits FILE.npz [--to DIR] [--audit.field=value ...]
       unlearn-jax list
       unlearn-jax doctor
       unlearn-jax prepare {cifar10,cifar100,mnist} --archive FILE --data-dir DIR
       unlearn-jax publish RUN [--to NAME.json]
       unlearn-jax table [--check]
       unlearn-jax docs --to DIR
       unlearn-jax --debug-nans --debug-keys COMMAND ...

run      trains, attacks, unlearns, audits and reports, or runs another experiment; the same command again goes on where
         it stopped.
         PRESET is a name from `unlearn-jax list`, or the path of a Python file that defines one.
         `unlearn-jax run PRESET --help` shows every field that can be overridden. Several processes share the work if
         each is started with the same command, on the same folders, and --distributed (TPU pods, SLURM), or
         --coordinator=ADDRESS:PORT --num-processes=N --process-id=I.
audit    makes the table and the report of models that were trained anywhere, from arrays alone.
list     shows presets, methods, models and membership signals.
doctor   prints versions, devices, memory and caches, and checks that this installation computes known numbers.
prepare  turns an official archive that you have downloaded into a TFDS data set, without TensorFlow.
publish  writes the numbers of a finished run to experiments/results (or to --to), and all pages made of them.
table    regenerates these pages: experiments/RESULTS.md and the tables of the READMEs; --check only compares.
docs     renders the API reference from the docstrings; needs the extra `docs`.

--debug-nans stops at the first operation that makes a NaN, --debug-keys at the first random key that is used twice;
both are slow."""

SWITCHES = {"--debug-nans": "jax_debug_nans", "--debug-keys": "jax_debug_key_reuse"}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; a process that fails does not keep the others of its run waiting.

    Args:
      argv: arguments, those of the process if None.

    Returns:
      See :func:`_main`.
    """
    status = 1
    try:
        status = _main(argv)
    except Exception:
        if not _joined():
            raise
        traceback.print_exc()
    if status and _joined():
        from unlearn_jax.pipeline.store import hosts

        hosts.leave(status)
    return status


def _joined() -> bool:
    """Whether other processes are at the same run."""
    return "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized()


def _main(argv: Sequence[str] | None) -> int:
    """Does what the arguments say.

    Args:
      argv: arguments, those of the process if None.

    Returns:
      The exit status: 0, 2 for unusable input, 1 for a run that failed, 130 when
      interrupted. Errors are one line on standard error.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    switches = list(itertools.takewhile(SWITCHES.__contains__, argv))
    argv = argv[len(switches) :]
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if argv else 2
    configure_jax(switches)
    warnings.showwarning = _warn
    from unlearn_jax.types import InputError, UnlearnError

    commands = {
        "run": _run,
        "audit": _audit,
        "list": _list,
        "doctor": _doctor,
        "prepare": _prepare,
        "publish": _publish,
        "table": _table,
        "docs": _docs,
    }
    try:
        if argv[0] not in commands:
            raise InputError(
                f"unknown command {argv[0]!r}: choose from {', '.join(commands)}"
            )
        return commands[argv[0]](argv[1:])
    except UnlearnError as error:
        print(f"unlearn-jax: error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    except KeyboardInterrupt:
        print(
            "unlearn-jax: interrupted; the same command goes on from here",
            file=sys.stderr,
        )
        return 130
    except BrokenPipeError:  # somebody stopped reading: `unlearn-jax list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno not in (
            errno.ENOSPC,
            errno.EDQUOT,
            errno.EACCES,
            errno.EROFS,
            errno.EIO,
            errno.ENOLCK,
        ):
            raise
        print(
            f"unlearn-jax: error: {error}: free some space, or check permissions and"
            " the disk, then run the same command again",
            file=sys.stderr,
        )
        return 1


def _warn(message: Warning | str, *_: Any, **__: Any) -> None:
    """A warning as one line, without the place in the code."""
    print(f"unlearn-jax: warning: {message}", file=sys.stderr)
    if unread := re.match(
        r"Error reading persistent compilation cache entry for '(\w+)'", str(message)
    ):
        # cut short when a run was killed: JAX would leave it there, compile anew and
        # say so in every run
        for entry in _programs().glob(f"{unread[1]}-*-cache"):
            with contextlib.suppress(OSError):  # of a cache that others own
                entry.unlink()


def _programs() -> pathlib.Path:
    """JAX's compilation cache."""
    import jax

    return pathlib.Path(jax.config.values["jax_compilation_cache_dir"])


def configure_jax(switches: Sequence[str] = ()) -> None:
    """Before JAX starts: one CPU device per core, so that models train side by side, and a compilation cache.

    Args:
      switches: keys of ``SWITCHES`` to turn on.
    """
    import jax

    for switch in switches:
        jax.config.update(SWITCHES[switch], True)
    if (
        "JAX_NUM_CPU_DEVICES" not in os.environ
        and "host_platform_device_count" not in os.environ.get("XLA_FLAGS", "")
    ):
        with contextlib.suppress(
            RuntimeError
        ):  # somebody has started JAX already: its devices stay
            jax.config.update(
                "jax_num_cpu_devices",
                (
                    len(os.sched_getaffinity(0))
                    if hasattr(os, "sched_getaffinity")
                    else os.cpu_count()
                ),
            )
    if jax.config.values["jax_compilation_cache_dir"] is None:
        from unlearn_jax.data.tfds_reader import cache_folder
        from unlearn_jax.types import InputError

        with contextlib.suppress(
            InputError
        ):  # a user without a home folder has no cache
            jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla"))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _parse(
    kind: Any,
    argv: Sequence[str],
    prog: str,
    default: Any = None,
    *,
    flags: bool = False,
) -> Any:
    """Reads a command line with tyro, whose errors become one line.

    Raises:
      InputError: unknown fields, or values of the wrong type.
    """
    import tyro

    from unlearn_jax.types import InputError

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            return tyro.cli(
                kind,
                args=list(argv),
                prog=prog,
                **({} if default is None else {"default": default}),
                config=() if flags else (tyro.conf.FlagConversionOff,),
            )
    except SystemExit as stop:
        if not stop.code:
            print(said.getvalue())
            raise
    lines = [
        re.sub(r"\x1b\[[0-9;]*m|[│╭╮╰╯─]|-{5,}", "", line).strip()
        for line in said.getvalue().splitlines()
    ]
    lines = [line for line in lines if line]
    stop_at = next(
        (
            i
            for i, line in enumerate(lines)
            if line.startswith(("Argument helptext", "For full helptext"))
        ),
        len(lines),
    )
    message = " ".join(lines[1:stop_at] or lines)
    raise InputError(f"{message} (see {prog} --help)")


def _run(argv: list[str]) -> int:
    from unlearn_jax import pipeline
    from unlearn_jax.pipeline import presets
    from unlearn_jax.pipeline.store import hosts
    from unlearn_jax.pipeline.study import with_bank
    from unlearn_jax.types import InputError

    if not argv or argv[0].startswith("-"):
        raise InputError(
            f"run needs a preset: choose one of {', '.join(sorted(presets.names()))}"
        )
    workdir, dry, distributed, rest = _own_flags(argv[1:])
    if distributed is not None:
        hosts.join(*distributed)
    preset = presets.load(argv[0])
    prog = f"unlearn-jax run {argv[0]} --workdir DIR"
    if preset.experiment is not None:
        return _run_experiment(preset.name, preset.experiment, workdir, dry, rest, prog)
    variants = {
        name: _parse(pipeline.RunConfig, rest, prog, config)
        for name, config in preset.variants.items()
    }
    workdir = _needed(workdir)
    if dry:
        for name, config in variants.items():
            config = with_bank(config, workdir)
            said = pipeline.dry_run(
                config, pathlib.Path(workdir) / name, **_own_parts(preset.hooks, config)
            )
            print(f"{name}:\n{said}" if name else said)
        return 0
    if "" not in variants:  # a study
        own = {
            name: _own_parts(preset.hooks, config) for name, config in variants.items()
        }
        pipeline.run_study(variants, workdir, preset=preset.name, own=own)
        if not hosts.here().first:
            return 0
        print((pathlib.Path(workdir) / "study.md").read_text())
        print(f"report: {pathlib.Path(workdir) / 'study.html'}")
        return 0
    result = pipeline.run(
        variants[""],
        workdir,
        preset=preset.name,
        **_own_parts(preset.hooks, variants[""]),
    )
    # The first of several processes reports.
    if result is None:
        return 0
    _print_result(result)
    print(f"\nreport: {pathlib.Path(workdir) / 'report.html'}")
    return 0


def _print_result(result: Any) -> None:
    """Print the table and the checks of a run."""
    from unlearn_jax.pipeline.report.plain import plain_results
    from unlearn_jax.pipeline.report.tables import terminal_table

    print(terminal_table(plain_results(result)))
    for check in result.checks:
        status = "ok  " if check.passed else "FAIL"
        print(f"{status}  {check.name}. {check.detail}")


def _run_experiment(
    name: str,
    experiment: Any,
    workdir: str | None,
    dry: bool,
    rest: list[str],
    prog: str,
) -> int:
    from unlearn_jax import pipeline
    from unlearn_jax.pipeline.report.blocks import render_terminal
    from unlearn_jax.pipeline.report.page import read_page

    config = _parse(type(experiment.config), rest, prog, experiment.config)
    workdir = _needed(workdir)
    if dry:
        print(pipeline.dry_run_experiment(experiment, workdir, config=config))
        return 0
    results = pipeline.run_experiment(experiment, workdir, name=name, config=config)
    print(render_terminal(read_page(results)))
    print(f"\nreport: {pathlib.Path(workdir) / 'report.html'}")
    return 0


def _needed(workdir: str | None) -> str:
    from unlearn_jax.types import InputError

    if workdir is None:
        raise InputError("run needs --workdir DIR, a folder for this run's files")
    return workdir


def _own_parts(hooks: dict[str, Any], config: Any) -> dict[str, Any]:
    """A user's own data, network and loss, from the hooks of a preset."""
    own: dict[str, Any] = {}
    if "make_splits" in hooks:
        own["splits"] = hooks["make_splits"]()
    if "make_model" in hooks:
        from unlearn_jax.pipeline.config.resolve import load_data

        own["splits"] = own.get("splits") or load_data(config.data)
        own["model"] = hooks["make_model"](
            own["splits"].train.images.shape[1:], own["splits"].num_classes
        )
    if "make_loss" in hooks:
        own["loss_fn"] = hooks["make_loss"](own.get("model"))
    return own


def _own_flags(
    argv: list[str],
) -> tuple[str | None, bool, tuple[Any, ...] | None, list[str]]:
    """Takes out what is not of the configuration: folder, dry run, arguments of ``hosts.join`` if wanted; the rest."""
    from unlearn_jax.types import InputError

    wants = {
        "--workdir": "a folder",
        "--coordinator": "ADDRESS:PORT",
        "--num-processes": "a number",
        "--process-id": "a number",
    }
    given: dict[str, Any] = {}
    flags, rest, words = set(), [], iter(argv)
    for word in words:
        name, equals, value = word.partition("=")
        if word in ("--dry-run", "--distributed"):
            flags.add(word)
        elif name in wants:
            given[name] = value if equals else next(words, "")
            if not given[name] or given[name].startswith("--"):
                raise InputError(f"{name} needs {wants[name]}")
            if wants[name] == "a number":
                if not given[name].isdecimal():
                    raise InputError(f"{name} needs a number, got {given[name]!r}")
                given[name] = int(given[name])
        else:
            rest.append(word)
    about = tuple(given.get(name) for name in list(wants)[1:])
    distributed = (
        about
        if "--distributed" in flags or any(value is not None for value in about)
        else None
    )
    return given.get("--workdir"), "--dry-run" in flags, distributed, rest


def _list(argv: list[str]) -> int:
    from unlearn_jax import data, methods, models
    from unlearn_jax.pipeline import presets
    from unlearn_jax.pipeline.config.checks import RMIA_SIGNALS
    from unlearn_jax.types import InputError

    if argv:
        raise InputError(f"list takes no arguments, got {argv[0]!r}")
    print("presets (unlearn-jax run PRESET --workdir DIR):")
    for name in sorted(presets.names()):
        print(f"  {name:24} {presets.load(name).about}")
    print("methods (rows.NAME.method):")
    for name, method in methods.METHODS.items():
        summary = (type(method).__doc__ or "").strip().splitlines()[0]
        constraints = ", ".join(map(repr, getattr(method, "constraints", ())))
        limits = f" Limited by {constraints}." if constraints else ""
        print(f"  {name:24} {summary}{limits}")
    print(
        f"augmentations:              {', '.join(data.AUGMENTATIONS)} (joined with +"
        " where several are wanted)"
    )
    print(f"models (model.name):        {', '.join(models.ARCHITECTURES)}")
    print(f"signals (audit.signal):     {', '.join(RMIA_SIGNALS)}")
    return 0


def _doctor(argv: list[str]) -> int:
    from unlearn_jax.pipeline.doctor import doctor
    from unlearn_jax.types import InputError

    if argv:
        raise InputError(f"doctor takes no arguments, got {argv[0]!r}")
    said, well = doctor()
    print(said)
    return 0 if well else 1


def _prepare(argv: list[str]) -> int:
    from unlearn_jax.data import prepare
    from unlearn_jax.types import InputError

    if not argv or argv[0].startswith("-"):
        raise InputError("prepare needs a data set: cifar10, cifar100 or mnist")

    def arguments(archive: str, data_dir: str) -> tuple[str, str]:
        """Turns an official archive into a TFDS data set.

        Args:
          archive: the downloaded archive; for MNIST the folder with its four files.
          data_dir: the TFDS folder to write to.
        """
        return archive, data_dir

    archive, data_dir = _parse(arguments, argv[1:], f"unlearn-jax prepare {argv[0]}")
    print(f"prepared: {prepare(argv[0], archive=archive, data_dir=data_dir)}")
    return 0


def _audit(argv: list[str]) -> int:
    """Audit models by their logits: ``--logits FILE.npz --to DIR``."""
    from unlearn_jax import pipeline

    defaults = pipeline.AuditConfig()

    def arguments(
        logits: str,
        to: str | None = None,
        title: str = "Audit of logits",
        audit: pipeline.AuditConfig = defaults,
    ) -> tuple[str, str | None, str, pipeline.AuditConfig]:
        """Audit models by their logits alone.

        Args:
          logits: the .npz file of arrays: target, labels, train, forget, references,
            member, and optionally original, retrained, retrained_again.
          to: folder for report, tables and results; only the table is shown without.
          title: heading of the report.
          audit: options of the audit.
        """
        return logits, to, title, audit

    logits, to, title, config = _parse(arguments, argv, "unlearn-jax audit")
    arrays = pipeline.AuditArrays.load(logits)
    result = pipeline.audit_arrays(arrays, config, title=title, folder=to)
    _print_result(result)
    if to is not None:
        print(f"\nreport: {pathlib.Path(to) / 'report.html'}")
    return 0


def _publish(argv: list[str]) -> int:
    from unlearn_jax.pipeline import publish
    from unlearn_jax.types import InputError

    if not argv or argv[0].startswith("-"):
        raise InputError("publish needs the folder of a finished run")

    def arguments(to: str = "") -> str:
        """Write the numbers of a finished run as a published result.

        Args:
          to: file to write; experiments/results/PRESET.json if empty.
        """
        return to

    to = _parse(arguments, argv[1:], "unlearn-jax publish RUN")
    path, result = publish.publish(argv[0], to or None)
    print(f"{path}: write title, claim and reading of {result.name} into it")
    if path.parent == publish.folder():
        publish.write_pages()
    return 0


def _table(argv: list[str]) -> int:
    from unlearn_jax.pipeline import publish
    from unlearn_jax.types import InputError

    if argv not in ([], ["--check"]):
        raise InputError(f"table takes --check or nothing, got {argv[0]!r}")
    stale = publish.write_pages(check=bool(argv))
    for path in stale:
        print(f"{path}: {'differs' if argv else 'written'}")
    return int(bool(argv) and bool(stale))


def _docs(argv: list[str]) -> int:
    from unlearn_jax.pipeline.reference import render_reference

    def arguments(to: str) -> str:
        """Render the API reference.

        Args:
          to: folder to write to.
        """
        return to

    print(render_reference(_parse(arguments, argv, "unlearn-jax docs")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
