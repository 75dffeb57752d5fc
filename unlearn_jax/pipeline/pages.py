"""Pages generated from published results: RESULTS.md and tables of the READMEs."""

import dataclasses
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from unlearn_jax.pipeline.claims import HEADS, Claim, claim_cells, read_claims
from unlearn_jax.pipeline.code_digest import code_digest
from unlearn_jax.pipeline.published import (
    GROUPS,
    Result,
    ResultTable,
    folder,
    read_results,
)
from unlearn_jax.pipeline.store.folders import write_text
from unlearn_jax.types import InputError


def markdown_table(table: ResultTable, columns: Iterable[str] | None = None) -> str:
    """Return a table in Markdown.

    Args:
      table: table to write.
      columns: names of the columns to show after the row labels; all if None.
    """
    positions = [0]
    for i, name in enumerate(table.columns[1:], 1):
        if columns is None or name in columns:
            positions.append(i)
    head = []
    for i in positions:
        unit = f" ({table.units[i]})" if table.units[i] else ""
        name = "" if table.columns[i] == "row" else table.columns[i]
        head.append(name + unit)
    lines = [_line(head), _line([":---"] + ["---:"] * (len(positions) - 1))]
    for row in table.rows:
        cells = ["–" if row[i] is None else str(row[i]) for i in positions]
        lines.append(_line(cells))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    """Return a line of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _text_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table of text, aligned left."""
    lines = [_line(head), _line([":---"] * len(head))]
    lines += [_line(row) for row in rows]
    return "\n".join(lines)


def provenance(result: Result, digest: str | None = None) -> str:
    """Return the code, machine and date of a measurement, in words.

    Args:
      result: published result.
      digest: digest of the current code; computed if None.
    """
    if not result.date:
        return "Not measured yet."
    versions = dict(result.versions)
    package = "unlearn_jax " + versions.pop("unlearn_jax", "of an unknown version")
    code = result.code or result.commit
    if code:
        package += f" ({code})"
    others = ", ".join(f"{name} {version}" for name, version in versions.items())
    text = f"Measured {result.date} by {package}, {result.device}, {others}"
    text += f"; {result.time}." if result.time else "."
    present = digest or code_digest(result.name)
    if result.code != present:
        text += " The code has changed since"
        is_checked = result.checked == present
        text += "; a smaller run gives the same numbers." if is_checked else "."
    return text


def results_page(results: Mapping[str, Result], claims: Sequence[Claim]) -> str:
    """Return ``experiments/RESULTS.md``.

    Args:
      results: all published results, by name.
      claims: claims of the sources.
    """
    lines = [
        "# Results",
        "",
        "Generated from `experiments/results/*.json` by `unlearn-jax table`; do not"
        " edit. Cells are mean ± standard deviation over runs, with the 95% interval of"
        " the mean in brackets. Read every row against the retrained one: a retrained"
        " model never saw the forget set, and *retrained again*, a second retraining"
        " with another seed, is as close as any method can be asked to come."
        " [README.md](README.md) explains the columns.",
        "",
    ]
    groups: dict[str, list[Result]] = {group: [] for group in GROUPS}
    for result in results.values():
        if result.group in groups:
            groups[result.group].append(result)
    for group, group_results in groups.items():
        links = ", ".join(
            f"[{result.name}](#{result.name})" for result in group_results
        )
        lines.append(f"* **{group}:** {links}")
    lines += ["", "## Claims of the sources", "", claims_table(claims, results), ""]
    lines += ["## Neighboring systems at a glance", "", systems_table(results), ""]
    for group, group_results in groups.items():
        lines += [f"## {group}", ""]
        for result in group_results:
            lines += [result_section(result), ""]
    return "\n".join(lines)


def result_section(result: Result) -> str:
    """Return the section of one result, in Markdown.

    Args:
      result: published result.
    """
    blocks = [f"### {result.name}", f"**{result.title}**"]
    if result.claim:
        blocks.append(f"Claim: {result.claim}")
    if result.command:
        blocks.append(f"```sh\n{result.command}\n```")
    blocks.append(provenance(result))
    if result.seeds:
        blocks.append(result.seeds)
    for table in result.tables:
        if table.title:
            blocks.append(f"*{table.title}*")
        blocks.append(markdown_table(table))
        if table.caption:
            blocks.append(table.caption)
    lists = {
        "Published": result.published,
        "Reading": result.reading,
        "Notes": result.notes,
    }
    for name, sentences in lists.items():
        if sentences:
            blocks.append(f"{name}:")
            blocks.append("\n".join(f"* {sentence}" for sentence in sentences))
    if result.chosen:
        rows = "\n".join(f"* {row}: {text}" for row, text in result.chosen.items())
        summary = "<details><summary>Chosen hyperparameters</summary>"
        blocks.append(f"{summary}\n\n{rows}\n\n</details>")
    return "\n\n".join(blocks)


def claims_table(claims: Sequence[Claim], results: Mapping[str, Result]) -> str:
    """Return the table of claims, in Markdown.

    Args:
      claims: claims, in order.
      results: all published results, by name.

    Raises:
      InputError: see :func:`unlearn_jax.pipeline.claims.claim_cells`.
    """
    return _text_table(HEADS, [claim_cells(claim, results) for claim in claims])


def systems_table(results: Mapping[str, Result]) -> str:
    """Return the table of neighboring systems, in Markdown.

    Args:
      results: all published results, by name.
    """
    systems = [result.system for result in results.values() if result.system]
    head = ["system", "works", "where", "measured"]
    return _text_table(head, [dataclasses.astuple(system) for system in systems])


