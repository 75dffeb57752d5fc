"""Command line ``unlearn-jax``: one function per command.

A new command is a function with typed parameters and a docstring, and a line in
``COMMANDS``; tyro reads the parameters. Modules that need JAX are imported inside the
functions, so that ``unlearn-jax --help`` is quick.
"""

import dataclasses
import errno
import io
import itertools
import json
import os
import pathlib
import re
import shlex
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from unlearn_jax.runtime import (
    SWITCHES,
    configure_jax,
    missing_platform,
    show_warning,
)

if TYPE_CHECKING:
    from unlearn_jax.pipeline import RunConfig
    from unlearn_jax.pipeline.measure.records import Check, RunResult
    from unlearn_jax.pipeline.presets import Preset

ERRORS_OF_DISKS = ("ENOSPC", "EDQUOT", "EACCES", "EROFS", "EIO", "ENOLCK")
ERRORS_OF_PATHS = ("ENOENT", "ENOTDIR", "EISDIR", "EEXIST", "ENAMETOOLONG")


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """Options of every run, in addition to the fields of its configuration."""

    workdir: pathlib.Path | None = None
    """Folder for this run's files; the same command resumes a run that stopped."""
    original: tuple[pathlib.Path, ...] = ()
    """Trained models to unlearn from, instead of training the originals: Orbax folders,
    safetensors or msgpack files."""
    variants: tuple[str, ...] = ()
    """Variants of a study to run; without it all. Tables of the whole study need the
    command without it, which reuses what is stored."""
    dry_run: bool = False
    """Print the stages and an estimate of their time, and compute nothing."""
    distributed: bool = False
    """Share the work with other processes that run the same command on the same
    folders, as TPU pods and SLURM start them."""
    coordinator: str | None = None
    """ADDRESS:PORT of the first process, if the cluster does not provide it."""
    num_processes: int | None = None
    """Number of processes, with ``coordinator``."""
    process_id: int | None = None
    """Index of this process, from 0, with ``coordinator``."""
    tensorboard: pathlib.Path | None = None
    """Folder for TensorBoard events: losses, times, tables; needs the extra
    tensorboard."""
    strict: bool = False
    """Exit with status 3 if a check of the finished run fails."""


def run(arguments: list[str]) -> int:
    """Train, attack, unlearn, audit and report, or run another experiment.

    Args:
      arguments: a preset or the ``config.json`` of a run, then :class:`RunOptions` and
        fields of the configuration.
    """
    from unlearn_jax.pipeline import presets
    from unlearn_jax.pipeline.config.command_line import parse, parse_known
    from unlearn_jax.types import InputError

    if not arguments or arguments[0].startswith("-"):
        if set(arguments) & {"-h", "--help"}:
            parse(RunOptions, arguments, "unlearn-jax run PRESET", has_flags=True)
        names = ", ".join(sorted(presets.names()))
        raise InputError(f"run needs a preset: choose one of {names}")
    name = arguments[0]
    presets.find(name)
    from unlearn_jax.pipeline.store import hosts

    options, fields = parse_known(RunOptions, arguments[1:], "unlearn-jax run")
    address = (options.coordinator, options.num_processes, options.process_id)
    if options.distributed or any(part is not None for part in address):
        hosts.join(*address)
    preset = presets.load(name)
    if options.variants:
        preset = preset.only(options.variants)
    if options.original and "" not in preset.variants:
        raise InputError("--original needs a preset of a single run")
    is_named = any(word.partition("=")[0] == "--original" for word in arguments)
    if is_named and not options.original:
        raise InputError("--original needs the path of a trained model")
    prog = f"unlearn-jax run {name} --workdir DIR"
    if preset.experiment is not None:
        experiment = preset.experiment
        config = parse(type(experiment.config), fields, prog, experiment.config)
        return _run_experiment(preset, config, _workdir(name, options), options)
    variants = _variants(preset, fields, prog)
    workdir = _workdir(name, options)
    if options.dry_run:
        return _print_dry_run(preset, variants, workdir, options)
    if "" in variants:
        return _run_one(preset, variants[""], workdir, options)
    return _run_study(preset, variants, workdir, options)


