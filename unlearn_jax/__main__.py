"""Entry point of ``python -m unlearn_jax``, which equals ``unlearn-jax``."""

import sys

from unlearn_jax.cli import main

sys.exit(main())
