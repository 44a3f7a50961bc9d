"""``python -m jaxconv``: the command line."""

import sys

from jaxconv.cli import main

sys.exit(main())
