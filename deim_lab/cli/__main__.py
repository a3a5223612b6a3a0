"""``python -m deim_lab.cli``: the same as ``deim-lab``."""

import sys

from deim_lab.cli import main

sys.exit(main())