def _workdir(name: str, options: RunOptions) -> pathlib.Path:
    """Return the folder of a run; a dry run, which writes nothing, needs none."""
    from unlearn_jax.types import InputError

    if options.workdir is not None:
        return options.workdir
    usual = pathlib.Path("runs", pathlib.Path(name).stem)
    if not options.dry_run:
        raise InputError(
            f"run needs a folder for its files: for example --workdir {usual}"
        )
    return usual


def _print_dry_run(
    preset: "Preset",
    variants: Mapping[str, "RunConfig"],
    workdir: pathlib.Path,
    options: RunOptions,
) -> int:
    """Print the stages of every variant, and the published plan on pods."""
    from unlearn_jax import pipeline
    from unlearn_jax.pipeline.published import published_plan
    from unlearn_jax.pipeline.study import with_bank

    for name, config in variants.items():
        text = pipeline.dry_run(
            with_bank(config, workdir) if name else config,
            workdir / name,
            preset=preset.name,
            original=options.original or None,
            **preset.parts(config),
        )
        print(f"{name}:\n{text}" if name else text)
    if plan := published_plan(preset.name):
        print(f"\n{plan}")
    return 0


def _run_one(
    preset: "Preset", config: "RunConfig", workdir: pathlib.Path, options: RunOptions
) -> int:
    """Compute a run, or resume it, and print its verdicts."""
    from unlearn_jax import pipeline
    from unlearn_jax.types import ReportError

    try:
        result = pipeline.run(
            config,
            workdir,
            preset=preset.name,
            original=options.original or None,
            events=options.tensorboard,
            **preset.parts(config),
        )
    except ReportError as error:
        _print_result(error.result)
        raise
    if result is None:  # only the first process reports
        return 0
    _print_result(result)
    print(f"\nreport: {workdir / 'report.html'}")
    return _status(result.checks, is_strict=options.strict)


def _run_study(
    preset: "Preset",
    variants: Mapping[str, "RunConfig"],
    workdir: pathlib.Path,
    options: RunOptions,
) -> int:
    """Compute the variants of a study, or resume them, and print its tables."""
    from unlearn_jax import pipeline
    from unlearn_jax.pipeline.store import hosts
    from unlearn_jax.types import ReportError

    tables = workdir / "study.md"
    try:
        results = pipeline.run_study(
            variants,
            workdir,
            preset=preset.name,
            parts={name: preset.parts(config) for name, config in variants.items()},
            events=options.tensorboard,
        )
    except ReportError:
        _print_file(tables)
        raise
    if hosts.current_process().first:
        _print_file(tables)
        print(f"report: {workdir / 'study.html'}")
    checks = [check for result in results.values() for check in result.checks]
    return _status(checks, is_strict=options.strict)


def _print_file(path: pathlib.Path) -> None:
    if path.is_file():
        print(path.read_text(encoding="utf-8"))


def _status(checks: Sequence["Check"], *, is_strict: bool) -> int:
    """Return the exit status of a run or an audit: 3 for a failed check if strict."""
    has_failed = any(not check.passed for check in checks)
    return 3 if is_strict and has_failed else 0


def _variants(preset: "Preset", fields: list[str], prog: str) -> dict[str, "RunConfig"]:
    """Return a preset's configurations, changed by the fields of the command line."""
    from unlearn_jax import pipeline
    from unlearn_jax.pipeline.config.command_line import parse
    from unlearn_jax.pipeline.config.overrides import (
        choose_values,
        pin_overridden_fields,
    )

    variants = {}
    for name, default in preset.variants.items():
        default, others = choose_values(default, fields)
        try:
            config = parse(pipeline.RunConfig, others, prog, default)
        except SystemExit:  # the help is printed
            from unlearn_jax.pipeline import choices

            print(choices.text())
            raise
        variants[name] = pin_overridden_fields(config, fields)
    return variants


def _print_result(result: "RunResult") -> None:
    """Print the verdicts and the checks of a run."""
    from unlearn_jax.pipeline.report.tables import terminal_verdict

    print(terminal_verdict(result, width=_width()))
    for check in result.checks:
        status = "ok  " if check.passed else "FAIL"
        print(f"{status}  {check.name}. {check.detail}")


