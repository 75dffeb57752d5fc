"""Forget masks and membership designs against their definitions, and every refusal by
its message.
"""

import numpy as np
import pytest
from support.refusals import refuses

from unlearn_jax.data import splits


@pytest.mark.parametrize(
    ("seed", "first"),
    [
        (1, [26247, 35067, 34590]),
        (10, [27632, 36119, 4796]),
        (100, [4253, 30076, 48047]),
    ],
)
def test_legacy_draw_is_the_published_forget_set(seed, first):
    indices = splits.legacy_indices(50_000, 5_000, seed=seed)
    assert indices[:3].tolist() == first
    mask = splits.forget_random(50_000, count=5_000, seed=seed, generator="legacy")
    np.testing.assert_array_equal(np.flatnonzero(mask), np.sort(indices))


def test_random_forget_sets_are_seeded_and_sized():
    mask = splits.forget_random(100, fraction=0.29, seed=3)
    assert mask.dtype == bool
    assert mask.shape == (100,)
    assert mask.sum() == 29  # 0.29 * 100 is 28.999999999999996
    np.testing.assert_array_equal(mask, splits.forget_random(100, count=29, seed=3))
    assert (mask != splits.forget_random(100, count=29, seed=4)).any()


def test_random_forget_sets_are_uniform():
    hits = sum(
        splits.forget_random(20, count=5, seed=seed).astype(int) for seed in range(2000)
    )
    # binomial(2000, 1/4): standard deviation 19.4
    assert np.abs(hits - 500).max() < 5 * 19.4


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({}, "exactly one of fraction and count"),
        ({"fraction": 0.1, "count": 3}, "exactly one of fraction and count"),
        ({"fraction": 0.0}, "strictly between 0 and 1"),
        ({"fraction": 1.0}, "strictly between 0 and 1"),
        ({"fraction": float("nan")}, "strictly between 0 and 1"),
        ({"fraction": 0.001}, "cannot forget 0 of 10"),
        ({"fraction": 0.99}, "cannot forget 10 of 10"),
        ({"count": 0}, "cannot forget 0 of 10"),
        ({"count": 10}, "in 1..9"),
        ({"count": 10, "generator": "legacy"}, "in 1..9"),
        ({"count": 1, "generator": "new"}, "'default' or 'legacy'"),
    ],
)
def test_random_forget_set_refusals(options, fragment):
    with refuses(fragment):
        splits.forget_random(10, seed=0, **options)


def test_forget_class_marks_exactly_those_labels():
    labels = np.array([0, 2, 1, 2, 0], np.int32)
    assert splits.forget_class(labels, 2).tolist() == [False, True, False, True, False]
    assert splits.forget_class(labels, [0, 1]).tolist() == [
        True,
        False,
        True,
        False,
        True,
    ]


@pytest.mark.parametrize(
    ("classes", "fragment"),
    [
        (7, "no training sample has class 7; the labels run from 0 to 1"),
        (-1, "no training sample has class -1"),
        ([0, 0], "repeat a class"),
        ([], "classes are empty"),
        (0.5, "must be integers"),
        ([0, 1], "is all 3 training samples"),
    ],
)
def test_forget_class_refusals(classes, fragment):
    with refuses(fragment):
        splits.forget_class([0, 1, 1], classes)


def test_forget_indices():
    assert splits.forget_indices([4, 1], 5).tolist() == [
        False,
        True,
        False,
        False,
        True,
    ]


@pytest.mark.parametrize(
    ("indices", "fragment"),
    [
        ([5], "forget index 5 is out of range: the training set has samples 0..4"),
        ([-1], "forget index -1 is out of range"),
        ([1, 3, 1], "forget index 1 is repeated"),
        ([0.0, 1.0], "must be integers, got float64"),
        ([], "forget set is empty"),
        ([[1], [2]], r"array of shape \(2, 1\)"),
        (range(5), "is all 5 training samples"),
    ],
)
def test_forget_indices_refusals(indices, fragment):
    with refuses(fragment):
        splits.forget_indices(indices, 5)


@pytest.mark.parametrize(
    ("mask", "fragment"),
    [
        (np.array([0, 1, 1]), "must be boolean, got int64"),
        (np.array([True, False]), r"must have shape \(3,\)"),
        (np.ones((3, 1), bool), r"must have shape \(3,\)"),
        (np.zeros(3, bool), "forget set is empty"),
        (np.ones(3, bool), "is all 3 training samples"),
    ],
)
def test_forget_mask_refusals(mask, fragment):
    with refuses(fragment):
        splits.check_forget_mask(mask, 3)


def test_forget_mask_passes_unchanged():
    mask = np.array([True, False, True])
    np.testing.assert_array_equal(splits.check_forget_mask(mask, 3), mask)


