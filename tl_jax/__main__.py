"""`python -m tl_jax` is `tl-jax`."""

from __future__ import annotations

import sys

from tl_jax.cli.main import main

sys.exit(main())
