"""``python -m unlearn_jax`` is ``unlearn-jax``."""

import sys

from unlearn_jax.cli import main

sys.exit(main())