def _width() -> int:
    """Return the columns of the terminal; 160 if the output is not a terminal."""
    size = shutil.get_terminal_size((160, 24))
    return size.columns if sys.stdout.isatty() else 160


def _run_experiment(
    preset: "Preset", config: Any, workdir: pathlib.Path, options: RunOptions
) -> int:
    """Compute an experiment, or resume it, and print its tables."""
    from unlearn_jax import pipeline
    from unlearn_jax.pipeline.published import published_plan, published_time
    from unlearn_jax.pipeline.report.blocks import render_terminal
    from unlearn_jax.pipeline.report.page import page_of
    from unlearn_jax.types import ReportError

    experiment = preset.experiment
    assert experiment is not None
    if options.dry_run:
        print(pipeline.dry_run_experiment(experiment, workdir, config=config))
        time = published_time(preset.name)
        if time and config == experiment.config:
            print(f"\nmeasured before: {time}")
        if plan := published_plan(preset.name):
            print(f"\n{plan}")
        return 0
    try:
        result = pipeline.run_experiment(
            experiment,
            workdir,
            name=preset.name,
            config=config,
            events=options.tensorboard,
        )
    except ReportError as error:
        print(render_terminal(page_of(error.result), _width()))
        raise
    if result is None:  # only the first process reports
        return 0
    print(render_terminal(page_of(result), _width()))
    print(f"\nreport: {workdir / 'report.html'}")
    return _status(result.checks, is_strict=options.strict)


@dataclasses.dataclass(frozen=True)
class CompileOptions:
    """Options of ``unlearn-jax compile``; fields of the configuration may follow."""

    target: str
    """Devices to compile for: a slice such as tpu-v5e:4x4, h100, h200, a100, h100:8, or
    cpu. They need not be present; the extra ``compilers`` installs the compilers. With
    ``here``, the devices of this machine, every program also runs and is timed."""
    only: str = ""
    """Regular expression for stages and variants to compile, e.g. 'references|attack'.
    """
    devices: tuple[int, ...] = ()
    """Numbers of devices to also plan the preset for, such as 8 64 256."""
    per_host: int | None = None
    """Devices per host in that plan; 8 GPUs or 4 TPU chips by default."""
    json: pathlib.Path | None = None
    """JSON file to write the numbers to."""


def compile_preset(arguments: list[str]) -> int:
    """Compile a preset's programs for a TPU or GPU that need not be present.

    Args:
      arguments: a preset, then :class:`CompileOptions` and fields of the configuration.
    """
    import jax

    from unlearn_jax import targets
    from unlearn_jax.pipeline import compiling, pods, presets
    from unlearn_jax.pipeline.config.command_line import parse, parse_known
    from unlearn_jax.pipeline.store.folders import write_text
    from unlearn_jax.types import InputError

    prog = "unlearn-jax compile PRESET --target TARGET"
    if not arguments or arguments[0].startswith("-"):
        if set(arguments) & {"-h", "--help"}:
            parse(CompileOptions, arguments, prog)
        raise InputError(f"compile needs a preset and a target: {prog}")
    name = arguments[0]
    presets.find(name)
    options, fields = parse_known(CompileOptions, arguments[1:], prog)
    if options.target != targets.HERE:
        # nothing runs on a device; one that is present may not be the target
        jax.config.update("jax_platforms", "cpu")
    target = targets.parse(options.target)
    try:
        re.compile(options.only)
    except re.error as error:
        raise InputError(
            f"--only is no regular expression: {error}: {options.only!r}"
        ) from None
    counts = [*options.devices]
    if options.per_host is not None:
        counts.append(options.per_host)
    if min(counts, default=1) < 1:
        raise InputError("--devices and --per-host count devices: 1 or more")
    if options.json is not None and not options.json.absolute().parent.is_dir():
        raise InputError(f"--json: there is no folder {options.json.parent}")
    preset = presets.load(name)

    def progress(stage: str) -> None:
        print(f"compiling: {stage}", file=sys.stderr)

    shared = {"preset": preset.name, "only": options.only, "progress": progress}
    if preset.experiment is not None:
        experiment = preset.experiment
        config = parse(type(experiment.config), fields, prog, experiment.config)
        report = compiling.compile_experiment(
            experiment, target, config=config, **shared
        )
    else:
        variants = _variants(preset, fields, prog)
        report = compiling.compile_run(variants, target, parts=preset.parts, **shared)
    if not report.rows:
        raise InputError(
            f"no stage matches --only={options.only!r}: without it, all are compiled"
            " and listed"
        )
    print(report.text())
    numbers = report.numbers()
    if options.json is not None:
        plain = dataclasses.asdict(numbers)
        text = json.dumps(plain, indent=1, allow_nan=False)
        write_text(options.json, text + "\n")
    if options.devices:
        plans = [
            pods.plan_pod(numbers, count, per_host=options.per_host)
            for count in options.devices
        ]
        print(f"\n{pods.plan_text(plans)}")
    return int(any(row.compiled.error for row in report.rows))


