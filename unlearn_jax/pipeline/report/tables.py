"""The table of a run, for the terminal, for LaTeX, for a README and for other programs.

Every number is read from ``results``; nothing is computed here but its decimals. A
metric that does not apply to a row prints as an en dash, a spread over a single run is
left out. The last column is the cost of each row.
"""

import csv
import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import tabulate

from unlearn_jax.types import InputError

Results = Mapping[str, Any]
MISSING = "–"
COST = "Cost (x retraining)"
_KIND_NOTES = {
    "original": "before unlearning",
    "oracle": "the oracle",
    "second_oracle": "a second oracle",
}
_CSV_FIELDS: list[str] = [
    "row",
    "label",
    "kind",
    "method",
    "metric",
    "mean",
    "std",
    "low",
    "high",
    "num_runs",
    "unit",
]
_CSV_FIELDS += [COST]
_LATEX = {
    "\\": r"\textbackslash{}",
    **{symbol: "\\" + symbol for symbol in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"\ensuremath{\pm}",
    "–": "--",
}


def known(value: Any) -> bool:
    """True for a number that can be shown: neither None nor NaN."""
    return value is not None and not math.isnan(value)


def format_number(value: Any, digits: int = 2) -> str:
    """Fixed decimals, or an en dash for None and NaN.

    >>> format_number(3.14159), format_number(None), format_number(-0.001)
    ('3.14', '–', '0.00')
    """
    if not known(value):
        return MISSING
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def format_spread(cell: Mapping[str, Any] | None) -> str:
    """``mean ± std``, the mean alone for a single run, an en dash for a missing metric.

    >>> format_spread({"mean": 50.123, "std": 1.0}), format_spread({"mean": 50.123, "std": None}), format_spread(None)
    ('50.12 ± 1.00', '50.12', '–')
    """
    if cell is None:
        return MISSING
    spread = f" ± {format_number(cell['std'])}" if known(cell.get("std")) else ""
    return format_number(cell["mean"]) + spread


def format_interval(cell: Mapping[str, Any] | None) -> str:
    """``[low, high]``, or nothing where there is no interval.

    >>> format_interval({"low": 49.0, "high": 51.256}), format_interval(None)
    ('[49.00, 51.26]', '')
    """
    if cell is None or not (known(cell.get("low")) and known(cell.get("high"))):
        return ""
    return f"[{format_number(cell['low'])}, {format_number(cell['high'])}]"


def format_level(results: Results) -> str:
    """The level of the intervals: ``95 %``."""
    return f"{100 * results['level']:g} %"


def format_cost(row: Mapping[str, Any]) -> str:
    """A row's cost as a multiple of retraining's; an en dash where it was not measured.

    >>> format_cost({"cost": {"relative": 1.991}}), format_cost({"cost": {"relative": 0.0123}}), format_cost({})
    ('1.99', '0.012', '–')
    """
    relative: Any = (row.get("cost") or {}).get("relative")
    if not known(relative):
        return MISSING
    return f"{relative:.2f}" if relative >= 0.1 or relative == 0 else f"{relative:.2g}"


def diverged(row: Mapping[str, Any]) -> bool:
    """True for a row without any number: a method that did not end in finite ones in every run."""
    return row["kind"] == "method" and not any(row["metrics"].values())


def kind_note(row: Mapping[str, Any]) -> str:
    """What a row is, in a few words; nothing for a method, or where the label says it or has brackets of its own.

    >>> kind_note({"kind": "oracle", "label": "Retrained"}), kind_note({"kind": "oracle", "label": "The oracle"})
    ('the oracle', '')
    >>> kind_note({"kind": "method", "label": "AMUN", "metrics": {}})
    'diverged'
    """
    if row["kind"] == "method":
        return "diverged" if diverged(row) else ""
    note = _KIND_NOTES.get(row["kind"], "")
    said = note.rpartition(" ")[2] in row["label"].lower() or (
        row["kind"] != "oracle" and "(" in row["label"]
    )
    return "" if said else note


def _noted(row: Mapping[str, Any]) -> str:
    shown = kind_note(row) if row["kind"] in ("oracle", "method") else ""
    return f"{row['label']} ({shown})" if shown else row["label"]


def terminal_table(results: Results, width: int = 160) -> str:
    """The table for a terminal: two lines per row, mean ± std above the interval, the cost in the last column.

    Args:
      results: of a run.
      width: columns of the terminal; a table that is wider is split into blocks of
        metrics, as few as fit.

    Returns:
      Lines without a final newline: what the numbers are, then the table.
    """
    num_metrics = max(1, len(results["metrics"]))
    sizes = [
        math.ceil(num_metrics / num_blocks) for num_blocks in range(1, num_metrics + 1)
    ]
    layouts = (_terminal_blocks(results, size) for size in sizes)
    fitting = (
        blocks
        for blocks in layouts
        if max(map(len, "\n".join(blocks).splitlines())) <= width
    )
    blocks = next(fitting, None) or _terminal_blocks(results, 1)
    runs = sorted(
        {
            cell["num_runs"]
            for row in results["rows"]
            for cell in row["metrics"].values()
            if cell
        }
    )
    counts = (
        "-".join(str(count) for count in sorted({runs[0], runs[-1]})) if runs else "0"
    )
    about = (
        f"{results['title']}: mean ± std over {counts} run{'' if runs == [1] else 's'},"
        f" and below it the {format_level(results)} interval of the mean, low–high"
    )
    return "\n\n".join([about, *blocks])


def _terminal_blocks(results: Results, size: int) -> list[str]:
    """The table in pieces of ``size`` metrics."""
    metrics = results["metrics"]
    starts = range(0, max(1, len(metrics)), size)
    return [
        _terminal_block(results, metrics[i : i + size], last=i + size >= len(metrics))
        for i in starts
    ]


def _terminal_block(
    results: Results, metrics: Sequence[Mapping[str, Any]], *, last: bool
) -> str:
    headers = [""] + [
        "\n".join([*textwrap.wrap(m["name"], 11), f"({m['unit']})"]) for m in metrics
    ]
    headers += ["\n".join(textwrap.wrap(COST, 11))] if last else []
    body = []
    for row in results["rows"]:
        label = textwrap.wrap(row["label"], 24) or [row["key"]]
        note = kind_note(row)
        first = "\n".join([*label, f"({note})"] if note else label)
        cells = [_terminal_cell(row["metrics"].get(m["key"])) for m in metrics]
        body.append([first, *cells, *([format_cost(row)] if last else [])])
    alignment = ["left"] + ["right"] * (len(headers) - 1)
    return tabulate.tabulate(
        body, headers, "simple", colalign=alignment, disable_numparse=True
    )


def _terminal_cell(cell: Mapping[str, Any] | None) -> str:
    interval = format_interval(cell).strip("[]").replace(", ", "–")
    return format_spread(cell).replace(" ", "") + ("\n" + interval if interval else "")


def csv_table(results: Results) -> str:
    """One line per row and metric with all digits; a missing metric or number is an empty field.

    Args:
      results: of a run.

    Returns:
      CSV (RFC 4180, Unix line ends) with a header: row, label, kind, method, metric,
      mean, std, low, high, num_runs, unit, and the row's cost as a multiple of
      retraining's.
    """
    stream = io.StringIO()
    writer: csv.DictWriter[str] = csv.DictWriter(
        stream, _CSV_FIELDS, lineterminator="\n"
    )
    writer.writeheader()
    for row in results["rows"]:
        relative: Any = (row.get("cost") or {}).get("relative")
        for metric in results["metrics"]:
            cell = row["metrics"].get(metric["key"]) or {}
            numbers = {
                name: cell.get(name)
                for name in ("mean", "std", "low", "high", "num_runs")
            }
            writer.writerow(
                {
                    "row": row["key"],
                    "label": row["label"],
                    "kind": row["kind"],
                    "method": row["method"],
                    "metric": metric["key"],
                    **{
                        name: value if known(value) else ""
                        for name, value in numbers.items()
                    },
                    "unit": metric["unit"],
                    COST: relative if known(relative) else "",
                }
            )
    return stream.getvalue()


def latex_table(results: Results) -> str:
    """A ``tabular`` for a paper, which needs only ``booktabs``; the oracle stands between rules.

    Args:
      results: of a run.

    Returns:
      LaTeX source, text from ``results`` escaped.
    """
    metrics = results["metrics"]
    lines = [
        r"% needs \usepackage{booktabs}; "
        "mean and std over runs, below them the"
        f" {format_level(results).replace(' ', '')} interval of the mean",
        r"\begin{tabular}{l" + "r" * (len(metrics) + 1) + "}",
        r"\toprule",
        _latex_line("", [*(_escape_latex(m["name"]) for m in metrics), "Cost"]),
        _latex_line(
            "",
            [
                *(f"({_escape_latex(m['unit'])})" for m in metrics),
                r"($\times$ retraining)",
            ],
        ),
        r"\midrule",
    ]
    last = len(results["rows"]) - 1
    for i, row in enumerate(results["rows"]):
        ruled = row["kind"] == "oracle"
        if ruled and i > 0 and lines[-1] != r"\midrule":
            lines.append(r"\midrule")
        label = _escape_latex(_noted(row))
        cells = [row["metrics"].get(m["key"]) for m in metrics]
        cost = format_cost(row).replace(MISSING, "--")
        numbers = [*(_latex_math(cell) for cell in cells), cost]
        lines.append(_latex_line(rf"\textbf{{{label}}}" if ruled else label, numbers))
        intervals = [format_interval(cell) for cell in cells]
        if any(intervals):
            lines.append(
                _latex_line(
                    "",
                    [
                        *(
                            rf"{{\scriptsize ${text}$}}" if text else ""
                            for text in intervals
                        ),
                        "",
                    ],
                )
            )
        if ruled and i < last:
            lines.append(r"\midrule")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _latex_line(label: str, cells: Sequence[str]) -> str:
    return " & ".join([label, *cells]) + r" \\"


def _latex_math(cell: Mapping[str, Any] | None) -> str:
    text = format_spread(cell)
    return "--" if text == MISSING else "$" + text.replace("±", r"\pm") + "$"


def _escape_latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in " ".join(text.split()))


