"""TrivialAugmentWide and RandAugment against torchvision's: every operation at every
magnitude and sign.

Pillow itself is compared with in ``test_data_image_ops.py`` and
``test_data_policies.py``. Skipped without torchvision;
``pip install torch torchvision``. Passed with torchvision 0.28.0, PyTorch 2.13.0,
Pillow 13.0.0, JAX 0.10.2.
"""

import jax
import numpy as np
import pytest
from PIL import Image

from unlearn_jax.data import augment_policies, image_ops

SIZE = 32


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("policy", ["trivial", "rand"])
def test_every_row_is_torchvisions_operation(policy):
    """Exactly, but for what its float32 magnitudes round: 15.9999990 pixels to 15, and
    enhancements by a level.
    """
    theirs = pytest.importorskip(
        "torchvision.transforms.autoaugment", exc_type=(ImportError, RuntimeError)
    )
    nearest = theirs.InterpolationMode.NEAREST
    if policy == "trivial":
        space = theirs.TrivialAugmentWide()._augmentation_space(31)
        bins = range(31)
        rows = augment_policies._trivial_rows(SIZE, SIZE, 31)
    else:
        space = theirs.RandAugment()._augmentation_space(31, (SIZE, SIZE))
        bins = [9]
        rows = augment_policies._rand_rows(SIZE, SIZE, 9, 31)
    rng = np.random.default_rng(0)
    image = np.clip(rng.normal(130, 60, (SIZE, SIZE, 3)), 0, 255).astype(np.uint8)
    found = np.asarray(
        jax.jit(jax.vmap(image_ops.apply, in_axes=(None, 0)))(image, rows)
    ).astype(int)
    expected, names = [], []
    for name, (magnitudes, signed) in space.items():
        for bin_ in bins:
            magnitude = float(magnitudes[bin_]) if magnitudes.ndim else 0.0
            for sign in (1, -1) if signed else (1, 1):
                moved = theirs._apply_op(
                    Image.fromarray(image), name, sign * magnitude, nearest, None
                )
                expected.append(np.asarray(moved).astype(int))
                names.append(f"{name} {sign * magnitude:.4g}")
    assert len(found) == len(expected) == (868 if policy == "trivial" else 28)
    apart = {
        name: np.abs(a - b)
        for name, a, b in zip(names, found, expected, strict=True)
        if (a != b).any()
    }
    moved = {name for name, levels in apart.items() if levels.max() > 1}
    assert moved <= {
        f"Translate{axis} {pixels}" for axis in "XY" for pixels in (16, -16)
    }
    enhanced = apart.keys() - moved
    assert all(
        name.startswith(("Brightness", "Color", "Contrast", "Sharpness"))
        for name in enhanced
    )
    assert len(enhanced) <= 10
    assert all((apart[name] > 0).mean() < 0.03 for name in enhanced)
