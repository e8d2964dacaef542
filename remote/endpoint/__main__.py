"""`python -m velocity_nodes.remote.endpoint serve ...`, the same as `velocity serve ...`."""

from .cli import main

raise SystemExit(main())
