"""Published results are data; every page made of them is what they say."""

import ast
import dataclasses
import errno
import json
import pathlib
import re
from decimal import Decimal

import pytest
from support.made_up import small_result
from support.runs import TINY

from unlearn_jax import METHODS, InputError, cli, pipeline
from unlearn_jax.pipeline import code_digest as code_digests
from unlearn_jax.pipeline import pages, presets, publish, published
from unlearn_jax.pipeline.code_digest import code_digest, source_digest
from unlearn_jax.pipeline.measure import records
from unlearn_jax.pipeline.published import GROUPS, ResultTable, Value
from unlearn_jax.pipeline.store.clock import Cost

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = published.read_results()
PRESETS = sorted((ROOT / "experiments").glob("*.py"))


def test_pages_are_generated_from_the_results():
    stale = pages.write_pages(check=True)
    assert stale == [], f"run `unlearn-jax table`: {', '.join(stale)} differ"
    assert cli.main(["table", "--check"]) == 0


def test_a_page_is_replaced_in_one_step(tmp_path, monkeypatch):
    page = tmp_path / "RESULTS.md"
    page.write_text("old")
    write = pathlib.Path.write_text

    def write_half(path, text, **options):
        write(path, text[: len(text) // 2], **options)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pages, "make_pages", lambda root: {page: "new content"})
    monkeypatch.setattr(pathlib.Path, "write_text", write_half)
    with pytest.raises(OSError, match="No space left"):
        pages.write_pages(tmp_path)
    assert page.read_text() == "old"
    assert list(tmp_path.iterdir()) == [page]


def test_every_preset_has_a_result():
    missing = {path.stem for path in PRESETS} - set(RESULTS)
    assert missing == set()


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_is_whole(name, tmp_path):
    result = RESULTS[name]
    assert result.name == name
    assert result.group in GROUPS
    assert result.title.endswith(".")
    assert result.command
    if result.date:
        assert result.tables
        assert result.device
        assert result.versions["unlearn_jax"]
    else:
        assert result.group == "Not measured yet"
    for table in result.tables:
        assert len(table.units) == len(table.columns)
        for row in table.rows:
            assert len(row) == len(table.columns), row[0]
            for cell in row[1:]:
                if isinstance(cell, Value) and cell.low is not None:
                    assert cell.low <= cell.mean <= cell.high, (row[0], str(cell))
    published.write_result(result, tmp_path / "copy.json")
    assert published.read_result(tmp_path / "copy.json") == result
    source = ROOT / "experiments" / "results" / f"{name}.json"
    assert (tmp_path / "copy.json").read_text() == source.read_text()


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_docstrings_of_experiments_are_short(path):
    lines = (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines()
    assert len(lines) <= 8
    assert max(map(len, lines)) <= 88
    words = [line.split(":")[0] for line in lines[2:] if not line.startswith(" ")]
    assert words[0] == "Claim"
    # time and device are the result's, and would differ here after the next run
    assert set(words) == {"Claim", "Command", "Results"}


def test_decimals_are_part_of_a_number(tmp_path):
    row = ("AMUN", Value(mean=Decimal("1.00")), Value(mean=Decimal("0.20")), None)
    table = ResultTable(
        columns=("row", "a", "b", "c"), units=("", "", "%", ""), rows=(row,)
    )
    result = published.Result(name="x", group=GROUPS[0], title="X.", tables=(table,))
    published.write_result(result, tmp_path / "x.json")
    again = published.read_result(tmp_path / "x.json")
    assert again == result
    assert pages.markdown_table(again.tables[0]).splitlines() == [
        "|  | a | b (%) | c |",
        "| :--- | ---: | ---: | ---: |",
        "| AMUN | 1.00 | 0.20 | – |",
    ]
    numbers = json.loads((tmp_path / "x.json").read_text())["tables"][0]["rows"][0]
    assert numbers == ["AMUN", 1.0, 0.2, None]


def test_another_layout_is_refused(tmp_path):
    (tmp_path / "x.json").write_text('{"schema": 99}')
    with pytest.raises(InputError, match="not a published result of layout 1"):
        published.read_result(tmp_path / "x.json")
    for text in ("[1, 2]", '{"schema"'):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(InputError, match=r"x\.json is"):
            published.read_result(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"title"', '"tilte"'),
        ('"units"', '"unit"'),
        ('"mean"', '"men"'),
        ('"name": "digits",', ""),
    ],
)
def test_a_misspelled_field_is_one_line(tmp_path, old, new):
    source = ROOT / "experiments" / "results" / "digits.json"
    text = source.read_text()
    assert old in text
    (tmp_path / "x.json").write_text(text.replace(old, new))
    with pytest.raises(InputError, match=r"x\.json: a field is missing, misspelled"):
        published.read_result(tmp_path / "x.json")


def test_damaged_bytes_are_one_line(tmp_path):
    (tmp_path / "x.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(InputError, match=r"x\.json is damaged"):
        published.read_result(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("text", "number"), [("1,234", 1234), ("-12,345.5", -12345.5), ("7", 7)]
)
def test_numbers_of_cells(text, number):
    assert published.parse_cell(text).mean == number


@pytest.mark.parametrize("text", ["1,2", "0,1", "1,23", "12,3456"])
def test_lists_of_numbers_are_text(text):
    assert published.parse_cell(text) == text


def test_a_page_without_markers_is_refused():
    with pytest.raises(InputError, match="no marker <!-- results: generated -->"):
        pages.between_markers("# Title\n", "results", "x")


# --- the digest of the code ---


@pytest.fixture
def checkout(tmp_path):
    """A small checkout: library, pipeline, a study and two experiments."""
    files = {
        "unlearn_jax/train.py": '"""Train."""\nRATE = 0.1\n',
        "unlearn_jax/cli.py": "X = 1\n",
        "unlearn_jax/figures/curves.py": "F = 1\n",
        "unlearn_jax/pipeline/measure/samples.py": "Y = 1\n",
        "unlearn_jax/pipeline/report/page.py": "Z = 1\n",
        "unlearn_jax/studies/rbm/bars.py": "from ...contrib import testbeds\n",
        "unlearn_jax/contrib/testbeds.py": "C = 1\n",
        "unlearn_jax/contrib/federated/clients.py": "D = 1\n",
        "experiments/digits.py": '"""Digits."""\nPRESET = 1\n',
        "experiments/bars.py": "from unlearn_jax.studies.rbm.bars import B\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "text", "changes"),
    [
        ("unlearn_jax/train.py", '"""Other words."""\n\nRATE = (0.1)  # why\n', ""),
        ("unlearn_jax/train.py", '"""Train."""\nRATE = 0.2\n', "digits bars"),
        ("unlearn_jax/cli.py", "X = 2\n", ""),
        ("unlearn_jax/figures/curves.py", "F = 2\n", ""),
        ("unlearn_jax/pipeline/measure/samples.py", "Y = 2\n", "digits bars"),
        ("unlearn_jax/pipeline/report/page.py", "Z = 2\n", ""),
        ("unlearn_jax/studies/rbm/bars.py", "B = 2\n", "bars"),
        ("unlearn_jax/contrib/testbeds.py", "C = 2\n", "bars"),
        ("unlearn_jax/contrib/federated/clients.py", "D = 2\n", ""),
        ("experiments/digits.py", '"""Other."""\nPRESET = 1\n', ""),
        ("experiments/digits.py", "PRESET = 2\n", "digits"),
    ],
)
def test_the_digest_is_of_code_that_decides_numbers(checkout, file, text, changes):
    before = {name: code_digest(name, checkout) for name in ("digits", "bars")}
    (checkout / file).write_text(text)
    after = {name: code_digest(name, checkout) for name in ("digits", "bars")}
    changed = [name for name in before if before[name] != after[name]]
    assert changed == changes.split()


@pytest.mark.parametrize(
    ("name", "used", "unused"),
    [
        ("digits", {"amun", "adversarial", "finetune"}, {"trw", "influence_target"}),
        ("class_digits", {"trw", "influence_target", "l2ul"}, {"amun"}),
        ("trw_stress_digits", {"trw", "targets", "influence_target"}, {"amun"}),
        ("rbm_mnist", set(), {"amun", "trw", "targets"}),
        ("race_attack", {"amun", "trw", "targets"}, set()),
    ],
)
def test_files_of_methods_count_where_they_are_used(name, used, unused):
    """A new method does not mark the tables of others."""
    experiments = published.folder().parent
    package = presets.PACKAGE
    own_files = code_digests._own_files(name, package, experiments)
    files = code_digests._unused_methods(name, own_files, package)
    left_out = {file.stem for file in files}
    assert unused <= left_out
    assert not used & left_out
    assert not left_out & {"base", "passes", "gradients", "similarity", "__init__"}
    assert all(file.is_file() for file in files)


def test_digests_are_the_same_on_every_python():
    """Syntax trees differ: type parameters, empty ends of f-strings, empty lists."""
    source = '''
class A:
    """Text."""

    def f(self, x: int = 1) -> str:
        return f"{x:.1f}" f"{x}"
'''
    assert source_digest(source).hex()[:12] == "d9e8809e164f"


def test_annotations_and_texts_of_errors_do_not_count():
    source = """
def f(x: {kind}) -> {kind}:
    raise {error}({text!r})
"""
    plain = source.format(kind="int", error="ValueError", text="no")
    other = source.format(kind="float", error="ValueError", text="another text")
    caught = source.format(kind="int", error="KeyError", text="no")
    assert source_digest(other) == source_digest(plain)
    assert source_digest(caught) != source_digest(plain)


def test_a_type_of_a_field_counts():
    """A value's fields are leaves by their types."""
    source = "class A:\n    x: {}"
    assert source_digest(source.format("int")) != source_digest(source.format("float"))


def test_a_table_of_changed_code_is_marked():
    result = dataclasses.replace(RESULTS["digits"], code="abc123")
    assert "code has changed" not in pages.provenance(result, "abc123")
    stale = pages.provenance(result, "def456")
    version = result.versions["unlearn_jax"]
    assert f"by unlearn_jax {version} (abc123)" in stale
    assert stale.endswith("The code has changed since.")
    checked = dataclasses.replace(result, checked="def456")
    equal = pages.provenance(checked, "def456")
    assert equal.endswith("changed since; a smaller run gives the same numbers.")
    assert pages.provenance(checked, "fed789") == stale


# --- the tables made of other sources ---


def test_every_method_has_its_source():
    assert set(pages.SOURCES) == set(METHODS)


def test_the_table_of_methods_follows_the_registry():
    lines = pages.methods_table(METHODS).splitlines()
    assert [re.match(r"\| `(\w+)`", line)[1] for line in lines[2:]] == list(METHODS)


def test_systems_point_at_presets_and_notebooks_that_exist():
    presets = {path.stem for path in PRESETS}
    systems = [result.system for result in RESULTS.values() if result.system]
    assert len(systems) == 8
    for system in systems:
        for name in re.findall(r"`([\w/.]+)`", system.where):
            if name.endswith(".ipynb"):
                assert (ROOT / "notebooks" / name).is_file(), name
            elif name.endswith(".py"):
                assert (ROOT / "experiments" / name).is_file(), name
            elif name.endswith(("_digits", "_shapes", "_bars", "_theory", "_concepts")):
                assert name in presets, name


# --- publishing ---


def test_publishing_nothing_is_refused(tmp_path, capsys):
    assert cli.main(["publish", str(tmp_path)]) == 2
    assert "has no results.json: finish the run first" in capsys.readouterr().err
    (tmp_path / "results.json").write_text('{"rows": [')
    assert cli.main(["publish", str(tmp_path)]) == 1
    assert "is damaged: run the same command again" in capsys.readouterr().err
    assert cli.main(["publish"]) == 2
    assert "working directory of the run" in capsys.readouterr().err


def test_table_takes_no_other_argument(capsys):
    assert cli.main(["table", "--all"]) == 2
    assert "unknown argument --all" in capsys.readouterr().err


def test_an_experiment_is_published_as_shown(tmp_path):
    estimate = {"mean": 1.234, "std": 0.5, "low": 1.0, "high": 1.5}
    stage = {"seconds": 90.0, "compile_seconds": 1.0, "peak_memory_mb": 1.0}
    data = {
        "schema": records.SCHEMA,
        "experiment": "rbm_bars",
        "title": "Bars",
        "date": "2026-11-28T12:00:00+00:00",
        "summary": "It forgets.",
        "tables": [
            {
                "title": "Forgetting",
                "columns": ["", "KL (nats)", "seeds"],
                "rows": [
                    ["original", {**estimate, "num_runs": 3, "num_dropped": 0}, 3],
                    ["oracle", None, "none"],
                ],
                "caption": "Lower is nearer.",
            }
        ],
        "checks": [],
        "stages": [{"name": "fit", "cached": False, **stage}],
        "versions": {"unlearn_jax": "0.2.0", "python": "3.11", "jax": "0.10.2"},
        "config": {},
        "config_digest": "0123456789abcdef",
        "command": "unlearn-jax run rbm_bars --workdir x --seeds 9",
    }
    (tmp_path / "results.json").write_text(json.dumps(data))
    path, result = publish.publish(tmp_path, tmp_path / "bars.json")
    command = "unlearn-jax run rbm_bars --workdir runs/rbm_bars --seeds 9"
    assert result.command == command
    assert published.read_result(path) == result
    (table,) = result.tables
    assert table.columns == ("row", "KL", "seeds")
    assert table.units == ("", "nats", "")
    assert str(table.rows[0][1]) == "1.23 ± 0.50 [1.00, 1.50]"
    assert table.rows[1][1:] == (None, "none")
    assert result.code == code_digest("rbm_bars")
    assert result.settings == "0123456789ab"
    assert result.time == "90 s"


def test_words_of_an_earlier_file_are_kept_and_its_numbers_are_not(tmp_path):
    table = published.ResultTable(columns=("row", "x"), units=("", ""), rows=())
    before = published.Result(
        name="tiny",
        group=GROUPS[3],
        title="Ours.",
        claim="It forgets.",
        date="2026-01-01",
        seeds="Four runs.",
        tables=(table, dataclasses.replace(table, title="Published: ResNet-18")),
        published=("Theirs.",),
        reading=("Of the old numbers.",),
        notes=("A caveat.",),
    )
    path = tmp_path / "tiny.json"
    published.write_result(before, path)
    write_run(tmp_path / "run")
    publish.publish(tmp_path / "run", path)
    kept = published.read_result(path)
    for name in ("group", "title", "claim", "seeds", "published", "notes"):
        assert getattr(kept, name) == getattr(before, name), name
    assert kept.tables[-1] == before.tables[1], "numbers of the source"
    assert before.tables[0] not in kept.tables
    assert kept.tables[0].columns[:2] == ("row", "FT AUC")
    assert "Of the old numbers." not in kept.reading
    assert kept.date == "2026-11-28"
    publish.publish(tmp_path / "run", path)
    assert published.read_result(path) == kept, "publishing twice changes nothing"


@pytest.mark.slow
def test_the_reference_renders_without_a_warning(tmp_path):
    pytest.importorskip("pdoc", reason="pip install '.[docs]'")
    from unlearn_jax.pipeline.reference import render_reference

    index = render_reference(tmp_path)
    page = (tmp_path / "unlearn_jax" / "methods.html").read_text()
    assert index.is_file()
    assert "Fine-tuning on each forget sample" in page
    assert "~unlearn_jax" not in page
    assert "======" not in page


def write_run(folder, name="digits", **changes):
    """Write the results of a run with every section."""
    run = small_result(
        preset=name,
        command=f"unlearn-jax run {name} --workdir runs/{name}",
        date="2026-11-28T12:00:00+00:00",
        versions={"unlearn_jax": "0.2.0", "python": "3.11.7", "jax": "0.10.2"},
    )
    run = dataclasses.replace(run, **changes)
    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_text(json.dumps(run.to_json()))


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (
            "unlearn-jax run digits --workdir /home/me/x --data.path=/home/me/data",
            "unlearn-jax run digits --workdir runs/digits --data.path=DATA_DIR",
        ),
        (
            "unlearn-jax run /home/me/mine.py --workdir=x --data.path /home/me/data",
            "unlearn-jax run mine.py --workdir=runs/digits --data.path DATA_DIR",
        ),
        ("unlearn_jax.pipeline.run(...)", "unlearn_jax.pipeline.run(...)"),
    ],
)
def test_folders_of_a_machine_are_not_published(tmp_path, command, shown):
    write_run(tmp_path, command=command)
    _, result = publish.publish(tmp_path, tmp_path / "tiny.json")
    assert result.command == shown


def test_a_run_is_published_as_shown(tmp_path):
    write_run(tmp_path)
    _, result = publish.publish(tmp_path, tmp_path / "tiny.json")
    assert result.title == "Tiny."
    assert result.date == "2026-11-28"
    assert result.command == "unlearn-jax run digits --workdir runs/digits"
    assert result.versions == {
        "unlearn_jax": "0.2.0",
        "Python": "3.11",
        "JAX": "0.10.2",
    }
    assert len(result.settings) == 12
    assert result.chosen == {"AMUN": "learning_rate 0.0306"}
    assert result.seeds.startswith("4 runs (2 originals x 2 forget sets of 6 samples)")
    main, klom, requests, targets = result.tables
    amun = ("0.50", "0.00", "1.50")
    further = ("Distance (L2)", "Largest norm")
    assert main.columns == ("row", "FT AUC", "Avg Gap", "Cost", *further)
    assert main.units == ("", "%", "points", "", "", "")
    shown = [[str(cell) for cell in row] for row in main.rows]
    assert shown == [
        ["Original", "51.5 ± 1.2 [50.0, 53.0]", *["None"] * 4],
        ["AMUN", "97.0 [96.0, 98.0]", "51.5 ± 1.2 [50.0, 53.0]", *amun],
        ["Lost", *["None"] * 5],
    ]
    assert klom.title == "KLoM of 20 models"
    assert str(klom.rows[0][1]) == "97.0 [96.0, 98.0]"
    assert requests.columns == ("row", "Request 1", "Request 2")
    assert targets.columns == ("target", "beta 0.25", "beta 1")
    assert [str(cell) for cell in targets.rows[0]] == ["Weights", "0.50", "0.25"]


def test_a_study_is_published_in_the_order_of_its_runs(tmp_path):
    for hour, name in enumerate(["plain", "adversarial", "trades"]):
        if hour == 2:
            with pytest.raises(InputError, match="trades of the study in"):
                publish.publish(tmp_path, tmp_path / "trades_digits.json")
        date = f"2026-11-28T1{hour}:00:00+00:00"
        shared = Cost(name="originals", seconds=600.0, cached=hour > 0)
        stages = (shared, Cost(name="audit", seconds=60.0))
        write_run(tmp_path / name, "trades_digits", date=date, stages=stages)
    _, result = publish.publish(tmp_path, tmp_path / "trades_digits.json")
    titles = [table.title for table in result.tables if "FT AUC" in table.columns]
    assert titles == ["plain", "adversarial", "trades"]
    others = [table.title for table in result.tables if table.title not in titles]
    assert others[0] == "plain: KLoM of 20 models"
    assert [one.partition(":")[0] for one in result.reading] == [
        "**plain**",
        "**adversarial**",
        "**trades**",
    ]
    chosen = ["AMUN, plain", "AMUN, adversarial", "AMUN, trades"]
    assert list(result.chosen) == chosen
    assert result.time == "13.0 min", "shared models count once"


@pytest.mark.slow
def test_a_run_is_published_with_its_command_and_numbers(tmp_path):
    found = pipeline.run(TINY, tmp_path / "run", preset="digits")
    path, result = publish.publish(tmp_path / "run", tmp_path / "tiny.json")
    assert published.read_result(path) == result
    assert result.name == "tiny"
    assert result.code == code_digest("digits")
    assert "4 runs (2 originals x 2 forget sets of 180 samples)" in result.seeds
    (table,) = result.tables
    assert table.columns[0] == "row"
    assert table.columns[-1] == "Cost"
    assert [row[0] for row in table.rows] == [row.label for row in found.rows]
    column = table.columns.index("FT AUC")
    for row, shown in zip(found.rows, table.rows, strict=True):
        assert float(shown[column].mean) == round(row.metrics["ft_auc"].mean, 1)
    assert "code has changed" not in pages.provenance(result, result.code)
    assert cli.main(["publish", str(tmp_path / "run"), "--to", str(path)]) == 0