EXCERPT_COLUMNS = ("Unlearn acc", "Test acc", "FT AUC", "Avg Gap")
EXCERPT_ROWS = (
    "Original (unchanged)",
    "Retrained (oracle)",
    "Retrained again (seed floor)",
    "AMUN",
)
"""Columns and rows of ``digits`` that the README shows."""


def readme_excerpt(results: Mapping[str, Result]) -> str:
    """Return the README's excerpt of the main table of ``digits``.

    Args:
      results: all published results, by name.
    """
    table = results["digits"].tables[0]
    rows = tuple(row for row in table.rows if row[0] in EXCERPT_ROWS)
    return markdown_table(dataclasses.replace(table, rows=rows), EXCERPT_COLUMNS)


SOURCES = {
    "identity": ("", "nothing"),
    "retrain": ("", "D_R"),
    "finetune": ("", "D_R"),
    "gradient_ascent": ("1911.04933", "D_F; D_R with `retain=True`"),
    "neggrad_plus": ("2302.09880", "D_R, D_F"),
    "random_label": ("1911.04933", "D_F; D_R unless `retain=False`"),
    "boundary_shrink": ("2303.11570", "D_F; D_R with `retain=True`"),
    "boundary_expand": ("2303.11570", "D_F; D_R with `retain=True`"),
    "l1_sparse": ("2304.04934", "D_R"),
    "salun": ("2310.12508", "D_F; D_R unless `retain=False`"),
    "scar": ("2404.12922", "D_F, D_R"),
    "uam": ("NeurIPS 2025", "D_R, D_F"),
    "scrub": ("2302.09880", "D_R, D_F"),
    "bad_teacher": ("2205.08096", "D_R, D_F"),
    "ssd": ("2308.07707", "D_R, D_F"),
    "svd_projection": ("2312.00761", "D_R, D_F"),
    "unsir": ("2111.08947", "D_R, labels of D_F"),
    "l2ul": ("2301.11578", "D_F"),
    "delete": ("CVPR 2025", "D_F; D_R with `retain=True`"),
    "trw": ("2512.06993", "D_F; D_R unless `retain=False`"),
    "influence_target": ("2512.06993", "D_R, D_F"),
    "influence": ("2304.04934", "D_R, D_F"),
    "ntk_influence": ("2605.11239", "D_R, D_F"),
    "fisher": ("1911.04933", "D_R"),
    "masked_small_gradients": ("2410.01276", "D_R, D_F"),
    "convolution_transpose": ("2410.01276", "D_R"),
    "amun": ("2503.00917", "D_F; D_R unless `retain=False`"),
    "amun_salun": ("2503.00917", "D_F; D_R unless `retain=False`"),
}
"""Paper of each registered method, and the data that it reads."""


def methods_table(methods: Mapping[str, Any]) -> str:
    """Return the table of methods, in Markdown.

    Args:
      methods: registered values, :data:`unlearn_jax.methods.METHODS`.
    """
    rows = []
    for name, method in methods.items():
        summary = (type(method).__doc__ or "").strip().splitlines()[0]
        summary = summary.replace("``", "`")
        for constraint in getattr(method, "constraints", ()):
            summary += f" Limited by `{constraint}`."
        paper, reads = SOURCES.get(name, ("", ""))
        if re.fullmatch(r"\d{4}\.\d{5}", paper):
            paper = f"[{paper}](https://arxiv.org/abs/{paper})"
        rows.append([f"`{name}`", summary, paper, reads])
    return _text_table(["name", "what it does", "paper", "reads"], rows)


def between_markers(text: str, name: str, content: str) -> str:
    """Return a page with new content between two markers.

    Args:
      text: text of the page, with ``<!-- NAME: generated -->`` and ``<!-- end -->``.
      name: name in the first marker.
      content: content to place between the markers.

    Raises:
      InputError: the page does not have the markers.
    """
    pattern = re.compile(
        rf"(<!-- {re.escape(name)}: generated -->\n).*?(<!-- end -->)", re.DOTALL
    )
    if not pattern.search(text):
        raise InputError(f"the page has no marker <!-- {name}: generated -->")
    return pattern.sub(lambda match: match[1] + content + "\n" + match[2], text)


def make_pages(root: pathlib.Path | None = None) -> dict[pathlib.Path, str]:
    """Return all generated pages of a checkout, by path.

    Args:
      root: root of the checkout; this one's if None.

    Raises:
      InputError: the package is installed without its checkout.
    """
    from unlearn_jax.methods import METHODS

    root = root or folder().parents[1]
    if not (root / "pyproject.toml").is_file():
        raise InputError("the pages are part of a checkout: run this in one")
    results = read_results(root / "experiments" / "results")
    claims = read_claims(root / "experiments" / "claims.json")
    readme = root / "README.md"
    methods = root / "unlearn_jax" / "methods" / "README.md"
    return {
        root / "experiments" / "RESULTS.md": results_page(results, claims),
        readme: between_markers(
            readme.read_text(encoding="utf-8"), "results", readme_excerpt(results)
        ),
        methods: between_markers(
            methods.read_text(encoding="utf-8"), "methods", methods_table(METHODS)
        ),
    }


def write_pages(root: pathlib.Path | None = None, *, check: bool = False) -> list[str]:
    """Write all generated pages of a checkout.

    Args:
      root: root of the checkout; this one's if None.
      check: whether to compare only, and write nothing.

    Returns:
      Paths of the pages that were not up to date, relative to the root.
    """
    root = root or folder().parents[1]
    stale = []
    for path, text in make_pages(root).items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(str(path.relative_to(root)))
            if not check:
                write_text(path, text)
    return stale
