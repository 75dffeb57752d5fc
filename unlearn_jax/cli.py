"""Command line ``unlearn-jax``: one function per command.

A new command is a function with typed parameters and a docstring, and a line in
``COMMANDS``; tyro reads the parameters. Modules that need JAX are imported inside the
functions, so that ``unlearn-jax --help`` is quick.
"""

import contextlib
import dataclasses
import errno
import functools
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
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unlearn_jax.pipeline import RunConfig
    from unlearn_jax.pipeline.measure.records import Check, RunResult
    from unlearn_jax.pipeline.presets import Preset

SWITCHES = {"--debug-nans": "jax_debug_nans", "--debug-keys": "jax_debug_key_reuse"}
ERRORS_OF_DISKS = ("ENOSPC", "EDQUOT", "EACCES", "EROFS", "EIO", "ENOLCK")


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """Options of every run, in addition to the fields of its configuration."""

    workdir: pathlib.Path | None = None
    """Folder for this run's files; the same command resumes a run that stopped."""
    original: tuple[pathlib.Path, ...] = ()
    """Trained models to unlearn from, instead of training the originals: Orbax folders,
    safetensors or msgpack files."""
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
    from unlearn_jax.types import InputError

    if not arguments or arguments[0].startswith("-"):
        if set(arguments) & {"-h", "--help"}:
            _parse(RunOptions, arguments, "unlearn-jax run PRESET", has_flags=True)
        names = ", ".join(sorted(presets.names()))
        raise InputError(f"run needs a preset: choose one of {names}")
    name = arguments[0]
    presets.find(name)
    from unlearn_jax.pipeline.store import hosts

    options, fields = _parse(
        RunOptions,
        arguments[1:],
        "unlearn-jax run",
        has_fields=True,
        has_flags=True,
    )
    address = (options.coordinator, options.num_processes, options.process_id)
    if options.distributed or any(part is not None for part in address):
        hosts.join(*address)
    preset = presets.load(name)
    if options.original and "" not in preset.variants:
        raise InputError("--original needs a preset of a single run")
    is_named = any(word.partition("=")[0] == "--original" for word in arguments)
    if is_named and not options.original:
        raise InputError("--original needs the path of a trained model")
    prog = f"unlearn-jax run {name} --workdir DIR"
    if preset.experiment is not None:
        experiment = preset.experiment
        config = _parse(type(experiment.config), fields, prog, experiment.config)
        return _run_experiment(preset, config, _workdir(options), options)
    variants = _variants(preset, fields, prog)
    workdir = _workdir(options)
    if options.dry_run:
        return _print_dry_run(preset, variants, workdir, options)
    if "" in variants:
        return _run_one(preset, variants[""], workdir, options)
    return _run_study(preset, variants, workdir, options)


def _workdir(options: RunOptions) -> pathlib.Path:
    from unlearn_jax.types import InputError

    if options.workdir is None:
        raise InputError("run needs --workdir DIR, a folder for this run's files")
    return options.workdir


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
            with_bank(config, workdir),
            workdir / name,
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
    return _status(result.checks, options)


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
    if hosts.here().first:
        _print_file(tables)
        print(f"report: {workdir / 'study.html'}")
    checks = [check for result in results.values() for check in result.checks]
    return _status(checks, options)


def _print_file(path: pathlib.Path) -> None:
    if path.is_file():
        print(path.read_text(encoding="utf-8"))


def _status(checks: Sequence["Check"], options: RunOptions) -> int:
    """Return the exit status of a finished run: 3 for a failed check if strict."""
    has_failed = any(not check.passed for check in checks)
    return 3 if options.strict and has_failed else 0


def _variants(preset: "Preset", fields: list[str], prog: str) -> dict[str, "RunConfig"]:
    """Return a preset's configurations, changed by the fields of the command line."""
    from unlearn_jax import pipeline
    from unlearn_jax.pipeline.config.resolve import choose_values, unfollow

    variants = {}
    for name, default in preset.variants.items():
        default, others = choose_values(default, fields)
        config = _parse(pipeline.RunConfig, others, prog, default, has_names=True)
        variants[name] = unfollow(config, fields)
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
    return _status(result.checks, options)