def list_presets() -> int:
    """Show presets, methods, augmentations, models and membership signals."""
    from unlearn_jax import extensions
    from unlearn_jax.pipeline import presets

    augmentations = presets.constants("data/augment.py", "AUGMENTATIONS")
    models = presets.constants("models/_build.py", "ARCHITECTURES")
    signals = presets.constants("pipeline/config/schema.py", "RMIA_SIGNALS")
    print("presets (unlearn-jax run PRESET --workdir DIR):")
    for name in sorted(presets.names()):
        print(f"  {name:24} {presets.about(name)}")
    print("methods (unlearn_jax.methods):")
    for name, summary in presets.methods().items():
        print(f"  {name:24} {summary}")
    for name in extensions.names("methods"):
        print(f"  {name:24} defined by another package")
    print(f"augmentations, joined with +: {', '.join(augmentations)}")
    print(f"models (model.name):          {', '.join(models)}")
    signals += extensions.names("signals")
    print(f"signals (audit.signal):       {', '.join(signals)}")
    if columns := extensions.names("columns"):
        print(f"columns (audit.columns):      {', '.join(columns)}")
    return 0


def doctor(*, build_onednn: bool = False) -> int:
    """Print versions, devices and memory, and check known numbers.

    Args:
      build_onednn: first compile oneDNN's convolutions for this machine, which needs a
        C++ compiler and libdnnl-dev.
    """
    from unlearn_jax import onednn
    from unlearn_jax.pipeline import doctor as examination

    if build_onednn:
        print(f"built: {onednn.build()}")
    text, is_well = examination.doctor()
    print(text)
    return 0 if is_well else 1


def prepare(dataset: str, /, *, archive: pathlib.Path, data_dir: pathlib.Path) -> int:
    """Turn a downloaded official archive into a TFDS data set, without TensorFlow.

    Args:
      dataset: cifar10, cifar100 or mnist.
      archive: the downloaded archive; for MNIST the folder with its four files.
      data_dir: the TFDS folder to write to.
    """
    from unlearn_jax import data

    path = data.prepare(dataset, archive=archive, data_dir=data_dir)
    print(f"prepared: {path}")
    return 0


def audit(arguments: list[str]) -> int:
    """Audit models that were trained anywhere, by their logits alone.

    Args:
      arguments: options of the command.
    """
    import tyro

    from unlearn_jax import pipeline
    from unlearn_jax.pipeline.config.command_line import parse
    from unlearn_jax.types import InputError, ReportError

    defaults = pipeline.AuditConfig()

    @dataclasses.dataclass(frozen=True)
    class Options:
        """Audit models by their logits alone.

        Attributes:
          logits: the .npz file of arrays: target, labels, train, forget, references,
            member, and optionally original, retrained, retrained_again.
          to: folder for report, tables and results; without it, the table is printed
            only.
          title: heading of the report.
          strict: exit with status 3 if a check fails.
          audit: options of the audit; norms, theory and targets need models.
        """

        logits: pathlib.Path
        to: pathlib.Path | None = None
        title: str = "Audit of logits"
        strict: bool = False
        audit: Annotated[pipeline.AuditConfig, tyro.conf.FlagConversionOff] = defaults

    options = parse(Options, arguments, "unlearn-jax audit", has_flags=True)
    for name in ("norms", "theory", "targets"):
        if getattr(options.audit, name):
            raise InputError(
                f"audit.{name} needs models, and an audit of logits has none: leave it"
                " out"
            )
    arrays = pipeline.AuditArrays.load(options.logits)
    try:
        result = pipeline.audit_arrays(
            arrays,
            options.audit,
            title=options.title,
            folder=options.to,
            command=shlex.join(["unlearn-jax", "audit", *arguments]),
        )
    except ReportError as error:
        _print_result(error.result)
        raise
    _print_result(result)
    if options.to is not None:
        print(f"\nreport: {options.to / 'report.html'}")
    return _status(result.checks, is_strict=options.strict)


