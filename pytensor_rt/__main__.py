"""`python -m pytensor_rt`: the same as the command `pytensor-rt`."""

from .cli import main

raise SystemExit(main())