def markdown_table(results: Results, metrics: Sequence[str] | None = None) -> str:
    """A Markdown table for a README.

    Args:
      results: of a run.
      metrics: keys of the metrics to show, in this order, before the cost; None shows
        all.

    Returns:
      Markdown, text from ``results`` escaped, with a line below that says what the
      numbers are.

    Raises:
      InputError: a key that no metric has.
    """
    available = {metric["key"]: metric for metric in results["metrics"]}
    unknown = [key for key in metrics or () if key not in available]
    if unknown:
        raise InputError(
            f"unknown metrics {', '.join(unknown)}: choose from {', '.join(available)}"
        )
    shown = (
        [available[key] for key in metrics]
        if metrics is not None
        else results["metrics"]
    )
    headers = [
        "",
        *(
            f"{escape_markdown(m['name'])} ({escape_markdown(m['unit'])})"
            for m in shown
        ),
        COST,
    ]
    lines = [headers, [":---", *("---:" for _ in headers[1:])]]
    for row in results["rows"]:
        label = escape_markdown(_noted(row))
        cells = [row["metrics"].get(m["key"]) for m in shown]
        lines.append(
            [
                f"**{label}**" if row["kind"] == "oracle" else label,
                *(
                    f"{format_spread(cell)} {format_interval(cell)}".strip()
                    for cell in cells
                ),
                format_cost(row),
            ]
        )
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return (
        f"{table}\n\nMean ± std over runs, and in brackets the {format_level(results)}"
        " interval of the mean.\n"
    )


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    text = (
        " ".join(text.split())
        .replace("&", "&amp;")
        .replace("<", "&lt;")
        .replace(">", "&gt;")
    )
    return "".join("\\" + letter if letter in "\\|*_`[]" else letter for letter in text)


def rows_with(results: Results, found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows that a section has something on, in the table's order."""
    return [row for row in results["rows"] if row["key"] in found]


def cell_of(cell: Mapping[str, Any] | None) -> dict[str, str]:
    """Mean and spread, and the interval in small print."""
    return {"text": format_spread(cell), "interval": format_interval(cell)}