def export(
    run: pathlib.Path,
    row: str,
    /,
    *,
    to: pathlib.Path,
    format: str = "orbax",
    logits: bool = False,
) -> int:
    """Write the models of a finished run's row, for other programs to open.

    Args:
      run: working directory of the run.
      row: name of a row of its table, such as amun.
      to: folder to write to; it must not exist.
      format: orbax, safetensors or msgpack; one folder or file for each run.
      logits: also write logits.npz, for unlearn-jax audit.
    """
    from unlearn_jax import pipeline

    folder = pipeline.open(run)[row].export(to, format=format, logits=logits)
    print(f"exported: {folder}")
    return 0


def publish(run: pathlib.Path, /, *, to: pathlib.Path | None = None) -> int:
    """Publish the numbers of a finished run, and update the pages of results.

    Args:
      run: working directory of the run.
      to: file to write; experiments/results/PRESET.json if None.
    """
    from unlearn_jax.pipeline import pages, published
    from unlearn_jax.pipeline import publish as publishing

    path, result = publishing.publish(run, to)
    parts = {"title": result.title, "claim": result.claim}
    missing = [name for name, text in parts.items() if not text]
    advice = f"; write its {' and '.join(missing)} into it" if missing else ""
    print(f"{path}: written{advice}")
    if path.resolve().parent == published.folder():
        pages.write_pages()
    return 0


def table(*, check: bool = False) -> int:
    """Write the pages made of published results: RESULTS.md, tables of the READMEs.

    Args:
      check: compare only; the status is 1 if a page differs.
    """
    from unlearn_jax.pipeline import pages

    stale = pages.write_pages(check=check)
    for path in stale:
        print(f"{path}: {'differs' if check else 'written'}")
    return int(check and bool(stale))


def docs(*, to: pathlib.Path) -> int:
    """Render the API reference from the docstrings; needs the extra ``docs``.

    Args:
      to: folder to write to.
    """
    from unlearn_jax.pipeline.reference import render_reference

    print(render_reference(to))
    return 0


COMMANDS: dict[str, Callable[..., int]] = {
    "run": run,
    "compile": compile_preset,
    "list": list_presets,
    "doctor": doctor,
    "prepare": prepare,
    "export": export,
    "audit": audit,
    "publish": publish,
    "table": table,
    "docs": docs,
}
"""Commands by name."""
WITH_FIELDS = ("run", "audit", "compile")
"""Commands that parse their own arguments, which include configuration fields."""

USAGE = """usage: unlearn-jax [--version] [--debug-nans] [--debug-keys] COMMAND ...

{commands}

`unlearn-jax run PRESET --workdir DIR [--dry-run] [--field.sub=value ...]` runs a
preset: a name from `unlearn-jax list`, a Python file, or the config.json of a run. The
same command again resumes where it stopped. `unlearn-jax run PRESET --help` shows every
field, and `unlearn-jax COMMAND --help` the options of a command.

--debug-nans stops at the first operation that makes a NaN, --debug-keys at the first
random key that is used twice; both are slow."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    One of several processes of a run exits at once if it fails, so that the others do
    not wait for it.

    Args:
      argv: arguments; None for those of the process.

    Returns:
      The exit status: 0 for success, 1 for a failure, 2 for unusable input, 3 for a
      failed check with ``--strict``, 130 for an interruption. Errors are one line on
      standard error.
    """
    status = 1
    try:
        status = _main(list(sys.argv[1:] if argv is None else argv))
    except Exception:
        if not _is_distributed():
            raise
        traceback.print_exc()
    if status and _is_distributed():
        from unlearn_jax.pipeline.store import hosts

        hosts.leave(status)
    return status