def test_forget_file_reads_every_format(tmp_path):
    indices = np.array([4, 0, 2])
    expected = splits.forget_indices(indices, 6)
    np.save(tmp_path / "a.npy", indices)
    np.save(tmp_path / "b.npy", expected)
    np.savez(tmp_path / "c.npz", indices)
    (tmp_path / "d.txt").write_text("# forget these\n4\n\n0\n 2 \n")
    (tmp_path / "e.csv").write_text("4\n0\n2")
    for name in ("a.npy", "b.npy", "c.npz", "d.txt", "e.csv"):
        np.testing.assert_array_equal(
            splits.forget_file(tmp_path / name, 6), expected, err_msg=name
        )


def test_forget_file_refusals(tmp_path):
    with refuses("no forget file at"):
        splits.forget_file(tmp_path / "absent.npy", 6)
    cases = {
        "bad.json": (lambda path: path.write_text("[1]"), "suffix must be one of .npy"),
        "words.txt": (
            lambda path: path.write_text("1\ncat\n"),
            "line 2: 'cat' is not an integer index",
        ),
        "floats.csv": (
            lambda path: path.write_text("1.5"),
            "line 1: '1.5' is not an integer",
        ),
        "binary.txt": (
            lambda path: path.write_bytes(b"\xff\xfe\x00"),
            "not a text file",
        ),
        "empty.txt": (lambda path: path.write_text("\n"), "forget set is empty"),
        "broken.npy": (lambda path: path.write_bytes(b"\x93NUMPY"), "as a NumPy array"),
        "pickle.npy": (
            lambda path: np.save(path, np.array([{}]), allow_pickle=True),
            "as a NumPy array",
        ),
        "two.npz": (lambda path: np.savez(path, a=[1], b=[2]), "single array"),
        "float.npy": (lambda path: np.save(path, [1.0]), "must be integers"),
        "large.npy": (
            lambda path: np.save(path, [6]),
            "large.npy: forget index 6 is out of range",
        ),
        "short.npy": (
            lambda path: np.save(path, np.ones(5, bool)),
            r"must have shape \(6,\)",
        ),
        "as_integers.npy": (
            lambda path: np.save(path, [0, 1, 0, 1]),
            "stored as booleans",
        ),
    }
    for name, (write, fragment) in cases.items():
        write(tmp_path / name)
        with refuses(fragment):
            splits.forget_file(tmp_path / name, 6)


@pytest.mark.parametrize("generator", ["default", "legacy"])
@pytest.mark.parametrize("num_models", [2, 8, 14])
def test_membership_design_puts_each_sample_in_exactly_half(num_models, generator):
    design = splits.membership_design(num_models, 501, seed=0, generator=generator)
    assert design.shape == (num_models, 501)
    assert design.dtype == bool
    assert (design.sum(axis=0) == num_models // 2).all()


@pytest.mark.parametrize("generator", ["default", "legacy"])
def test_membership_design_does_not_depend_on_the_block_size(monkeypatch, generator):
    whole = splits.membership_design(6, 100, seed=5, generator=generator)
    monkeypatch.setattr(splits, "_BLOCK_COLUMNS", 7)
    np.testing.assert_array_equal(
        splits.membership_design(6, 100, seed=5, generator=generator), whole
    )


def test_legacy_design_is_the_published_construction():
    np.random.seed(0)
    keep = np.random.uniform(0, 1, size=(8, 300))
    expected = keep.argsort(0) < 4
    np.testing.assert_array_equal(
        splits.membership_design(8, 300, seed=0, generator="legacy"), expected
    )


def test_membership_design_treats_models_alike_and_independently():
    design = splits.membership_design(4, 60_000, seed=1)
    pairs = design.astype(float) @ design.T.astype(float) / 60_000
    # P(in) = 1/2; P(two given models both in) = 1/2 * 1/3; standard error below 0.0021
    np.testing.assert_allclose(np.diag(pairs), 0.5, atol=0.01)
    np.testing.assert_allclose(pairs[~np.eye(4, dtype=bool)], 1 / 6, atol=0.01)


@pytest.mark.parametrize(
    ("num_models", "num_samples", "generator", "fragment"),
    [
        (3, 5, "default", "even number of models, at least 2.*got 3"),
        (0, 5, "default", "even number of models"),
        (4.0, 5, "default", "num_models must be an integer"),
        (4, 5.0, "default", "num_samples must be an integer"),
        (2, 0, "default", "at least one sample"),
        (2, 5, "other", "'default' or 'legacy'"),
    ],
)
def test_membership_design_refusals(num_models, num_samples, generator, fragment):
    with refuses(fragment):
        splits.membership_design(num_models, num_samples, seed=0, generator=generator)
