"""Every plan made during the tests is checked by the independent verifier."""

import os

os.environ.setdefault("PTRT_VERIFY", "1")