def _is_distributed() -> bool:
    """Return whether other processes work on the same run."""
    return "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized()


def _main(argv: list[str]) -> int:
    """Run a command and return its exit status, errors as one line."""
    switches = list(itertools.takewhile(SWITCHES.__contains__, argv))
    argv = argv[len(switches) :]
    if not argv or argv[0] in ("-h", "--help"):
        _print_usage()
        return 0 if argv else 2
    for stream in (sys.stdout, sys.stderr):
        # a console that lacks a character shows its code, and the run does not fail
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if argv == ["--version"]:
        from unlearn_jax import __version__

        print(f"unlearn-jax {__version__}")
        return 0
    warnings.showwarning = show_warning
    # reports are drawn to files; subprocesses of a notebook inherit its backend
    os.environ["MPLBACKEND"] = "agg"
    try:
        return _run_command(argv, switches)
    except KeyboardInterrupt:
        resumes = "; the same command resumes from here" if argv[0] == "run" else ""
        print(f"unlearn-jax: interrupted{resumes}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader stopped, as in `unlearn-jax list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0)
        if name in ERRORS_OF_PATHS:
            _print_error(f"{error}: check the path")
            return 2
        if name not in ERRORS_OF_DISKS:
            raise
        _print_error(
            f"{error}: free some space, or check permissions and the disk, then run the"
            " same command again"
        )
        return 1
    except Exception as error:
        from unlearn_jax.types import InputError, UnlearnError

        if isinstance(error, UnlearnError):
            _print_error(error)
            return 2 if isinstance(error, InputError) else 1
        if fault := missing_platform():
            _print_error(fault)
            return 2
        raise


def _print_usage() -> None:
    """Print the usage, with the first line of every command's docstring."""
    summaries = [
        f"  {name:9} {(command.__doc__ or '').splitlines()[0]}"
        for name, command in COMMANDS.items()
    ]
    print(USAGE.format(commands="\n".join(summaries)))


def _print_error(message: object) -> None:
    print(f"unlearn-jax: error: {message}", file=sys.stderr)


def _run_command(argv: list[str], switches: Sequence[str]) -> int:
    """Run a command, and start JAX before it if needed.

    Misspelled commands are refused without starting JAX.

    Args:
      argv: name of the command and its arguments.
      switches: keys of ``SWITCHES`` to turn on.
    """
    if argv == ["list"]:
        # needs no JAX, which takes most of a second to import
        return COMMANDS["list"]()
    if fault := _misspelled(argv):
        _print_error(fault)
        return 2
    try:
        import jax  # noqa: F401
    except Exception as error:
        # JAX cannot read an environment variable; importing the half-imported JAX again
        # would raise an error without that reason
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, KeyboardInterrupt):
                raise cause from None
            cause = cause.__cause__ or cause.__context__
        line, *_ = str(error).splitlines() or [type(error).__name__]
        _print_error(
            f"JAX cannot start: {line}: check the environment variables that begin with"
            " JAX_"
        )
        return 2
    configure_jax(switches)
    name, *arguments = argv
    if name in WITH_FIELDS:
        from unlearn_jax.pipeline.store.clock import log_lines

        with log_lines():
            return COMMANDS[name](arguments)
    from unlearn_jax.pipeline.config.command_line import delayed, parse

    prog = f"unlearn-jax {name}"
    command = parse(delayed(COMMANDS[name]), arguments, prog, has_flags=True)
    return command()


def _misspelled(argv: list[str]) -> str:
    """Return the spelling fault of a command; empty if there is none.

    JAX is not imported, so most mistakes are reported within a tenth of a second.
    """
    if argv[0] not in COMMANDS:
        return f"unknown command {argv[0]!r}: choose one of {', '.join(COMMANDS)}"
    for switch in SWITCHES:
        if switch in argv:
            return f"{switch} goes first: unlearn-jax {switch} {argv[0]} ..."
    if argv[0] != "run":
        return ""
    from unlearn_jax.pipeline import presets

    options = [field.name for field in dataclasses.fields(RunOptions)]
    return presets.misspelled(argv[1:], options)


if __name__ == "__main__":
    sys.exit(main())