@dataclasses.dataclass(frozen=True)
class CompileOptions:
    """Options of ``unlearn-jax compile``; fields of the configuration may follow."""

    target: str
    """Devices to compile for: a slice such as tpu-v5e:4x4, h100, h200, a100, h100:8, or
    cpu. They need not be present; the extra ``compilers`` installs the compilers."""
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
    """Compile a preset's programs for a TPU or GPU, without the device.

    Args:
      arguments: a preset, then :class:`CompileOptions` and fields of the configuration.
    """
    import jax

    from unlearn_jax import targets
    from unlearn_jax.pipeline import compiling, pods, presets
    from unlearn_jax.types import InputError

    prog = "unlearn-jax compile PRESET --target TARGET"
    if not arguments or arguments[0].startswith("-"):
        if set(arguments) & {"-h", "--help"}:
            _parse(CompileOptions, arguments, prog)
        raise InputError(f"compile needs a preset and a target: {prog}")
    name = arguments[0]
    presets.find(name)
    options, fields = _parse(
        CompileOptions, arguments[1:], prog, has_fields=True, has_flags=True
    )
    target = targets.parse(options.target)
    # nothing runs on a device; one that is present may not be the target
    jax.config.update("jax_platforms", "cpu")
    preset = presets.load(name)

    def progress(stage: str) -> None:
        print(f"compiling: {stage}", file=sys.stderr)

    shared = {"preset": preset.name, "only": options.only, "progress": progress}
    if preset.experiment is not None:
        experiment = preset.experiment
        config = _parse(type(experiment.config), fields, prog, experiment.config)
        report = compiling.compile_experiment(
            experiment, target, config=config, **shared
        )
    else:
        variants = _variants(preset, fields, prog)
        report = compiling.compile_run(variants, target, parts=preset.parts, **shared)
    print(report.text())
    numbers = report.numbers()
    if options.devices:
        plans = [
            pods.plan_pod(numbers, count, per_host=options.per_host)
            for count in options.devices
        ]
        print(f"\n{pods.plan_text(plans)}")
    if options.json is not None:
        plain = dataclasses.asdict(numbers)
        text = json.dumps(plain, indent=1, allow_nan=False)
        options.json.write_text(text + "\n", encoding="utf-8")
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
        print(f"  {name:24} of another package")
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
    from unlearn_jax import pipeline
    from unlearn_jax.types import ReportError

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
          audit: options of the audit.
        """

        logits: pathlib.Path
        to: pathlib.Path | None = None
        title: str = "Audit of logits"
        audit: pipeline.AuditConfig = defaults

    options = _parse(Options, arguments, "unlearn-jax audit")
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
    return 0


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
    print(f"{path}: write title, claim and reading of {result.name} into it")
    if path.parent == published.folder():
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
    warnings.showwarning = _warn
    # reports are drawn to files; subprocesses of a notebook inherit its backend
    os.environ["MPLBACKEND"] = "agg"
    try:
        return _run_command(argv, switches)
    except KeyboardInterrupt:
        print(
            "unlearn-jax: interrupted; the same command resumes from here",
            file=sys.stderr,
        )
        return 130
    except BrokenPipeError:  # the reader stopped, as in `unlearn-jax list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if errno.errorcode.get(error.errno or 0) not in ERRORS_OF_DISKS:
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
        if fault := _missing_platform():
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
    prog = f"unlearn-jax {name}"
    return _parse(_delayed(COMMANDS[name]), arguments, prog, has_flags=True)()


def _misspelled(argv: list[str]) -> str:
    """Return the spelling fault of a command; empty if there is none.

    JAX is not imported, so most mistakes are reported within a tenth of a second.
    """
    if argv[0] not in COMMANDS:
        return f"unknown command {argv[0]!r}: choose one of {', '.join(COMMANDS)}"
    if argv[0] != "run":
        return ""
    from unlearn_jax.pipeline import presets

    options = [field.name for field in dataclasses.fields(RunOptions)]
    return presets.misspelled(argv[1:], options)


def _missing_platform() -> str:
    """Return the fault of a ``JAX_PLATFORMS`` without devices; empty if there is none.

    This is called after a failure only, because asking for devices starts JAX.
    """
    import jax

    wanted = jax.config.values["jax_platforms"]
    if not wanted:
        return ""
    try:
        jax.devices()
    except (RuntimeError, AssertionError):
        return (
            f"JAX_PLATFORMS={wanted}, and JAX finds no such device: unset it, or"
            " install JAX's plugin, as in pip install 'unlearn-jax[cuda]'"
        )
    return ""


def _delayed(command: Callable[..., int]) -> Callable[..., Callable[[], int]]:
    """Return a function that binds arguments, so that tyro parses but does not run."""

    @functools.wraps(command)
    def delayed(*args: Any, **options: Any) -> Callable[[], int]:
        return functools.partial(command, *args, **options)

    return delayed


def _parse(
    kind: Any,
    argv: Sequence[str],
    prog: str,
    default: Any = None,
    *,
    has_fields: bool = False,
    has_flags: bool = False,
    has_names: bool = False,
) -> Any:
    """Return the value of ``kind`` that tyro reads from arguments.

    Args:
      kind: class or function of the options.
      argv: arguments.
      prog: command that precedes the arguments.
      default: value whose fields are the defaults.
      has_fields: whether to return unknown arguments as a second value; by default they
        are an error.
      has_flags: whether booleans are given as ``--check``, not as ``--check=True``.
      has_names: whether the help ends with the names that options of a run accept.

    Raises:
      InputError: unknown options, or values of the wrong type, in one line.
    """
    import tyro

    from unlearn_jax.pipeline.config.command_line import REGISTRY
    from unlearn_jax.types import InputError

    output = io.StringIO()
    defaults: dict[str, Any] = {}
    markers: tuple[Any, ...] = (tyro.conf.AvoidSubcommands,)
    if not has_flags:
        markers += (tyro.conf.FlagConversionOff,)
    if default is not None:
        description = (
            "Fields of the configuration; further options: unlearn-jax run --help."
            " Also --training.objective=NAME, --rows.ROW.method=METHOD (with a new ROW"
            " it adds the row), --rows.ROW.method.optimizer=NAME; the names that they"
            " take are at the end."
        )
        defaults = {"default": default, "description": description}
    try:
        with contextlib.redirect_stderr(output), contextlib.redirect_stdout(output):
            value, unknown = tyro.cli(
                kind,
                args=list(argv),
                prog=prog,
                config=markers,
                registry=REGISTRY,
                return_unknown_args=True,
                add_help=not has_fields,
                **defaults,
            )
    except SystemExit as stop:
        if not stop.code:
            print(output.getvalue())
            if default is not None and has_names:
                from unlearn_jax.pipeline import choices

                print(choices.text())
            raise
        message = _unboxed(output.getvalue())
        raise InputError(f"{message} (see {prog} --help)") from None
    if has_fields:
        return value, unknown
    if unknown:
        raise InputError(f"unknown argument {unknown[0]} (see {prog} --help)")
    return value


def _unboxed(text: str) -> str:
    """Return tyro's error as one line.

    tyro draws a box with a title, the fault, rules, and a hint at more help.
    """
    words: list[str] = []
    for line in text.splitlines()[1:]:
        line = line.strip("│╭╮╰╯─ ")
        if line.startswith(("Argument helptext", "For full helptext")):
            break
        if line.strip("-"):
            words += line.split()
    return " ".join(words)


def _warn(message: Warning | str, *_: Any, **__: Any) -> None:
    """Print a warning as one line, without the place in the code."""
    print(f"unlearn-jax: warning: {message}", file=sys.stderr)
    unread = re.match(
        r"Error reading persistent compilation cache entry for '(\w+)'", str(message)
    )
    if unread is None:
        return
    # the entry was cut short when a run was killed; JAX would keep it, and compile and
    # warn again in every run
    for entry in _programs().glob(f"{unread[1]}-*-cache"):
        with contextlib.suppress(OSError):  # the cache may belong to another user
            entry.unlink()


def _programs() -> pathlib.Path:
    """Return the folder of JAX's compilation cache."""
    import jax

    return pathlib.Path(jax.config.values["jax_compilation_cache_dir"])


def configure_jax(switches: Sequence[str] = ()) -> None:
    """Give JAX one CPU device per core and a compilation cache, before it starts.

    Args:
      switches: keys of ``SWITCHES`` to turn on.
    """
    import jax

    for switch in switches:
        jax.config.update(SWITCHES[switch], True)
    flags = os.environ.get("XLA_FLAGS", "")
    if (
        "JAX_NUM_CPU_DEVICES" not in os.environ
        and "host_platform_device_count" not in flags
    ):
        from unlearn_jax.pipeline.store.folders import num_cores

        with contextlib.suppress(RuntimeError):  # JAX has started: its devices stay
            jax.config.update("jax_num_cpu_devices", num_cores())
    if jax.config.values["jax_compilation_cache_dir"] is None:
        from unlearn_jax.data.tfds_reader import cache_folder
        from unlearn_jax.types import InputError

        with contextlib.suppress(InputError):  # without a home folder, no cache
            jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla"))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
            jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


if __name__ == "__main__":
    sys.exit(main())
